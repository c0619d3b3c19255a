"""Rehearsal: a session's first updates are made twice, and whatever differs is named.

Before the real loop begins, the loop's body makes K updates. Everything that is tracked is put back, and the real loop
makes the same updates again. A resumed run does exactly that, so what differs here differs after every resume.

What a run does for it:

1. ``driver.rehearsal(loader, epoch, step)`` is asked once per loop, after ``driver.begin``. It returns None, or a
   ``Rehearsal(driver, loader, updates_to_rehearse(...))``.
2. ``driver.rehearsal_started()``: the run remembers its counters. Until step 4 it calls nothing of the core: `before`
   and `after` are called as in a real loop, count, and check the steps of optimizers, but save, journal, evaluate and
   print nothing. ``after`` returns False to cut the rehearsal short, because the run wants to stop.
3. In both passes the run calls ``rehearsal.updated(values)`` in `after`, once for each update, before anything is
   saved; `values` are what the loop recorded, by name. It returns True once: the comparison is complete, and
   ``rehearsal.report`` has what was found.
4. ``driver.rehearsal_rewound()``: the tracked objects have been put back; the run puts its counters back, and the real
   loop begins. This is called as well when the body is left by ``break`` or an exception.

Costs: K updates, one copy of the state (on the host, for a device), and reading the state 2 K times.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import nullcontext
from itertools import chain
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from ._digest import token, tokens
from ._findings import Evidence, Finding, judge
from ._plan import MicroBatch, Plan
from ._reach import Reach
from ._source import MapSource
from ._spies import spying

if TYPE_CHECKING:
    from ._random import Randomness

__all__ = ["Finding", "Rehearsal", "RehearsalDriver", "RehearsalReport", "updates_to_rehearse"]

UPDATES = 2
"""Updates that are rehearsed unless the user says another number."""
MOST_COST = 0.01
"""The part of a session's remaining updates that a rehearsal may cost to be held by itself."""


def updates_to_rehearse(
    plan: Plan, epoch: int, step: int, updates_left: int, eval_every: int | None, global_step: int, wish: bool | int | None
) -> int:
    """Returns how many updates to rehearse at a position, 0 for none.

    With `wish` None it is 2, if that is at most 1 % of the updates that are left. True wants 2 and a number wants that
    many, whatever they cost; False wants none. A rehearsal ends before the first evaluation and before the epoch's end.

    Args:
        plan: The sizes of the run.
        epoch, step, global_step: The position to go on from.
        updates_left: Updates from there to the run's end.
        eval_every: Updates between evaluations; None for none but at epochs' ends.
        wish: What the user asked for.
    """
    if wish is False:
        return 0
    wanted = UPDATES if wish is None or wish is True else wish
    if wish is None and wanted > updates_left * MOST_COST:
        return 0
    left_in_epoch = -(-(plan.steps_per_epoch - step % plan.steps_per_epoch) // plan.gradient_accumulation_steps)
    before_evaluation = left_in_epoch if eval_every is None else eval_every - global_step % eval_every
    return max(0, min(wanted, updates_left, left_in_epoch - 1, before_evaluation - 1))


class Stateful(Protocol):
    """An object whose state can be read and put back."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class RehearsedLoader(Protocol):
    """What a rehearsal needs of the loader."""

    @property
    def dataset(self) -> Any:
        """The dataset."""

    @property
    def source(self) -> Any:
        """What makes its batches."""



class RehearsalDriver(Protocol):
    """What a rehearsal needs of its run, next to what a loader needs."""

    @property
    def randomness(self) -> Randomness: ...

    def tracked(self) -> Mapping[str, Stateful]:
        """Returns what is tracked, by name, in the order of registration."""
        ...

    def before(self, micro_batch: MicroBatch) -> None: ...

    def after(self, micro_batch: MicroBatch) -> bool: ...

    def rehearsal_started(self) -> None: ...

    def rehearsal_rewound(self) -> None: ...


class RehearsalReport:
    """What a rehearsal found."""

    def __init__(self, findings: list[Finding], num_updates: int, seconds: float, complete: bool) -> None:
        self.findings = findings
        """What differed or is not tracked; empty if nothing."""
        self.num_updates = num_updates
        """Updates that were made twice."""
        self.seconds = seconds
        """What the rehearsal cost."""
        self.complete = complete
        """False if the loop reaches too much to look at all of it."""

    @property
    def same_bits(self) -> bool:
        """True if the second pass gave the bits of the first."""
        return all(finding.kind == "untracked" for finding in self.findings)

    def __str__(self) -> str:
        updates = f"{self.num_updates} update{'s' if self.num_updates > 1 else ''}"
        if not self.findings:
            return f"Rehearsal: {updates} made twice gave the same bits ({self.seconds:.1f} s)"
        head = "gave the same bits, but:" if self.same_bits else "differ:"
        return "\n".join([f"Rehearsal: {updates} made twice {head}", *(f"  - {each.text}" for each in self.findings)])


class Rehearsal:
    """The first updates of a session, made twice."""

    def __init__(self, driver: RehearsalDriver, loader: RehearsedLoader, num_updates: int) -> None:
        self.num_updates = num_updates
        self.report: RehearsalReport | None = None
        """What was found, once the second pass has made the updates."""
        self._driver = driver
        self._loader = loader
        self._passes = [Evidence(), Evidence()]
        self._now = 0
        self._body: FrameType | None = None
        self._seconds = 0.0
        self._hooks: list[Any] = []
        self._complete = True

    def hold(
        self, micro_batches: Iterable[MicroBatch], batches: Iterator[Any], body: FrameType | None
    ) -> Generator[tuple[MicroBatch, Any], None, Iterator[Any]]:
        """Yields the first pass, puts everything back, and returns the batches for the real loop.

        Args:
            micro_batches: The micro-batches from the position on.
            batches: Their batches. Those of a dataset are made once more; of a stream they are copied.
            body: The frame of the function whose loop it is; None to look at no names.
        """
        began = time.monotonic()
        driver, self._body = self._driver, body
        saved = {name: _copy_state(target) for name, target in driver.tracked().items()}
        first = self._passes[0]
        self._hook_gradients()
        driver.rehearsal_started()
        read: list[Any] = []
        ended = go_on = False
        try:
            updates = 0
            for micro_batch in micro_batches:
                batch = self._batch(micro_batch, batches, read)
                first.batch(micro_batch, batch)
                driver.before(micro_batch)
                driver.randomness.training(micro_batch.epoch, micro_batch.step)
                with spying(first.body_calls):
                    yield micro_batch, batch
                del batch
                go_on = driver.after(micro_batch)
                updates += micro_batch.update_due
                if not go_on or updates == self.num_updates:
                    break
            ended = go_on
        finally:
            if ended:
                first.reached = self._look()
            else:
                self._unhook()
            for name, target in driver.tracked().items():
                target.load_state_dict(saved.pop(name))
            driver.rehearsal_rewound()
        self._now = 1 if ended else 2  # 2: cut short, there is nothing to compare
        self._seconds = time.monotonic() - began
        return self._watched(read, batches) if ended else chain(read, batches)

    def updated(self, values: Mapping[str, Any]) -> bool:
        """Takes note of an update that has been made; returns True when the report is complete.

        Args:
            values: What the loop recorded in the update's window, tensors or numbers, by name.
        """
        if self.report is not None or self._now == 2:
            return False
        began = time.monotonic()
        evidence = self._passes[self._now]
        state = {name: tokens(target.state_dict()) for name, target in self._driver.tracked().items()}
        evidence.update({name: token(value) for name, value in values.items()}, state)
        if self._now == 0 or len(evidence.updates) < self.num_updates:
            if self._now == 1:
                self._seconds += time.monotonic() - began
            return False
        evidence.reached = self._look()
        self._unhook()
        findings = judge(self._passes[0], evidence, self._loader.dataset, self._driver.tracked())
        self._body = None
        self._seconds += time.monotonic() - began
        self.report = RehearsalReport(findings, self.num_updates, self._seconds, self._complete)
        return True

    def _batch(self, micro_batch: MicroBatch, batches: Iterator[Any], read: list[Any]) -> Any:
        """Makes a batch in this process, so that what makes it can be watched; copies it where that cannot be."""
        source = self._loader.source
        first = self._passes[0]
        if isinstance(source, MapSource) and source.loading.worker_init_fn is None:
            watch = not first.batches
            before = self._generators_of_data() if watch else {}
            with spying(first.data_calls) if watch else nullcontext():
                batch = source.batch(micro_batch.epoch, micro_batch.step)
            if watch:
                after = self._generators_of_data()
                first.data_generators = [path for path in after if after[path].token != before.get(path, after[path]).token]
            return batch
        batch = next(batches)
        read.append(copy.deepcopy(batch))
        return batch

    def _watched(self, read: list[Any], batches: Iterator[Any]) -> Iterator[Any]:
        """Yields the real loop's batches: those that were read already, then the others."""
        second, number = self._passes[1], len(self._passes[0].batches)
        for index in range(number):
            batch = read[index] if index < len(read) else next(batches)
            second.batch(None, batch)
            yield batch
            del batch
        read.clear()
        yield from batches

    def _generators_of_data(self) -> dict[str, Any]:
        reach = Reach()
        reach.visit(self._loader.dataset, "dataset", 0)
        reach.visit(self._loader.source.loading.collate_fn, "collate_fn", 0)
        return {path: found for path, found in reach.found.items() if found.kind == "generator"}

    def _look(self) -> dict[str, Any]:
        """Looks at what the body reaches and the run does not track."""
        if self._body is None:
            return {}
        storages: set[int] = set()
        skip = {id(self._driver), id(self._loader), id(self._loader.dataset), id(self._body)}
        for target in self._driver.tracked().values():
            storages |= {tensor.untyped_storage().data_ptr() for tensor in _tensors(target.state_dict())}
            if not isinstance(target, torch.nn.Module):
                skip.add(id(target))
        reach = Reach(skip, storages)
        reach.frame(self._body)
        self._complete = self._complete and reach.complete
        return reach.found

    def _hook_gradients(self) -> None:
        """Takes note of each gradient that an optimizer uses."""
        for name, target in self._driver.tracked().items():
            if isinstance(target, torch.optim.Optimizer):
                self._hooks.append(target.register_step_pre_hook(self._gradient_hook(name)))

    def _gradient_hook(self, name: str) -> Callable[..., None]:
        def note(optimizer: Any, *_: Any) -> None:
            gradients = [each.grad for group in optimizer.param_groups for each in group["params"]]
            self._passes[self._now].gradients.append((name, [token(each) for each in gradients]))

        return note

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _copy_state(target: Stateful) -> Any:
    """Copies a state; that of modules and optimizers to the host, as loading brings it back to where it belongs."""
    to_host = isinstance(target, (torch.nn.Module, torch.optim.Optimizer))

    def copied(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value = value.detach()
            return value.cpu() if to_host and value.device.type != "cpu" else value.clone()
        if type(value) is dict:
            return {key: copied(item) for key, item in cast("dict[Any, Any]", value).items()}
        if isinstance(value, dict):  # an OrderedDict, which may carry `_metadata`
            new = copy.copy(cast("dict[Any, Any]", value))
            new.update({key: copied(item) for key, item in new.items()})
            return new
        if type(value) is list:
            return [copied(item) for item in cast("list[Any]", value)]
        return copy.deepcopy(value)

    return copied(target.state_dict())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.layout is torch.strided:
            yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[Any, Any]", value).values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in cast("list[Any]", value):
            yield from _tensors(item)
