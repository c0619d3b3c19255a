"""Passes each update's numbers to the core, the bar and the callbacks as soon as they are on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from . import _core
from ._errors import NotFiniteError

if TYPE_CHECKING:
    from ._bar import Bar
    from ._sharing import Sharing
    from ._window import Numbers, Pending

__all__ = ["Reports"]


class Reports:
    """The numbers of one session's updates: those of the last update may still be on their way from a device."""

    def __init__(self, sharing: Sharing | None, say: Callable[[str], None]) -> None:
        self._sharing = sharing
        self._say = say
        self.callbacks: list[Callable[[dict[str, Any]], None]] = []
        self.pending: Pending | None = None
        """Numbers that the core does not have yet."""
        self.last: Numbers | None = None
        """The last numbers that it was given."""

    def settle(self, core: Any, bar: Bar) -> None:
        """Gives the pending numbers to the core, waiting for the device if need be.

        Raises:
            NotFiniteError: if one of them is not finite.
        """
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        numbers = pending.read() if self._sharing is None else self._sharing.numbers(pending)
        # A scaler skips an update because its gradients, and possibly its loss, are not finite.
        if not numbers.skipped and not numbers.are_finite:
            try:
                core.check_finite(numbers.loss, numbers.norm)
            except _core.Error as error:
                raise NotFiniteError(str(error)) from None
        core.complete(numbers.loss_sum, numbers.count, numbers.rate, numbers.norm, numbers.skipped)
        self.say_replayed(core)
        self.last = numbers
        bar.show(core.position[2], numbers.loss, numbers.rate)
        if self.callbacks and (self._sharing is None or self._sharing.is_first):
            self._call_back(core, numbers)

    def _call_back(self, core: Any, numbers: Numbers) -> None:
        epoch, step, global_step = core.position
        event = {
            "epoch": epoch,
            "step": step,
            "global_step": global_step,
            "loss": numbers.loss,
            "grad_norm": numbers.norm,
            "learning_rate": numbers.rate,
            "skipped": numbers.skipped,
            "replay": bool(core.is_replay),
            **numbers.others,
        }
        for callback in self.callbacks:
            callback(event)

    def say_replayed(self, core: Any) -> None:
        """Prints the result of the comparison with the journal, once there is one."""
        replayed: Mapping[str, Any] | None = core.take_replayed()
        if replayed is None:
            return
        if "diverged" in replayed:
            self._say(
                f"The {replayed['diverged']} of update {replayed['global_step']} is {replayed['now']!r} now and was "
                f"{replayed['journal']!r} before: this session does not repeat the earlier one bit for bit"
            )
        else:
            self._say(f"{replayed['identical']} updates made again: each has the loss and the norm that it had before")
