"""Signals and notebooks: interrupts that save first, and the runs of this process by folder."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["Interrupts", "OpenRuns", "after_cell"]


class Interrupts:
    """Turns signals into a wish to stop, as long as the loop runs.

    SIGINT is remembered; the run saves at the end of the update and raises `KeyboardInterrupt`. A second SIGINT raises at
    once. SIGTERM, SIGHUP and SIGUSR1 end the loop after a save. Signals reach only the main thread: elsewhere nothing is installed.
    """

    def __init__(self) -> None:
        self.wish: str | None = None
        """The name of the signal that has come."""
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Takes over the signals."""
        self.wish = None
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"):
            number = getattr(signal, name, None)
            if number is None:
                continue
            before = signal.getsignal(number)
            # What a user ignores or handles stays theirs, except for interrupts.
            if name != "SIGINT" and before is not signal.SIG_DFL:
                continue
            try:
                self._before[number] = signal.signal(number, self._handle)
            except (ValueError, OSError):
                continue

    def give_back(self) -> None:
        """Puts the earlier handlers back where ours are still in force."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before if before is not None else signal.SIG_DFL)
        self._before.clear()

    def _handle(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if self.wish == "SIGINT":
                self.give_back()
                raise KeyboardInterrupt
            print("Interrupted: saving at the end of this update. Interrupt again to stop at once.", file=sys.stderr)
        self.wish = signal.Signals(number).name


class OpenRuns:
    """The runs of this process, by the folder that each one writes to."""

    def __init__(self) -> None:
        self._runs: dict[str, weakref.ref[Any]] = {}

    def replace(self, folder: str, run: Any, close: Callable[[Any], None]) -> None:
        """Registers a run; an earlier one on the same folder is closed."""
        key = os.path.realpath(folder)
        earlier = self._runs.get(key)
        if earlier is not None:
            there = earlier()
            if there is not None:
                close(there)
        self._runs[key] = weakref.ref(run)


def after_cell(callback: Callable[[], None]) -> Callable[[], None]:
    """Calls `callback` whenever a cell of a notebook has ended, however it ended; returns what undoes that.

    A generator does not notice that a cell was interrupted: the traceback keeps it alive.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None:
        return lambda: None

    def called(*_: Any) -> None:
        callback()

    shell.events.register("post_run_cell", called)

    def undo() -> None:
        try:
            shell.events.unregister("post_run_cell", called)
        except ValueError:
            pass

    return undo
