"""The core of a run that several processes share: rank 0 has the real one, the others follow it.

Both classes have the methods of `_core.Run` that a session uses. A session calls the same ones in the same order in all
processes; where an answer depends on what only rank 0 knows, rank 0 tells it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch

from . import _core
from ._fsdp import is_sharded, shard_like
from ._ranks import Ranks
from ._track import Tracked

__all__ = ["FollowingCore", "LeadingCore", "Told"]


@dataclass
class Told:
    """What rank 0 tells of a run that it has opened."""

    id: str
    position: tuple[int, int, int]
    path: str | None
    num_threads: int | None
    complete: bool


@dataclass
class _Slot:
    """Stands for a tensor in a state that is sent."""

    dtype: str
    shape: list[int]
    strides: list[int]


class _Shared:
    """What both have."""

    def __init__(self, ranks: Ranks, tracked: Tracked, sharded: bool) -> None:
        self.ranks = ranks
        self.tracked = tracked
        self.sharded = sharded
        """Saving needs every process."""

    def _receive(self, name: str, skeleton: Any) -> Any:
        """Puts tensors in the places of slots: broadcast from rank 0, or scattered where this process has a part only."""
        own = self.tracked.objects[name]
        likes = _sharded_places(own)
        if isinstance(own, torch.nn.Module):
            return OrderedDict((key, self._tensors(value, likes.get((key,)))) for key, value in skeleton.items())
        return self._walk(skeleton, (), likes)

    def _walk(self, value: Any, path: tuple[Any, ...], likes: dict[tuple[Any, ...], Any]) -> Any:
        if isinstance(value, dict):
            return {key: self._walk(item, (*path, key), likes) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._walk(item, (*path, at), likes) for at, item in enumerate(value))
        like = likes.get(path[:2]) if path[:1] == ("state",) else None
        return self._tensors(value, like)

    def _tensors(self, value: Any, like: Any) -> Any:
        if not isinstance(value, (_Slot, _core.Tensor)):
            return self._walk(value, (), {}) if isinstance(value, (dict, list, tuple)) else value
        shape, strides = list(value.shape), list(value.strides)
        tensor = torch.empty_strided(shape, strides, dtype=getattr(torch, value.dtype))
        if isinstance(value, _core.Tensor):
            value.read_into(tensor.data_ptr(), value.num_bytes)
        if like is not None and tuple(like.shape) == tuple(tensor.shape):
            return shard_like(tensor, like)
        self.ranks.broadcast("the loading of the checkpoint", tensor)
        return tensor


class LeadingCore(_Shared):
    """Rank 0's core: the real one, which tells the others."""

    def __init__(self, core: Any, ranks: Ranks, tracked: Tracked, sharded: bool) -> None:
        super().__init__(ranks, tracked, sharded)
        self.real = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def state_dict(self, name: str, tensor: Any) -> Any:
        state = self.real.state_dict(name, lambda it: it)
        self.ranks.from_first("the loading of the checkpoint", _skeleton(state))
        return self._receive(name, state)

    def check_finite(self, loss: float | None, norm: float | None) -> None:
        try:
            self.real.check_finite(loss, norm)
            text = None
        except _core.Error as error:
            text = str(error)
        self.ranks.gather("a number that is not finite", text)
        if text is not None:
            raise _core.Error(text)

    def evaluated(self, loss: float | None, others: Any) -> bool:
        try:
            best, text = bool(self.real.evaluated(loss, others)), None
        except _core.Error as error:
            best, text = False, str(error)
        self.ranks.gather("run.evaluated()", (best, text))
        if text is not None:
            raise _core.Error(text)
        return best

    @property
    def save_is_due(self) -> bool:
        due = bool(self.real.save_is_due)
        return bool(self.ranks.from_first("the question whether to save", due)) if self.sharded else due


class FollowingCore(_Shared):
    """The core of the other ranks: it has a position and no folder."""

    def __init__(self, told: Told, loader: Any, ranks: Ranks, tracked: Tracked, sharded: bool) -> None:
        super().__init__(ranks, tracked, sharded)
        self.id = told.id
        self.position = told.position
        self.is_complete = told.complete
        self.is_replay = False
        self.is_saving = False
        self._plan = loader.plan

    def state_dict(self, name: str, tensor: Any) -> Any:
        return self._receive(name, self.ranks.from_first("the loading of the checkpoint"))

    def check_finite(self, loss: float | None, norm: float | None) -> None:
        text = self.ranks.gather("a number that is not finite")[0]
        if text is not None:
            raise _core.Error(text)

    def complete(self, *_: Any) -> None:
        epoch, step, global_step = self.position
        if step == self._plan.steps_per_epoch:
            epoch, step = epoch + 1, 0
        first, size = self._plan.window(step)
        self.position = (epoch, first + size, global_step + 1)
        self.is_complete = global_step + 1 >= self._plan.total_steps

    def evaluated(self, loss: float | None, others: Any) -> bool:
        best, text = self.ranks.from_first("run.evaluated()")
        if text is not None:
            raise _core.Error(text)
        return bool(best)

    def stop(self, reason: str) -> None:
        self.is_complete = True

    @property
    def save_is_due(self) -> bool:
        return bool(self.ranks.from_first("the question whether to save")) if self.sharded else False

    def metrics(self) -> dict[str, Any]:
        return {"train_loss": None, "val_loss": None}

    def take_replayed(self) -> None:
        return None

    def saved(self, *, wait: bool = False) -> tuple[list[Any], str | None]:
        return [], None

    def release_checkpoint(self) -> None: ...

    def skip_save(self) -> None: ...

    def end_session(self, reason: str) -> None: ...

    def begin_session(self) -> None: ...

    def close(self) -> None: ...


def _skeleton(value: Any) -> Any:
    if isinstance(value, _core.Tensor):
        return _Slot(value.dtype, value.shape, value.strides)
    if isinstance(value, dict):
        return {key: _skeleton(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_skeleton(item) for item in value)
    return value


def _sharded_places(own: Any) -> dict[tuple[Any, ...], Any]:
    """Returns the sharded tensors of an object by the place of their whole ones in its state dict."""
    if isinstance(own, torch.nn.Module):
        return {(name.replace("_orig_mod.", ""),): it for name, it in own.state_dict().items() if is_sharded(it)}
    if isinstance(own, torch.optim.Optimizer):
        parameters = [parameter for group in own.param_groups for parameter in group["params"]]
        return {("state", at): parameter for at, parameter in enumerate(parameters) if is_sharded(parameter)}
    return {}
