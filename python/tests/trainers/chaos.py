"""Crashes at every file event of a run, by ckpt-chaos: with keepstep, and the same trainers without it.

ckpt-chaos counts what a process does to files (create, rename, remove) and ends it at the Nth: before the event, with the
file cut in half, or with all that was not synced taken back. Then the run is started again, and ckpt-chaos judges.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_lightning
import tiny_trainer
import torch
import transformers
from ckpt_chaos import inject
from ckpt_chaos.invariants import ResumeOutcome, classify
from keepstep.lightning import newest
from lightning.pytorch.callbacks import Callback
from sessions import digests, in_child
from transformers.trainer_utils import get_last_checkpoint

MODES = ("before", "torn", "unsynced")
Session = Callable[[Path], tuple[int, str]]
"""Trains in a folder to the end, from what is there; returns the step that it began with, and its weights' hash."""


class Begin(transformers.TrainerCallback):
    """Notes the step that a session begins with."""

    step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.step = state.global_step


class BeginFit(Callback):
    """Notes the step that a fit begins with."""

    step = 0

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        # A run that is complete never starts.
        self.step = checkpoint["global_step"]


def weights(module: torch.nn.Module, folder: Path) -> str:
    """Returns the hash of a module's weights."""
    torch.save(module.state_dict(), folder / "weights.pt")
    return digests(folder, "weights.pt")[0]


def trainer(exact: bool) -> Session:
    """Hugging Face's Trainer, which saves every third update of nine."""

    def session(folder: Path) -> tuple[int, str]:
        begin = Begin()
        base = tiny_trainer.ExactTrainer if exact else transformers.Trainer
        made = tiny_trainer.trainer(folder, base=base, callbacks=[begin], save_steps=3, eval_strategy="no", logging_steps=99)
        made.train(resume_from_checkpoint="auto" if exact else get_last_checkpoint(folder) is not None)
        return begin.step, weights(made.model, folder.parent)

    return session


def lightning(exact: bool) -> Session:
    """Lightning, which saves every third update of nine, and ``last.ckpt``."""

    def session(folder: Path) -> tuple[int, str]:
        begin = BeginFit()
        path = newest(folder) if exact else "last"
        module = tiny_lightning.fit(folder, None, path, exact=exact, every=3, save_last=True, extra=[begin], ends=False)
        return begin.step, weights(module, folder.parent)

    return session


TOOLS: dict[str, Session] = {
    "Trainer": trainer(False),
    "Trainer with keepstep": trainer(True),
    "Lightning": lightning(False),
    "Lightning with keepstep": lightning(True),
}


class Crashes:
    """The crash points of one tool's run."""

    def __init__(self, session: Session, place: Path) -> None:
        """Runs once without a crash, and counts the events."""
        self.session = session
        self.place = place
        place.mkdir()
        self.reference = self._folder("reference")
        self._run(self.reference, log=place / "events")
        self.events = [line.split("\t") for line in (place / "events").read_text().splitlines()]
        _, self.weights = self._outcome(self.reference)
        self.complete = contents(self.reference)

    def points(self, limit: int | None = None) -> list[tuple[int, str]]:
        """Returns the events with the modes in which they can crash; at most `limit`, spread evenly over each mode."""
        found = []
        for mode in MODES:
            numbers = [int(number) for number, _, _, tornable in self.events if mode != "torn" or tornable == "1"]
            step = 1 if limit is None else max(1, len(numbers) * len(MODES) // limit)
            found += [(number, mode) for number in numbers[step // 2 :: step]]
        return found

    def verdict(self, number: int, mode: str) -> str:
        """Crashes there, starts again, and judges."""
        folder = self._folder(f"{mode} {number}")
        assert self._run(folder, number, mode) == 137, f"no crash at event {number}"
        there = contents(folder)
        complete = [step for name, (step, files) in self.complete.items() if there.get(name) == (step, files)]
        status = self._run(folder)
        step, hash_ = self._outcome(folder) if status == 0 else (0, "")
        difference = 0.0 if hash_ == self.weights else 1.0
        raised = None if status == 0 else f"status {status}"
        return classify(ResumeOutcome(raised, step, max(complete, default=0), difference))

    def _folder(self, name: str) -> Path:
        folder = self.place / name / "out"
        folder.mkdir(parents=True)
        return folder

    def _run(self, folder: Path, crash_at: int | None = None, mode: str = "before", log: Path | None = None) -> int:
        def body() -> None:
            if crash_at is not None or log is not None:
                inject.arm(str(folder), crash_at, mode, str(log) if log else None, torn_python=True)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                outcome = self.session(folder)
            (folder.parent / "outcome.json").write_text(json.dumps(outcome))

        return in_child(body, quiet=True)

    def _outcome(self, folder: Path) -> tuple[int, str]:
        step, hash_ = json.loads((folder.parent / "outcome.json").read_text())
        return step, hash_


def contents(folder: Path) -> dict[str, tuple[int, Any]]:
    """Returns the checkpoints in a folder with their steps, and the sizes of files that do not hold times."""
    found: dict[str, tuple[int, Any]] = {}
    for path in [*folder.glob("checkpoint-*"), *folder.glob("step=*.ckpt")]:
        step = int("".join(filter(str.isdigit, path.stem)))
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        found[path.name] = (step, [(it.name, 0 if it.suffix == ".json" else it.stat().st_size) for it in files])
    return found


def table(place: Path, limit: int | None = None, only: str = "") -> str:
    """Returns the table of all tools, or of those whose name begins with `only`."""
    lines = ["| | crash points | pass | resume fails | another end | lost work |", "|---|---|---|---|---|---|"]
    tools = [it for it in TOOLS.items() if it[0].startswith(only)]
    for number, (name, session) in enumerate(tools):
        crashes = Crashes(session, place / str(number))
        counts = Counter(crashes.verdict(*point) for point in crashes.points(limit))
        kinds = ("PASS", "HARD_FAIL", "SILENT_DIVERGENCE", "LOST_WORK")
        lines.append(f"| {name} | {sum(counts.values())} | " + " | ".join(str(counts[kind]) for kind in kinds) + " |")
    return "\n".join(lines)
