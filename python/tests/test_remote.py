"""Runs that are copied to a place that outlives the machine. The program's tests have the protocol and the servers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import keepstep
import pytest
import torch


def train(folder: Path, stop_after: int | None = None, **settings: Any) -> keepstep.Run:
    """Trains a small regression for three epochs, or so many updates of this session."""
    run = keepstep.Run(folder, config={"lr": 0.1}, seed=3, save_steps=2, quiet=True, rehearse=False, **settings)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    data = torch.utils.data.TensorDataset(torch.arange(36.0).reshape(12, 3) / 36, torch.arange(12.0) / 12)
    for made, (inputs, targets) in enumerate(run.data(data, batch_size=2, epochs=3), 1):
        optimizer.zero_grad()
        loss = (model(inputs).squeeze(1) - targets).pow(2).mean()
        loss.backward()
        optimizer.step()
        run.record(loss)
        if made == stop_after:
            break
    run.finish()
    return run


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.pt")}


def test_an_empty_disk_continues_from_the_copy(tmp_path: Path) -> None:
    train(tmp_path / "straight")
    (tmp_path / "store").mkdir()
    url = f"file://{tmp_path}/store/run"
    environments: list[str] = []
    for stop_after in (5, 6, None):
        train(tmp_path / "run", stop_after, remote={"url": url, "max_lag": 0})
        status = json.loads((tmp_path / "run/status.json").read_text())
        assert status["remote"]["error"] is None and status["remote"]["url"] == url
        last = files(tmp_path / "run")
        environments.append((tmp_path / "run/environment.json").read_text())
        shutil.rmtree(tmp_path / "run")
    # The first session's environment, which later ones are compared with, comes back too.
    assert any("environment" in path.name for path in (tmp_path / "store/run").iterdir())
    assert len(set(environments)) == 1
    straight = files(tmp_path / "straight")
    newest = "checkpoint_epoch3_final_global18.pt"
    assert last[newest] == straight[newest]
    # Another run continues from the copy, which is only read.
    before = sorted(path.name for path in (tmp_path / "store/run").iterdir())
    train(tmp_path / "other", resume_from_checkpoint=url)
    assert files(tmp_path / "other")[newest] == straight[newest]
    assert sorted(path.name for path in (tmp_path / "store/run").iterdir()) == before


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    wrong: list[tuple[Any, str]] = [
        ("runs/x", "must be a URL"),
        ({"url": "s3://b/x", "bucket": 1}, "unknown key 'bucket'"),
        ({"url": "s3://b/x", "max_lag": "1"}, "must be a int"),
        ({"url": "s3://b/x", "on_error": "maybe"}, "'continue' or 'stop'"),
    ]
    for remote, words in wrong:
        with pytest.raises(keepstep.UsageError, match=words):
            keepstep.Run(tmp_path / "run", remote=remote)
    with pytest.raises(keepstep.Error, match="is it mounted"):
        train(tmp_path / "run", remote="file:///nowhere/at/all")
