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
from collections.abc import Callable
from typing import Any

import torch

from ._random import numpy, numpy_words, seed_numpy

__all__ = ["Samples"]

FIRST = 4
"""So many samples, to the end of their batch, show which generators a dataset draws from."""
MARK = 0x6B65_6570
"""The seed of the known state."""


class _Generator:
    """A global generator that is seeded only where a dataset draws from it."""

    def __init__(
        self,
        seed: Callable[[int], Any],
        draw: Callable[[], Any],
        first: Callable[[int], Any],
        mark: Callable[[int], Any],
        first_after_mark: Any,
    ) -> None:
        self.seed = seed
        """Seeds it with a key."""
        self._draw = draw
        self._first = first
        self._mark = mark
        self._first_after_mark = first_after_mark

    def mark(self) -> None:
        """Brings it into the known state."""
        self._mark(MARK)

    def has_moved(self) -> bool:
        """True if it has been seeded or drawn from since `mark`: what it draws next is not that state's first draw."""
        return bool(self._draw() != self._first_after_mark)

    def has_moved_from(self, key: int) -> bool:
        """The same since ``seed(key)``."""
        return bool(self._draw() != self._first(key))


def _generators() -> list[_Generator]:
    def first(key: int) -> int:
        return random.Random(key).getrandbits(64)

    found = [_Generator(random.seed, lambda: random.getrandbits(64), first, random.seed, first(MARK))]
    if numpy is not None:
        states = numpy.random.RandomState

        def first_numpy(key: int) -> float:
            return states(numpy_words(key)).random_sample()

        found.append(
            _Generator(
                seed_numpy,
                lambda: numpy.random.random_sample(),
                first_numpy,
                lambda mark: numpy.random.seed(mark),
                states(MARK).random_sample(),
            )
        )
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
