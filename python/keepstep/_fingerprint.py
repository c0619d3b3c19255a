"""Recognizing a dataset: a short text that changes when the dataset's length, order or samples change.

Six samples are looked at: the first, the last and four at places that depend on the length alone. Integers, texts and
bytes count exactly. Of floating-point arrays the shape, the type and a rough mean and spread count, because decoders
and transforms may differ in the last bits between versions and machines. Samples are made under keyed random numbers,
so random augmentations do no harm. A sample that differs when it is made twice is left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ._random import Purpose, Randomness, derive, seed_host

__all__ = ["fingerprint", "PROBES"]

PROBES = 6
"""Samples that are looked at."""


def fingerprint(dataset: Any, num_samples: int, randomness: Randomness) -> str:
    """Returns ``{num_samples}-{16 hexadecimal digits}``. Costs twelve calls of the dataset; disturbs no generator."""
    digest = hashlib.sha256(b"keepstep dataset 1")
    places = {0, num_samples - 1}
    places |= {derive(num_samples, Purpose.FINGERPRINT, index) % num_samples for index in range(PROBES - 2)}
    with randomness.untouched():
        for place in sorted(places):
            key = derive(0, Purpose.FINGERPRINT, place)
            first, second = (_probe(dataset, place, key) for _ in range(2))
            digest.update(first if first == second else b"unstable")
    return f"{num_samples}-{digest.hexdigest()[:16]}"


def _probe(dataset: Any, place: int, key: int) -> bytes:
    seed_host(key)
    digest = hashlib.sha256()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        try:
            item = dataset[place]
        except (LookupError, TypeError, ValueError) as error:  # its samples have other names, given by a sampler
            item = type(error).__name__
        for part in _parts(item):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
    finally:
        torch.set_num_threads(threads)
    return digest.digest()


def _parts(item: Any, depth: int = 0) -> Iterable[bytes]:
    """Yields what counts of a sample, as bytes; what is not known counts by its type's name."""
    if item is None or isinstance(item, (bool, int, str)):
        yield f"{type(item).__name__} {item}".encode("utf-8", "surrogatepass")
    elif isinstance(item, float):
        yield f"float {_rough(item)}".encode()
    elif isinstance(item, (bytes, bytearray)):
        yield bytes(item)
    elif isinstance(item, torch.Tensor):
        yield from _tensor(item)
    elif depth > 8:
        yield b"deep"
    elif isinstance(item, Mapping):
        for name in item:
            yield repr(name).encode("utf-8", "surrogatepass")
            yield from _parts(item[name], depth + 1)
    elif isinstance(item, (list, tuple)):
        yield f"{len(item)} items".encode()
        for each in item:
            yield from _parts(each, depth + 1)
    elif dataclasses.is_dataclass(item) and not isinstance(item, type):
        for field in dataclasses.fields(item):
            yield field.name.encode()
            yield from _parts(getattr(item, field.name), depth + 1)
    elif hasattr(item, "__array__") and hasattr(item, "dtype"):
        yield from _array(item)
    elif callable(getattr(item, "tobytes", None)) and hasattr(item, "size"):  # a picture of PIL
        picture: Any = item
        yield f"{getattr(picture, 'mode', '')} {picture.size}".encode()
        yield picture.tobytes()
    else:
        yield type(item).__qualname__.encode()


def _array(item: Any) -> Iterable[bytes]:
    try:
        tensor = torch.as_tensor(item)
    except (TypeError, ValueError, RuntimeError):  # texts, objects, types that torch does not have
        yield f"array {item.dtype} {item.shape}".encode()
        yield from _parts(item.tolist(), 8)
        return
    yield from _tensor(tensor)


def _tensor(item: torch.Tensor) -> Iterable[bytes]:
    item = item.detach()
    yield f"tensor {item.dtype} {list(item.shape)}".encode()
    if item.layout is not torch.strided or item.is_quantized or item.numel() == 0:
        return
    item = item.cpu()
    if item.is_floating_point() or item.is_complex():
        values = torch.view_as_real(item).double() if item.is_complex() else item.double()
        size = values.square().mean().sqrt().item()
        # A mean close to zero is noise: it counts in parts of the size.
        part = values.mean().item() / size if size > 0 and math.isfinite(size) else 0.0
        yield f"{_rough(size)} {part + 0.0:.2f}".encode()
    else:
        raw = item.contiguous().flatten().view(torch.uint8)
        try:
            yield raw.numpy().tobytes()
        except RuntimeError:  # torch without NumPy
            yield bytes(raw.tolist())


def _rough(value: float) -> str:
    """Rounds to about three digits, so that other last bits rarely give another text."""
    return f"{value:.2e}" if math.isfinite(value) else str(value)
