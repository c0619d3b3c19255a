"""The long forms: runs that are stopped at every update and killed a hundred times end in the same files.

``cargo xtask soak pytorch`` runs them. ``KEEPSTEP_KILLS`` and ``KEEPSTEP_SEED`` change the number of kills and their
times.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from resume_loop import main
from test_resume import files

pytestmark = pytest.mark.soak

EPOCHS = 6
UPDATES = 4 * EPOCHS
KEEP_ALL = {"epochs": EPOCHS, "save_steps": 1, "max_checkpoints": 1000}
WORKERS: dict[str, dict[str, Any]] = {
    "0 workers": {},
    "1 worker": {"num_workers": 1},
    "2 workers": {"num_workers": 2},
    "2 persistent workers": {"num_workers": 2, "persistent_workers": True},
    "2 workers, prefetch 1": {"num_workers": 2, "prefetch_factor": 1},
    "2 persistent workers, prefetch 8": {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 8},
}


def session(folder: Path, **options: Any) -> int:
    """One session in this process, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return main(str(folder), **KEEP_ALL | options)


@pytest.fixture(scope="module", params=[False, True], ids=["three generators", "MLM collator"])
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bool, dict[str, str]]:
    """Which data, and the hash of every file of a run without a stop."""
    folder = tmp_path_factory.mktemp("straight")
    assert session(folder, mlm=request.param) == 0
    hashes = files(folder)
    assert len(hashes) == UPDATES + 1, "a checkpoint after each update, and the best"
    return request.param, hashes


@pytest.mark.parametrize("workers", WORKERS.values(), ids=WORKERS)
def test_stopped_at_every_update(straight: tuple[bool, dict[str, str]], tmp_path: Path, workers: dict[str, Any]) -> None:
    """Once per update: stopped there, then run to the end. Every file is that of the straight run."""
    mlm, hashes = straight
    for stop in range(1, UPDATES):
        folder = tmp_path / str(stop)
        assert session(folder, mlm=mlm, workers=workers, stop_at=stop) == 75
        assert session(folder, mlm=mlm, workers=workers) == 0
        assert files(folder) == hashes, f"stopped at update {stop}"


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_stopped_after_each_update(straight: tuple[bool, dict[str, str]], tmp_path: Path, how: str) -> None:
    """One run of as many sessions as updates, with other workers each time."""
    mlm, hashes = straight
    for stop in range(1, UPDATES):
        workers = list(WORKERS.values())[stop % len(WORKERS)]
        if how == "SIGINT":
            with pytest.raises(KeyboardInterrupt):
                session(tmp_path, mlm=mlm, workers=workers, stop_at=stop, how=how)
        else:
            assert session(tmp_path, mlm=mlm, workers=workers, stop_at=stop) == 75
    assert session(tmp_path, mlm=mlm) == 0
    assert files(tmp_path) == hashes


def test_stopped_at_every_update_with_a_scaler(tmp_path: Path) -> None:
    """A scaler whose every third update overflows."""
    assert session(tmp_path / "straight", scaler=True) == 0
    hashes = files(tmp_path / "straight")
    for stop in range(1, UPDATES):
        folder = tmp_path / str(stop)
        assert session(folder, scaler=True, workers={"num_workers": 2}, stop_at=stop) == 75
        assert session(folder, scaler=True) == 0
        assert files(folder) == hashes, f"stopped at update {stop}"


def test_killed_a_hundred_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Processes that are killed at random times; runs that survive them end in the straight run's files."""
    kills, seed = int(os.environ.get("KEEPSTEP_KILLS", 100)), int(os.environ.get("KEEPSTEP_SEED", 1))
    times = random.Random(seed)
    options = ["epochs=20", "save_steps=1", "max_checkpoints=1000", "announce=true", 'workers={"num_workers": 2}']
    script = [sys.executable, str(Path(__file__).with_name("resume_loop.py"))]
    subprocess.run([*script, tmp_path / "straight", *options], check=True, stdout=subprocess.DEVNULL)
    hashes = files(tmp_path / "straight")
    done = in_saves = runs = 0
    while done < kills:
        folder = tmp_path / f"killed {runs}"
        runs += 1
        while True:
            process = subprocess.Popen([*script, folder, *options], stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            trains = any(line == "training\n" for line in process.stdout)
            if trains and done < kills:
                time.sleep(times.uniform(0.0, 0.3))
                process.send_signal(signal.SIGKILL)
            process.stdout.close()
            status = process.wait()
            if status == 0:
                break
            assert status == -signal.SIGKILL
            done += 1
            # The name of a file that is being written begins with a dot.
            in_saves += any(path.name.startswith(".checkpoint") for path in folder.iterdir())
        assert files(folder) == hashes, f"run {runs}, after {done} kills (seed {seed})"
    with capsys.disabled():
        print(f"\n{done} kills in {runs} runs, {in_saves} of them with a file half written (seed {seed})")
