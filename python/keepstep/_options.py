"""The settings of a run that are known before its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
