"""The time of a session: how much is left of its limit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._options import Options

__all__ = ["Clock"]


class Clock:
    """When a session began, and how long its longest update took."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._started = time.monotonic()
        self._update_began = self._started
        self._longest_update = 0.0

    def update_begins(self) -> None:
        """An update begins that does not follow another: whatever was done before it is no part of it."""
        self._update_began = time.monotonic()

    def update_ended(self) -> None:
        """An update is done, and the next one begins."""
        now = time.monotonic()
        self._longest_update = max(self._longest_update, now - self._update_began)
        self._update_began = now

    def is_over(self, saving: float, pushing: float) -> bool:
        """Whether the session must stop now to end in time, if a save takes `saving` seconds and a copy `pushing`."""
        limit = self._options.time_limit
        if limit is None:
            return False
        reserve = self._longest_update + 1.5 * saving + 1.0 + 2.0 * pushing
        return time.monotonic() - self._started + min(reserve, limit / 2) >= limit

    @property
    def end(self) -> float | None:
        """The time of `time.monotonic` at which nothing may be waited for any more; None without a limit."""
        limit = self._options.time_limit
        return None if limit is None else self._started + limit - 0.5
