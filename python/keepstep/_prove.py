"""`keepstep prove script.py`: runs a user's own script straight, again with SIGKILLs, and compares every byte.

The script runs as it is, in processes of its own. Only what `Run` reads from the environment is different: the folder
it writes to, how often it saves, that it keeps every checkpoint and copies none, and the update at which it ends.

This module does not import torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._core import KillPlan
from ._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._options import Options

__all__ = ["Proof", "apply", "main", "prove"]

_VARIABLE = "KEEPSTEP_PROVE"
_SAVES = 8
_GLANCE = 0.005
_MOST_SESSIONS = 1000
_ENDED_WELL = (0, 75)

_runs = 0


def apply(options: Options) -> None:
    """Changes a new run's settings if its script is being proved. Results stay what they are."""
    global _runs
    text = os.environ.get(_VARIABLE)
    if text is None:
        return
    wish = json.loads(text)
    _runs += 1
    options.folder = os.path.join(wish["folder"], f"run{_runs}")
    options.save_steps = min(options.save_steps, wish["save_steps"])
    options.max_checkpoints = 1_000_000
    options.source = options.rewind = options.branch_from = options.remote = None
    options.save_every = options.time_limit = None
    options.rehearse = False
    options.progress_bar = False
    options.last_update = wish["updates"]


@dataclass
class Proof:
    """The result of a proof; true if a run was killed after a save and every file had the same bytes."""

    updates: int
    """Updates of the straight run."""
    num_files: int
    """Checkpoints of the straight run."""
    kills: int = 0
    """SIGKILLs."""
    kills_after_a_save: int = 0
    """Those after a save that left updates to do. Without one nothing is proved."""
    resumes: int = 0
    """Sessions that went on from a checkpoint."""
    different: list[str] = field(default_factory=lambda: list[str]())
    """Files that are missing, or that are not those of the straight run."""
    folder: str | None = None
    """Where both runs are kept, if they differ."""

    def __bool__(self) -> bool:
        return self.kills_after_a_save > 0 and not self.different

    def __str__(self) -> str:
        what = f"{self.updates} updates, {self.num_files} checkpoints, {self.kills} SIGKILLs, {self.resumes} resumes"
        if self:
            return f"PROVED: {what}: every file has the bytes of the run that was never stopped"
        if not self.different:
            remedy = "use more updates or more kills" if self.updates > 1 else "the run is too short"
            return f"NOTHING IS PROVED: {what}: no kill came after a save that left updates to do; {remedy}"
        names = ", ".join(self.different[:4]) + (" ..." if len(self.different) > 4 else "")
        return (
            f"NOT THE SAME: {what}: {names} differ from those of the run that was never stopped. Both are kept in "
            f"{self.folder}: compare two files with `keepstep diff`. Run the script with rehearse=True to see what differs"
        )


def prove(
    script: str | os.PathLike[str],
    arguments: Sequence[str] = (),
    *,
    updates: int = 40,
    kills: int = 8,
    say: Callable[[str], Any] = lambda _: None,
) -> Proof:
    """Runs a script that uses `keepstep.Run` straight, and again with kills, and compares the checkpoints.

    Args:
        script: A Python file.
        arguments: Its command line.
        updates: Updates that are trained; fewer if the run ends before.
        kills: SIGKILLs, at random instants between a session's start and its end. There are more, 20 at most, if none of
            them came after a save that left updates to do. The first difference ends the proof.
        say: Called with a line of text now and then.

    Returns:
        The proof, true if every file has the same bytes. If files differ, its folder is kept.

    Raises:
        UsageError: if the script is missing, ends with another status than 0 or 75, or does not train with keepstep.
    """
    if not os.path.isfile(script):
        raise UsageError(f"{os.fspath(script)} is not a file: name the Python script that trains")
    if updates < 1 or kills < 1:
        raise UsageError("updates and kills must be at least 1")
    folder = Path(tempfile.mkdtemp(prefix="keepstep-prove-"))
    proving = _Proving(os.fspath(script), list(arguments), updates, folder)
    keep = False
    try:
        proof = proving.prove(kills, say)
        keep = bool(proof.different)
        return proof
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def main(command_line: Sequence[str]) -> int:
    """Runs ``keepstep prove SCRIPT [--updates N] [--kills K] [-- ARGUMENT...]``; returns the exit status."""
    import argparse

    parser = argparse.ArgumentParser(
        "keepstep prove", description="Prove on your own script that a killed run ends in the same bytes"
    )
    parser.add_argument("script", help="a Python script that trains with keepstep.Run; it runs as it is")
    parser.add_argument("--updates", type=int, default=40, help="how many updates are trained (default 40)")
    parser.add_argument("--kills", type=int, default=8, help="how often the second run is killed (default 8)")
    parser.epilog = "What follows -- is the script's own command line."
    words = list(command_line)
    cut = words.index("--") if "--" in words else len(words)
    given, arguments = parser.parse_args(words[:cut]), words[cut + 1 :]

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        proof = prove(given.script, arguments, updates=given.updates, kills=given.kills, say=say)
    except UsageError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    print(proof)
    return 0 if proof else 1


class _Proving:
    """One proof: the uninterrupted run of a script, and its killed runs."""

    def __init__(self, script: str, arguments: list[str], updates: int, folder: Path) -> None:
        self.command = [sys.executable, script, *arguments]
        self.updates = updates
        self.folder = folder

    def prove(self, kills: int, say: Callable[[str], Any]) -> Proof:
        straight = self.folder / "straight"
        say(f"Training {self.updates} updates straight ...")
        lasted = self.straight(straight)
        expected = _checkpoints(straight)
        reached = max((_reached(each) for each in straight.glob("run*")), default=0)
        if not expected or reached == 0:
            raise UsageError("the script made no update with keepstep.Run, so there is nothing to prove")
        proof = Proof(reached, len(expected))
        plan = KillPlan(kills, reached, lasted, 1)
        # One difference is enough. A script that differs from run to run may never live until a kill.
        while plan.wants_another and not proof.different:
            name = f"killed{plan.num_kills}"
            killed = self.folder / name
            self.killed(killed, plan, expected, proof)
            say(f"{plan.num_kills} of {kills} kills")
            found = _checkpoints(killed)
            names = sorted(expected.keys() | found.keys())
            wrong = [f"{name}/{each}" for each in names if expected.get(each) != found.get(each)]
            proof.different = wrong
            if not wrong:
                shutil.rmtree(killed)
        proof.kills, proof.kills_after_a_save = plan.num_kills, plan.num_after_a_save
        if proof.different:
            proof.folder = str(self.folder)
        return proof

    def straight(self, folder: Path) -> float:
        """Trains to the end; returns how long the training itself took, in seconds: while the journal grew."""
        process = self.start(folder)
        began = grown = time.monotonic()
        before = 0
        try:
            while process.poll() is None:
                size = _journal_bytes(folder)
                if size > before:
                    grown = time.monotonic()
                    began, before = began if before else grown, size
                time.sleep(_GLANCE)
        finally:
            if process.poll() is None:
                _kill(process)
        self.check(process, folder)
        return grown - began

    def killed(self, folder: Path, plan: KillPlan, expected: Iterable[str], proof: Proof) -> None:
        """Trains to the end through kills: as many as are left, or until everything is saved or a session ends before its kill."""
        sessions = 0
        while True:
            sessions += 1
            if sessions > _MOST_SESSIONS:
                raise UsageError("the killed run does not come to its end")
            before = _journal_bytes(folder)
            # Where all is saved, a session has nothing to do but to end, which takes its time too.
            trains = not all((folder / name).exists() for name in expected)
            instant = plan.next_instant() if trains and plan.wants_another else None
            process = self.start(folder)
            began: float | None = None
            try:
                while process.poll() is None:
                    if began is None and _journal_bytes(folder) > before:
                        began = time.monotonic()
                        proof.resumes += before > 0
                    if instant is not None and began is not None and time.monotonic() - began >= instant:
                        break
                    time.sleep(_GLANCE)
            finally:
                over = process.poll() is not None
                if not over:
                    _kill(process)
            if over:
                self.check(process, folder)
                return
            plan.killed(_saved(folder, proof.updates))

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        wish = {
            "folder": str(folder),
            "updates": self.updates,
            "save_steps": max(1, self.updates // _SAVES),
        }
        with open(self.folder / "output.txt", "wb") as output:
            return subprocess.Popen(
                self.command,
                env={**os.environ, _VARIABLE: json.dumps(wish)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        if process.returncode in _ENDED_WELL:
            return
        output = (self.folder / "output.txt").read_text(errors="replace")
        tail = "\n".join(output.splitlines()[-15:])
        raise UsageError(f"the script ended with status {process.returncode}:\n{tail}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills the script and the workers that it has started."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _checkpoints(folder: Path) -> dict[str, bytes]:
    """Returns the hash of each checkpoint, by its path in the folder."""
    import hashlib

    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest()
        for path in sorted(folder.rglob("*.pt"))
    }


def _saved(folder: Path, updates: int) -> int | None:
    """Returns the highest global step that was saved: of a run that has updates left, if the script makes several."""
    newest: dict[Path, int] = {}
    for path in folder.glob("run*/checkpoint_*.pt"):
        name = re.search(r"_global(\d+)\.pt$", path.name)
        if name is not None:
            newest[path.parent] = max(newest.get(path.parent, 0), int(name[1]))
    return max([step for step in newest.values() if step < updates] or newest.values(), default=None)


def _journal_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("run*/journal.jsonl"))


def _reached(run: Path) -> int:
    reached = 0
    try:
        lines = (run / "journal.jsonl").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # the last line of a process that was killed
            continue
        if event.get("event") == "update":
            reached = max(reached, int(event["global_step"]))
    return reached
