"""What a run tracks: objects with ``state_dict()``, by name; their state as plain values, and back."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from . import _core
from ._errors import StateError, UsageError

__all__ = ["Stateful", "Tracked", "as_state", "frozen_digest", "load_order", "new_tensor", "parts", "plain", "unwrap"]

_RESERVED = {"keepstep", "config", "epoch", "step", "global_step", "train_loss", "val_loss", "best_val_loss", "state_dict"}


class Stateful(Protocol):
    """An object whose state can be read and put back."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class _AsState:
    def __init__(self, get: Callable[[], Any], set: Callable[[Any], Any]) -> None:  # noqa: A002
        self._get = get
        self._set = set

    def state_dict(self) -> Any:
        return self._get()

    def load_state_dict(self, state_dict: Any, /) -> None:
        self._set(state_dict)


def as_state(get: Callable[[], Any], set: Callable[[Any], Any]) -> Stateful:  # noqa: A002
    """Returns an object that `Run.track` takes for state that has no ``state_dict()``.

    Args:
        get: Returns the state: numbers, texts, lists, dicts and tensors.
        set: Puts such a state back.

    For example ``run.track(noise=keepstep.as_state(generator.get_state, generator.set_state))``.
    """
    return _AsState(get, set)


def unwrap(target: Any) -> Any:
    """Returns the object itself for what DDP, `torch.compile` or Accelerate has wrapped."""
    while True:
        if isinstance(target, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            target = target.module
        elif isinstance(target, torch.nn.Module) and "_orig_mod" in target._modules:
            target = target._orig_mod
        elif type(target).__module__.startswith("accelerate.") and hasattr(target, "optimizer"):
            target = target.optimizer
        elif type(target).__module__.startswith("accelerate.") and hasattr(target, "scheduler"):
            target = target.scheduler
        else:
            return target


class Tracked:
    """The tracked objects of a run, in the order of registration."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {}
        self.steps: dict[str, int | None] = {}
        """Steps per window of each optimizer; None where any number is right."""

    def add(self, name: str, target: Any, steps: int | None = 1) -> Any:
        """Registers an object; returns it without its wrappers.

        Raises:
            UsageError: if the name is taken or reserved, or the object has no state that can be put back.
        """
        if name in _RESERVED or not name.isidentifier():
            raise UsageError(f"`{name}` cannot name a tracked object: it is reserved or not an identifier")
        target = unwrap(target)
        if name in self.objects and self.objects[name] is not target:
            raise UsageError(f"`{name}` is tracked already: give the second object a name of its own")
        for other, there in self.objects.items():
            if there is target and other != name:
                raise UsageError(f"`{name}` is the object that is tracked as `{other}` already")
        for method in ("state_dict", "load_state_dict"):
            if not callable(getattr(target, method, None)):
                raise UsageError(
                    f"`{name}` is a {type(target).__name__} without {method}(): track it through "
                    "keepstep.as_state(get, set)"
                )
        self.objects[name] = target
        if isinstance(target, torch.optim.Optimizer):
            self.steps[name] = steps
        return target

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Returns the tracked optimizers."""
        return {name: it for name, it in self.objects.items() if isinstance(it, torch.optim.Optimizer)}

    def scalers(self) -> list[Any]:
        """Returns the tracked gradient scalers that are enabled."""
        return [it for it in self.objects.values() if is_scaler(it) and it.is_enabled()]

    def compare(self, path: str, saved: list[str]) -> None:
        """Refuses a checkpoint that holds other objects than are tracked.

        Raises:
            MismatchError: naming what is missing, and what is new.
        """
        missing = [name for name in saved if name not in self.objects]
        new = [name for name in self.objects if name not in saved]
        if missing:
            names = ", ".join(f"{name}=..." for name in missing)
            raise _core.MismatchError(f"{path}: it holds `{missing[0]}`, which is not tracked: add run.track({names})")
        if new:
            raise _core.MismatchError(
                f"{path}: it does not hold `{new[0]}`, which is tracked now: leave it out, or make a new run with "
                f"keepstep.Run(..., branch_from={str(path)!r})"
            )


def is_scaler(target: Any) -> bool:
    """True for a `GradScaler`, torch's or a subclass."""
    return isinstance(target, torch.amp.GradScaler)


def state_of(target: Any, frozen: str) -> Any:
    """Returns an object's state dict, aliasing its tensors; a module's without wrappers in the names."""
    if not isinstance(target, torch.nn.Module):
        return target.state_dict()
    # A sharded tensor that has two names is told by its identity: only the parameter itself has one.
    sharded = any(hasattr(parameter, "full_tensor") for parameter in target.parameters())
    state = target.state_dict(keep_vars=sharded)
    left_out = frozen_names(target) if frozen == "reference" else set()
    named = ((plain_name(name), value) for name, value in state.items())
    return OrderedDict((name, value) for name, value in named if name not in left_out)


def parts(tracked: Tracked, frozen: str) -> list[tuple[str, Any]]:
    """Returns the names and the state dicts of everything tracked; tensors are not copied."""
    return [(name, state_of(target, frozen)) for name, target in tracked.objects.items()]


def plain_name(name: str) -> str:
    """Returns a parameter's name as it is without `torch.compile`."""
    return name.replace("_orig_mod.", "")


def frozen_names(module: torch.nn.Module) -> set[str]:
    """Returns the names of the parameters without gradients."""
    return {plain_name(name) for name, it in module.named_parameters(remove_duplicate=False) if not it.requires_grad}


def frozen_digest(module: torch.nn.Module) -> str:
    """Returns a hash of the names, shapes and bytes of the parameters without gradients; empty if there are none."""
    digest = hashlib.sha256()
    count = 0
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            continue
        count += 1
        digest.update(f"{plain_name(name)} {parameter.dtype} {list(parameter.shape)}".encode())
        flat = parameter.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            raw: Any = flat.view(torch.uint8).numpy()
            digest.update(raw)
    return f"{count}-{digest.hexdigest()[:32]}" if count else ""


def plain(value: Any) -> Any:
    """Returns what a value that `_core` does not know is stored as, or None where it cannot be."""
    if isinstance(value, (Counter, defaultdict)):
        return dict(value)
    if isinstance(value, torch.Size):
        return tuple(value)
    return None


def load_order(objects: Mapping[str, Any]) -> list[str]:
    """Returns names in the order of loading: modules, optimizers, then what refers to optimizers, then the rest."""

    def rank(name: str) -> int:
        target = objects[name]
        if isinstance(target, torch.nn.Module):
            return 0
        if isinstance(target, torch.optim.Optimizer):
            return 1
        return 2 if isinstance(target, torch.optim.lr_scheduler.LRScheduler) else 3

    return sorted(objects, key=rank)


def load(target: Any, state: Any, frozen: str, name: str) -> None:
    """Puts a state back into an object.

    Raises:
        StateError: if the object does not take it.
    """
    try:
        if isinstance(target, torch.nn.Module):
            own = target.state_dict()
            names = {plain_name(each): each for each in own}
            loaded: Any = OrderedDict((names.get(each, each), value) for each, value in state.items())
            metadata = getattr(own, "_metadata", None)
            if metadata is not None:
                loaded._metadata = metadata
            if frozen == "reference":
                for each in frozen_names(target):
                    loaded[names[each]] = own[names[each]]
            target.load_state_dict(loaded)
        else:
            target.load_state_dict(like(state, target.state_dict()))
    except _core.Error:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        text = " ".join(str(error).split())
        raise StateError(f"the checkpoint's `{name}_state_dict` does not fit the {type(target).__name__}: {text}") from error


def like(value: Any, own: Any) -> Any:
    """Returns a loaded value with the types of dicts and tuples that the object itself uses."""
    if isinstance(own, dict) and isinstance(value, dict):
        items = {key: like(item, own.get(key)) for key, item in value.items()}
        if isinstance(own, Counter):
            return Counter(items)
        if isinstance(own, defaultdict):
            return defaultdict(own.default_factory, items)
        return OrderedDict(items) if isinstance(own, OrderedDict) else items
    if isinstance(own, torch.Size) and isinstance(value, tuple):
        return torch.Size(value)
    if isinstance(value, list) and isinstance(own, list) and len(value) == len(own):
        return [like(item, other) for item, other in zip(value, own)]
    return value


def new_tensor(stored: _core.Tensor) -> torch.Tensor:
    """Reads a stored tensor into memory."""
    dtype = getattr(torch, stored.dtype, None)
    if dtype is None:
        raise StateError(f"the file holds a tensor of {stored.dtype}, which this torch does not have")
    tensor = torch.empty_strided(stored.shape, stored.strides, dtype=dtype)
    stored.read_into(tensor.data_ptr(), stored.num_bytes)
    return tensor
