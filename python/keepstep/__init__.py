"""keepstep: exact resume for PyTorch loops.

A run that is stopped anywhere continues from the exact micro-batch: the same samples, the same random draws, the same
counters and, where the hardware allows it, the same bytes. `Run` is where to begin.

Importing this package does not import torch; using `Run` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._core import __version__
from ._errors import Error, LockedError, MismatchError, NotFiniteError, RankError, SaveError, StateError, UsageError
from ._stopping import EarlyStopping

if TYPE_CHECKING:
    from ._copies import pull, push
    from ._prove import prove
    from ._run import Run
    from ._track import as_state

__all__ = [
    "EarlyStopping",
    "Error",
    "LockedError",
    "MismatchError",
    "NotFiniteError",
    "RankError",
    "Run",
    "SaveError",
    "StateError",
    "UsageError",
    "__version__",
    "as_state",
    "prove",
    "pull",
    "push",
]

_LAZY = {"Run": "_run", "as_state": "_track", "prove": "_prove", "pull": "_copies", "push": "_copies"}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'keepstep' has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(f".{module}", __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"keepstep.{name} needs PyTorch: pip install torch", name="torch") from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
