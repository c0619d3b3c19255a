"""The processes that share a run: which one this is, and how all of them come to know the same.

Everything that is not a gradient goes through one operation, `Ranks.gather`: each process gives a value and gets those
of all. Each value travels with the name of the call that it belongs to, so processes that are at different calls notice.
It runs on gloo, whatever the gradients use, and the group is keepstep's own.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ._errors import RankError, UsageError
from ._watch import Watch

__all__ = ["Ranks", "join_ranks"]

_SMALL = 2048
"""Bytes of a value that travel in one round."""
_HEAD = 8

_joined: tuple[Any, Ranks] | None = None
_made = 0


class Ranks:
    """The processes of this run. With one process everything is at once."""

    def __init__(self, rank: int, size: int, group: Any, watch: Watch | None) -> None:
        self.rank = rank
        """This process, from 0."""
        self.size = size
        """Number of processes."""
        self.group = group
        """keepstep's own gloo group; None for one process."""
        self.watch = watch

    @property
    def is_first(self) -> bool:
        """True for the process that reads and writes the run's folder."""
        return self.rank == 0

    def at(self, place: str) -> None:
        """Notes where this process is, for messages of the others."""
        if self.watch is not None:
            self.watch.at(place)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Around an exchange: a process that does not come is named.

        Raises:
            RankError: if the exchange fails.
        """
        if self.watch is None:
            yield
            return
        self.watch.wait_begins(what)
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if isinstance(error, (RankError, UsageError)):
                raise
            text = self.watch.blame()
            self.watch.leave(text)
            raise RankError(f"{text}. What was saved is valid; start the run again to continue") from error
        finally:
            self.watch.wait_ends()

    def gather(self, what: str, value: Any = None) -> list[Any]:
        """Returns the values of all processes, in the order of ranks.

        Args:
            what: The call that this belongs to, in words, the same in all processes.
            value: What this process gives; it is pickled.

        Raises:
            RankError: if a process is at another call, or is lost.
        """
        if self.size == 1:
            return [value]
        blob = pickle.dumps((what, value), protocol=4)
        with self.waiting(what):
            blobs = self._exchange(blob)
        found = [pickle.loads(each) for each in blobs]
        for rank, (other, _) in enumerate(found):
            if other != found[0][0]:
                raise RankError(
                    f"rank {rank} is at {other}, and rank 0 at {found[0][0]}: every process must make the same calls of keepstep"
                )
        return [each for _, each in found]

    def from_first(self, what: str, value: Any = None) -> Any:
        """Returns the value of rank 0."""
        return self.gather(what, value if self.is_first else None)[0]

    def outcome(self, what: str, work: Callable[[], Any]) -> Any:
        """Does a process's own part of something, and raises in all processes if it failed in one.

        Returns:
            What `work` returned here.

        Raises:
            RankError: naming the rank, in the processes where it did not fail.
        """
        error: Exception | None = None
        result: Any = None
        try:
            result = work()
        except Exception as found:  # noqa: BLE001 -- raised again below
            error = found
        texts = self.gather(what, None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, text in enumerate(texts):
            if text is not None:
                raise RankError(f"rank {rank} failed at {what}: {text}")
        return result

    def compare(self, facts: dict[str, str]) -> None:
        """Refuses processes that disagree.

        Args:
            facts: What must be the same everywhere, by name.

        Raises:
            RankError: naming the rank, the fact and both values, in every process.
        """
        for rank, other in enumerate(all_facts := self.gather("the comparison of the processes", facts)):
            first = all_facts[0]
            for name in [*first, *(each for each in other if each not in first)]:
                if first.get(name) != other.get(name):
                    raise RankError(
                        f"rank {rank} disagrees with rank 0: {name} is {other.get(name, 'missing')} there and "
                        f"{first.get(name, 'missing')} on rank 0. All processes must run the same script with the same settings"
                    )

    def broadcast(self, what: str, tensor: torch.Tensor) -> None:
        """Copies a dense tensor in host memory from rank 0 into those of the others."""
        if self.size == 1 or tensor.numel() == 0:
            return
        raw = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
        with self.waiting(what):
            dist.broadcast(raw, 0, group=self.group)

    def _exchange(self, blob: bytes) -> list[bytes]:
        whole = len(blob).to_bytes(_HEAD, "little") + blob
        first = self._round(whole[:_SMALL], _SMALL)
        sizes = [int.from_bytes(each[:_HEAD], "little") + _HEAD for each in first]
        if max(sizes) > _SMALL:
            rest = self._round(whole[_SMALL:], max(sizes) - _SMALL)
            first = [one + other for one, other in zip(first, rest)]
        return [each[_HEAD:size] for each, size in zip(first, sizes)]

    def _round(self, data: bytes, size: int) -> list[bytes]:
        mine = torch.zeros(size, dtype=torch.uint8)
        if data:
            mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        out = torch.empty(self.size * size, dtype=torch.uint8)
        dist.all_gather_into_tensor(out, mine, group=self.group)
        raw = out.numpy().tobytes() if _has_numpy() else bytes(out.tolist())
        return [raw[at * size : (at + 1) * size] for at in range(self.size)]


def _has_numpy() -> bool:
    try:
        import numpy  # noqa: F401
    except ImportError:
        return False
    return True


def join_ranks(timeout: float) -> Ranks:
    """Returns the processes of this job, meeting them if they have not met.

    Under torchrun, or anything else that sets ``RANK`` and ``WORLD_SIZE``, it starts `torch.distributed` unless the script
    has done so. Without those it is one process.

    Raises:
        UsageError: if this torch cannot do it.
    """
    global _joined, _made
    if not dist.is_available():
        raise UsageError("distributed=True needs a torch that was built with torch.distributed")
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return Ranks(0, 1, None, None)
        if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
            raise UsageError("WORLD_SIZE is set, but RANK or MASTER_ADDR is missing: start the script with torchrun")
        cuda = torch.cuda.is_available()
        if cuda and "LOCAL_RANK" in os.environ:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    if size == 1:
        return Ranks(0, 1, None, None)
    whole = dist.group.WORLD
    if _joined is not None and _joined[0] is whole:
        ranks = _joined[1]
        if ranks.watch is not None:
            ranks.watch.timeout = timeout
        return ranks
    if not dist.is_gloo_available():
        raise UsageError("distributed=True needs gloo, which this torch was built without")
    if _joined is not None and _joined[1].watch is not None:
        _joined[1].watch.stop()
    _made += 1
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout + 60))
    store = dist.distributed_c10d.PrefixStore(f"keepstep/{_made}", dist.distributed_c10d._get_default_store())
    ranks = Ranks(rank, size, group, Watch(store, rank, size, timeout))
    ranks.gather("the start")
    assert ranks.watch is not None
    ranks.watch.start()
    _joined = (whole, ranks)
    return ranks
