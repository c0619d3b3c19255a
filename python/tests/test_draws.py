"""Only generators that a dataset draws from are seeded for each sample, and the draws are those of seeding them all."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from keepstep._draws import FIRST, Samples
from keepstep._random import seed_host

KEYS = [key * 0x9E3779B97F4A7C15 % 2**64 for key in range(1, 25)]


class Drawing:
    """A dataset whose samples from `first` on draw."""

    def __init__(self, draw: Callable[[], Any], first: int = 0) -> None:
        self.draw = draw
        self.first = first
        self.asked: list[int] = []

    def __getitem__(self, index: int) -> Any:
        self.asked.append(index)
        return float(self.draw()) if index >= self.first else None


DRAWS: dict[str, Callable[[], Any]] = {
    "random": random.random,
    "random.gauss": lambda: random.gauss(0, 1),
    "numpy": numpy.random.rand,
    "numpy.randn": numpy.random.randn,
    "torch": lambda: torch.rand(()),
    "random and numpy": lambda: random.random() + numpy.random.rand(),
    "torch's seed": torch.initial_seed,
}


def batches(dataset: Drawing, size: int = 6) -> list[Any]:
    samples = Samples()
    made: list[Any] = []
    for start in range(0, len(KEYS), size):
        # What was done in between does not matter.
        seed_host(start)
        indices = list(range(start, start + size))
        made += samples.make(dataset, KEYS[start : start + size], indices)
    return made


def expected(dataset: Drawing) -> list[Any]:
    made: list[Any] = []
    for index, key in enumerate(KEYS):
        seed_host(key)
        made.append(dataset[index])
    return made


@pytest.mark.parametrize("first", [0, 2, FIRST + 5, 14, 23])
@pytest.mark.parametrize("name", DRAWS)
def test_the_draws_are_those_of_seeding_everything(name: str, first: int) -> None:
    assert batches(Drawing(DRAWS[name], first)) == expected(Drawing(DRAWS[name], first))


@pytest.mark.parametrize(("first", "again"), [(0, []), (5, []), (14, [12, 13, 14, 15, 16, 17])])
def test_a_batch_is_made_twice_only_where_draws_begin_late(first: int, again: list[int]) -> None:
    for name in ("random", "numpy", "torch"):
        dataset = Drawing(DRAWS[name], first)
        batches(dataset)
        assert sorted(dataset.asked) == sorted([*range(24), *(again if name != "torch" else [])])
