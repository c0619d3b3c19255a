"""Features of PyTorch that change what a step does: compiling, activation checkpointing, several optimizers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import keepstep

X = torch.linspace(-1, 1, 48).reshape(12, 4)
DATA = torch.utils.data.TensorDataset(X, X.sum(1, keepdim=True))


class Model(nn.Module):
    """Dropout inside a part that is computed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.ReLU())
        self.head = nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden: Any = checkpoint(self.inner, x, use_reentrant=False)
        return self.head(hidden)


def train(folder: Path, stop_at: int | None = None, compiled: bool = False) -> bool:
    run = keepstep.Run(folder, seed=5, save_steps=2, progress_bar=False, quiet=True, num_threads=1)
    data = run.data(DATA, batch_size=2, epochs=2, gradient_accumulation_steps=2)
    model: Any = Model()
    if compiled:
        # The wrapper and its names; no compiler is needed.
        model = torch.compile(model, backend="eager")
    first = torch.optim.Adam(model.inner.parameters() if not compiled else model._orig_mod.inner.parameters(), lr=1e-2)
    second = torch.optim.SGD(model.head.parameters() if not compiled else model._orig_mod.head.parameters(), lr=1e-2, momentum=0.9)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(second, patience=0)
    run.track(steps={"second": 2}, model=model, first=first, second=second, plateau=plateau)
    for x, y in data:
        loss = nn.functional.mse_loss(model(x), y)
        (loss / run.window).backward()
        run.record(loss, count=2)
        if run.update_due:
            first.step()
            second.step()
            second.step()
            plateau.step(loss.item())
            first.zero_grad()
            second.zero_grad()
            if stop_at == run.global_step + 1:
                os.kill(os.getpid(), 15)
    return run.finish()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_stopped_and_resumed(tmp_path: Path, compiled: bool) -> None:
    assert train(tmp_path / "straight", compiled=compiled)
    for stop in (1, 3, 5):
        assert not train(tmp_path / "stopped", stop, compiled)
    assert train(tmp_path / "stopped", compiled=compiled)
    final = "checkpoint_epoch2_final_global6.pt"
    assert (tmp_path / "stopped" / final).read_bytes() == (tmp_path / "straight" / final).read_bytes()
    names = list(torch.load(tmp_path / "straight" / final, weights_only=True)["model_state_dict"])
    assert names == ["inner.0.weight", "inner.0.bias", "head.weight", "head.bias"]
