"""A run for tests of rehearsal: it tracks, records and counts, and writes nothing."""

from __future__ import annotations

from typing import Any

import torch
from keepstep._data import Loader
from keepstep._plan import MicroBatch
from keepstep._random import Randomness
from keepstep._rehearsal import Rehearsal, RehearsalReport


class RehearsingDriver:
    """Rehearses `num_updates` updates, and ends after `num_updates` real ones."""

    def __init__(self, num_updates: int = 2, seed: int = 3) -> None:
        self.randomness = Randomness(seed)
        self.share = (0, 1)
        self.num_updates = num_updates
        self.global_step = 0
        self.window = 1
        self.update_due = False
        self.in_rehearsal = False
        self.stop_at_once = False
        self.losses: list[float] = []
        """What the real loop recorded."""
        self.report: RehearsalReport | None = None
        self._tracked: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        self._rehearsal: Rehearsal | None = None
        self.randomness.initial()

    def track(self, **objects: Any) -> None:
        self._tracked.update(objects)

    def data(self, data: Any, **given: Any) -> Loader:
        return Loader(self, data, **{"epochs": 2, **given})

    def record(self, loss: torch.Tensor) -> None:
        self._values[f"loss {len(self._values)}"] = loss.detach().clone()

    def tracked(self) -> dict[str, Any]:
        return self._tracked

    def begin(self, loader: Loader) -> tuple[int, int]:
        return 1, 0

    def rehearsal(self, loader: Loader, epoch: int, step: int) -> Rehearsal | None:
        if not self.num_updates:
            return None
        self._rehearsal = Rehearsal(self, loader, self.num_updates)
        return self._rehearsal

    def rehearsal_started(self) -> None:
        self.in_rehearsal = True

    def rehearsal_rewound(self) -> None:
        self.in_rehearsal = False
        self.global_step = 0
        self._values = {}

    def before(self, micro_batch: MicroBatch) -> None:
        self.window, self.update_due = micro_batch.window, micro_batch.update_due

    def after(self, micro_batch: MicroBatch) -> bool:
        if not micro_batch.update_due:
            return True
        self.global_step += 1
        if not self.in_rehearsal:
            self.losses += [float(value) for value in self._values.values()]
        if self._rehearsal is not None and self._rehearsal.updated(self._values):
            self.report = self._rehearsal.report
        self._values = {}
        if self.in_rehearsal:
            return not self.stop_at_once
        return self.global_step < max(self.num_updates, 2)

    def end(self) -> None:
        pass


def findings(driver: RehearsingDriver) -> list[tuple[str, str]]:
    assert driver.report is not None
    return [(each.kind, each.name) for each in driver.report.findings]
