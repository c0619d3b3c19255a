"""Early stopping with a state of its own, so that a resumed run stops where an uninterrupted one does."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Decides when an evaluation has not improved for too long. Track it: its state belongs to the run.

    ::

        early = keepstep.EarlyStopping(patience=3)
        run.track(early=early)
        ...
        if run.evaluation_due:
            loss = validate(model)
            run.evaluated(loss)
            if early.should_stop(loss):
                run.stop("no improvement in 3 evaluations")
    """

    def __init__(self, patience: int, *, min_delta: float = 0.0, mode: str = "min") -> None:
        """
        Args:
            patience: Evaluations without improvement after which to stop, at least 1.
            min_delta: How much better a value must be to count as an improvement.
            mode: ``"min"`` if lower values are better, ``"max"`` if higher ones are.

        Raises:
            ValueError: if an argument is out of range.
        """
        if patience < 1:
            raise ValueError(f"`patience` is {patience}, but must be at least 1")
        if mode not in ("min", "max"):
            raise ValueError(f"`mode` is {mode!r}, but must be 'min' or 'max'")
        self.patience = patience
        self.min_delta = min_delta
        self.mode = mode
        self.best: float | None = None
        """The best value so far."""
        self.num_bad = 0
        """Evaluations since then."""

    def should_stop(self, value: float) -> bool:
        """Takes the value of one evaluation; returns True once `patience` of them in a row were no improvement."""
        value = float(value)
        sign = 1.0 if self.mode == "min" else -1.0
        better = not math.isnan(value) and (
            self.best is None or sign * value < sign * self.best - self.min_delta
        )
        if better:
            self.best, self.num_bad = value, 0
        else:
            self.num_bad += 1
        return self.num_bad >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Returns the state."""
        return {"best": self.best, "num_bad": self.num_bad}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Puts a state back."""
        self.best = state_dict["best"]
        self.num_bad = state_dict["num_bad"]
