"""What the tests of the loader share: a run that only counts, and datasets that draw from every generator."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from keepstep._data import Loader
from keepstep._plan import MicroBatch
from keepstep._random import Randomness
from torch.utils.data import Dataset


class CountingDriver:
    """A run that begins where it is told to, stops after `stop_after` micro-batches, and tracks nothing."""

    def __init__(self, seed: int = 7, at: tuple[int, int] = (1, 0), stop_after: int | None = None) -> None:
        self.randomness = Randomness(seed)
        self.share = (0, 1)
        self.at = at
        self.stop_after = stop_after
        self.seen: list[MicroBatch] = []
        self.ended = 0

    def begin(self, loader: Loader) -> tuple[int, int]:
        return self.at

    def before(self, micro_batch: MicroBatch) -> None:
        self.seen.append(micro_batch)

    def after(self, micro_batch: MicroBatch) -> bool:
        return self.stop_after is None or len(self.seen) < self.stop_after

    def end(self) -> None:
        self.ended += 1

    def rehearsal(self, loader: Loader, epoch: int, step: int) -> None:
        return None


class Noisy(Dataset[torch.Tensor]):
    """Samples of four numbers: which sample it is, and a draw from each of the three generators."""

    def __init__(self, length: int = 22) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        if index >= self.length:
            raise IndexError(index)
        draws = [random.random(), float(numpy.random.rand()), float(torch.rand(()))]
        return torch.tensor([float(index), *draws], dtype=torch.float64)


class NoisyBatched(Noisy):
    """The same with ``__getitems__``."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


def noisy_collate(items: list[torch.Tensor]) -> torch.Tensor:
    """Stacks samples, and adds a draw of the batch's own."""
    return torch.cat([torch.stack(items), torch.rand(len(items), 1, dtype=torch.float64)], dim=1)


def run_through(data: Any, *, at: tuple[int, int] = (1, 0), seed: int = 7, **given: Any) -> list[torch.Tensor]:
    """Returns for each micro-batch its samples and what the body of the loop draws."""
    loader = Loader(CountingDriver(seed, at), data, **given)
    seen: list[torch.Tensor] = []
    for batch in loader:
        draws = [random.random(), float(numpy.random.rand()), float(torch.rand(()))]
        seen.append(torch.cat([batch.flatten().double(), torch.tensor(draws, dtype=torch.float64)]))
    return seen


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    """True if two runs saw the same bits."""
    return len(left) == len(right) and all(torch.equal(one, other) for one, other in zip(left, right))
