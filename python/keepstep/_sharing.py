"""What a session does to share its run with other processes: gradients, numbers, and what all must agree on."""

from __future__ import annotations

import gc
import hashlib
import sys
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from . import _core, _errors
from ._digest import tensor_digest
from ._elastic import Gradients
from ._errors import RankError, UsageError
from ._fsdp import check_windows, fsdp_modules, install, is_sharded, join
from ._opening import Opened, open_run
from ._ranks import Ranks
from ._reduce import FixedSum
from ._saver import Saver
from ._shared_core import FollowingCore, LeadingCore, Told
from ._track import Tracked, parts
from ._window import Numbers, Pending, loss_sum

if TYPE_CHECKING:
    from ._data import Loader
    from ._options import Options
    from ._plan import MicroBatch, Plan

__all__ = ["Sharing"]

_hooked: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""The sum that each DDP module's hook uses: a hook cannot be taken off."""


class Sharing:
    """One process's part in a run that several share."""

    def __init__(self, ranks: Ranks, elastic: bool) -> None:
        self.ranks = ranks
        self.elastic = elastic
        self.total = FixedSum(ranks)
        self.gradients: Gradients | None = None
        """The gradients that keepstep sums itself; None where DDP and FSDP do."""
        self._ddp: list[DistributedDataParallel] = []
        self._fsdp: list[Any] = []
        self._roots: list[Any] = []
        self._plan: Plan | None = None
        self._micro_batch: MicroBatch | None = None
        self._buffers: list[tuple[str, torch.Tensor, int]] = []
        self._windows = 0

    @property
    def is_first(self) -> bool:
        """True for the process that reads and writes the run's folder."""
        return self.ranks.is_first

    @property
    def sharded(self) -> bool:
        """True if each process has a part of the state only."""
        return bool(self._fsdp)

    def check_plan(self, plan: Plan) -> None:
        """Refuses more processes than micro-batches per update.

        Raises:
            UsageError: with both numbers.
        """
        if self.ranks.size > plan.gradient_accumulation_steps:
            raise UsageError(
                f"{self.ranks.size} processes cannot share {plan.gradient_accumulation_steps} micro-batches per update: "
                "gradient_accumulation_steps counts the micro-batches of all processes, and each needs one"
            )

    # -- before the loop

    def open(self, options: Options, tracked: Tracked, loader: Loader) -> Opened:
        """Compares the processes, lets rank 0 open the run, and prepares the sums.

        Raises:
            Error: the same in all processes.
        """
        self._plan = loader.plan
        self._find(tracked)
        ranks = self.ranks
        ranks.at("opening the run")
        facts = ranks.outcome("the opening of the run", lambda: self._facts(options, tracked, loader))
        ranks.compare(facts)
        opened: Opened | None = None
        error: BaseException | None = None
        told: Any = None
        if self.is_first:
            try:
                opened = open_run(options, tracked, loader)
                core = opened.core
                told = Told(core.id, core.position, opened.path, options.num_threads, core.is_complete)
            except Exception as found:  # noqa: BLE001 -- raised again below
                error, told = found, (type(found).__name__, str(found))
        told = ranks.from_first("the opening of the run", told)
        if error is not None:
            raise error
        if not isinstance(told, Told):
            raise getattr(_errors, told[0], RankError)(told[1])
        self._prepare(tracked)
        if opened is not None:
            leading: Any = LeadingCore(opened.core, ranks, tracked, self.sharded)
            return Opened(leading, opened.path, opened.notes)
        if told.num_threads is not None:
            options.num_threads = told.num_threads
            torch.set_num_threads(told.num_threads)
        following: Any = FollowingCore(told, loader, ranks, tracked, self.sharded)
        return Opened(following, told.path, [])

    def saver(self, core: Any, tracked: Tracked, frozen: str) -> Saver:
        """Returns what saves in this process."""
        return Saver(core, tracked, frozen) if self.is_first else _Joining(core, tracked, frozen)

    def _find(self, tracked: Tracked) -> None:
        """Finds the wrappers, and refuses what cannot be."""
        modules = [it for it in tracked.objects.values() if isinstance(it, torch.nn.Module)]
        self._fsdp = fsdp_modules(modules) if self.ranks.size > 1 else []
        self._roots = [it for it in modules if any(it is one for one in self._fsdp)] or self._fsdp
        own = {id(parameter) for module in modules for parameter in module.parameters()}
        self._ddp = [
            it
            for it in gc.get_objects()
            if issubclass(type(it), DistributedDataParallel) and any(id(p) in own for p in it.module.parameters())
        ]
        assert self._plan is not None
        if self._fsdp:
            if self.elastic:
                raise UsageError("elastic=True does not work with FSDP, which adds gradients up itself: leave one of them out")
            check_windows(self._plan)
        if self.elastic:
            self._refuse_batch_norm(modules)
        for name, optimizer in tracked.optimizers().items():
            if isinstance(optimizer, torch.optim.LBFGS) and (self.elastic or self.ranks.size > 1):
                raise UsageError(f"`{name}` is LBFGS, which computes gradients inside its step: no other process could add its own")

    def _refuse_batch_norm(self, modules: list[torch.nn.Module]) -> None:
        for target in modules:
            for name, module in target.named_modules():
                normalizes = isinstance(module, torch.nn.modules.batchnorm._NormBase)
                if normalizes and module.training and module.track_running_stats:
                    raise UsageError(
                        f"`{name}` is a {type(module).__name__} in training mode: its running averages depend on the number of "
                        "processes, so elastic=True cannot promise the same bytes; use LayerNorm or GroupNorm, or call its eval()"
                    )

    def _facts(self, options: Options, tracked: Tracked, loader: Loader) -> dict[str, str]:
        """Returns what must be the same in all processes."""
        facts = {"torch's version": torch.__version__, "keepstep's version": _core.__version__, "the script": _script()}
        facts["`seed`"] = str(options.seed)
        facts["`elastic`"] = str(self.elastic)
        for name, value in options.config.items():
            facts[f"config key `{name}`"] = _short(value)
        for name in ("eval_steps", "save_steps", "metric", "goal", "frozen", "rehearse"):
            facts[f"`{name}`"] = _short(getattr(options, name))
        for name, value in loader.settings().items():
            facts[f"`{name}`"] = _short(value)
        facts["the dataset's fingerprint"] = loader.fingerprint()
        for name, value in options.inputs.items():
            facts[f"input `{name}`"] = _short(value)
        facts["what is tracked"] = ", ".join(tracked.objects)
        for name, target in tracked.objects.items():
            if isinstance(target, torch.nn.Module):
                tensors = [it for it in target.state_dict().values() if isinstance(it, torch.Tensor) and not is_sharded(it)]
                digest = hashlib.sha256(repr([(tuple(it.shape), tensor_digest(it)) for it in tensors]).encode())
                facts[f"the hash of the first weights of `{name}`"] = digest.hexdigest()[:16]
        return facts

    def _prepare(self, tracked: Tracked) -> None:
        if self._fsdp:
            install(self._fsdp, self.total)
        if not self.elastic:
            for module in self._ddp:
                self._hook(module)
        by_ddp = set() if self.elastic else {id(it) for module in self._ddp for it in module.parameters()}
        names = {
            id(parameter): f"{target}.{name}"
            for target, module in tracked.objects.items()
            if isinstance(module, torch.nn.Module)
            for name, parameter in module.named_parameters()
        }
        own: dict[int, tuple[str, torch.nn.Parameter]] = {}
        for optimizer in tracked.optimizers().values():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.requires_grad and id(parameter) not in by_ddp and not is_sharded(parameter):
                        own.setdefault(id(parameter), (names.get(id(parameter), f"parameter {len(own)}"), parameter))
        if own and (self.elastic or self.ranks.size > 1):
            self.gradients = Gradients(self.ranks, own.values(), self.total, self.elastic)
        if self.elastic:
            self._buffers = [
                (f"{target}.{name}", buffer, 0)
                for target, module in tracked.objects.items()
                if isinstance(module, torch.nn.Module) and any(id(it) in own for it in module.parameters())
                for name, buffer in module.named_buffers()
            ]

    def _hook(self, module: DistributedDataParallel) -> None:
        holder = _hooked.get(module)
        if holder is not None:
            holder[0] = self.total
            return
        holder = [self.total]
        try:
            # DDP reads annotations, and does not understand those that are texts.
            module.register_comm_hook(holder, lambda holder, bucket: _ddp_hook(holder, bucket))
        except RuntimeError as error:
            raise UsageError("the DDP module has a communication hook of its own: keepstep needs its place for a fixed sum") from error
        _hooked[module] = holder

    # -- in the loop

    def before(self, micro_batch: MicroBatch) -> None:
        """The loop's body is about to run."""
        self._micro_batch = micro_batch
        assert self._plan is not None
        self.ranks.at(f"in epoch {micro_batch.epoch}, micro-batch {micro_batch.step + 1}")
        if micro_batch.first:
            self.total.joins = [len(share) > 0 for share in self._plan.shares(micro_batch.window)]
            if self.gradients is not None:
                self.gradients.begin()
            if self._windows < 2:
                self._windows += 1
                self._buffers = [(name, buffer, buffer._version) for name, buffer, _ in self._buffers]
        for module in self._ddp:
            module.require_backward_grad_sync = micro_batch.update_due and not self.elastic
        for module in self._roots:
            module.set_requires_gradient_sync(micro_batch.update_due)

    def update_due(self) -> None:
        """The loop has read that its update is due: the gradients of all processes are summed, once in a window."""
        gradients, micro_batch = self.gradients, self._micro_batch
        if gradients is None or gradients.reduced or micro_batch is None:
            return
        assert self._plan is not None
        if not any(parameter.grad is not None for parameter in gradients.parameters):
            return  # it was read before backward()
        self._check_buffers()
        shares = self._plan.shares(micro_batch.window)
        if not self.elastic:
            order = [sum(map(bool, shares[:rank])) for rank in range(len(shares))]
            shares = [range(at, at + bool(share)) for at, share in zip(order, shares)]
        if not micro_batch.counts:
            gradients.drop()
        else:
            gradients.take(micro_batch.index if self.elastic else shares[self.ranks.rank].start)
        gradients.reduce(shares)

    def after(self, micro_batch: MicroBatch) -> None:
        """The body has run: a micro-batch's gradient is taken away, unless the update's sum was made."""
        self._micro_batch = None
        if self.gradients is not None and self.elastic and not micro_batch.update_due:
            self.gradients.take(micro_batch.index)

    def before_step(self) -> None:
        """An optimizer is about to step.

        Raises:
            UsageError: if it would use the gradients of this process alone.
        """
        if self.gradients is not None and self._micro_batch is not None:
            self.gradients.check()

    def _check_buffers(self) -> None:
        """Refuses buffers that a forward pass changes: what they hold would depend on the number of processes."""
        for name, buffer, version in self._buffers:
            if buffer._version != version:
                raise UsageError(
                    f"the forward pass changes the buffer `{name}`: what it holds depends on the number of processes, so "
                    "elastic=True cannot promise the same bytes"
                )
        if self._windows >= 2:
            self._buffers = []

    # -- at an update's end

    def numbers(self, pending: Pending) -> Numbers:
        """Returns the numbers of an update over all processes, in the order of micro-batches."""
        mine = pending.read()
        if self.ranks.size == 1:
            return mine
        given = (mine.terms, mine.norm, mine.rate, mine.skipped, mine.others)
        found = self.ranks.gather("the numbers of the update", given)
        terms = sorted((term for each in found for term in each[0]), key=lambda term: term[0])
        total, count = loss_sum(terms)
        _, norm, rate, skipped, _ = found[0]
        others = {name: value for each in found for name, value in each[4].items()}
        return Numbers(total, count, norm, rate, skipped, others, terms)

    def agree(self, stop: str | None, for_good: str | None, by_clock: bool) -> tuple[str | None, str | None, bool]:
        """Returns what all processes do at this boundary, from what each of them wishes.

        Args:
            stop: Why this process wishes to end the session.
            for_good: Why its loop ends the run for good.
            by_clock: Whether the time has come to save; rank 0's counts.
        """
        found = self.ranks.gather("the end of the update", (stop, for_good, by_clock))
        stops = [each[0] for each in found if each[0] is not None]
        ends = [each[1] for each in found if each[1] is not None]
        return stops[0] if stops else None, ends[0] if ends else None, found[0][2]

    def finish(self) -> None:
        """Waits for rank 0 to have saved: no process ends before the others are done."""
        self.ranks.at("at run.finish()")
        self.ranks.gather("run.finish()")

    def row(self, updates: int) -> tuple[str, str, str]:
        """Returns the line about the processes in the table of what is promised."""
        size = self.ranks.size
        promise = "exact, any number" if self.elastic else f"exact with {size}"
        if size == 1:
            return "bits with other numbers of processes", "exact" if self.elastic else "not promised", "they need elastic=True"
        sent = self.total.sent_bytes / max(1, updates)
        ring = self.total.ring_bytes / max(1, updates)
        what = f"{size} processes send {sent:,.0f} bytes each per update for gradients; a ring sends {ring:,.0f}"
        return "bits with other numbers of processes" if self.elastic else "bits with several processes", promise, what


class _Joining(Saver):
    """The saver of the other ranks: it takes part in gathering what is sharded, and writes nothing."""

    def save(self, how: str) -> None:
        join([state for _, state in parts(self._tracked, self._frozen)], set())


def _ddp_hook(holder: list[FixedSum], bucket: Any) -> Any:
    """DDP's communication hook."""
    return holder[0].later(bucket.buffer())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({hashlib.sha256(text.encode()).hexdigest()[:12]})"


def _script() -> str:
    """Returns a hash of the script that runs."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        with open(path or "", "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:16]
    except OSError:
        return "none"
