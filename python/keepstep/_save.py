"""The snapshot that is saved: a copy of everything tracked, taken at an update's end.

On the CPU the snapshot is a copy, made before the loop goes on: it stalls training for one copy of the state. On an
accelerator a side stream copies to pinned memory while training goes on, in this order:

1. Tensors that a forward pass may change (buffers such as BatchNorm's, EMA) are cloned on the current stream.
2. The side stream waits for the current one, and copies everything to pinned memory without blocking the host.
3. An event is recorded on the side stream. Parameters and optimizer state are constant until the next optimizer step,
   and before that step the *current* stream waits for the event: the host never does.
4. Once the event is done, the pinned memory goes to the Rust writer.

Buffers are used again by later saves: the writer's release of one gives it back.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import torch

from . import _core
from ._track import plain

__all__ = ["Converter", "Snapshot", "Snapshots", "Streams"]


class Streams:
    """The operations on streams that a snapshot needs, of one kind of accelerator. Tests use a recording stand-in."""

    def __init__(self, device: torch.device) -> None:
        self.module: Any = getattr(torch, device.type)
        self.device = device
        self._side: Any = None

    def side(self) -> Any:
        """Returns the stream that copies."""
        if self._side is None:
            self._side = self.module.Stream(self.device)
        return self._side

    def side_waits_for_current(self) -> None:
        """Makes the side stream wait for everything that has been queued on the current one."""
        self.side().wait_stream(self.module.current_stream(self.device))

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copies on the side stream without blocking the host."""
        with self.module.stream(self.side()):
            target.copy_(source, non_blocking=True)
        source.record_stream(self.side())

    def record(self) -> Any:
        """Records an event on the side stream."""
        event = self.module.Event()
        event.record(self.side())
        return event

    def current_waits_for(self, event: Any) -> None:
        """Makes the current stream wait for an event; the host does not wait."""
        self.module.current_stream(self.device).wait_event(event)


class _Buffer:
    """Host memory for one tensor; goes back to its pool when nobody uses it any more."""

    def __init__(self, pool: _Pool, key: tuple[Any, ...], tensor: torch.Tensor) -> None:
        self.pool = pool
        self.key = key
        self.tensor = tensor

    def __del__(self) -> None:
        self.pool.give_back(self.key, self.tensor)


class _Pool:
    """Host memory that saves use again: pinning and first touching memory is slow."""

    def __init__(self) -> None:
        self._free: dict[tuple[Any, ...], list[torch.Tensor]] = {}

    def take(self, like: torch.Tensor, pinned: bool) -> _Buffer:
        strides = _dense_strides(like)
        key = (like.dtype, tuple(like.shape), strides, pinned)
        free = self._free.get(key)
        if free:
            return _Buffer(self, key, free.pop())
        tensor = torch.empty_strided(tuple(like.shape), strides, dtype=like.dtype, device="cpu", pin_memory=pinned)
        return _Buffer(self, key, tensor)

    def give_back(self, key: tuple[Any, ...], tensor: torch.Tensor) -> None:
        self._free.setdefault(key, []).append(tensor)


class Snapshot:
    """A copy of the state at one place of the run."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, Any]] = []
        self._events: list[tuple[Streams, Any]] = []

    def hold_back_update(self) -> None:
        """Called before an optimizer's step: the device waits until its state has been copied."""
        for streams, event in self._events:
            streams.current_waits_for(event)

    @property
    def is_ready(self) -> bool:
        """True once everything has been copied."""
        return all(event.query() for _, event in self._events)

    def wait(self) -> None:
        """Waits until everything has been copied."""
        for _, event in self._events:
            event.synchronize()
        self._events.clear()


class Snapshots:
    """Takes snapshots, keeping their buffers."""

    def __init__(
        self,
        streams: Callable[[torch.device], Any] = Streams,
        has_streams: Callable[[torch.device], bool] = lambda device: device.type not in ("cpu", "mps"),
        pinned: bool = True,
    ) -> None:
        """The arguments have other values in tests alone."""
        self._pool = _Pool()
        self._make_streams = streams
        self._has_streams = has_streams
        self._pinned = pinned
        self._streams: dict[torch.device, Any] = {}
        self.num_bytes = 0
        """Bytes of the last snapshot."""

    def take(self, parts: list[tuple[str, Any]], constant: set[int]) -> Snapshot:
        """Copies state dicts.

        Args:
            parts: Names and state dicts.
            constant: ``id`` s of tensors' storages (`storage_id`) that only an optimizer's step changes.
        """
        snapshot = Snapshot()
        copies: dict[tuple[Any, ...], _Buffer] = {}
        queued: dict[torch.device, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.num_bytes = 0
        gathered: dict[int, Any] = {}

        def copy(tensor: torch.Tensor) -> Any:
            if not hasattr(tensor, "full_tensor"):
                return copy_whole(tensor)
            # Every process gathers the same tensors in the same order: see `_fsdp.join`.
            if id(tensor) not in gathered:
                gathered[id(tensor)] = copy_whole(tensor.full_tensor(), alone=True)  # pyright: ignore[reportAttributeAccessIssue]
            return gathered[id(tensor)]

        def copy_whole(tensor: torch.Tensor, alone: bool = False) -> Any:
            if not is_plain_tensor(tensor):
                return tensor  # `_core` refuses it, naming its path
            tensor = tensor.detach()
            key = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
            if tensor.numel() and not alone and key in copies:
                return copies[key]
            streamed = self._has_streams(tensor.device)
            buffer = self._pool.take(tensor, pinned=streamed and self._pinned)
            if not alone:  # its memory is used again
                copies[key] = buffer
            self.num_bytes += tensor.numel() * tensor.element_size()
            if not streamed:
                buffer.tensor.copy_(tensor)
                return buffer
            if storage_id(tensor) not in constant:
                tensor = tensor.clone()
            queued.setdefault(tensor.device, []).append((tensor, buffer.tensor))
            return buffer

        snapshot.parts = [(name, _copy(state, copy)) for name, state in parts]
        for device, pairs in queued.items():
            streams = self._streams.get(device)
            if streams is None:
                streams = self._streams[device] = self._make_streams(device)
            streams.side_waits_for_current()
            for source, target in pairs:
                streams.copy(source, target)
            snapshot._events.append((streams, streams.record()))
        return snapshot


class Converter:
    """Turns what a snapshot holds into what `_core` takes: buffers become tensors that share their memory."""

    def __init__(self) -> None:
        self._tensors: dict[int, _core.Tensor] = {}

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, _Buffer):
            return plain(value)
        known = self._tensors.get(id(value))
        if known is None:
            tensor = value.tensor
            known = self._tensors[id(value)] = _core.Tensor(
                str(tensor.dtype).removeprefix("torch."),
                list(tensor.shape),
                list(tensor.stride()),
                tensor.data_ptr(),
                tensor.numel() * tensor.element_size(),
                value,
            )
        return known


def storage_id(tensor: torch.Tensor) -> int:
    """Returns what tells one storage from another while both live."""
    return tensor.untyped_storage().data_ptr()


def is_plain_tensor(tensor: torch.Tensor) -> bool:
    """True for a tensor whose elements lie in memory."""
    return (
        tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.device.type != "meta"
        and not tensor.is_nested
        and not (tensor.is_complex() and tensor.is_conj())
        and not tensor.is_neg()
        and not hasattr(tensor, "to_local")
    )


def _copy(value: Any, copy: Callable[[torch.Tensor], Any]) -> Any:
    if isinstance(value, torch.Tensor):
        return copy(value)
    kind = type(value)
    if kind in (dict, OrderedDict):
        return kind((key, _copy(item, copy)) for key, item in value.items())
    if isinstance(value, (Counter, defaultdict)):
        return {key: _copy(item, copy) for key, item in value.items()}
    if kind is list:
        return [_copy(item, copy) for item in value]
    if kind is tuple:
        return tuple(_copy(item, copy) for item in value)
    return value


def _dense_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    """Returns strides of a tensor without gaps, with the order of the dimensions kept."""
    if not tensor.is_contiguous():
        return tuple(torch.empty_like(tensor, device="meta").stride())
    strides = [1]
    for size in reversed(tensor.shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides)) if tensor.dim() else ()
