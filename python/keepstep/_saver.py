"""Saves: takes snapshots, hands them to the writer in the order of the run's positions, and notes what became of them."""

from __future__ import annotations

import time
from typing import Any

import torch

from . import _core
from ._errors import SaveError
from ._save import Converter, Snapshot, Snapshots, storage_id
from ._track import Tracked, parts

__all__ = ["Saver"]


class Saver:
    """The saves of one session. At most one snapshot is being copied, and at most one is being written."""

    def __init__(self, core: _core.Run, tracked: Tracked, frozen: str) -> None:
        self._core = core
        self._tracked = tracked
        self._frozen = frozen
        self._snapshots = Snapshots()
        self._snapshot: tuple[str, Snapshot] | None = None
        self.last_saved: str | None = None
        """The last file that was saved and verified, or that the run continues from."""
        self.seconds = 0.0
        """The longest save so far."""
        self.saved_at = time.monotonic()
        """When the last snapshot was taken."""

    def save(self, how: str) -> None:
        """Takes a snapshot; `how` is the core's method that gets it as soon as it is on the host."""
        self.submit()
        self.saved_at = time.monotonic()
        snapshot = self._snapshots.take(parts(self._tracked, self._frozen), self._constant_storages())
        self._snapshot = (how, snapshot)
        self.submit_if_ready()

    def hold_back_update(self) -> None:
        """Called before an optimizer's step: the device waits until its state has been copied."""
        if self._snapshot is not None:
            self._snapshot[1].hold_back_update()

    def submit_if_ready(self) -> None:
        """Hands the snapshot to the writer if it is on the host."""
        if self._snapshot is not None and self._snapshot[1].is_ready:
            self.submit()

    def submit(self) -> None:
        """Hands the snapshot to the writer, after the save that is under way."""
        if self._snapshot is None:
            return
        (how, snapshot), self._snapshot = self._snapshot, None
        snapshot.wait()
        self._let_writer_finish()
        getattr(self._core, how)(snapshot.parts, Converter())

    def poll(self) -> None:
        """Notes what has become of saves.

        Raises:
            SaveError: if one has failed.
        """
        files, failure = self._core.saved()
        for path, seconds in files:
            self.last_saved, self.seconds = str(path), max(self.seconds, seconds)
        if failure is not None:
            raise SaveError(failure)

    def wait(self) -> None:
        """Waits until everything is on the disk.

        Raises:
            SaveError: if something could not be saved.
        """
        self.submit()
        self._let_writer_finish()
        self.poll()

    def _let_writer_finish(self) -> None:
        # Asleep in Python, so that an interrupt comes through.
        while self._core.is_saving:
            self.poll()
            if self._core.is_saving:
                time.sleep(0.002)

    def _constant_storages(self) -> set[int]:
        """Returns the storages on devices that only an optimizer's step changes."""
        tensors: list[Any] = []
        for optimizer in self._tracked.optimizers().values():
            tensors += [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for state in optimizer.state.values():
                if isinstance(state, dict):
                    tensors += state.values()
        return {storage_id(it) for it in tensors if isinstance(it, torch.Tensor) and it.device.type != "cpu"}
