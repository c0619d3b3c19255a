"""What a loop's body can reach: tensors, generators, objects with state and plain numbers, by the names it uses.

The walk begins at the names in the loop's own bytecode and follows attributes, containers, closures and the globals
that functions of the user's name. It does not enter installed packages, keepstep, or the data.
"""

from __future__ import annotations

import dis
import functools
import os
import random
import re
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from ._digest import token, tokens

try:
    import numpy
except ImportError:
    numpy = None

__all__ = ["Found", "Reach", "is_users_file", "names_in_loop"]

_MOST_OBJECTS = 20_000
_MOST_DEPTH = 8
_MOST_BYTES = 1 << 32
_PACKAGES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_CONTAINERS = (list, tuple, set, frozenset, deque)


@dataclass
class Found:
    """One thing that the body reaches."""

    kind: str
    """``tensor``, ``generator``, ``state`` (an object with ``state_dict``) or ``plain`` (numbers, texts, lists of them)."""
    what: str
    """The name of its type."""
    token: Any
    """Changes when it does."""
    temporary: bool = False
    """True if the loop assigns its name before it reads it: the next turn begins without it."""


@dataclass
class Reach:
    """Walks from roots; things and places in `skip` are passed over, tensors in `storages` count as known."""

    skip: set[int] = field(default_factory=lambda: set[int]())
    """Ids of objects that are not entered."""
    storages: set[int] = field(default_factory=lambda: set[int]())
    """Addresses of storages that are tracked."""
    found: dict[str, Found] = field(default_factory=lambda: dict[str, Found]())
    """What has been found, by path."""
    complete: bool = True
    """False if there was too much to look at."""

    def __post_init__(self) -> None:
        self._seen: set[int] = set()
        self._bytes = 0
        self._temporary = False
        self._keep: list[Any] = []

    def frame(self, frame: types.FrameType) -> None:
        """Walks from the names that the loop in `frame` uses."""
        variables = {**frame.f_globals, **frame.f_locals}
        names = names_in_loop(frame)
        for self._temporary in (False, True):  # what a lasting name reaches as well is not temporary
            for name, temporary in names.items():
                if name in variables and temporary == self._temporary:
                    self.visit(variables[name], name, 0)

    def visit(self, value: Any, path: str, depth: int) -> None:
        """Walks from `value`, which `path` names."""
        if id(value) in self.skip or id(value) in self._seen:
            return
        if depth > _MOST_DEPTH or len(self._seen) > _MOST_OBJECTS:
            self.complete = False
            return
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            self.found[path] = Found("plain", type(value).__name__, token(value), self._temporary)
            return
        self._seen.add(id(value))
        self._keep.append(value)  # an id stays taken while its object lives
        leaf = self._leaf(value)
        if leaf is not None:
            leaf.temporary = self._temporary
            self.found[path] = leaf
        for part, name in self._parts(value, path):
            self.visit(part, name, depth + 1)

    def _leaf(self, value: Any) -> Found | None:
        name = type(value).__name__
        if isinstance(value, torch.Tensor):
            known = value.layout is torch.strided and value.untyped_storage().data_ptr() in self.storages
            if known or not self._afford(value.nbytes):
                return None
            return Found("tensor", name, token(value))
        state = _generator_state(value)
        if state is not None:
            return Found("generator", f"{type(value).__module__}.{name}".replace("_generator.", ""), state)
        if hasattr(value, "__array__") and hasattr(value, "dtype") and hasattr(value, "nbytes"):
            return Found("tensor", name, token(value)) if self._afford(value.nbytes) else None
        if _is_stateful(value):
            try:
                return Found("state", name, tuple(sorted(tokens(value.state_dict()).items(), key=lambda it: it[0])))
            except Exception:  # somebody else's object; what it has is not known
                return None
        if isinstance(value, _CONTAINERS) and _is_plain(cast("Iterable[Any]", value)):
            return Found("plain", name, (len(value), hash(repr(value))))
        return None

    def _parts(self, value: Any, path: str) -> Iterator[tuple[Any, str]]:
        if isinstance(value, (torch.Tensor, torch.Generator)):
            return
        if isinstance(value, Mapping):
            for key, item in list(cast("Mapping[Any, Any]", value).items()):
                yield item, f"{path}[{key!r}]"
        elif isinstance(value, _CONTAINERS):
            items = cast("list[Any]", value)
            if not _is_plain(items):
                for index, item in enumerate(list(items)):
                    yield item, f"{path}[{index}]"
        elif isinstance(value, functools.partial):
            yield value.func, path
            for index, item in enumerate(value.args):
                yield item, f"{path}.args[{index}]"
            yield value.keywords, f"{path}.keywords"
        elif isinstance(value, types.MethodType):
            yield value.__self__, path.rsplit(".", 1)[0] if "." in path else f"{path}.__self__"
            yield value.__func__, path
        elif isinstance(value, types.FunctionType):
            yield from self._of_function(value, path)
        elif isinstance(value, torch.nn.Module):
            yield from self._of_module(value, path)
        elif _is_users(type(value)):
            for name, item in list(getattr(value, "__dict__", {}).items()):
                yield item, f"{path}.{name}"
            for slot in _slots(type(value)):
                if hasattr(value, slot):
                    yield getattr(value, slot), f"{path}.{slot}"
            yield from self._of_class(type(value), path)

    def _of_module(self, module: torch.nn.Module, path: str) -> Iterator[tuple[Any, str]]:
        for name, item in list(module.__dict__.items()):
            if name in ("_parameters", "_buffers", "_modules"):
                for key, part in item.items():
                    yield part, f"{path}.{key}"
            elif not name.startswith("_"):
                yield item, f"{path}.{name}"
        if _is_users(type(module)):
            yield from self._of_class(type(module), path)

    def _of_class(self, kind: type, path: str) -> Iterator[tuple[Any, str]]:
        for each in kind.__mro__:
            if _is_users(each):
                for name, item in list(vars(each).items()):
                    function = item.__func__ if isinstance(item, (classmethod, staticmethod)) else item
                    if isinstance(function, types.FunctionType):
                        yield function, f"{path}.{name}"
                    elif not name.startswith("__") and isinstance(item, (list, dict, torch.Tensor, torch.Generator)):
                        yield item, f"{path}.{name}"

    def _of_function(self, function: types.FunctionType, path: str) -> Iterator[tuple[Any, str]]:
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            yield wrapped, path
        if not is_users_file(function.__code__.co_filename):
            return
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            try:
                yield cell.cell_contents, name
            except ValueError:  # not filled yet
                continue
        for default in function.__defaults__ or ():
            yield default, f"{path}'s default"
        for name in _names(function.__code__):
            item = function.__globals__.get(name)
            if isinstance(item, types.ModuleType):
                if is_users_file(getattr(item, "__file__", None) or "<"):
                    for attribute in _names(function.__code__):
                        if attribute in vars(item):
                            yield vars(item)[attribute], f"{name}.{attribute}"
            elif name in function.__globals__:
                yield item, name

    def _afford(self, num_bytes: int) -> bool:
        self._bytes += num_bytes
        if self._bytes > _MOST_BYTES:
            self.complete = False
        return self._bytes <= _MOST_BYTES


def names_in_loop(frame: types.FrameType) -> dict[str, bool]:
    """Returns the names that the ``for`` loop in which `frame` waits uses; all of its code's if it waits in none.

    A name is True if the loop assigns it before it reads it.
    """
    instructions = list(dis.get_instructions(frame.f_code))
    # In a loop that runs often, Python 3.12 points into the cache behind the instruction.
    here = next((each for each in reversed(instructions) if each.offset <= frame.f_lasti), None)
    inside = instructions
    if here is not None and here.opname.startswith("FOR_ITER"):
        inside = [each for each in instructions if here.offset < each.offset <= here.argval]
    names: dict[str, bool] = {}
    for each in inside:
        if isinstance(each.argval, types.CodeType):
            for name in [*_names(each.argval), *each.argval.co_freevars]:
                names.setdefault(name, False)
            continue
        values = each.argval if isinstance(each.argval, tuple) else (each.argval,)
        # One instruction may do two things: STORE_FAST_LOAD_FAST.
        for value, verb in zip(values, re.findall("LOAD|STORE|DELETE", each.opname)):
            if isinstance(value, str) and "CONST" not in each.opname and "ATTR" not in each.opname:
                names.setdefault(value, verb == "STORE")
    return names


def is_users_file(name: str) -> bool:
    """True for code of the user's: neither an installed package nor Python's own, nor keepstep's."""
    if name.startswith("<"):
        return name.startswith(("<ipython", "<stdin", "<string"))
    if any(part in name for part in _INSTALLED):
        return False
    return not name.startswith(_PACKAGES) and not name.startswith(os.path.dirname(__file__))


def _names(code: types.CodeType) -> list[str]:
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(_names(constant)))
    return list(names)


def _is_users(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if kind.__module__ in ("builtins", "typing", "collections", "abc") or kind.__module__.startswith("keepstep."):
        return False
    return kind.__module__ == "__main__" or (file is not None and is_users_file(file))


def _is_stateful(value: Any) -> bool:
    if isinstance(value, type) or isinstance(value, torch.nn.Module):
        return False  # a module's parts are looked at one by one
    methods = (getattr(value, name, None) for name in ("state_dict", "load_state_dict"))
    return all(callable(method) for method in methods)


def _is_plain(items: Iterable[Any]) -> bool:
    return all(item is None or isinstance(item, (bool, int, float, str)) for item in items)


def _slots(kind: type) -> list[str]:
    return [slot for each in kind.__mro__ for slot in _as_tuple(getattr(each, "__slots__", ())) if slot != "__dict__"]


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _generator_state(value: Any) -> Any:
    read: Callable[[], Any] | None = None
    if isinstance(value, torch.Generator):
        return token(value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        read = value.getstate
    elif numpy is not None and isinstance(value, numpy.random.Generator):
        return hash(repr(value.bit_generator.state))
    elif numpy is not None and isinstance(value, numpy.random.RandomState):
        return hash(repr(value.get_state()))
    return None if read is None else hash(read())
