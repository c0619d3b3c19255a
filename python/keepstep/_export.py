"""Weights for other programs: safetensors, and a plain ``.pt`` file."""

from __future__ import annotations

import os
from typing import Any

import torch

from . import _core
from ._errors import UsageError
from ._save import Converter, Snapshots

__all__ = ["export", "save_weights"]


def export(state: Any, path: str) -> None:
    """Writes a state dict as ``torch.save`` would, whole and durably."""
    snapshot = Snapshots().take([("model", state)], set())
    snapshot.wait()
    _core.write_pt(path, snapshot.parts[0][1], Converter())


def save_weights(module: torch.nn.Module, path: str) -> None:
    """Writes a module's weights as safetensors; shared tensors once."""
    try:
        from safetensors.torch import save_model
    except ImportError:
        raise UsageError("run.save_weights() needs the package safetensors: pip install safetensors") from None
    temporary = f"{path}.tmp"
    save_model(module, temporary, metadata={"format": "pt"})
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
