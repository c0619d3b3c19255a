"""Where a run is, in micro-batches and updates: arithmetic only, nothing here imports torch.

An *update* is one step of the optimizer. Its *window* is the micro-batches whose gradients it adds up: normally
``gradient_accumulation_steps`` of them, fewer at the end of an epoch that they do not divide.

Order and random numbers belong to micro-batches, never to processes. Several processes share a window: process
``rank`` of ``world_size`` takes one contiguous block of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

__all__ = ["MicroBatch", "Plan"]


@dataclass(frozen=True)
class MicroBatch:
    """One micro-batch of a run: which it is, and what follows it."""

    epoch: int
    """The epoch, from 1."""
    step: int
    """Index in the epoch, from 0, counted over all processes."""
    index: int
    """Index in its window, from 0, counted over all processes."""
    window: int
    """Number of micro-batches in the window, over all processes: divide the loss by it."""
    update_due: bool
    """True for the last micro-batch of the window that this process computes: the optimizer steps now."""
    epoch_ends: bool
    """True if the update that is due completes the epoch."""
    first: bool = True
    """True for the first micro-batch of the window that this process computes."""
    counts: bool = True
    """False for a process that has no share of this window: its gradient must be thrown away."""

    @property
    def step_after(self) -> int:
        """Micro-batches done in the epoch once this window's update has been made."""
        return self.step - self.index + self.window

    @property
    def where(self) -> str:
        """The window's place, for people, who count steps from 1."""
        return f"epoch {self.epoch}, steps {self.step_after - self.window + 1} to {self.step_after}"


@dataclass(frozen=True)
class Plan:
    """The sizes that give every micro-batch of a run its place.

    Raises:
        ValueError: if a size is below 1, or if ``rank`` is not below ``world_size``.
    """

    steps_per_epoch: int
    """Micro-batches per epoch, over all processes."""
    gradient_accumulation_steps: int
    """Micro-batches per update, over all processes."""
    epochs: int
    """Epochs of the whole run."""
    rank: int = 0
    """This process, from 0."""
    world_size: int = 1
    """Processes that share each window."""

    def __post_init__(self) -> None:
        for name in ("steps_per_epoch", "gradient_accumulation_steps", "epochs", "world_size"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"`{name}` is {value}, but must be at least 1")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"`rank` is {self.rank}, but must be from 0 to {self.world_size - 1}")

    @property
    def updates_per_epoch(self) -> int:
        """Updates per epoch; a shorter last window counts as one."""
        return -(-self.steps_per_epoch // self.gradient_accumulation_steps)

    @cached_property
    def total_steps(self) -> int:
        """Updates of the whole run: what a learning rate scheduler wants to know."""
        return self.updates_per_epoch * self.epochs

    def window(self, step: int) -> tuple[int, int]:
        """Returns ``(first, size)`` of the window that micro-batch `step` of an epoch lies in."""
        first = step - step % self.gradient_accumulation_steps
        return first, min(self.gradient_accumulation_steps, self.steps_per_epoch - first)

    def is_boundary(self, step: int) -> bool:
        """True if an update ends where `step` micro-batches of an epoch are done."""
        return step % self.gradient_accumulation_steps == 0 or step == self.steps_per_epoch

    def share(self, size: int) -> range:
        """Returns the indices of a window of `size` micro-batches that this process computes; may be empty."""
        return self.shares(size)[self.rank]

    def shares(self, size: int) -> list[range]:
        """Returns the shares of all processes. The first process always has one."""
        bounds = [-(-rank * size // self.world_size) for rank in range(self.world_size + 1)]
        return [range(start, stop) for start, stop in zip(bounds, bounds[1:])]

    def micro_batches(self, epoch: int, step: int) -> Iterator[MicroBatch]:
        """Yields this process's micro-batches from `step` micro-batches into `epoch` to the end of the run.

        A process without a share of a window gets the window's first micro-batch with ``counts=False``: it takes part
        in the update without adding to it. Starting takes the same time everywhere.

        Raises:
            ValueError: if the position is no update boundary of this plan.
        """
        if epoch < 1 or not 0 <= step <= self.steps_per_epoch or not self.is_boundary(step):
            raise ValueError(
                f"epoch {epoch}, step {step} is not the end of an update: epochs have {self.steps_per_epoch} steps, "
                f"and gradient_accumulation_steps is {self.gradient_accumulation_steps}"
            )
        if step == self.steps_per_epoch:
            epoch, step = epoch + 1, 0
        while epoch <= self.epochs:
            first, size = self.window(step)
            share = self.share(size)
            for index in share or range(1):
                last = index == (share or range(1))[-1]
                yield MicroBatch(
                    epoch=epoch,
                    step=first + index,
                    index=index,
                    window=size,
                    update_due=last,
                    epoch_ends=last and first + size == self.steps_per_epoch,
                    first=index == (share or range(1))[0],
                    counts=len(share) > 0,
                )
            step = first + size
            if step == self.steps_per_epoch:
                epoch, step = epoch + 1, 0
