"""Forked processes, such as a data loader's workers, let go of the run that they inherit.

A fork inherits the descriptor of the folder's lock. It would keep the folder locked for as long as it lives: workers
outlive a killed trainer by some seconds, in which the run could not be started again.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._session import Session

__all__ = ["belongs_here"]

_SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()
_INHERITED: list[Any] = []
"""What a child must never free: the core's threads do not exist there."""


def belongs_here(session: Session) -> None:
    """A session has opened its folder: forks of this process from now on give it up."""
    _SESSIONS.add(session)


def _in_child() -> None:
    for session in list(_SESSIONS):
        _INHERITED.append(session.core)
        if session.closed is None:
            session.closed = "belongs to the process that opened it: a fork cannot use it"
        _let_go(os.path.join(session.options.folder, ".lock"))
    _SESSIONS.clear()


def _let_go(path: str) -> None:
    """Makes this process's descriptors of a file refer to nothing; its parent's stay."""
    try:
        lock = os.stat(path)
        numbers = [int(name) for name in os.listdir("/dev/fd")]
    except OSError:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in numbers:
        try:
            if os.path.samestat(os.fstat(number), lock):
                os.dup2(nothing, number, inheritable=False)
        except OSError:
            continue
    os.close(nothing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
