"""Random numbers as a function of the position: nothing is advanced, so nothing has to be saved.

Before each micro-batch the generators that a training step draws from are seeded by
``key = hash(seed, purpose, epoch, micro-batch)``: Python's `random`, NumPy's global one, torch's on the CPU, and those
of every initialized accelerator. Samples and collators are seeded in the same way, in whatever process they are made.

The generators are seeded directly. `torch.manual_seed` formats Python's stack when a device is not initialized, which
takes a hundred times as long. NumPy's takes the way of `_numpy`. Seeding all of them takes some 15 microseconds, and 40
where the processor's caches hold none of it.

NumPy may be missing. This module imports torch.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import Enum
from typing import Any

import torch

from ._core import key as _key
from ._core import keys as _keys
from ._numpy import GlobalNumpy, numpy, numpy_words

__all__ = [
    "Purpose",
    "Randomness",
    "derive",
    "derive_range",
    "global_numpy",
    "host_untouched",
    "reseed",
    "seed_host",
]

global_numpy = GlobalNumpy()
"""NumPy's global generator. Whoever seeds it keeps its state for the next who does."""


class Purpose(str, Enum):
    """What random numbers are for. Numbers of different purposes never meet. The values are part of the format."""

    INITIAL = "initial weights"
    """Initial weights, and whatever else is drawn before the first batch."""
    TRAINING = "micro-batch"
    """One micro-batch of training: dropout, noise, whatever the loop's body draws."""
    SAMPLE = "sample"
    """One sample of the dataset: random augmentations."""
    COLLATE = "collate"
    """Making a batch of samples: masks, padding."""
    SAMPLER = "sampler"
    """An epoch's order, where a sampler of the user's makes it."""
    WORKERS = "workers"
    """What a data loader's worker draws when it starts."""
    EVALUATION = "evaluation"
    """Evaluation after an update."""
    SAMPLING = "sampling"
    """Generating text or pictures in between."""
    FINGERPRINT = "fingerprint"
    """Looking at a few samples to recognize a dataset."""


def derive(seed: int, purpose: Purpose, *coordinates: int) -> int:
    """Returns the 64-bit key of the place that `coordinates` name, for instance ``(epoch, step)``."""
    return _key(seed, purpose.value, *coordinates)


def derive_range(seed: int, purpose: Purpose, epoch: int, start: int, stop: int) -> list[int]:
    """Returns the keys of the places from `start` on, before `stop`, of `epoch`: those that `derive` gives one by one."""
    return _keys(seed, purpose.value, epoch, start, stop)


def seed_host(key: int) -> None:
    """Seeds `random`, NumPy and torch's CPU generator with a 64-bit `key`. Touches no accelerator: workers may call it."""
    random.seed(key)
    if numpy is not None:
        global_numpy.seed(key)
    torch.default_generator.manual_seed(key)


def reseed(generator: Any, key: int) -> bool:
    """Seeds one generator object with a 64-bit `key`; returns False if `generator` is no generator that is known.

    Known are `torch.Generator`, `random.Random`, `numpy.random.Generator` and `numpy.random.RandomState`.
    """
    if isinstance(generator, torch.Generator):
        generator.manual_seed(key)
    elif isinstance(generator, random.Random) and not isinstance(generator, random.SystemRandom):
        generator.seed(key)
    elif numpy is not None and isinstance(generator, numpy.random.Generator):
        bits = generator.bit_generator
        bits.state = type(bits)(key).state
    elif numpy is not None and isinstance(generator, numpy.random.RandomState):
        generator.seed(numpy_words(key))
    else:
        return False
    return True


@functools.cache
def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _device_generators() -> list[torch.Generator]:
    """Returns the default generators of all accelerators that this process has initialized; starts none."""
    found: list[torch.Generator] = []
    for name in ("cuda", "xpu"):
        module = getattr(torch, name, None)
        if module is not None and module.is_initialized():
            found.extend(module.default_generators)
    if _has_mps():
        found.append(torch.mps._get_default_mps_generator())  # pyright: ignore[reportPrivateUsage]
    return found


class Randomness:
    """The random numbers of one run: seeds the global generators for a purpose and a place.

    Accelerators that start later, in the body of the loop, get the key that is in force when they start.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        """The run's seed, 0 to 2**64 - 1."""
        self._key: int | None = None
        self._devices: list[torch.Generator] = []
        self._devices_known = False
        self._training = False

    def training(self, epoch: int, step: int) -> None:
        """Seeds for micro-batch `step` (from 0) of `epoch` (from 1)."""
        if not self._training:
            self._training = True
            self._await_devices()
        self._seed(derive(self.seed, Purpose.TRAINING, epoch, step))

    def initial(self) -> None:
        """Seeds for initial weights."""
        self._await_devices()
        self._seed(derive(self.seed, Purpose.INITIAL))

    def start_evaluation(self, global_step: int) -> None:
        """Seeds for the evaluation after update `global_step`. The next micro-batch seeds again for itself."""
        self._seed(derive(self.seed, Purpose.EVALUATION, global_step))

    @contextmanager
    def evaluation(self, global_step: int) -> Generator[None]:
        """Draws of an evaluation after update `global_step`; afterwards the generators go on where they were."""
        with self._aside(derive(self.seed, Purpose.EVALUATION, global_step)):
            yield

    @contextmanager
    def sampling(self, global_step: int, index: int = 0) -> Generator[None]:
        """Draws of sampling number `index` after update `global_step`; afterwards the generators go on where they were."""
        with self._aside(derive(self.seed, Purpose.SAMPLING, global_step, index)):
            yield

    @contextmanager
    def sampler(self, epoch: int) -> Generator[None]:
        """Draws of a sampler that makes the order of `epoch`; afterwards the generators go on where they were."""
        with self._aside(derive(self.seed, Purpose.SAMPLER, epoch)):
            yield

    @contextmanager
    def untouched(self) -> Generator[None]:
        """Whatever is drawn or seeded inside, the generators go on where they were."""
        states = _states(self._generators())
        try:
            yield
        finally:
            _restore(states)

    @contextmanager
    def _aside(self, key: int) -> Generator[None]:
        before = self._key
        with self.untouched():
            try:
                self._seed(key)
                yield
            finally:
                self._key = before

    def _seed(self, key: int) -> None:
        self._key = key
        seed_host(key)
        for generator in self._generators():
            generator.manual_seed(key)

    def _generators(self) -> list[torch.Generator]:
        if not self._devices_known:
            self._devices = _device_generators()
            # Devices stay initialized. Until one is, looking is cheap: two flags.
            self._devices_known = bool(self._devices)
        return self._devices

    def _await_devices(self) -> None:
        """Asks CUDA, if it has not started, to take over the key that is in force when it starts.

        It replaces what an earlier `torch.manual_seed` asked for in the same way.
        """
        if torch.cuda.is_initialized() or (torch.version.cuda is None and torch.version.hip is None):
            return

        def started() -> None:
            if self._key is not None:
                for generator in torch.cuda.default_generators:
                    generator.manual_seed(self._key)

        # torch keeps such a call until the device starts.
        lazy: Callable[..., None] | None = getattr(torch.cuda, "_lazy_call", None)
        if lazy is not None:
            lazy(started, seed_all=True)


@contextmanager
def host_untouched() -> Generator[None]:
    """Whatever is drawn or seeded inside, the host's generators go on where they were."""
    states = _states([])
    try:
        yield
    finally:
        _restore(states)


def _states(devices: list[torch.Generator]) -> list[tuple[Callable[[Any], Any], Any]]:
    """Returns pairs of a setter and the state that it puts back."""
    states: list[tuple[Callable[[Any], Any], Any]] = [(random.setstate, random.getstate())]
    if numpy is not None:
        states.append((numpy.random.set_state, numpy.random.get_state(legacy=False)))
    for generator in [torch.default_generator, *devices]:
        states.append((generator.set_state, generator.get_state()))
    return states


def _restore(states: list[tuple[Callable[[Any], Any], Any]]) -> None:
    for put_back, state in states:
        put_back(state)
