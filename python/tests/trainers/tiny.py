"""A small model and samples with everything that is lost on the way: dropout, draws from all three generators in workers,
a collator with a generator of its own.
"""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from torch import nn

SAMPLES, BATCH, WIDTH = 23, 2, 6


class Noisy(torch.utils.data.Dataset[Any]):
    """Samples with draws from all three generators."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        x = torch.full((WIDTH,), index / SAMPLES) + torch.randn(WIDTH) * 0.1
        return {"x": x + random.random() + float(numpy.random.rand()), "labels": torch.tensor([index / SAMPLES])}


class Masking:
    """A collator that draws from its own generator."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1)

    def __call__(self, samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        batch = {name: torch.stack([it[name] for it in samples]) for name in samples[0]}
        batch["x"] = batch["x"] * (torch.rand(batch["x"].shape, generator=self.generator) > 0.1)
        return batch


class Model(nn.Module):
    """Two layers with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(WIDTH, 8), nn.Dropout(0.2), nn.GELU(), nn.Linear(8, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.body(x)
        return {"loss": nn.functional.mse_loss(y, labels), "logits": y}
