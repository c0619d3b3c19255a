"""The progress bar: one per epoch, starting where the run resumes, with a true rate."""

from __future__ import annotations

from typing import Any

__all__ = ["Bar"]


class Bar:
    """A bar of `tqdm.auto` over the micro-batches of the epoch that is being trained on."""

    def __init__(self, enabled: bool, steps_per_epoch: int) -> None:
        self._enabled = enabled
        self._steps_per_epoch = steps_per_epoch
        self._bar: Any = None
        self._epoch = 0

    def begin(self, epoch: int, step: int) -> None:
        """A micro-batch of `epoch` begins, after `step` others: opens the epoch's bar where it is not open yet."""
        if not self._enabled or epoch == self._epoch:
            return
        self.close()
        from tqdm.auto import tqdm

        self._epoch = epoch
        self._bar = tqdm(total=self._steps_per_epoch, initial=step, desc=f"Epoch {epoch}", dynamic_ncols=True)

    def advance(self) -> None:
        """A micro-batch is done."""
        if self._bar is not None:
            self._bar.update(1)

    def show(self, global_step: int, loss: float | None, rate: float | None) -> None:
        """An update is done."""
        if self._bar is not None:
            values = {
                "loss": None if loss is None else f"{loss:.4f}",
                "global_step": str(global_step),
                "lr": None if rate is None else f"{rate:.2e}",
            }
            text = " ".join(f"{name}={value}" for name, value in values.items() if value is not None)
            self._bar.set_postfix_str(text, refresh=False)

    def write(self, text: str) -> None:
        """Prints text above the bar."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._epoch = None, 0
