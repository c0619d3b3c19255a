"""A small run of Hugging Face's Trainer with everything that is lost on the way: dropout, draws in workers, a collator
with a generator of its own, accumulation with a ragged window, evaluation, a best model, early stopping.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from keepstep.transformers import ExactTrainer
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


class StopAt(transformers.TrainerCallback):
    """Ends a session after an update, as a time limit does."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True
        return control


def trainer(
    folder: Path, stop_at: int | None = None, base: Any = ExactTrainer, callbacks: Any = (), **settings: Any
) -> Any:
    """Returns a trainer whose folder is `folder`: 3 epochs of 12 micro-batches, 5 updates each."""
    settings = {"save_steps": 2, "eval_steps": 3, "logging_steps": 4, "eval_strategy": "steps"} | settings
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=5,
        num_train_epochs=3,
        learning_rate=3e-2,
        seed=7,
        dataloader_num_workers=settings.pop("workers", 0),
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_total_limit=settings.pop("limit", None),
        **settings,
    )
    transformers.set_seed(7)
    return base(
        model=Model(),
        args=arguments,
        data_collator=Masking(),
        train_dataset=Noisy(),
        eval_dataset=torch.utils.data.Subset(Noisy(), range(4)),
        callbacks=[*callbacks, StopAt(stop_at)],
    )
