"""Rehearsal: a run's first updates are made twice, and whatever differs is named.

Before the real loop begins, the loop's body makes K updates. Everything that is tracked is put back, and the real loop
makes the same updates again. A resumed run does exactly that, so what differs here differs after every resume.

What a run does for it, in this order:

1. ``driver.rehearsal(loader, epoch, step)`` is asked once, after ``driver.begin``. It returns None, or
   ``Rehearsal(driver, loader, num_updates)``; `num_updates_for` says how many updates are worth their cost.
2. ``driver.rehearsal_started(rehearsal)``: the run remembers its counters. Until step 4 it calls `before` and `after` as
   in a real loop, counts, and checks the steps of optimizers, but saves, journals, evaluates and prints nothing, and
   `after` returns False only to stop at once.
3. In both passes the run calls ``rehearsal.record(name, value)`` for whatever the body records (its losses and norms,
   as tensors or numbers, without reading them).
4. ``driver.rehearsal_rewound()``: the tracked objects have been put back; the run puts its counters back and forgets
   what was recorded. Then the real loop begins. If the body was left during the first pass, this is called as well.
5. ``rehearsal.updated()`` is called by the run in ``after``, once for each update, in both passes, before anything is
   saved. It returns True once, when the comparison is complete: ``rehearsal.report`` holds what was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from ._plan import MicroBatch

if TYPE_CHECKING:
    from ._data import Loader
    from ._random import Randomness

__all__ = ["Rehearsal", "RehearsalDriver"]


class Stateful(Protocol):
    """An object whose state can be read and put back."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class RehearsalDriver(Protocol):
    """What a rehearsal needs of its run."""

    @property
    def randomness(self) -> Randomness: ...

    def tracked(self) -> Mapping[str, Stateful]:
        """Returns what is tracked, by name, in the order of registration."""
        ...

    def before(self, micro_batch: MicroBatch) -> None: ...

    def after(self, micro_batch: MicroBatch) -> bool: ...

    def rehearsal_started(self, rehearsal: Rehearsal) -> None: ...

    def rehearsal_rewound(self) -> None: ...


class Rehearsal:
    """The first updates of a session, made twice."""

    def __init__(self, driver: RehearsalDriver, loader: Loader, num_updates: int) -> None:
        self._driver = driver
        self._loader = loader
        self.num_updates = num_updates

    def hold(
        self, micro_batches: Iterable[MicroBatch], batches: Iterator[Any], body: FrameType | None
    ) -> Iterator[tuple[MicroBatch, Any]]:
        """Yields the first pass, puts everything back, and returns the batches for the real loop."""
        raise NotImplementedError
        yield
