"""NumPy's global generator gets the state that ``numpy.random.seed`` gives, whatever was done with it before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
from keepstep import _numpy
from keepstep._numpy import MARK, GlobalNumpy, numpy_words

KEYS = [0, 1, 2**32 - 1, 2**32, 2**63 + 7, 2**64 - 1, 0x9E3779B97F4A7C15]
USES: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a draw": lambda: numpy.random.rand(),
    "half a pair of normal draws": lambda: numpy.random.randn(),
    "exactly as many words as a state has": lambda: numpy.random.bytes(4 * 624),
    "a seed": lambda: numpy.random.seed(5),
    "no seed": lambda: numpy.random.seed(),
    "another state": lambda: numpy.random.set_state(("MT19937", numpy.arange(624, dtype=numpy.uint32), 624, 1, 0.5)),
    "another generator": lambda: numpy.random.set_bit_generator(numpy.random.MT19937(3)),
    "a generator of another kind": lambda: numpy.random.set_bit_generator(numpy.random.PCG64(3)),
}


@pytest.fixture(autouse=True)
def same_generator() -> Iterator[None]:
    generator = numpy.random.get_bit_generator()
    yield
    numpy.random.set_bit_generator(generator)


def state() -> str:
    with numpy.printoptions(threshold=10_000):
        return repr(numpy.random.get_state(legacy=False))


def expected(key: int) -> str:
    before = numpy.random.get_state(legacy=False)
    numpy.random.seed(numpy_words(key))
    found = state()
    numpy.random.set_state(before)
    return found


@pytest.mark.parametrize("use", USES)
def test_the_state_is_that_of_seeding(use: str) -> None:
    generator = GlobalNumpy()
    for key in KEYS:
        generator.seed(key)
        assert state() == expected(key), key
        # Of one that it cannot look into, it says so to be safe.
        assert generator.has_moved_from(key) == (type(numpy.random.get_bit_generator()) is not numpy.random.MT19937)
        generator.seed(key)
        USES[use]()
        assert generator.has_moved_from(key) == (use != "nothing")
        generator.seed(key + 1 & 2**64 - 1)
        assert state() == expected(key + 1 & 2**64 - 1), key


def test_a_generator_of_another_kind_keeps_no_normal_draw() -> None:
    numpy.random.set_bit_generator(numpy.random.PCG64(3))
    generator = GlobalNumpy()
    drawn: list[float] = []
    for _ in range(2):
        generator.seed(KEYS[-1])
        drawn.append(numpy.random.randn())
    assert drawn[0] == drawn[1]


def test_a_normal_draw_that_is_kept_does_not_outlive_seeding() -> None:
    generator = GlobalNumpy()
    generator.seed(KEYS[-1])
    bits = numpy.random.get_bit_generator()
    before = bits.state
    numpy.random.randn()  # makes two, and keeps one
    bits.state = before  # puts the words back, and not what was kept
    generator.seed(3)
    assert state() == expected(3)


@pytest.mark.parametrize("use", [name for name in USES if "generator" not in name])
def test_the_known_state_is_the_same_each_time(use: str) -> None:
    generator = GlobalNumpy()
    numpy.random.seed(MARK)
    marked = state()
    for key in KEYS:
        generator.mark()
        assert state() == marked and not generator.has_moved()
        numpy.random.rand()
        assert generator.has_moved()
        generator.seed(key)
        USES[use]()


def test_numpy_seeds_only_where_the_generator_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[Any] = []
    seed = numpy.random.seed

    def noted(words: Any) -> None:
        seeded.append(words)
        seed(words)

    monkeypatch.setattr(numpy.random, "seed", noted)
    generator = GlobalNumpy()
    for key in KEYS:
        generator.seed(key)
    assert len(seeded) == 1
    numpy.random.rand()
    generator.mark()
    generator.seed(2)
    assert len(seeded) == 2


@pytest.mark.parametrize("name", ["get_bit_generator", "mersenne_twister"])
def test_without_a_known_memory_numpy_seeds(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "get_bit_generator":  # as before NumPy 1.24
        monkeypatch.delattr(numpy.random, name)
    else:  # its state lies there in another form
        monkeypatch.setattr(_numpy, name, lambda key: bytes(2500))
    generator = GlobalNumpy()
    for key in KEYS:
        generator.seed(key)
        numpy.random.randn()
        generator.seed(key)
        assert state() == expected(key)
        assert not generator.has_moved_from(key)
        generator.mark()
        assert not generator.has_moved()
        generator.mark()
        numpy.random.rand()
        assert generator.has_moved()
