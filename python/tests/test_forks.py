"""Forked processes do not keep a run's folder locked."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import keepstep
import pytest
from resume_loop import Noisy
from torch import nn


def test_a_fork_lets_go_of_the_folder(tmp_path: Path) -> None:
    run = keepstep.Run(tmp_path, seed=1, progress_bar=False, quiet=True, rehearse=False)
    run.data(Noisy(), batch_size=4)
    run.track(model=nn.Linear(1, 1))
    run.resume()
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            run.finish()
        except keepstep.UsageError as error:
            os.write(tell, str(error).encode())
        time.sleep(60)
        os._exit(0)
    try:
        assert "belongs to the process that opened it" in os.read(ready, 1000).decode()
        run.finish()
        again = keepstep.Run(tmp_path, seed=1, progress_bar=False, quiet=True, rehearse=False)
        again.data(Noisy(), batch_size=4)
        again.track(model=nn.Linear(1, 1))
        again.resume()
        other = os.fork()
        if other == 0:
            os._exit(0)
        os.waitpid(other, 0)
        # What the forks let go of is still locked here.
        with pytest.raises(keepstep.LockedError):
            keepstep._core.look(str(tmp_path), save_steps=1, max_checkpoints=1, metric="val_loss", goal="min")
        again.finish()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
