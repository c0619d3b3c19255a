"""The copies of a session's saves to the place that outlives the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._errors import Error

if TYPE_CHECKING:
    from ._options import Options

__all__ = ["Pushes"]


class Pushes:
    """Follows the copies of one session's saves. Does nothing without a ``remote``, or in a process that does not save."""

    def __init__(
        self, options: Options, leads: bool, say: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        """Args:
        options: The settings of the run.
        leads: Whether this process saves.
        say: Prints a line.
        warn: Prints a line that nobody may miss.
        """
        self._options = options
        self._active = options.remote is not None and leads
        self._say = say
        self._warn = warn
        self.not_pushed: str | None = None
        """Why not everything is in the remote, once the session has ended."""

    def longest(self, core: Any) -> float:
        """Returns the seconds that the longest copy took."""
        return float(core.longest_push) if self._active else 0.0

    def poll(self, core: Any) -> None:
        """Prints which copies were made and which failed.

        Raises:
            Error: if the run must stop because one has failed.
        """
        if self._active:
            self._say_all(core)
            core.check_remote()

    def wait(self, core: Any, until: float | None) -> None:
        """Waits until every save is copied or the remote fails, at most until a time of `time.monotonic`."""
        if not self._active:
            return
        is_over = False
        while not is_over and (until is None or time.monotonic() < until):
            # Python handles an interrupt only between two calls, so each is short.
            is_over = core.wait_for_pushes(0.05 if until is None else min(0.05, until - time.monotonic()))
            self._say_all(core)
        core.push_until(None if until is None else max(0.0, until - time.monotonic()))
        self._say_all(core)

    def end(self, core: Any) -> None:
        """The session has ended: warns if not everything is copied."""
        if not self._active:
            return
        self._say_all(core)
        self.not_pushed = core.is_pushed()
        if self.not_pushed is not None:
            self._warn(f"NOT ALL OF THE RUN IS PUSHED: {self.not_pushed}; {self._how_to_push()}")

    def check(self) -> None:
        """Refuses to end a complete run that is not all copied, if ``on_error`` is ``"stop"``.

        Raises:
            Error: with the reason, and the call that copies the rest.
        """
        if self.not_pushed is not None and (self._options.remote or {}).get("on_error") == "stop":
            raise Error(f"the run is complete and not all of it is pushed: {self.not_pushed}; {self._how_to_push()}")

    def _say_all(self, core: Any) -> None:
        for text in core.pushes():
            self._say(text)

    def _how_to_push(self) -> str:
        url = (self._options.remote or {}).get("url")
        return f"to push the rest: keepstep.push({os.path.abspath(self._options.folder)!r}, {url!r})"
