"""A run that is stopped anywhere ends in the same bytes as one that is not."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from resume_loop import main

UPDATES = 8


def files(folder: Path) -> dict[str, str]:
    """The hash of each checkpoint."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.pt"))}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("straight")
    assert main(str(folder)) == 0
    return files(folder)


def test_names(straight: dict[str, str]) -> None:
    assert set(straight) == {"best_model.pt", "checkpoint_epoch2_step8_global6.pt", "checkpoint_epoch2_final_global8.pt"}


@pytest.mark.parametrize(
    "workers",
    [{}, {"num_workers": 1}, {"num_workers": 2, "prefetch_factor": 4, "persistent_workers": True}],
    ids=["0 workers", "1 worker", "2 workers"],
)
def test_stopped_at_every_boundary(straight: dict[str, str], tmp_path: Path, workers: dict[str, Any]) -> None:
    for stop in range(1, UPDATES) if not workers else [2, 5]:
        folder = tmp_path / str(stop)
        assert main(str(folder), workers=workers, stop_at=stop) == 75
        assert main(str(folder), workers=workers) == 0
        assert files(folder) == straight, stop


def test_stopped_after_each_update(straight: dict[str, str], tmp_path: Path) -> None:
    for stop in range(1, UPDATES):
        assert main(str(tmp_path), stop_at=stop) == 75
    assert main(str(tmp_path)) == 0
    assert files(tmp_path) == straight
    assert main(str(tmp_path)) == 0, "a run that is complete stays so"
    assert files(tmp_path) == straight


def test_an_interrupt_saves_and_raises(straight: dict[str, str], tmp_path: Path) -> None:
    for stop in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            main(str(tmp_path), stop_at=stop, how="SIGINT")
    assert main(str(tmp_path)) == 0
    assert files(tmp_path) == straight


def test_killed(straight: dict[str, str], tmp_path: Path) -> None:
    for kill_at in (2, 5, 7):
        process = subprocess.run([sys.executable, Path(__file__).with_name("resume_loop.py"), tmp_path, f"kill_at={kill_at}"])
        assert process.returncode == -9
    assert main(str(tmp_path)) == 0
    assert files(tmp_path) == straight


def test_from_a_read_only_tree(straight: dict[str, str], tmp_path: Path) -> None:
    inputs = tmp_path / "input" / "some-dataset" / "deep"
    assert main(str(inputs), stop_at=5) == 75
    (inputs / "checkpoint_epoch9_step1_global99.pt").write_bytes(b"damaged")
    for path in [*inputs.iterdir(), inputs]:
        path.chmod(path.stat().st_mode & 0o555)
    before = sorted((path.name, path.read_bytes()) for path in inputs.iterdir())
    working = tmp_path / "working"
    assert main(str(working), resume_from_checkpoint=str(tmp_path / "input")) == 0
    assert files(working) == straight
    assert sorted((path.name, path.read_bytes()) for path in inputs.iterdir()) == before


def test_losses_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    monkeypatch.setenv("losses", str(tmp_path / "losses"))
    main(str(tmp_path / "a"))
    main(str(tmp_path / "b"), stop_at=3)
    main(str(tmp_path / "b"))
    whole, first, rest = [json.loads(line) for line in (tmp_path / "losses").read_text().splitlines()]
    assert first + rest == whole and len(whole) == 30 and len(first) == 12


def test_settings_change_no_byte(straight: dict[str, str], tmp_path: Path) -> None:
    """Whatever may change between sessions does not change what a checkpoint holds."""
    assert main(str(tmp_path), save_steps=1, save_every=0.001, max_checkpoints=9, session_time_limit="1d", stop_at=4) == 75
    assert main(str(tmp_path)) == 0
    assert {name: straight[name] for name in straight}.items() <= files(tmp_path).items()


def test_pytorch_opens_it(tmp_path: Path) -> None:
    """The cell of the guide's notebook, and a plain ``torch.load``."""
    main(str(tmp_path), scaler=True)
    path = next(tmp_path.glob("*_final_*.pt"))
    checkpoint = torch.load(path, weights_only=True)
    assert list(checkpoint) == [
        *("epoch", "step", "global_step", "model_state_dict", "optimizer_state_dict", "scheduler_state_dict"),
        *("ema_state_dict", "scaler_state_dict", "train_loss", "val_loss", "best_val_loss", "config", "keepstep"),
    ]
    assert checkpoint["config"]["lr"] == 1e-2

    def load_checkpoint(filepath: Any, model: Any, optimizer: Any, scheduler: Any) -> dict[str, Any]:
        checkpoint = torch.load(filepath, map_location="cpu", weights_only=True)
        model.load_state_dict(checkpoint["model_state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
        return {key: checkpoint[key] for key in ("epoch", "step", "global_step", "train_loss", "val_loss")}

    nn = torch.nn
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=UPDATES)
    found = load_checkpoint(path, model, optimizer, scheduler)
    assert (found["epoch"], found["step"], found["global_step"]) == (2, 15, 8)
    assert isinstance(found["train_loss"], float) and isinstance(found["val_loss"], float)


def test_scaler_that_skips(tmp_path: Path) -> None:
    assert main(str(tmp_path / "a"), scaler=True) == 0
    for stop in (2, 5):
        assert main(str(tmp_path / "b"), scaler=True, stop_at=stop) == 75
    assert main(str(tmp_path / "b"), scaler=True) == 0
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_environment_is_left_as_it_was(tmp_path: Path) -> None:
    import signal

    before = [signal.getsignal(it) for it in (signal.SIGINT, signal.SIGTERM)]
    main(str(tmp_path), stop_at=1)
    assert [signal.getsignal(it) for it in (signal.SIGINT, signal.SIGTERM)] == before
    assert not os.path.exists(tmp_path / ".status.json.tmp")
