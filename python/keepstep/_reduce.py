"""The fixed sum over processes: all-to-all of slices, a tree over them, all-gather.

A ring adds in an order that depends on an element's offset in its bucket, and the first iteration of a process has other
buckets than later ones. Here each process receives one slice from everybody, adds them up in a tree of fixed shape
(neighbours in pairs, an odd last one passes up), and gives the sum to everybody. So a sum's bits depend neither on
buckets nor on the backend, and a process sends as many bytes as in a ring: 2 (W - 1) / W of the gradient.

It sums and does not divide: `Run.window` has divided already. All tensors of one call lie on one device.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist

from ._ranks import Ranks

__all__ = ["FixedSum", "tree_sum"]


def tree_sum(parts: list[torch.Tensor]) -> torch.Tensor:
    """Adds tensors as a tree and returns the sum, in the last tensor's memory; the others are overwritten as well."""
    while len(parts) > 1:
        pairs = [parts[at + 1].add_(parts[at]) for at in range(0, len(parts) - 1, 2)]
        parts = pairs + parts[len(pairs) * 2 :]
    return parts[0]


class FixedSum:
    """Sums over the processes of a run, and counts what it sends."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.joins: Sequence[bool] = [True] * ranks.size
        """Which processes have a share of this window: the others send nothing."""
        self.sent_bytes = 0
        """Bytes that this process has sent for sums."""
        self.ring_bytes = 0.0
        """Bytes that a ring would have sent for the same sums."""
        self._scratch: dict[tuple[torch.dtype, torch.device, str], torch.Tensor] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._streams: dict[torch.device, Any] = {}

    def group(self, device: torch.device) -> Any:
        """Returns the group of processes for tensors of a device: keepstep's own on the CPU, else the script's."""
        return self.ranks.group if device.type == "cpu" else dist.group.WORLD

    def all_reduce(self, flat: torch.Tensor) -> torch.Tensor:
        """Sums one contiguous vector of each process, in place, and returns it."""
        size, length = self.ranks.size, flat.numel()
        group = self.group(flat.device)
        per = -(-length // size)
        whole = flat
        if per * size != length:
            whole = self._buffer(flat, "whole", per * size)
            whole[:length] = flat
            whole[length:] = 0
        mine = whole.view(size, -1)[self.ranks.rank]
        total = self._sum_of_mine(whole, group)
        if total.data_ptr() != mine.data_ptr():
            mine.copy_(total)
        self.spread(whole, group)
        self.ring_bytes += 2 * (size - 1) / size * length * flat.element_size()
        if whole is not flat:
            flat.copy_(whole[:length])
        return flat

    def later(self, flat: torch.Tensor) -> Any:
        """Returns a future of `all_reduce`, which goes on while the caller does.

        On the CPU a thread waits for the other processes; on a device a stream does.
        """
        if flat.device.type == "cpu":
            future: Any = torch.futures.Future()
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "keepstep sum")
            self._thread.submit(self._fulfil, future, flat)
            return future
        module: Any = getattr(torch, flat.device.type)
        future = torch.futures.Future(devices=[flat.device])
        stream = self._streams.get(flat.device)
        if stream is None:
            stream = self._streams[flat.device] = module.Stream(flat.device)
        stream.wait_stream(module.current_stream(flat.device))
        flat.record_stream(stream)
        with module.stream(stream):
            future.set_result(self.all_reduce(flat))
        return future

    def reduce_scatter(self, output: torch.Tensor, source: torch.Tensor, group: Any) -> None:
        """Writes this process's slice of the sum of `source` to `output`."""
        size = self.ranks.size
        output.copy_(self._sum_of_mine(source, group))
        self.ring_bytes += (size - 1) / size * source.numel() * source.element_size()

    def swap(self, source: torch.Tensor | None, received: Sequence[torch.Tensor | None], group: Any) -> None:
        """Sends one slice of `source` to each process, and receives one from each that has something.

        Args:
            source: As many slices as processes; None to send nothing.
            received: For each process where its slice goes; None where it sends nothing.
            group: The processes.
        """
        rank, size = self.ranks.rank, self.ranks.size
        slices = None if source is None else source.view(size, -1)
        mine = received[rank]
        if slices is not None and mine is not None:
            mine.copy_(slices[rank])
        self._send([None if slices is None else slices[other] for other in range(size)], received, group)

    def spread(self, whole: torch.Tensor, group: Any) -> None:
        """Fills all slices of `whole`: each process has its own."""
        slices = whole.view(self.ranks.size, -1)
        self._send([slices[self.ranks.rank]] * self.ranks.size, list(slices), group)

    def _send(self, outgoing: Sequence[torch.Tensor | None], incoming: Sequence[torch.Tensor | None], group: Any) -> None:
        operations: list[Any] = []
        for step in range(1, self.ranks.size):
            # Each in turn sends to its next neighbour, then to the one after it: nobody is asked by all at once.
            to, source = (self.ranks.rank + step) % self.ranks.size, (self.ranks.rank - step) % self.ranks.size
            sent, received = outgoing[to], incoming[source]
            if sent is not None:
                self.sent_bytes += sent.numel() * sent.element_size()
                operations.append(dist.P2POp(dist.isend, sent, to, group=group))
            if received is not None:
                operations.append(dist.P2POp(dist.irecv, received, source, group=group))
        if operations:
            with self.ranks.waiting("the reduction of gradients"):
                for work in dist.batch_isend_irecv(operations):
                    work.wait()

    def _sum_of_mine(self, whole: torch.Tensor, group: Any) -> torch.Tensor:
        """Returns this process's slice of the sum, which may lie in `whole`."""
        size, rank = self.ranks.size, self.ranks.rank
        slices = self._buffer(whole, "received", whole.numel()).view(size, -1)
        parts = [slices[other] if other != rank else whole.view(size, -1)[rank] for other in range(size)]
        incoming = [part if joins and other != rank else None for other, (part, joins) in enumerate(zip(parts, self.joins))]
        outgoing = list(whole.view(size, -1)) if self.joins[rank] else [None] * size
        self._send(outgoing, incoming, group)
        return tree_sum([part for part, joins in zip(parts, self.joins) if joins])

    def _fulfil(self, future: Any, flat: torch.Tensor) -> None:
        try:
            future.set_result(self.all_reduce(flat))
        except Exception as error:  # noqa: BLE001 -- whoever waits for the future gets it
            future.set_exception(error)

    def _buffer(self, like: torch.Tensor, use: str, length: int) -> torch.Tensor:
        key = (like.dtype, like.device, use)
        buffer = self._scratch.get(key)
        if buffer is None or buffer.numel() < length:
            buffer = self._scratch[key] = torch.empty(length, dtype=like.dtype, device=like.device)
        return buffer[:length]
