"""Seeds for samples, at the price of the generators that a dataset draws from.

Each sample has a key of its own. Seeding `random` and NumPy takes longer than reading a sample of a table in memory, and
many datasets draw from neither. The first samples show which of them a dataset draws from, and only those are seeded for
each sample. The others are watched: they are brought into a known state before a batch and looked at after it. If the
dataset has drawn from one, the batch is made again with that generator seeded, and it is seeded from then on. The draws
are always those that seeding both for every sample would give.

torch's generator is always seeded: looking at it would take as long.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

import torch

from ._numpy import MARK, numpy
from ._random import global_numpy

__all__ = ["Samples"]

FIRST = 4
"""So many samples, to the end of their batch, show which generators a dataset draws from."""


class _Generator(Protocol):
    """A global generator that is seeded only where a dataset draws from it."""

    def seed(self, key: int) -> None:
        """Seeds it with a 64-bit key."""
        ...

    def mark(self) -> None:
        """Brings it into a known state."""
        ...

    def has_moved(self) -> bool:
        """True if it has been seeded or drawn from since `mark`. It may draw to find out."""
        ...

    def has_moved_from(self, key: int) -> bool:
        """The same since ``seed(key)``."""
        ...


class _GlobalRandom:
    """The generator of `random`."""

    def seed(self, key: int) -> None:
        random.seed(key)

    def mark(self) -> None:
        random.seed(MARK)

    def has_moved(self) -> bool:
        return random.getrandbits(64) != FIRST_AFTER_MARK

    def has_moved_from(self, key: int) -> bool:
        return random.getrandbits(64) != random.Random(key).getrandbits(64)


FIRST_AFTER_MARK = random.Random(MARK).getrandbits(64)


def _generators() -> list[_Generator]:
    found: list[_Generator] = [_GlobalRandom()]
    if numpy is not None:
        found.append(global_numpy)
    return found


class Samples:
    """Makes the samples of batches, each under its own key. A pickled copy has yet to learn what its dataset draws from."""

    def __init__(self) -> None:
        self._watched: list[_Generator] = _generators()
        self._seeded: list[_Generator] = []
        self._num_seen = 0

    def __reduce__(self) -> Any:
        return Samples, ()

    def make(self, dataset: Any, keys: list[int], indices: list[Any]) -> list[Any]:
        """Returns ``dataset[index]`` for each of `indices`, under the key at the same place of `keys`."""
        if self._num_seen < FIRST:
            return self._learn(dataset, keys, indices)
        while True:
            for each in self._watched:
                each.mark()
            items = self._under(dataset, keys, indices)
            moved = [each for each in self._watched if each.has_moved()]
            if not moved:
                return items
            for each in moved:
                self._watched.remove(each)
                self._seeded.append(each)

    def _under(self, dataset: Any, keys: list[int], indices: list[Any]) -> list[Any]:
        seed_torch = torch.default_generator.manual_seed
        seeds = [each.seed for each in self._seeded]
        items: list[Any] = []
        for key, index in zip(keys, indices):
            seed_torch(key)
            for seed in seeds:
                seed(key)
            items.append(dataset[index])
        return items

    def _learn(self, dataset: Any, keys: list[int], indices: list[Any]) -> list[Any]:
        """The same, with everything seeded for each sample."""
        items: list[Any] = []
        for key, index in zip(keys, indices):
            torch.default_generator.manual_seed(key)
            for each in (*self._seeded, *self._watched):
                each.seed(key)
            items.append(dataset[index])
            for each in [each for each in self._watched if each.has_moved_from(key)]:
                self._watched.remove(each)
                self._seeded.append(each)
        self._num_seen += len(keys)
        return items
