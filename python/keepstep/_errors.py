"""What can be caught: every error of keepstep is an `Error`, and its text is one sentence."""

from __future__ import annotations

from ._core import Error, LockedError, MismatchError, SaveError, StateError

__all__ = ["Error", "LockedError", "MismatchError", "NotFiniteError", "RankError", "SaveError", "StateError", "UsageError"]


class UsageError(Error):
    """The loop does something that keepstep cannot make exact, such as two optimizer steps in one window."""


class NotFiniteError(Error, ArithmeticError):
    """A loss or a gradient norm is not finite. Nothing was saved since; the last good checkpoint is named."""


class RankError(Error):
    """A process of the run died, stopped, hangs or disagrees with the others. It is named."""
