"""Notes calls of clocks and of unseeded generators, with the line of the user's code that makes them."""

from __future__ import annotations

import os
import random
import sys
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from ._reach import is_users_file

__all__ = ["Calls", "spying"]

Calls = dict[str, str]
"""What was called, as ``"time.time()"``, by the place that called it, as ``"train.py:31"``."""

_CLOCKS = ("time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns")


@contextmanager
def spying(calls: Calls) -> Generator[None]:
    """Notes in `calls` what is called inside, in this process. Names that were imported one by one are not seen."""
    watched: list[tuple[Any, str, Callable[[tuple[Any, ...], dict[str, Any]], bool]]] = []
    watched += [(time, name, _always) for name in _CLOCKS]
    watched += [(os, "urandom", _always), (uuid, "uuid4", _always)]
    watched += [(random, "seed", _is_unseeded)]
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        watched += [(numpy, "default_rng", _is_unseeded), (numpy, "seed", _is_unseeded)]
    torch = sys.modules.get("torch")
    if torch is not None:
        watched += [(torch, "seed", _always)]
    originals: list[tuple[Any, str, Any]] = []
    try:
        for module, name, matters in watched:
            original = getattr(module, name)
            originals.append((module, name, original))
            setattr(module, name, _spy(original, f"{module.__name__}.{name}()", matters, calls))
        yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)


def _always(args: tuple[Any, ...], given: dict[str, Any]) -> bool:
    return True


def _is_unseeded(args: tuple[Any, ...], given: dict[str, Any]) -> bool:
    return all(value is None for value in (*args, *given.values()))


def _spy(original: Any, name: str, matters: Callable[..., bool], calls: Calls) -> Any:
    def spy(*args: Any, **given: Any) -> Any:
        if matters(args, given):
            caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
            if is_users_file(caller.f_code.co_filename):
                place = f"{os.path.basename(caller.f_code.co_filename)}:{caller.f_lineno}"
                calls.setdefault(place, name)
        return original(*args, **given)

    return spy
