"""A `DataLoader` for trainers that own the loop: one epoch per iteration, in keepstep's order, with keyed draws.

`keepstep.Run` iterates by itself. Trainers ask for a loader and count on their own. They get a `KeyedLoader`: a real
`DataLoader`, which is told the epoch and where in it to begin.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ._batches import KeyedBatches, Request, WorkerStart
from ._errors import MismatchError
from ._fingerprint import fingerprint
from ._random import Purpose, Randomness, derive, host_untouched
from ._source import Loading, MapSource

__all__ = ["KeyedLoader", "compare"]


class EpochBatches(KeyedBatches):
    """`KeyedBatches` for any process. The main process makes a batch as a worker does: with one thread, and without
    touching the random numbers of whoever asks for it."""

    num_samples = 0
    """Samples of the dataset."""

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, request: Request) -> Any:
        if get_worker_info() is not None:
            return super().__getitem__(request)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with host_untouched():
                return super().__getitem__(request)
        finally:
            torch.set_num_threads(threads)


class Requests:
    """The batch sampler of a `KeyedLoader`: the requests of one epoch's micro-batches that this process computes.

    Process `rank` of `world_size` takes every `world_size`-th micro-batch. Where they do not come out even, the last
    processes take micro-batches from the epoch's beginning, as Accelerate does.
    """

    def __init__(self, source: MapSource, rank: int, world_size: int) -> None:
        self.source = source
        self.rank = rank
        self.world_size = world_size
        self.epoch = 1
        self.first = 0
        """Where the next iteration begins."""
        self.dropped = 0
        """Requests at the beginning that somebody else drops: None is given for them, which costs nothing."""

    def __len__(self) -> int:
        return -(-self.source.steps_per_epoch // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 0."""
        self.epoch = epoch + 1

    def global_step(self, step: int) -> int:
        """Returns the index in the epoch, over all processes, of this process's micro-batch `step`."""
        return step * self.world_size + self.rank

    def __iter__(self) -> Iterator[list[Request | None]]:
        epoch, first, self.first = self.epoch, self.first, 0
        dropped, self.dropped = self.dropped, 0
        for step in range(first, len(self)):
            if step < dropped:
                yield [None]
            else:
                yield [self.source.request(epoch, self.global_step(step) % self.source.steps_per_epoch)]


class KeyedLoader(DataLoader[Any]):
    """The batches of one epoch per iteration: the same ones whatever was iterated over before."""

    def __init__(self, loader: DataLoader[Any], seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        """Takes apart `loader`: its dataset, collator, sampler and workers are used.

        Raises:
            TypeError, ValueError: in one sentence, if its batches may come in any order, or if it is a stream.
        """
        if isinstance(loader.dataset, IterableDataset):
            raise TypeError("an `IterableDataset` makes its own order: its batches have no place in the epoch")
        loading = Loading.read(loader, {})
        self.randomness = Randomness(seed)
        source = MapSource(loading, self.randomness)
        batched = loading.batch_sampler is not None or loading.batch_size is not None
        batches = EpochBatches(loading.dataset, loading.collate_fn, seed, batched)
        batches.num_samples = source.num_samples
        self.requests = Requests(source, rank, world_size)
        self.source = source
        self._identity: dict[str, Any] | None = None
        generator = torch.Generator()
        generator.manual_seed(derive(seed, Purpose.WORKERS))
        super().__init__(
            batches,  # pyright: ignore[reportArgumentType]
            batch_sampler=self.requests,  # pyright: ignore[reportArgumentType]
            collate_fn=_only,
            worker_init_fn=WorkerStart(loading.worker_init_fn),
            generator=generator,
            persistent_workers=loader.persistent_workers,
            **loading.workers,
        )

    def seed_micro_batch(self, epoch: int, step: int) -> None:
        """Seeds the global generators for this process's micro-batch `step` (from 0) of `epoch` (from 1)."""
        self.randomness.training(epoch, self.requests.global_step(step))

    def identity(self) -> dict[str, Any]:
        """Returns what the order and the draws depend on: compared when a run is resumed."""
        if self._identity is None:
            loading, source = self.source.loading, self.source
            self._identity = {
                "seed": self.randomness.seed,
                "batch_size": loading.batch_size,
                "steps_per_epoch": source.steps_per_epoch,
                "processes": self.requests.world_size,
                "order": source.order.kind,
                "dataset": fingerprint(loading.dataset, source.num_samples, self.randomness),
            }
        return self._identity


_NAMES = {
    "seed": "the seed of the order",
    "batch_size": "the batch size",
    "steps_per_epoch": "the number of batches per epoch",
    "processes": "the number of processes",
    "order": "the order of samples",
    "dataset": "the dataset (its length and the content of six samples)",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
}


def compare(path: str, saved: dict[str, Any], now: dict[str, Any], way_out: str) -> None:
    """Refuses to go on with other batches than those that a checkpoint's run has had.

    Raises:
        MismatchError: naming the first difference with both values, and `way_out`.
    """
    for name, value in now.items():
        if name in saved and saved[name] != value:
            what = _NAMES.get(name, name)
            raise MismatchError(f"{path}: {what} was {saved[name]!r} and is {value!r} now: set it back, or {way_out}")


def _only(batches: list[Any]) -> Any:
    """Returns the batch that a list holds: collating has been done."""
    return batches[0]
