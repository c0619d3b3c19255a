"""The settings of a run that are known before its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._errors import UsageError

__all__ = ["Options"]


@dataclass
class Options:
    """The settings of a run that are known before its data."""

    folder: str
    seed: int
    config: dict[str, Any]
    source: str | None
    rewind: str | None
    branch_from: str | None
    save_steps: int
    save_every: float | None
    max_checkpoints: int
    eval_steps: int | None
    time_limit: float | None
    metric: str
    goal: str
    frozen: str
    num_threads: int | None
    inputs: dict[str, str]
    progress_bar: bool
    rehearse: bool | int | None
    quiet: bool
    elastic: bool = False
    remote: dict[str, Any] | None = None
    """The place that outlives the machine."""
    last_update: int | None = None
    """The update after which a session ends, whatever the run's length."""

    def __post_init__(self) -> None:
        """Raises:
        UsageError: naming the setting that is not what it must be.
        """
        seed = self.seed
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 64:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"`seed` is {seed!r}, but must be an int from 0 to 2**64 - 1")
        if self.goal not in ("min", "max"):
            raise UsageError(f"`best` is {self.goal!r}, but must be 'min' or 'max'")
        if self.frozen not in ("store", "reference"):
            raise UsageError(f"`frozen` is {self.frozen!r}, but must be 'store' or 'reference'")

    def evaluates_after(self, global_step: int, ends_epoch: bool) -> bool:
        """Whether the run evaluates after an update, from 1; `ends_epoch` if it is an epoch's last."""
        return self.eval_steps is not None and (ends_epoch or global_step % self.eval_steps == 0)
