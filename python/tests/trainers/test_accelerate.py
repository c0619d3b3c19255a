"""`keepstep.Run` in a loop under Accelerate: the files are those of a loop without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import accelerate
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerated import loop

SCRIPT = Path(__file__).with_name("accelerated.py")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.pt"))}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run without Accelerate."""
    folder = tmp_path_factory.mktemp("straight")
    assert loop(str(folder), prepares=False)
    return folder


def test_prepared_objects_are_stored_under_their_own_names(straight: Path, tmp_path: Path) -> None:
    assert not loop(str(tmp_path), 2)
    assert not loop(str(tmp_path), 5, workers=2)
    assert not loop(str(tmp_path), 6, prepares=False)  # in and out of Accelerate
    assert loop(str(tmp_path))
    saved = files(tmp_path)
    assert len(saved) == 6
    # A stop saves as well: those files are there once more.
    assert {name: saved[name] for name in files(straight)} == files(straight)
    stored = torch.load(max(tmp_path.glob("*_final_*.pt")), weights_only=True)
    assert "body.0.weight" in stored["model_state_dict"] and "param_groups" in stored["optimizer_state_dict"]


def test_notebook_launcher(straight: Path, tmp_path: Path) -> None:
    for stop in (4, None):
        accelerate.notebook_launcher(loop, (str(tmp_path), stop), num_processes=1)
    saved = files(tmp_path)
    assert all(saved[name] == content for name, content in files(straight).items())


def test_accelerate_launch(straight: Path, tmp_path: Path) -> None:
    assert not loop(str(tmp_path), 3)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1"]
    command += ["--mixed_precision=no", "--dynamo_backend=no", str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    saved = files(tmp_path)
    assert all(saved[name] == content for name, content in files(straight).items())


def test_mixed_precision(tmp_path: Path) -> None:
    AcceleratorState._reset_state(True)  # a process has one precision
    assert loop(str(tmp_path / "one"), precision="bf16")
    assert not loop(str(tmp_path / "two"), 3, precision="bf16")
    assert loop(str(tmp_path / "two"), precision="bf16")
    two = files(tmp_path / "two")
    assert all(two[name] == content for name, content in files(tmp_path / "one").items())


def test_several_processes(tmp_path: Path) -> None:
    def torchrun(folder: str, *stop_at: str) -> str:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT)]
        done = subprocess.run([*command, str(tmp_path / folder), *stop_at], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert torchrun("straight").count("complete") == 2
    assert torchrun("stopped", "3").count("stopped") == 2
    assert torchrun("stopped").count("complete") == 2
    saved, whole = files(tmp_path / "stopped"), files(tmp_path / "straight")
    assert len(whole) == 6 and {name: saved[name] for name in whole} == whole
