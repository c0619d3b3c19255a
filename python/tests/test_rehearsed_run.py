"""A rehearsal leaves no trace in a run: the same files, the same journal, whatever the loop tracks."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import keepstep
import pytest
import torch
from loops import Noisy


def train(folder: Path, *, rehearse: bool | int, stop: bool = False, updates: int = 8, **settings: Any) -> keepstep.Run:
    run = keepstep.Run(folder, config={"lr": 0.1}, seed=5, rehearse=rehearse, progress_bar=False, **settings)
    data = run.data(Noisy(updates * 4), batch_size=2, gradient_accumulation_steps=2, epochs=1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    run.track(model=model, optimizer=optimizer, scheduler=scheduler)
    seen: list[int] = []
    rehearsing: list[bool] = []
    for x in data:
        seen.append(run.global_step)
        rehearsing.append(run.rehearsing)
        loss = model(x.float()).square().mean()
        (loss / run.window).backward()
        run.record(loss)
        if run.update_due:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if stop and run.global_step == 0:
                signal.raise_signal(signal.SIGTERM)
        if run.evaluation_due:
            run.evaluated(float(loss.detach()))
    run.seen = seen  # pyright: ignore[reportAttributeAccessIssue]
    assert rehearsing == [True] * sum(rehearsing) + [False] * (len(rehearsing) - sum(rehearsing))
    run.rehearsed = sum(rehearsing)  # pyright: ignore[reportAttributeAccessIssue]
    run.finish()
    return run


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.pt")}


def updates(folder: Path) -> list[Any]:
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [(line["global_step"], line["loss"]) for line in lines if "loss" in line and "global_step" in line]


def test_a_rehearsal_leaves_no_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    usual = {"save_steps": 3, "eval_steps": 4}
    plain = train(tmp_path / "plain", rehearse=False, **usual)
    assert plain.rehearsal is None
    rehearsed = train(tmp_path / "rehearsed", rehearse=2, **usual)
    assert files(tmp_path / "rehearsed") == files(tmp_path / "plain")
    assert len(files(tmp_path / "plain")) >= 3
    assert updates(tmp_path / "rehearsed") == updates(tmp_path / "plain") != []
    assert rehearsed.rehearsal is not None and rehearsed.rehearsal.findings == []
    assert rehearsed.seen == [0, 0, 1, 1] + plain.seen  # pyright: ignore[reportAttributeAccessIssue]
    assert (plain.rehearsed, rehearsed.rehearsed) == (0, 4)  # pyright: ignore[reportAttributeAccessIssue]
    assert "2 updates made twice gave the same bits" in "".join(capfd.readouterr())


def test_a_rehearsal_is_cut_short_by_a_wish_to_stop(tmp_path: Path) -> None:
    run = train(tmp_path / "stopped", rehearse=2, stop=True, save_steps=100)
    assert run.rehearsal is None
    assert [step for step, _ in updates(tmp_path / "stopped")] == [1]
    train(tmp_path / "stopped", rehearse=2, save_steps=100)
    train(tmp_path / "plain", rehearse=False, save_steps=100)
    assert files(tmp_path / "stopped") == files(tmp_path / "plain")


def test_short_runs_are_not_rehearsed_by_themselves(tmp_path: Path) -> None:
    assert train(tmp_path, rehearse=None).rehearsal is None
