"""Gradients of one update from any number of processes, with the same bits for any number.

Autograd adds the gradients of a window's micro-batches up from the left. Here each micro-batch's gradient is taken away
as a leaf of a tree: neighbours are added in pairs, and an odd last one passes up. A process computes a contiguous block of
leaves, which is a few whole subtrees. The processes exchange slices of subtrees, and each completes the tree for its slice.
So the sum has the bits of one process's. A process keeps log2(A) + 2 gradients.

Without `elastic`, a process's share of the window is one leaf: bits then depend on the number of processes.

A gradient that is None is not zero: AdamW decays for zeros and skips None. So each subtree carries a mask of the
parameters that have a gradient, and adding to nothing copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ._errors import UsageError
from ._ranks import Ranks
from ._reduce import FixedSum

__all__ = ["Gradients", "blocks"]

_ALIGN = 64
"""Elements between the starts of two parameters' gradients: kernels may choose their order of adding by alignment."""


def blocks(first: int, end: int) -> list[tuple[int, int]]:
    """Returns the whole subtrees that a contiguous share of leaves is, as pairs of the first leaf and the level."""
    found: list[tuple[int, int]] = []
    while first < end:
        level = 0
        while first % (2 << level) == 0 and first + (2 << level) <= end:
            level += 1
        found.append((first, level))
        first += 1 << level
    return found


class _Layout:
    """Where each parameter's gradient lies in flat memory: one vector for each device and type of number."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.keys: list[tuple[torch.device, torch.dtype]] = []
        self.lengths: list[int] = []
        self.places: list[tuple[int, int]] = []
        """For each parameter its vector and its first element there."""
        for parameter in parameters:
            key = (parameter.device, parameter.dtype)
            if key not in self.keys:
                self.keys.append(key)
                self.lengths.append(0)
            at = self.keys.index(key)
            self.places.append((at, self.lengths[at]))
            self.lengths[at] += -(-parameter.numel() // _ALIGN) * _ALIGN
        self.sizes = [parameter.numel() for parameter in parameters]

    def within(self, vector: int, start: int, stop: int) -> list[tuple[int, int, int]]:
        """Returns ``(parameter, first, end)`` of what lies in a part of a vector, relative to its start."""
        found: list[tuple[int, int, int]] = []
        for number, ((at, first), size) in enumerate(zip(self.places, self.sizes)):
            low, high = max(first, start), min(first + size, stop)
            if at == vector and low < high:
                found.append((number, low - start, high - start))
        return found


@dataclass
class _Buffer:
    """Memory for the gradients of all parameters."""

    vectors: list[torch.Tensor]
    views: list[torch.Tensor]
    """Each parameter's gradient, in the parameter's own order of dimensions."""


@dataclass
class _Sum:
    """The sum of a subtree's leaves: vectors, or a slice of one."""

    first: int
    level: int
    mask: int
    vectors: list[torch.Tensor]
    buffer: _Buffer | None = None


class _Tree:
    """Adds subtrees in the fixed shape. The order in which they come does not matter as long as leaves ascend."""

    def __init__(self, full: int, segments: Callable[[int], list[tuple[int, int, int]]], free: Callable[[_Sum], None]) -> None:
        self.sums: list[_Sum] = []
        self._full = full
        self._segments = segments
        self._free = free

    def add(self, new: _Sum) -> None:
        """Adds the subtree that follows, and adds halves of one subtree while there are any."""
        while self.sums:
            before = self.sums[-1]
            half = 1 << new.level
            if before.level != new.level or not new.first & half or before.first != new.first ^ half:
                break
            new = self._pair(self.sums.pop(), new)
            new.first, new.level = before.first, new.level + 1
        self.sums.append(new)

    def close(self) -> _Sum:
        """Returns the sum of all: at the ragged end the last sum passes up until it has a neighbour."""
        total = self.sums.pop()
        while self.sums:
            total = self._pair(self.sums.pop(), total)
        return total

    def _pair(self, earlier: _Sum, later: _Sum) -> _Sum:
        if earlier.mask == later.mask:
            for mine, other in zip(later.vectors, earlier.vectors):
                mine.add_(other)
        else:
            for at, (mine, other) in enumerate(zip(later.vectors, earlier.vectors)):
                for number, start, stop in self._segments(at):
                    if not earlier.mask >> number & 1:
                        continue
                    if later.mask >> number & 1:
                        mine[start:stop].add_(other[start:stop])
                    else:
                        mine[start:stop].copy_(other[start:stop])
            later.mask |= earlier.mask
        self._free(earlier)
        return later


class Gradients:
    """The gradients of the parameters that keepstep itself sums over the processes."""

    def __init__(
        self, ranks: Ranks, named: Iterable[tuple[str, torch.nn.Parameter]], total: FixedSum, elastic: bool
    ) -> None:
        pairs = list(named)
        self.names = [name for name, _ in pairs]
        self.parameters = [parameter for _, parameter in pairs]
        self.elastic = elastic
        self.reduced = False
        """The sum of this window is in ``.grad``."""
        self._ranks = ranks
        self._total = total
        self._layout = _Layout(self.parameters)
        self._full = (1 << len(pairs)) - 1
        self._free: list[_Buffer] = []
        self._lent: _Buffer | None = None
        self._tree = self._new_tree()

    def begin(self) -> None:
        """A window begins: the last one's gradients are cleared, whether or not the loop did."""
        self.reduced = False
        self._tree = self._new_tree()
        for parameter in self.parameters:
            parameter.grad = None
        if self._lent is not None:
            self._free.append(self._lent)
            self._lent = None

    def take(self, leaf: int) -> bool:
        """Takes a micro-batch's gradient away as a leaf; False if no parameter has one.

        Raises:
            UsageError: for a gradient that is not dense.
        """
        present = [number for number, parameter in enumerate(self.parameters) if parameter.grad is not None]
        if not present:
            return False
        buffer = self._buffer()
        mask = self._full
        if len(present) == len(self.parameters):
            self._copy(buffer.views, [parameter.grad for parameter in self.parameters])
        else:
            mask = sum(1 << number for number in present)
            for vector in buffer.vectors:
                vector.zero_()
            self._copy([buffer.views[it] for it in present], [self.parameters[it].grad for it in present])
        for parameter in self.parameters:
            parameter.grad = None
        self._tree.add(_Sum(leaf, 0, mask, buffer.vectors, buffer))
        return True

    def drop(self) -> None:
        """Throws away the gradient of a micro-batch that does not count."""
        for parameter in self.parameters:
            parameter.grad = None

    def reduce(self, shares: Sequence[range]) -> None:
        """Completes the tree over all processes and puts the sum into ``.grad``.

        Args:
            shares: For each process the leaves that it has.
        """
        mine = self._tree.sums
        self._tree = self._new_tree()
        shapes = [blocks(share.start, share.stop) for share in shares]
        if len(shares) == 1:
            tree = self._new_tree()
            tree.sums = mine
            self._put(tree.close())
            return
        masks = self._ranks.gather("the update's gradients", [each.mask for each in mine])
        for rank, (shape, found) in enumerate(zip(shapes, masks)):
            if len(shape) != len(found):
                raise UsageError(
                    f"rank {rank} has the gradients of another number of micro-batches than its share of the window: "
                    "call backward() once in each micro-batch, before `run.update_due` is read"
                )
        result = self._buffer()
        mask = 0
        for at in range(len(self._layout.keys)):
            mask = self._reduce_vector(at, mine, shapes, masks, result.vectors[at])
        for each in mine:
            self._release(each)
        self._put(_Sum(0, 0, mask, result.vectors, result))

    def _reduce_vector(
        self, at: int, mine: list[_Sum], shapes: list[list[tuple[int, int]]], masks: list[list[int]], result: torch.Tensor
    ) -> int:
        """Exchanges slices of all subtrees, completes the tree for this process's slice, and gathers the slices."""
        size, rank, per = self._ranks.size, self._ranks.rank, result.numel() // self._ranks.size
        group = self._total.group(result.device)
        slices: dict[tuple[int, int], torch.Tensor] = {}
        for round_ in range(max(len(shape) for shape in shapes)):
            have = [other for other, shape in enumerate(shapes) if len(shape) > round_]
            for other in have:
                slices[other, round_] = result.new_empty(per)
            source = mine[round_].vectors[at] if rank in have else None
            self._total.swap(source, [slices.get((other, round_)) for other in range(size)], group)
        start = rank * per
        tree = _Tree(self._full, lambda _: self._layout.within(at, start, start + per), lambda _: None)
        for other, shape in enumerate(shapes):
            for number, (first, level) in enumerate(shape):
                tree.add(_Sum(first, level, masks[other][number], [slices[other, number]]))
        total = tree.close()
        result[start : start + per] = total.vectors[0]
        self._total.spread(result, group)
        self._total.ring_bytes += 2 * (size - 1) / size * self._layout.lengths[at] * result.element_size()
        return total.mask

    def check(self) -> None:
        """Refuses a step of an optimizer with gradients of this process alone.

        Raises:
            UsageError: if the window's gradients were not summed.
        """
        if not self.reduced:
            raise UsageError(
                "an optimizer steps with the gradients of one process alone: read `run.update_due` in every micro-batch, after "
                "backward() and before clipping; keepstep sums the gradients there"
            )
        if self._lent is None:
            return
        for name, parameter, view in zip(self.names, self.parameters, self._lent.views):
            grad = parameter.grad
            if grad is not None and grad.data_ptr() != view.data_ptr():
                raise UsageError(
                    f"`{name}` has got another gradient after `run.update_due` was read: call backward() before that, once in each "
                    "micro-batch"
                )

    def _put(self, total: _Sum) -> None:
        assert total.buffer is not None
        for number, (parameter, view) in enumerate(zip(self.parameters, total.buffer.views)):
            parameter.grad = view if total.mask >> number & 1 else None
        self._lent = total.buffer
        self.reduced = True

    def _copy(self, views: list[torch.Tensor], grads: list[Any]) -> None:
        for grad in grads:
            if grad.layout is not torch.strided:
                name = next(name for name, it in zip(self.names, self.parameters) if it.grad is grad)
                raise UsageError(f"`{name}` has a sparse gradient, which cannot be summed in a fixed order: use sparse=False")
        torch._foreach_copy_(views, grads)  # pyright: ignore[reportPrivateImportUsage]

    def _new_tree(self) -> _Tree:
        return _Tree(self._full, lambda at: self._layout.within(at, 0, self._layout.lengths[at]), self._release)

    def _release(self, done: _Sum) -> None:
        if done.buffer is not None:
            self._free.append(done.buffer)

    def _buffer(self) -> _Buffer:
        if self._free:
            return self._free.pop()
        size = self._ranks.size
        vectors = [
            torch.zeros(-(-length // (size * _ALIGN)) * size * _ALIGN, dtype=dtype, device=device)
            for length, (device, dtype) in zip(self._layout.lengths, self._layout.keys)
        ]
        views: list[torch.Tensor] = []
        for parameter, (at, first) in zip(self.parameters, self._layout.places):
            segment = vectors[at][first : first + parameter.numel()]
            strides = parameter.stride() if _is_dense(parameter) else torch.empty_like(parameter, device="meta").stride()
            views.append(segment.as_strided(parameter.shape, strides, segment.storage_offset()))
        return _Buffer(vectors, views)


def _is_dense(tensor: torch.Tensor) -> bool:
    """True if a tensor's elements lie without gaps, in any order of its dimensions."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
