"""The order of an epoch's samples: the keyed order, the dataset's own, or what a sampler of the user's gives.

An order answers one question: which samples are at places ``start .. stop`` of an epoch? Every place can be asked for
at once, in any epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any, Protocol

from ._core import order as _order
from ._random import Purpose, Randomness, derive, reseed

__all__ = ["BatchSamplerOrder", "KeyedOrder", "Order", "SamplerOrder", "SequentialOrder"]


class Order(Protocol):
    """Which samples an epoch visits, in which order."""

    kind: str
    """One word for what makes the order; part of what a resumed run is compared by."""

    def samples(self, epoch: int, start: int, stop: int) -> list[Any]:
        """Returns what the dataset is asked for at places ``start .. stop`` (from 0) of `epoch` (from 1)."""
        ...


class KeyedOrder:
    """A permutation per epoch that is computed for each place: no epoch is stored, and seeking is free."""

    kind = "shuffled"

    def __init__(self, seed: int, num_samples: int) -> None:
        self.seed = seed
        self.num_samples = num_samples
        self._epoch = 0
        self._order: Any = None

    def samples(self, epoch: int, start: int, stop: int) -> list[Any]:
        if epoch != self._epoch:
            self._epoch, self._order = epoch, _order(self.seed, epoch, self.num_samples)
        return self._order.samples(start, stop)


class SequentialOrder:
    """The dataset's own order."""

    kind = "sequential"

    def samples(self, epoch: int, start: int, stop: int) -> list[Any]:
        return list(range(start, stop))


class _Listed:
    """An order that somebody else's iterable makes; one epoch of it is kept in memory."""

    def __init__(self, source: Iterable[Any], randomness: Randomness, length: int, what: str) -> None:
        self.source = source
        self.randomness = randomness
        self.length = length
        self.what = what
        self._epoch = 0
        self._places: list[Any] = []

    def places(self, epoch: int) -> list[Any]:
        """Returns the whole epoch.

        Raises:
            ValueError: if its length is not that of other epochs.
        """
        if epoch != self._epoch:
            set_epoch(self.source, epoch)
            with self.randomness.sampler(epoch):
                key = derive(self.randomness.seed, Purpose.SAMPLER, epoch)
                for holder in (self.source, getattr(self.source, "sampler", None)):
                    for value in list(vars(holder).values()) if hasattr(holder, "__dict__") else []:
                        reseed(value, key)
                places = list(self.source)
            if len(places) != self.length:
                raise ValueError(
                    f"the {self.what} `{type(self.source).__name__}` gave {len(places)} places for epoch {epoch}, but "
                    f"{self.length} were announced: every epoch must have the same length"
                )
            self._epoch, self._places = epoch, places
        return self._places


class SamplerOrder(_Listed):
    """What a sampler gives when it runs under the epoch's own random numbers. Running it loads no sample."""

    def __init__(self, sampler: Iterable[Any], randomness: Randomness) -> None:
        super().__init__(sampler, randomness, _length(sampler, "sampler"), "sampler")
        self.kind = type(sampler).__name__

    def samples(self, epoch: int, start: int, stop: int) -> list[Any]:
        return self.places(epoch)[start:stop]


class BatchSamplerOrder(_Listed):
    """What a batch sampler gives when it runs under the epoch's own random numbers; its places are batches."""

    def __init__(self, batch_sampler: Iterable[Any], randomness: Randomness) -> None:
        super().__init__(batch_sampler, randomness, _length(batch_sampler, "batch sampler"), "batch sampler")
        self.kind = type(batch_sampler).__name__

    def samples(self, epoch: int, start: int, stop: int) -> list[Any]:
        return self.places(epoch)[start:stop]


def set_epoch(target: object, epoch: int) -> None:
    """Calls ``target.set_epoch`` with `epoch` counted from 0, as torch's samplers do, if there is such a method."""
    method = getattr(target, "set_epoch", None)
    if callable(method):
        method(epoch - 1)


def _length(source: Iterable[Any], what: str) -> int:
    if not isinstance(source, Sized):
        raise ValueError(
            f"the {what} `{type(source).__name__}` has no length: give it `__len__`, or leave it out to use keepstep's "
            "shuffled order"
        )
    return len(source)
