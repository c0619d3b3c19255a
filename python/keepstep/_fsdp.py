"""FSDP2: its reduce-scatter becomes the fixed sum, and its state goes in and out as whole tensors, one after the other.

A checkpoint has whole tensors, in the one file that one process would write. When it is saved, each sharded tensor is
gathered and copied to rank 0's host memory, then freed: at most one whole tensor lies on each device. So rank 0 holds
the whole state in host memory while a save is under way, and the others nothing. When it is loaded, rank 0 reads one
tensor at a time and scatters it; the layout may be another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

from ._errors import UsageError
from ._plan import Plan
from ._reduce import FixedSum

__all__ = ["check_windows", "fsdp_modules", "install", "is_sharded", "join", "shard_like"]


def is_sharded(value: Any) -> bool:
    """True for a tensor of which each process has a part."""
    return isinstance(value, torch.Tensor) and hasattr(value, "full_tensor")


def fsdp_modules(targets: Iterable[Any]) -> list[Any]:
    """Returns the modules that `fully_shard` was called on.

    Raises:
        UsageError: for FSDP1, and for a layout with a second dimension.
    """
    found: list[Any] = []
    for target in targets:
        if not isinstance(target, torch.nn.Module):
            continue
        for name, module in target.named_modules():
            if type(module).__name__ == "FullyShardedDataParallel":
                raise UsageError(f"`{name or type(target).__name__}` is wrapped in FSDP1: use torch.distributed.fsdp.fully_shard")
            if any(cls.__name__ == "FSDPModule" for cls in type(module).__mro__):
                found.append(module)
        for name, parameter in target.named_parameters():
            if not is_sharded(parameter):
                continue
            mesh: Any = parameter.device_mesh  # pyright: ignore[reportAttributeAccessIssue]
            if mesh.ndim != 1 or mesh.size() != dist.get_world_size():
                raise UsageError(
                    f"`{name}` is sharded over a mesh of shape {tuple(mesh.shape)}: keepstep needs one dimension with all "
                    f"{dist.get_world_size()} processes"
                )
    return found


def check_windows(plan: Plan) -> None:
    """Refuses windows that give the processes different numbers of forward passes, in which FSDP gathers parameters.

    Raises:
        UsageError: naming the window.
    """
    size, last = plan.gradient_accumulation_steps, plan.steps_per_epoch % plan.gradient_accumulation_steps
    for window in (size, last):
        if window > plan.world_size and window % plan.world_size:
            where = "" if window == size else " at the epoch's end"
            raise UsageError(
                f"a window of {window} micro-batches{where} gives {plan.world_size} processes unequal shares, which FSDP cannot "
                "have: choose gradient_accumulation_steps, and the number of samples, as multiples"
            )


def install(modules: list[Any], total: FixedSum) -> None:
    """Makes modules sum gradients in the fixed order, without dividing.

    Raises:
        UsageError: if this torch's FSDP has no place for it.
    """
    for module in modules:
        if not hasattr(module, "set_custom_reduce_scatter"):
            raise UsageError(f"torch {torch.__version__} does not let FSDP reduce in a fixed order: install a newer torch")
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
        module.set_custom_reduce_scatter(_ReduceScatter(total))


class _ReduceScatter:
    """What FSDP calls to sum gradients."""

    def __init__(self, total: FixedSum) -> None:
        self._total = total

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, group: Any, op: Any, async_op: bool = False
    ) -> None:
        self._total.reduce_scatter(output_tensor, input_tensor, group)


def join(value: Any, done: set[int]) -> None:
    """Takes part in gathering every sharded tensor of a state, and drops the whole tensors."""
    if isinstance(value, dict):
        for item in value.values():
            join(item, done)
    elif isinstance(value, (list, tuple)):
        for item in value:
            join(item, done)
    elif is_sharded(value) and id(value) not in done:
        done.add(id(value))
        value.full_tensor()


def shard_like(whole: torch.Tensor, own: Any) -> Any:
    """Returns a whole tensor, of which rank 0's content counts, as one that is sharded like `own`."""
    from torch.distributed.tensor import distribute_tensor

    whole = whole.to(own.device_mesh.device_type)
    return distribute_tensor(whole, own.device_mesh, own.placements)
