"""The fixed sum over processes: all-to-all of slices, a tree over them, all-gather.

A ring adds in an order that depends on an element's offset in its bucket, and the first iteration of a process has other
buckets than later ones. Here each process receives one slice from everybody, adds them up in a tree of fixed shape
(neighbours in pairs, an odd last one passes up), and gives the sum to everybody. So a sum's bits depend neither on
buckets nor on the backend, and a process sends as many bytes as in a ring: 2 (W - 1) / W of the gradient.

It sums and does not divide: `Run.window` has divided already. All tensors of one call lie on one device.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        """Which processes have a share of this window: the others' numbers are received and left out."""
        self.sent_bytes = 0
        """Bytes that this process has sent for sums."""
        self.ring_bytes = 0.0
        """Bytes that a ring would have sent for the same sums."""
        self._scratch: dict[tuple[torch.dtype, torch.device, str], torch.Tensor] = {}

    def group(self, device: torch.device) -> Any:
        """Returns the group of processes for tensors of a device: keepstep's own on the CPU, else the script's."""
        return self.ranks.group if device.type == "cpu" else dist.group.WORLD

    def all_reduce(self, flat: torch.Tensor, group: Any = None) -> torch.Tensor:
        """Returns the sum of one contiguous vector of each process; it may be in `flat`'s memory."""
        size, length = self.ranks.size, flat.numel()
        group = group or self.group(flat.device)
        per = -(-length // size)
        whole = flat
        if per * size != length:
            whole = self._buffer(flat, "whole", per * size)
            whole[:length] = flat
            whole[length:] = 0
        mine = self._sum_of_mine(whole, group)
        with self.ranks.waiting("the reduction of gradients"):
            dist.all_gather_into_tensor(whole, mine, group=group)
        self.count(flat, 2 * (size - 1) * per, length)
        if whole is not flat:
            flat.copy_(whole[:length])
        return flat

    def reduce_scatter(self, output: torch.Tensor, source: torch.Tensor, group: Any) -> None:
        """Writes this process's slice of the sum of `source` to `output`."""
        output.copy_(self._sum_of_mine(source, group))
        self.count(source, (self.ranks.size - 1) * output.numel(), source.numel(), 0.5)

    def count(self, like: torch.Tensor, sent: int, length: int, part: float = 1.0) -> None:
        """Counts elements that were sent to sum `length` elements; `part` of an all-reduce."""
        size = self.ranks.size
        self.sent_bytes += sent * like.element_size()
        self.ring_bytes += part * 2 * (size - 1) / size * length * like.element_size()

    def _sum_of_mine(self, whole: torch.Tensor, group: Any) -> torch.Tensor:
        size = self.ranks.size
        received = self._buffer(whole, "received", whole.numel())
        with self.ranks.waiting("the reduction of gradients"):
            dist.all_to_all_single(received, whole, group=group)
        slices = received.view(size, -1)
        return tree_sum([slices[rank] for rank in range(size) if self.joins[rank]])

    def _buffer(self, like: torch.Tensor, use: str, length: int) -> torch.Tensor:
        key = (like.dtype, like.device, use)
        buffer = self._scratch.get(key)
        if buffer is None or buffer.numel() < length:
            buffer = self._scratch[key] = torch.empty(length, dtype=like.dtype, device=like.device)
        return buffer[:length]
