"""Comparing values bit by bit without keeping them: each part of a value becomes a short token, under its path.

Tensors are reduced where they lie, with integer arithmetic that gives the same number whatever adds it up. Tokens are
for comparisons inside one process: nothing stores them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch

__all__ = ["first_difference", "tensor_digest", "token", "tokens"]

_CHUNK = 1 << 20
_PRIME = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_weights: dict[torch.device, torch.Tensor] = {}


def tensor_digest(tensor: torch.Tensor) -> int:
    """Returns 64 bits of a tensor's bytes; needs 16 MB next to the tensor. A meta tensor has no bytes: 0."""
    tensor = tensor.detach()
    if tensor.is_meta or tensor.numel() == 0:
        return 0
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.device.type == "mps":
        tensor = tensor.cpu()
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    whole = raw.numel() // 8 * 8
    total = raw.numel()
    if whole:
        words = raw[:whole]
        if words.data_ptr() % 8:
            words = words.clone()
        words = words.view(torch.int64)
        weights = _weights.get(tensor.device)
        if weights is None:
            weights = _weights[tensor.device] = torch.arange(1, 2 * _CHUNK, 2, device=tensor.device) * 0x9E3779B97F4A7
        for start in range(0, words.numel(), _CHUNK):
            part = words[start : start + _CHUNK]
            mixed = part * weights[: part.numel()]
            mixed ^= mixed >> 29
            total = (total * _PRIME + int(mixed.sum())) & _MASK
    for byte in raw[whole:].tolist():
        total = (total * _PRIME + byte + 1) & _MASK
    return total


def token(value: Any) -> Any:
    """Returns something short that is equal for equal values and, in practice, for no others."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), tensor_digest(value)
    if isinstance(value, float):
        return value.hex()
    if value is None or isinstance(value, (bool, int, str, bytes, complex)):
        return value if not isinstance(value, (str, bytes)) or len(value) < 64 else (len(value), hash(value))
    if hasattr(value, "__array__") and hasattr(value, "dtype"):
        return _array_token(value)
    if type(value).__repr__ is object.__repr__:
        return type(value).__qualname__
    return type(value).__qualname__, hash(repr(value))


def _array_token(value: Any) -> Any:
    if value.dtype.hasobject:
        return str(value.dtype), value.shape, hash(repr(value.tolist()))
    return str(value.dtype), value.shape, hash(value.tobytes())


def tokens(value: Any, path: str = "") -> dict[str, Any]:
    """Returns the tokens of all parts of a value, by path: ``{"[0]": ..., "['mask']": ...}``."""
    return dict(_parts(value, path, 0))


def _parts(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and depth < 20:
        entries = cast("Mapping[Any, Any]", value)
        yield path + " keys", tuple(repr(key) for key in entries)
        for key in entries:
            yield from _parts(entries[key], f"{path}[{key!r}]", depth + 1)
    elif isinstance(value, (list, tuple, deque)) and depth < 20:
        items = cast("list[Any]", value)
        yield path + " length", len(items)
        for index, item in enumerate(items):
            yield from _parts(item, f"{path}[{index}]", depth + 1)
    else:
        yield path, token(value)


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Returns the first path whose tokens differ; None if all are equal."""
    for path, mine in one.items():
        if path not in other or other[path] != mine:
            return path
    for path in other:
        if path not in one:
            return path
    return None
