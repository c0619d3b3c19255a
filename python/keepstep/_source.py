"""Where batches come from: a dataset or a `DataLoader` of the user's, taken apart into what keepstep needs.

`Source.of` reads the arguments of ``run.data``. A `MapSource` gives any batch of any epoch at once; a `StreamSource`
reads an `IterableDataset` in its own order and can only skip by reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from ._batches import KeyedBatches, KeyedCollate, Request, WorkerStart, unchanged
from ._orders import BatchSamplerOrder, KeyedOrder, Order, SamplerOrder, SequentialOrder, set_epoch
from ._plan import MicroBatch
from ._random import Purpose, Randomness, derive, seed_host
from ._streams import StatefulSource, is_stateful, loses_samples

__all__ = ["Loading", "MapSource", "StreamSource", "open_source"]

_PASSED_ON = ("num_workers", "pin_memory", "timeout", "multiprocessing_context", "prefetch_factor")


@dataclass
class Loading:
    """How samples become batches: what ``run.data`` was given, or what the user's `DataLoader` had."""

    dataset: Any
    batch_size: int | None
    drop_last: bool
    collate_fn: Callable[[Any], Any]
    shuffle: bool
    sampler: Iterable[Any] | None
    """A sampler of the user's that keepstep runs; None for the shuffled and the dataset's own order."""
    batch_sampler: Iterable[Any] | None
    worker_init_fn: Callable[[int], None] | None
    workers: dict[str, Any]
    """Arguments of `DataLoader` that change the speed only."""

    @staticmethod
    def read(data: Any, given: dict[str, Any]) -> Loading:
        """Reads a dataset or a `DataLoader` with the arguments that were `given`; those that are None count as absent.

        Raises:
            TypeError: for an argument that does not exist, or that cannot be combined with a `DataLoader`.
            ValueError: if the batches may come in any order, or if sizes contradict each other.
        """
        given = {name: value for name, value in given.items() if value is not None}
        if isinstance(data, DataLoader):
            return _read_loader(data, given)
        known = {"batch_size", "drop_last", "collate_fn", "shuffle", "sampler", "batch_sampler", "worker_init_fn"}
        known |= {*_PASSED_ON, "persistent_workers", "in_order"}
        _refuse_unknown(given, known)
        _refuse_any_order(given.get("in_order", True))
        batch_sampler = given.get("batch_sampler")
        if batch_sampler is not None and {"batch_size", "sampler", "shuffle", "drop_last"} & given.keys():
            raise ValueError("`batch_sampler` makes whole batches: leave out batch_size, shuffle, sampler and drop_last")
        if batch_sampler is None and "batch_size" not in given:
            raise ValueError("`batch_size` is missing: a dataset has none of its own")
        sampler = given.get("sampler")
        if sampler is not None and "shuffle" in given:
            raise ValueError("`sampler` makes the order: leave out `shuffle`")
        size = given.get("batch_size")
        return Loading(
            dataset=data,
            batch_size=size,
            drop_last=given.get("drop_last", True),
            collate_fn=given.get("collate_fn", default_collate),
            **_order_of(sampler, given.get("shuffle", True)),
            batch_sampler=batch_sampler,
            worker_init_fn=given.get("worker_init_fn"),
            workers={name: given[name] for name in _PASSED_ON if name in given},
        )


def _read_loader(loader: DataLoader[Any], given: dict[str, Any]) -> Loading:
    _refuse_unknown(given, {"shuffle"}, " together with a `DataLoader`; give it to the `DataLoader`")
    _refuse_any_order(getattr(loader, "in_order", True))
    batch_sampler: Any = loader.batch_sampler
    sampler: Any = loader.sampler
    stream = isinstance(loader.dataset, IterableDataset)
    if stream or type(batch_sampler) is BatchSampler or batch_sampler is None:
        batch_sampler = None
    order: dict[str, Any] = {"shuffle": False, "sampler": None} if stream else _order_of(sampler, given.get("shuffle"))
    if batch_sampler is not None and "shuffle" in given:
        raise ValueError(f"the batch sampler `{type(batch_sampler).__name__}` makes the order: leave out `shuffle`")
    workers = {name: getattr(loader, name) for name in _PASSED_ON}
    if not workers["num_workers"]:
        workers = {"pin_memory": workers["pin_memory"]}
    return Loading(
        dataset=loader.dataset,
        batch_size=loader.batch_size,
        drop_last=loader.drop_last,
        collate_fn=loader.collate_fn,
        **order,
        batch_sampler=batch_sampler,
        worker_init_fn=loader.worker_init_fn,
        workers=workers,
    )


def _order_of(sampler: Any, shuffle: bool | None) -> dict[str, Any]:
    """Returns `shuffle` and `sampler` of a `Loading`: samplers that keepstep replaces become None."""
    if shuffle is not None and (sampler is None or _is_replaced(sampler)):
        return {"shuffle": shuffle, "sampler": None}
    if shuffle is not None:
        raise ValueError(f"the sampler `{type(sampler).__name__}` makes the order: leave out `shuffle`")
    if not _is_replaced(sampler):
        return {"shuffle": False, "sampler": sampler}
    return {"shuffle": not isinstance(sampler, SequentialSampler) and getattr(sampler, "shuffle", True), "sampler": None}


def _is_replaced(sampler: Any) -> bool:
    """True for torch's samplers that visit each sample once, shuffled or not; subclasses may do something else."""
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return type(sampler) in (SequentialSampler, DistributedSampler)


def _refuse_any_order(in_order: bool) -> None:
    if not in_order:
        raise ValueError("in_order=False hands out batches in the order in which workers finish: leave it out")


def _refuse_unknown(given: dict[str, Any], known: set[str], why: str = "") -> None:
    for name in given:
        if name not in known:
            raise TypeError(f"run.data() does not take `{name}`{why}")


class MapSource:
    """Batches of a dataset with a length: any of them at once."""

    promise = ("exact", "from the seed and the position")
    """What is promised for the order of samples, and on which condition."""

    def __init__(self, loading: Loading, randomness: Randomness) -> None:
        self.loading = loading
        self.randomness = randomness
        if not isinstance(loading.dataset, Sized):
            raise ValueError(
                f"the dataset `{type(loading.dataset).__name__}` has no length: give it `__len__`, or make it an "
                "`IterableDataset` if it is a stream"
            )
        self.num_samples = len(loading.dataset)
        self._by_batch = loading.batch_sampler is not None
        self.order: Order
        if loading.batch_sampler is not None:
            self.order = BatchSamplerOrder(loading.batch_sampler, randomness)
            places, size = self.order.length, 1
        elif loading.sampler is not None:
            self.order = SamplerOrder(loading.sampler, randomness)
            places, size = self.order.length, loading.batch_size or 1
        else:
            places, size = self.num_samples, loading.batch_size or 1
            self.order = KeyedOrder(randomness.seed, places) if loading.shuffle else SequentialOrder()
        self._places, self._size = places, size
        drops = loading.drop_last and not self._by_batch and loading.batch_size is not None
        self.steps_per_epoch = places // size if drops else -(-places // size)
        if self.steps_per_epoch == 0:
            raise ValueError(f"the dataset has {places} samples: too few for one batch of {size}")
        batched = self._by_batch or loading.batch_size is not None
        self._batches = KeyedBatches(loading.dataset, loading.collate_fn, randomness.seed, batched)

    def request(self, epoch: int, step: int) -> Request:
        """Returns the request of micro-batch `step` (from 0) of `epoch` (from 1)."""
        start = step * self._size
        stop = min(start + self._size, self._places)
        samples = self.order.samples(epoch, start, stop)
        return Request(epoch, start, list(samples[0]) if self._by_batch else samples)

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[Any]:
        """Yields one collated batch for each of `micro_batches`, made by workers if there are any."""
        requests = (self.request(each.epoch, each.step) for each in micro_batches)
        if not self.loading.workers.get("num_workers"):
            return self._here(requests)
        return iter(self._loader(requests))

    def batch(self, epoch: int, step: int) -> Any:
        """Makes one batch in this process."""
        return self._make(self.request(epoch, step))

    def _make(self, request: Request) -> Any:
        # Workers have one thread each. A long sum has other bits with more.
        threads = torch.get_num_threads()
        if threads != 1:
            torch.set_num_threads(1)
        try:
            return self._batches[request]
        finally:
            if torch.get_num_threads() != threads:  # the dataset may have set it, too
                torch.set_num_threads(threads)

    def _here(self, requests: Iterator[Request]) -> Iterator[Any]:
        if not self.loading.workers.get("pin_memory") or not torch.cuda.is_available():
            yield from map(self._make, requests)
            return
        from torch.utils.data._utils.pin_memory import pin_memory

        for request in requests:
            yield pin_memory(self._make(request))

    def _loader(self, requests: Iterator[Request]) -> DataLoader[Any]:
        generator = torch.Generator()
        generator.manual_seed(derive(self.randomness.seed, Purpose.WORKERS))
        return DataLoader(
            self._batches,  # pyright: ignore[reportArgumentType]
            batch_size=None,
            sampler=_Requests(requests),  # pyright: ignore[reportArgumentType]
            collate_fn=unchanged,
            worker_init_fn=WorkerStart(self.loading.worker_init_fn),
            generator=generator,
            **self.loading.workers,
        )


class _Requests:
    """A sampler for `DataLoader` that hands on requests once."""

    def __init__(self, requests: Iterator[Request]) -> None:
        self._requests = requests

    def __iter__(self) -> Iterator[Request]:
        return self._requests


class StreamSource:
    """Batches of an `IterableDataset`, in the order in which it gives them; it begins again when it ends.

    Resuming reads and drops what was used, so it takes time, and it is exact only if the dataset gives the same
    samples each time and the number of workers stays.
    """

    def __init__(
        self, loading: Loading, randomness: Randomness, steps_per_epoch: int, num_samples: int | None = None
    ) -> None:
        self.loading = loading
        self.randomness = randomness
        self.num_samples = num_samples
        self.steps_per_epoch = steps_per_epoch

    @property
    def promise(self) -> tuple[str, str]:
        """What is promised for the order of samples, and on which condition."""
        why = "its state_dict() leaves out its shuffle buffer" if loses_samples(self.loading.dataset) else "it has no state_dict()"
        return "not exact", f"the dataset is a stream, and {why}: a resume reads and drops what was used, num_workers must stay"

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[Any]:
        """Yields one collated batch for each of `micro_batches`, after reading and dropping those before the first."""
        read = 0
        stream = self._endless()
        for each in micro_batches:
            wanted = (each.epoch - 1) * self.steps_per_epoch + each.step
            while True:
                seed_host(derive(self.randomness.seed, Purpose.SAMPLE, 0, read))
                batch = next(stream)
                read += 1
                if read > wanted:
                    yield batch
                    break

    def _endless(self) -> Iterator[Any]:
        turn = 0
        while True:
            turn += 1
            set_epoch(self.loading.dataset, turn)
            got = False
            for batch in self._loader(turn):
                got = True
                yield batch
            if not got:
                raise ValueError(f"the stream `{type(self.loading.dataset).__name__}` gave no batch")

    def _loader(self, turn: int) -> DataLoader[Any]:
        generator = torch.Generator()
        generator.manual_seed(derive(self.randomness.seed, Purpose.WORKERS, turn))
        return DataLoader(
            self.loading.dataset,
            batch_size=self.loading.batch_size,
            drop_last=self.loading.drop_last and self.loading.batch_size is not None,
            collate_fn=KeyedCollate(self.loading.collate_fn, self.randomness.seed),
            worker_init_fn=WorkerStart(self.loading.worker_init_fn),
            generator=generator,
            **self.loading.workers,
        )


def open_source(
    data: Any, given: dict[str, Any], randomness: Randomness, steps_per_epoch: int | None
) -> MapSource | StreamSource | StatefulSource:
    """Returns the source of batches that the arguments of ``run.data`` describe.

    Raises:
        TypeError, ValueError: if they contradict each other; see `Loading.read`.
    """
    loading = Loading.read(data, given)
    if isinstance(loading.dataset, IterableDataset):
        if loading.sampler is not None or loading.batch_sampler is not None:
            raise ValueError("an `IterableDataset` makes its own order: leave out `sampler` and `batch_sampler`")
        num_samples = None
        if steps_per_epoch is None:
            num_samples, steps_per_epoch = _length_of_stream(loading)
        kind = StatefulSource if is_stateful(loading.dataset) else StreamSource
        return kind(loading, randomness, steps_per_epoch, num_samples)
    if steps_per_epoch is not None:
        raise ValueError("`steps_per_epoch` is for streams: this dataset has a length")
    return MapSource(loading, randomness)


def _length_of_stream(loading: Loading) -> tuple[int, int]:
    """Returns the samples and the batches of a stream that knows its length.

    Raises:
        ValueError: if it does not.
    """
    name = type(loading.dataset).__name__
    try:
        num_samples = len(loading.dataset)
    except (TypeError, NotImplementedError):  # some streams have a `__len__` that raises
        raise ValueError(f"the stream `{name}` has no length: give run.data(steps_per_epoch=...)") from None
    size = loading.batch_size or 1
    return num_samples, num_samples // size if loading.drop_last else -(-num_samples // size)
