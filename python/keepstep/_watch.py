"""Notices a process that died, stopped or hangs, and names it.

Each process has a thread that puts a sign of life into the store that the processes met in, once a second, and reads
those of the others. A sign tells how many exchanges the process has made and whether it waits in one. So a process that
is silent and one that does not come along can be told apart from those that wait for it.

The thread works while the main thread is blocked in a collective operation, which no exception can end. So it prints
one sentence and ends the process: checkpoints are written in a way that survives this.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from typing import Any

__all__ = ["Watch"]

INTERVAL = 1.0
"""Seconds between signs of life."""
SILENCE = 60.0
"""Seconds after which a process without a sign of life counts as stopped, unless the timeout is shorter."""


class _Sign:
    """The last sign of life of one process."""

    def __init__(self) -> None:
        self.beat = -1
        self.seen = time.monotonic()
        """When the beat last changed."""
        self.exchanges = 0
        self.waits = False
        self.place = ""
        self.left: str | None = None
        """Why the process has ended; None while it lives."""


class Watch:
    """The thread that watches the other processes."""

    def __init__(self, store: Any, rank: int, size: int, timeout: float) -> None:
        """Begins to watch.

        Args:
            store: Where signs are put; the thread gets a connection of its own.
            rank: This process.
            size: Number of processes.
            timeout: Seconds that the others wait for a process that lives but does not come along.
        """
        self.rank = rank
        self.timeout = timeout
        self._store: Any = store.clone() if hasattr(store, "clone") else store
        self._signs = {other: _Sign() for other in range(size) if other != rank}
        self._beat = 0
        self._exchanges = 0
        self._waiting: tuple[str, float] | None = None
        self._place = "before the loop"
        self._left: str | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._put()
        self._looked = time.monotonic()
        """When the store answered last."""
        self._threads = [
            threading.Thread(target=each, name="keepstep ranks", daemon=True) for each in (self._run, self._guard)
        ]
        atexit.register(self._ends)

    def start(self) -> None:
        """Starts the thread, once every process has put its first sign."""
        self._looked = time.monotonic()
        for thread in self._threads:
            thread.start()

    def at(self, place: str) -> None:
        """Notes where this process is, for messages of the others."""
        self._place = place

    def wait_begins(self, what: str) -> None:
        """This process begins to wait for the others."""
        self._waiting = (what, time.monotonic())

    def wait_ends(self) -> None:
        """The others have come."""
        self._waiting = None
        self._exchanges += 1

    def leave(self, why: str) -> None:
        """Tells the others why this process ends. Only the first call counts."""
        if self._left is None and os.getpid() == self._pid:
            self._left = why
            try:
                self._put()
            except Exception:  # noqa: BLE001 -- the store may be gone
                pass

    def stop(self) -> None:
        """Ends the thread without a word."""
        self._stop.set()

    def blame(self, within: float = 8 * INTERVAL) -> str:
        """Returns which process is to blame for an exchange that has just failed, waiting for signs for a while."""
        began = time.monotonic()
        while True:
            try:
                self._look()
            except Exception:  # noqa: BLE001 -- whatever it is, the store does not answer
                return self._store_is_gone()
            others = {rank: sign for rank, sign in self._signs.items() if sign.left is not None}
            for rank, sign in others.items():
                if not str(sign.left).startswith("rank "):
                    return f"rank {rank} has ended: {sign.left}"
            now = time.monotonic()
            silent = [(sign.seen, rank) for rank, sign in self._signs.items() if rank not in others]
            if silent and min(silent)[0] < now - 4 * INTERVAL:
                rank = min(silent)[1]
                return f"rank {rank} has died or lost its connection; last heard of {self._signs[rank].place}"
            if now - began > within:
                break
            time.sleep(0.2)
        for sign in others.values():
            return str(sign.left)
        return "the connection between the processes broke, though each of them lives"

    # -- the thread

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            if self._left is not None:
                return
            try:
                self._put()
                self._look()
                self._looked = time.monotonic()
                text = self._judge()
            except Exception:  # noqa: BLE001 -- any failure of the store means the same
                text = self._store_is_gone() if self._waiting is not None else None
                if text is None:
                    continue
            if text is not None and not self._stop.is_set():
                self._give_up(text)

    def _guard(self) -> None:
        """Where the store's machine is cut off, its answer never comes, and the other thread waits for it."""
        while not self._stop.wait(INTERVAL):
            late = time.monotonic() - self._looked
            if late > self._silence + 3 * INTERVAL and self._left is None:
                self._give_up(f"{self._store_is_gone()}, for {late:.0f} seconds")

    @property
    def _silence(self) -> float:
        return min(SILENCE, self.timeout)

    def _put(self) -> None:
        with self._lock:
            self._beat += 1
            sign = [self._beat, self._exchanges, self._waiting is not None, self._place, self._left]
            self._store.set(f"{self.rank}", json.dumps(sign))

    def _look(self) -> None:
        now = time.monotonic()
        with self._lock:
            signs = [self._store.get(f"{rank}") for rank in self._signs]
        for sign, raw in zip(self._signs.values(), signs):
            beat, sign.exchanges, sign.waits, sign.place, sign.left = json.loads(raw)
            if beat != sign.beat:
                sign.beat, sign.seen = beat, now

    def _judge(self) -> str | None:
        """Returns the sentence about the process that is lost, or None."""
        now, waiting = time.monotonic(), self._waiting
        for rank, sign in self._signs.items():
            if sign.left is None and now - sign.seen > self._silence:
                return f"rank {rank} has given no sign of life for {now - sign.seen:.0f} seconds: it is stopped or its machine is gone"
        if waiting is None:
            return None
        what, since = waiting
        for rank, sign in self._signs.items():
            if sign.left is not None and now - since > 3 * INTERVAL:
                return sign.left if sign.left.startswith("rank ") else f"rank {rank} has ended: {sign.left}"
            if now - since > self.timeout and sign.exchanges <= self._exchanges and not sign.waits:
                return (
                    f"rank {rank} has not come to {what} within {self.timeout:.0f} seconds: it is alive, {sign.place}. "
                    "Every process must make the same calls; rank_timeout= says how long to wait"
                )
        return None

    def _store_is_gone(self) -> str:
        return "the store that the processes met in does not answer: the process or machine that keeps it is gone"

    def _give_up(self, text: str) -> None:
        sys.stderr.write(f"keepstep, rank {self.rank}: {text}. What was saved is valid; start the run again to continue\n")
        sys.stderr.flush()
        last_word = threading.Thread(target=self.leave, args=(text,), daemon=True)
        last_word.start()
        last_word.join(2 * INTERVAL)
        os._exit(70)

    def _ends(self) -> None:
        """The interpreter ends: tells the others why."""
        error = getattr(sys, "last_value", None)
        if error is None:
            self.leave("its script is over")
        else:
            self.leave(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        self._stop.set()
