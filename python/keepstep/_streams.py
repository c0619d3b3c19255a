"""Streams that can be continued: an `IterableDataset` with ``state_dict()`` and ``load_state_dict()``.

Every batch comes with the dataset's state after it, from the process that made it. What has been fetched ahead does not
count: the state that is saved is that of the last batch which the loop has had. Random numbers belong to a batch: to
its number in its worker.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ._batches import WorkerStart, reseed_collator, unchanged
from ._errors import MismatchError, StateError
from ._orders import set_epoch
from ._plan import MicroBatch
from ._random import Purpose, Randomness, derive, host_untouched, seed_host

if TYPE_CHECKING:
    from ._source import Loading

__all__ = ["StatefulSource", "is_stateful", "loses_samples"]

KEPT = 1024
"""Micro-batches whose state is remembered: a rehearsal goes back by a few."""


def is_stateful(dataset: Any) -> bool:
    """True for a dataset whose position can be read and put back."""
    if not all(callable(getattr(dataset, name, None)) for name in ("state_dict", "load_state_dict")):
        return False
    return not loses_samples(dataset)


def loses_samples(dataset: Any) -> bool:
    """True for a stream of `datasets` with a shuffle buffer, whose content is not part of its state."""
    found, seen = [getattr(dataset, "_ex_iterable", None)], 0
    while found and seen < 1000:
        it, seen = found.pop(), seen + 1
        if type(it).__name__ == "BufferShuffledExamplesIterable":
            return True
        for value in list(vars(it).values()) if hasattr(it, "__dict__") else []:
            found += [each for each in (value if isinstance(value, list) else [value]) if "Iterable" in type(each).__name__]
    return False


class Place(NamedTuple):
    """Where a stream is."""

    turn: int
    """How often the dataset has been begun."""
    last: int
    """The worker that made the last batch."""
    made: tuple[int, ...]
    """Batches that each worker has made in this turn; below zero once its dataset has ended."""
    states: tuple[Any, ...]
    """The state of each worker's dataset; None where it has made none."""


class _Batches(IterableDataset[Any]):
    """What runs in each worker: its batches, with its number, and its dataset's state after each."""

    def __init__(self, dataset: Any, loading: Loading, seed: int, place: Place) -> None:
        self.dataset = dataset
        self.batch_size = loading.batch_size
        self.drop_last = loading.drop_last
        self.collate_fn = loading.collate_fn
        self.seed = seed
        self.place = place

    def __iter__(self) -> Iterator[Any]:
        turn, last, made_by_all, states = self.place
        info = get_worker_info()
        worker = 0
        if info is None:
            # A state that was loaded must not be there in the next turn.
            self.dataset = copy.copy(self.dataset)
        else:
            # `DataLoader` begins with its first worker. The one whose turn it is takes that place; a dataset that is
            # shared out by worker goes by the number.
            worker = (info.id + last + 1) % len(states)
            object.__setattr__(info, "id", worker)
        made = made_by_all[worker]
        if made < 0:
            return
        if states[worker] is not None:
            self.dataset.load_state_dict(states[worker])
        items = iter(self.dataset)
        size = self.batch_size or 1
        while True:
            seed_host(derive(self.seed, Purpose.SAMPLE, 0, turn, worker, made))
            taken = list(islice(items, size))
            if not taken or (self.batch_size is not None and self.drop_last and len(taken) < size):
                return
            key = derive(self.seed, Purpose.COLLATE, 0, turn, worker, made)
            seed_host(key)
            reseed_collator(self.collate_fn, key)
            batch = self.collate_fn(taken if self.batch_size is not None else taken[0])
            made += 1
            if len(taken) < size:  # an ended dataset may give the state of its beginning
                yield batch, worker, -made, None
                return
            yield batch, worker, made, self.dataset.state_dict()


class StatefulSource:
    """Batches of a stream with a state, in the stream's own order; it begins again when it ends.

    Its own ``state_dict()`` is saved with the run, and belongs to the micro-batch that the loop has had last.
    """

    promise = ("exact", "the stream's own state is saved; num_workers must stay")

    def __init__(self, loading: Loading, randomness: Randomness, steps_per_epoch: int, num_samples: int | None) -> None:
        self.loading = loading
        self.randomness = randomness
        self.steps_per_epoch = steps_per_epoch
        self.num_samples = num_samples
        self.num_workers = int(loading.workers.get("num_workers") or 0)
        self.position: Callable[[], tuple[int, int]] = lambda: (1, 0)
        """Returns epoch and step of the run: the source does not know what was fetched ahead."""
        count = self.num_workers or 1
        self._start = (0, Place(1, -1, (0,) * count, (None,) * count))
        self._places: deque[tuple[int, Place]] = deque(maxlen=KEPT)

    def batches(self, micro_batches: Iterable[MicroBatch]) -> Iterator[Any]:
        """Yields one batch for each of `micro_batches`, from where the stream was."""
        number, place = self._start
        stream = self._endless(place)
        self._places.append((number, place))
        batch: Any = None
        for each in micro_batches:
            # Those in between belong to other processes.
            while number <= self._number(each.epoch, each.step):
                batch, place = next(stream)
                number += 1
            self._places.append((number, place))
            yield batch

    def _number(self, epoch: int, step: int) -> int:
        return (epoch - 1) * self.steps_per_epoch + step

    def _endless(self, place: Place) -> Iterator[tuple[Any, Place]]:
        while True:
            set_epoch(self.loading.dataset, place.turn)
            got = any(place.made)
            for batch, worker, number, state in self._turn(place):
                got = True
                made = (*place.made[:worker], number, *place.made[worker + 1 :])
                states = (*place.states[:worker], state, *place.states[worker + 1 :])
                place = Place(place.turn, worker, made, states)
                yield batch, place
            if not got:
                raise ValueError(f"the stream `{type(self.loading.dataset).__name__}` gave no batch")
            count = len(place.made)
            place = Place(place.turn + 1, -1, (0,) * count, (None,) * count)

    def _turn(self, place: Place) -> Iterator[Any]:
        batches = _Batches(self.loading.dataset, self.loading, self.randomness.seed, place)
        if not self.num_workers:
            return self._here(batches)
        generator = torch.Generator()
        generator.manual_seed(derive(self.randomness.seed, Purpose.WORKERS, place.turn))
        return iter(
            DataLoader(
                batches,
                batch_size=None,
                collate_fn=unchanged,
                worker_init_fn=WorkerStart(self.loading.worker_init_fn),
                generator=generator,
                **self.loading.workers,
            )
        )

    def _here(self, batches: _Batches) -> Iterator[Any]:
        stream = iter(batches)
        while True:
            # Workers have one thread each. A long sum has other bits with more.
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                with host_untouched():
                    made = next(stream, None)
            finally:
                torch.set_num_threads(threads)
            if made is None:
                return
            yield made

    def state_dict(self) -> dict[str, Any]:
        """Returns the stream's place after this process's last micro-batch before the run's position.

        Raises:
            StateError: if that is too long ago.
        """
        wanted = self._number(*self.position())
        known = [it for it in self._places or [self._start] if it[0] <= wanted]
        if not known:
            raise StateError(f"the stream's state after {wanted} micro-batches is not known any more")
        number, (turn, last, made, states) = max(known, key=lambda it: it[0])
        return {"number": number, "turn": turn, "last": last, "made": list(made), "states": list(states)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a place; the next `batches` begins there.

        Raises:
            MismatchError: if another number of workers read the stream.
        """
        states = tuple(state_dict["states"])
        if len(states) != (self.num_workers or 1):
            raise MismatchError(
                f"the stream was read by {len(states)} processes, and is read by {self.num_workers or 1} now: set "
                f"num_workers back"
            )
        place = Place(state_dict["turn"], state_dict["last"], tuple(state_dict["made"]), states)
        self._start = (state_dict["number"], place)
