"""The loader that ``run.data`` returns: the loop over it is where keepstep skips, seeds, saves, stops and rehearses.

What the run must provide is the `Driver` protocol; it is called in this order::

    begin(loader)                         # the first batch has been asked for: compare, load, print
    repeat:
        before(micro_batch)               # its batch is there; the loop's body runs next
        after(micro_batch) -> go_on       # the body has run; at an update's end: count, save, stop
    end()                                 # always, whatever ended the loop, unless `begin` raised

The generators of random numbers are seeded between `before` and the body.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any, Protocol

from ._fingerprint import fingerprint
from ._plan import MicroBatch, Plan
from ._random import Randomness
from ._rehearsal import Rehearsal
from ._source import MapSource, StreamSource, open_source
from ._streams import StatefulSource

__all__ = ["Driver", "Epoch", "Loader"]


class Driver(Protocol):
    """What a loader needs of its run."""

    @property
    def randomness(self) -> Randomness:
        """The run's random numbers."""
        ...

    @property
    def share(self) -> tuple[int, int]:
        """``(rank, world_size)``: this process and the number of processes that share each update."""
        ...

    def begin(self, loader: Loader) -> tuple[int, int]:
        """Compares, loads and prints; returns ``(epoch, step)``, the position to go on from."""
        ...

    def before(self, micro_batch: MicroBatch) -> None:
        """The batch has been made; the loop's body is about to run."""
        ...

    def after(self, micro_batch: MicroBatch) -> bool:
        """The body has run; returns False to end the loop."""
        ...

    def end(self) -> None:
        """The loop has ended: completed, stopped by `after`, left by ``break``, or by an exception."""
        ...

    def rehearsal(self, loader: Loader, epoch: int, step: int) -> Rehearsal | None:
        """Returns the rehearsal to hold before the loop, from the position that `begin` gave, or None for none.

        What else a run does for a rehearsal is written at the top of `_rehearsal`.
        """
        ...


class Loader:
    """Iterates over the batches of a run that are still to be trained on, over all its epochs.

    ``for batch in data`` goes through all epochs; ``for epoch in data.epochs_left()`` gives one epoch at a time. A
    resumed run begins in the middle of an epoch, wherever it was stopped, and loads nothing that it has had before.

    Workers live as long as the loop, whatever ``persistent_workers`` says, and fetch ahead across epochs.
    """

    def __init__(
        self,
        driver: Driver,
        data: Any,
        *,
        epochs: int,
        gradient_accumulation_steps: int = 1,
        steps_per_epoch: int | None = None,
        dataset_fingerprint: str | None = None,
        **given: Any,
    ) -> None:
        """Takes apart a dataset or a `DataLoader`; loads no sample.

        Args:
            driver: The run.
            data: A dataset or a `torch.utils.data.DataLoader`.
            epochs: Epochs of the whole run.
            gradient_accumulation_steps: Micro-batches per update, over all processes.
            steps_per_epoch: Micro-batches per epoch, for a stream without a length.
            dataset_fingerprint: A name for the dataset's content, in place of looking at a few of its samples.
            given: `batch_size`, `shuffle`, `drop_last`, `collate_fn`, `num_workers` and the other arguments of
                `DataLoader`, for a dataset.

        Raises:
            TypeError, ValueError: in one sentence, if the arguments contradict each other.
        """
        self._driver = driver
        self._source = open_source(data, given, driver.randomness, steps_per_epoch)
        rank, world_size = driver.share
        self.plan = Plan(self._source.steps_per_epoch, gradient_accumulation_steps, epochs, rank, world_size)
        """The sizes that place every micro-batch."""
        self._fingerprint = dataset_fingerprint
        self._running = False

    @property
    def steps_per_epoch(self) -> int:
        """Micro-batches per epoch, over all processes."""
        return self.plan.steps_per_epoch

    @property
    def updates_per_epoch(self) -> int:
        """Updates per epoch; a shorter last window counts as one."""
        return self.plan.updates_per_epoch

    @property
    def total_steps(self) -> int:
        """Updates of the whole run: the ``total_steps`` of a learning rate scheduler."""
        return self.plan.total_steps

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self.plan.epochs

    @property
    def gradient_accumulation_steps(self) -> int:
        """Micro-batches per update, over all processes."""
        return self.plan.gradient_accumulation_steps

    @property
    def batch_size(self) -> int | None:
        """Samples per micro-batch; None where a batch sampler decides."""
        return self._source.loading.batch_size

    @property
    def num_samples(self) -> int | None:
        """Samples of the dataset; None for a stream that does not know."""
        return self._source.num_samples

    @property
    def dataset(self) -> Any:
        """The user's dataset."""
        return self._source.loading.dataset

    @property
    def source(self) -> MapSource | StreamSource | StatefulSource:
        """Where the batches come from."""
        return self._source

    @property
    def exact(self) -> bool:
        """True if a resume gets the same batches. False for streams without a state of their own."""
        return self._source.promise[0] == "exact"

    def settings(self) -> dict[str, int | str | bool | None]:
        """Returns what the batches depend on: compared when a run is resumed."""
        loading = self._source.loading
        settings: dict[str, int | str | bool | None] = {
            "batch_size": loading.batch_size,
            "drop_last": loading.drop_last,
            "epochs": self.epochs,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "num_samples": self.num_samples,
            "order": self._source.order.kind if isinstance(self._source, MapSource) else "stream",
        }
        if not isinstance(self._source, MapSource):
            # The samples of a stream are shared out by worker.
            settings["num_workers"] = int(loading.workers.get("num_workers") or 0)
        return settings

    def fingerprint(self) -> str:
        """Returns a text that tells this dataset from others, and from itself in another order.

        It is made of the number of samples and of the content of six of them. A stream has none: an empty text.
        """
        if self._fingerprint is None:
            source = self._source
            self._fingerprint = ""
            if isinstance(source, MapSource):
                self._fingerprint = fingerprint(self.dataset, source.num_samples, self._driver.randomness)
        return self._fingerprint

    def __len__(self) -> int:
        raise TypeError(
            "the length of this loader depends on what you count: use steps_per_epoch (micro-batches), "
            "updates_per_epoch or total_steps (updates of the whole run)"
        )

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches from the run's position to its end."""
        for micro_batch, batch in self._batches(_caller()):
            if micro_batch is not None:
                yield batch

    def epochs_left(self) -> Iterator[Epoch]:
        """Yields the epochs from the run's position on, each to be iterated over once, to its end.

        Raises:
            RuntimeError: if an epoch was left before its end and the next one is asked for.
        """
        loop = self._batches(_caller())
        epoch = Epoch(loop)
        while epoch.begin():
            yield epoch
            if not epoch.ended:
                loop.close()
                raise RuntimeError(f"the loop left epoch {epoch.number} before its end: use `return` to stop early")
            epoch = Epoch(loop)

    def _batches(self, body: FrameType | None) -> Generator[tuple[MicroBatch | None, Any]]:
        """Yields micro-batches with their batches, and ``(None, None)`` where an epoch or the loop ends."""
        if self._running:
            raise RuntimeError("a loop over this loader is still running: end it before you begin another")
        driver, randomness = self._driver, self._driver.randomness
        epoch, step = driver.begin(self)
        self._running = True
        try:
            wanted, micro_batches = itertools.tee(self.plan.micro_batches(epoch, step))
            batches = self._source.batches(wanted)
            rehearsal = driver.rehearsal(self, epoch, step)
            if rehearsal is not None:
                batches = yield from rehearsal.hold(self.plan.micro_batches(epoch, step), batches, body)
            body = None  # a frame keeps everything alive that its function has
            for micro_batch, batch in zip(micro_batches, batches):
                driver.before(micro_batch)
                randomness.training(micro_batch.epoch, micro_batch.step)
                yield micro_batch, batch
                go_on = driver.after(micro_batch)
                if micro_batch.epoch_ends or not go_on:
                    yield None, None
                if not go_on:
                    return
        finally:
            self._running = False
            driver.end()


class Epoch:
    """One epoch of a run, from the run's position on."""

    def __init__(self, loop: Iterator[tuple[MicroBatch | None, Any]]) -> None:
        self._loop = loop
        self._first: tuple[MicroBatch, Any] | None = None
        self.number = 0
        """The epoch, from 1."""
        self.ended = False
        """True once its last batch has been trained on, or the run has stopped."""

    def begin(self) -> bool:
        """Fetches the first batch; returns False if the run is over."""
        micro_batch, batch = next(self._loop, (None, None))
        if micro_batch is None:
            return False
        self._first, self.number = (micro_batch, batch), micro_batch.epoch
        return True

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches that are left of the epoch."""
        if self._first is None:
            raise RuntimeError(f"epoch {self.number} has been iterated over: take the next one")
        (_, batch), self._first = self._first, None
        yield batch
        for micro_batch, batch in self._loop:
            if micro_batch is None:
                break
            yield batch
        self.ended = True


def _caller() -> FrameType | None:
    """Returns the frame of the function whose loop asks for batches: the first that is neither ours nor a wrapper's."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("keepstep", "tqdm", "torch"):
        frame = frame.f_back
    return frame
