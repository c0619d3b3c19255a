"""What runs in a data loader's workers: samples and batches whose random numbers depend on their place alone.

A `Request` names a batch by its place; `KeyedBatches` seeds for each sample, asks the dataset, seeds for the batch and
collates. It does not matter which process does that, or when: any number of workers, any prefetching, `fork` and
`spawn` give the same batch. Everything here can be pickled if the dataset and the collator can.
"""

from __future__ import annotations

import functools
import gc
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

from torch.utils.data import default_collate, default_convert, get_worker_info

from ._draws import Samples
from ._orders import set_epoch
from ._random import Purpose, derive, derive_range, reseed, seed_host

__all__ = ["KeyedBatches", "Request", "WorkerStart", "unchanged"]


class Request(NamedTuple):
    """One batch, by its place."""

    epoch: int
    """The epoch, from 1."""
    place: int
    """Place of the first sample in the epoch, from 0."""
    samples: list[Any]
    """What the dataset is asked for, in order."""


class KeyedBatches:
    """A dataset of batches: ``batches[request]`` is the collated batch that `request` names.

    With `batched` False a request holds one sample, which is collated alone: torch's ``batch_size=None``.

    A dataset whose first samples draw nothing from a generator, and a later one does, is asked for that one's batch twice.

    A dataset with ``__getitems__`` gets all samples of a batch in one call, under the batch's random numbers.
    """

    def __init__(self, dataset: Any, collate_fn: Callable[[Any], Any], seed: int, batched: bool = True) -> None:
        self.dataset = dataset
        self.collate_fn = collate_fn
        self.seed = seed
        self.batched = batched
        self._epoch = 0
        self._samples = Samples()
        # torch's own draw nothing, so what they would be seeded with does not matter.
        self._collator_draws = collate_fn not in (default_collate, default_convert)

    def __getitem__(self, request: Request) -> Any:
        epoch, place, samples = request
        if epoch != self._epoch:
            self._epoch = epoch
            set_epoch(self.dataset, epoch)
        if not self.batched:
            seed_host(derive(self.seed, Purpose.SAMPLE, epoch, place))
            items = self.dataset[samples[0]]
        elif getattr(self.dataset, "__getitems__", None) is not None:
            seed_host(derive(self.seed, Purpose.SAMPLE, epoch, place))
            items = self.dataset.__getitems__(samples)
        else:
            keys = derive_range(self.seed, Purpose.SAMPLE, epoch, place, place + len(samples))
            items = self._samples.make(self.dataset, keys, samples)
        if self._collator_draws:
            key = derive(self.seed, Purpose.COLLATE, epoch, place)
            seed_host(key)
            reseed_collator(self.collate_fn, key)
        return self.collate_fn(items)


class KeyedCollate:
    """A collator that is seeded by the number of batches it has made: for streams, which have no places."""

    def __init__(self, collate_fn: Callable[[Any], Any], seed: int) -> None:
        self.collate_fn = collate_fn
        self.seed = seed
        self._made = 0

    def __call__(self, items: Any) -> Any:
        info = get_worker_info()
        key = derive(self.seed, Purpose.COLLATE, 0, self._made, info.id if info is not None else 0)
        self._made += 1
        seed_host(key)
        reseed_collator(self.collate_fn, key)
        return self.collate_fn(items)


class WorkerStart:
    """What a worker does first: leaves interrupts to the main process, and calls the user's ``worker_init_fn``."""

    def __init__(self, worker_init_fn: Callable[[int], None] | None = None) -> None:
        self.worker_init_fn = worker_init_fn

    def __call__(self, worker_id: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A forked worker has copies of the main process's objects. Collecting pinned memory or CUDA events there would call
        # CUDA, which does not work after a fork and aborts the process.
        gc.freeze()
        info = get_worker_info()
        if info is not None and isinstance(info.dataset, KeyedBatches):
            # A `worker_init_fn` expects to find its own dataset there.
            object.__setattr__(info, "dataset", info.dataset.dataset)
        if self.worker_init_fn is not None:
            self.worker_init_fn(worker_id)


def unchanged(batch: Any) -> Any:
    """Returns `batch`: collating has been done."""
    return batch


def reseed_collator(collate_fn: Any, key: int) -> None:
    """Seeds the generators that a collator keeps, such as that of ``DataCollatorForLanguageModeling(seed=)``."""
    holder: Any = collate_fn
    while isinstance(holder, functools.partial):
        for value in [*holder.args, *holder.keywords.values()]:
            reseed(value, key)
        holder = holder.func
    holder = getattr(holder, "__self__", holder)
    attributes = getattr(holder, "__dict__", None)
    if not isinstance(attributes, dict) or isinstance(holder, type):
        return
    if attributes.get("seed") is not None and callable(getattr(holder, "get_generator", None)):
        # transformers makes the generator at the first batch, with a seed that depends on the worker.
        holder.generator = holder.get_generator(key % (1 << 63))
        return
    for value in list(attributes.values()):
        reseed(value, key)
