"""NumPy's global generator, seeded as ``numpy.random.seed`` does, without the time that takes.

After an update's arithmetic has emptied the processor's caches, ``numpy.random.seed`` takes some 130 microseconds: more
than everything else that is seeded. Its state is 2,500 bytes of memory. Where they are still those of the last seeding,
nobody has drawn since, and the bytes of the next seeding are put in their place. In every other case, and where NumPy's
state does not lie in memory as expected, ``numpy.random.seed`` is called.

NumPy may be missing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from ._core import mersenne_twister

try:
    import numpy
except ImportError:  # torch works without it
    numpy = None

__all__ = ["MARK", "GlobalNumpy", "numpy", "numpy_words"]

_random: Any = None if numpy is None else numpy.random

NUM_BYTES = 4 * 625
MARK = 0x6B65_6570
"""The seed of a known state."""


def numpy_words(key: int) -> Any:
    """Returns the two words of 32 bits, low first, that NumPy's generator is seeded with."""
    assert numpy is not None
    words = numpy.empty(2, numpy.uint32)
    words[0], words[1] = key & 0xFFFF_FFFF, key >> 32
    return words


class GlobalNumpy:
    """Seeds NumPy's global generator and tells whether it has been used since."""

    def __init__(self) -> None:
        self._bits: Any = None
        """The bit generator whose memory is known."""
        self._memory: Any = None
        self._seeded = b""
        """What was put into the memory last."""
        self._marked = b""
        """The state of `mark`."""

    def seed(self, key: int) -> None:
        """Seeds with a 64-bit `key`, as ``numpy.random.seed(numpy_words(key))`` does."""
        self._seed(mersenne_twister(key), lambda: numpy_words(key))

    def mark(self) -> None:
        """Brings it into the state of ``numpy.random.seed(MARK)``."""
        if not self._marked:
            words: Any = _random.RandomState(MARK).get_state()[1]
            self._marked = words.tobytes() + mersenne_twister(0)[-4:]
        self._seed(self._marked, lambda: MARK)

    def has_moved_from(self, key: int) -> bool:
        """True if it has been seeded or drawn from since ``seed(key)``. It may draw to find out."""
        return self._has_moved(lambda: numpy_words(key))

    def has_moved(self) -> bool:
        """The same since `mark`."""
        return self._has_moved(lambda: MARK)

    def _seed(self, state: bytes, seed: Callable[[], Any]) -> None:
        """Puts `state` there, which ``numpy.random.seed(seed())`` gives."""
        if self._is_untouched():
            self._seeded = state
            with self._bits.lock:
                self._memory[:] = state
            _drop_kept_draw(self._bits)
            return
        _random.seed(seed())
        self._look(state)

    def _has_moved(self, seed: Callable[[], Any]) -> bool:
        if self._memory is not None:
            return not self._is_untouched()
        return bool(_random.random_sample() != _random.RandomState(seed()).random_sample())

    def _is_untouched(self) -> bool:
        return (
            self._memory is not None
            and bytes(self._memory) == self._seeded
            # Another one may have been put in its place.
            and _random.get_bit_generator() is self._bits
        )

    def _look(self, state: bytes) -> None:
        """Looks for the state in memory, which must be `state`."""
        self._memory = None
        get_bit_generator: Any = getattr(_random, "get_bit_generator", None)
        if get_bit_generator is None:  # before NumPy 1.24
            return
        bits = get_bit_generator()
        _drop_kept_draw(bits)
        if type(bits) is not _random.MT19937:
            return
        memory = memoryview((ctypes.c_ubyte * NUM_BYTES).from_address(bits.ctypes.state_address)).cast("B")
        if bytes(memory) == state:
            self._bits, self._memory, self._seeded = bits, memory, state


def _drop_kept_draw(bits: Any) -> None:
    """Drops the normal draw that NumPy may keep for the next call: it makes two at a time.

    The state of a bit generator does not have it, so it stays where a script puts such a state back. And
    ``numpy.random.seed`` leaves it where the generator is no Mersenne Twister.
    """
    _random.set_bit_generator(bits)
