"""One accumulation window: which optimizers stepped, and what the loop recorded, without waiting for a device."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import torch

from ._errors import UsageError
from ._track import Tracked

__all__ = ["Numbers", "Pending", "Steps", "Window", "loss_sum"]


class Steps:
    """Counts the steps of tracked optimizers by hooks, and notes the learning rate that was used.

    A subclass whose ``step`` calls ``super().step()`` runs the hooks twice: steps are counted by depth.
    """

    def __init__(self, tracked: Tracked, before_step: Callable[[], None]) -> None:
        self._tracked = tracked
        self._before_step = before_step
        self._handles: list[Any] = []
        self._depth: dict[str, int] = {}
        self._count: dict[str, int] = {}
        self._rate: Any = None

    def watch(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Puts the hooks on an optimizer."""
        self._depth[name] = self._count[name] = 0

        def before(*_: Any) -> None:
            if self._depth[name] == 0:
                self._before_step()
                if name == next(iter(self._depth)):
                    self._rate = optimizer.param_groups[0].get("lr")
            self._depth[name] += 1

        def after(*_: Any) -> None:
            self._depth[name] -= 1
            if self._depth[name] == 0:
                self._count[name] += 1

        self._handles.append(optimizer.register_step_pre_hook(before))
        self._handles.append(optimizer.register_step_post_hook(after))

    def unwatch(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def begin(self) -> None:
        """A window begins."""
        for name in self._count:
            self._count[name] = self._depth[name] = 0
        self._rate = None

    @property
    def rate(self) -> Any:
        """The learning rate of the first optimizer's step in this window; that of today where it did not step."""
        if self._rate is not None:
            return self._rate
        for optimizer in self._tracked.optimizers().values():
            return optimizer.param_groups[0].get("lr")
        return None

    def check(self, window: int, may_skip: bool, where: Callable[[], str]) -> None:
        """Refuses a window in which an optimizer did not step as often as it should.

        Raises:
            UsageError: naming the optimizer, and the update by `where`.
        """
        for name, expected in self._tracked.steps.items():
            count = self._count.get(name, 0)
            if expected is None or count == expected or (may_skip and count < expected):
                continue
            if count == 0:
                hint = "call its step() where `run.update_due` is true"
            elif expected == 1 and window > 1:
                hint = f"the window has {window} micro-batches: call step() only where `run.update_due` is true"
            else:
                hint = f"if that is right, track it with run.track({name}=..., steps={{'{name}': {count}}})"
            raise UsageError(
                f"`{name}` made {count} steps in the update {where()}, but {expected} should be made per update: {hint}"
            )


class Window:
    """What the loop records in one window."""

    def __init__(self, scalers: list[Any]) -> None:
        self.losses: list[tuple[Any, int]] = []
        self.places: list[int] = []
        """For each loss the index of its micro-batch in the window."""
        self.place = 0
        """Index of the micro-batch that is under way."""
        self.norm: Any = None
        self.others: dict[str, Any] = {}
        self._scalers = scalers
        self._scales = [scale_of(scaler) for scaler in scalers]

    @property
    def may_skip(self) -> bool:
        """True if a scaler may leave out the optimizer's step."""
        return bool(self._scalers)

    def record(self, loss: Any, count: int | None, norm: Any, others: dict[str, Any]) -> None:
        """Keeps values of one micro-batch as they are: nothing is read from a device."""
        if loss is not None:
            if count is not None and count < 0:
                raise UsageError(f"run.record(count={count}): the count must be at least 0")
            self.losses.append((_detached(loss), 1 if count is None else int(count)))
            self.places.append(self.place)
        if norm is not None:
            self.norm = _detached(norm)
        for name, value in others.items():
            self.others[name] = _detached(value)

    def values(self) -> dict[str, Any]:
        """Returns what has been recorded, by name, without reading it."""
        values = {f"loss {number}": loss for number, (loss, _) in enumerate(self.losses, 1)}
        return {**values, "grad_norm": self.norm, **self.others}

    def close(self, rate: Any) -> Pending:
        """The window has ended: begins to bring its numbers to the host."""
        values = [loss for loss, _ in self.losses]
        scales = [value for scaler, old in zip(self._scalers, self._scales) for value in (old, scale_of(scaler))]
        values += [self.norm, *self.others.values(), *scales, rate]
        counts = [count for _, count in self.losses]
        return Pending(values, counts, list(self.others), len(scales), self.places)


class Pending:
    """The numbers of a window on their way to the host."""

    def __init__(
        self, values: list[Any], counts: list[int], names: list[str], num_scales: int, places: list[int]
    ) -> None:
        self._values = values
        self._counts = counts
        self._names = names
        self._num_scales = num_scales
        self._places = places
        self._events: list[Any] = []
        self._on_host = True
        for at, value in enumerate(values):
            if isinstance(value, torch.Tensor) and value.device.type != "cpu":
                self._on_host = False
        if not self._on_host:
            self._fetch()

    def _fetch(self) -> None:
        by_device: dict[torch.device, list[int]] = {}
        for at, value in enumerate(self._values):
            if isinstance(value, torch.Tensor) and value.device.type != "cpu":
                by_device.setdefault(value.device, []).append(at)
        for device, places in by_device.items():
            wide = torch.float32 if device.type == "mps" else torch.float64
            stacked = torch.stack([self._values[at].reshape(()).to(wide) for at in places])
            pinned = device.type == "cuda"
            host = torch.empty(len(places), dtype=wide, pin_memory=pinned)
            host.copy_(stacked, non_blocking=pinned)
            if pinned:
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(device))
                self._events.append(event)
            for index, at in enumerate(places):
                self._values[at] = host[index]

    @property
    def used_no_device(self) -> bool:
        """True if no number had to be brought from a device: the same in all processes, whatever their speed."""
        return self._on_host

    @property
    def on_host(self) -> bool:
        """True if reading waits for no device."""
        return self._on_host or all(event.query() for event in self._events)

    def read(self) -> Numbers:
        """Returns the numbers, waiting for the device if need be."""
        for event in self._events:
            event.synchronize()
        values = [_number(value) for value in self._values]
        num_losses = len(self._counts)
        losses, rest = values[:num_losses], values[num_losses:]
        norm, rest = rest[0], rest[1:]
        others, rest = dict(zip(self._names, rest)), rest[len(self._names) :]
        scales, rate = rest[: self._num_scales], rest[-1]
        terms = [
            (place, loss if loss is not None else 0.0, count)
            for place, loss, count in zip(self._places, losses, self._counts)
        ]
        total, count = loss_sum(terms)
        pairs = zip(scales[::2], scales[1::2])
        skipped = any(old is not None and new is not None and new < old for old, new in pairs)
        return Numbers(total, count, norm, rate, skipped, others, terms)


class Numbers:
    """The numbers of one update."""

    def __init__(
        self,
        loss_sum: float,
        count: int,
        norm: float | None,
        rate: float | None,
        skipped: bool,
        others: dict[str, float | None],
        terms: list[tuple[int, float, int]],
    ) -> None:
        self.loss_sum = loss_sum
        self.count = count
        self.norm = norm
        self.rate = rate
        self.skipped = skipped
        self.others = others
        self.terms = terms
        """What `loss_sum` adds up: for each loss the index of its micro-batch, the loss, and its weight."""

    @property
    def are_finite(self) -> bool:
        """False if the mean loss or the norm is infinite or NaN."""
        return all(number is None or isfinite(number) for number in (self.loss, self.norm))

    @property
    def loss(self) -> float | None:
        """The mean loss; None where none was recorded."""
        return self.loss_sum / self.count if self.count else None


def loss_sum(terms: list[tuple[int, float, int]]) -> tuple[float, int]:
    """Returns the weighted sum of losses, added in the order given, and the sum of weights."""
    total, weight = 0.0, 0
    for _, loss, count in terms:
        total += loss * count
        weight += count
    return total, weight


def scale_of(scaler: Any) -> Any:
    """Returns a scaler's scale without waiting for its device."""
    scale = getattr(scaler, "_scale", None)
    if isinstance(scale, torch.Tensor):
        return scale.detach().clone()
    return float(scaler.state_dict().get("scale", 0.0)) or None


def _detached(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if hasattr(value, "full_tensor"):
            value = value.full_tensor()  # pyright: ignore[reportAttributeAccessIssue] -- FSDP's gradient norm
        if value.numel() != 1:
            raise UsageError(f"run.record() takes numbers, not a tensor of shape {list(value.shape)}: use its mean()")
        # The loop may change it in place before the update ends. On the CPU reading waits for nothing.
        return value.item() if value.device.type == "cpu" else value.detach().clone()
    return value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
