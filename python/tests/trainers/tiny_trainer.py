"""A small run of Hugging Face's Trainer: `tiny`, with accumulation, a ragged window and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
import torch
import transformers
from keepstep.transformers import ExactTrainer


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
        per_device_train_batch_size=tiny.BATCH,
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
        model=tiny.Model(),
        args=arguments,
        data_collator=tiny.Masking(),
        train_dataset=tiny.Noisy(),
        eval_dataset=torch.utils.data.Subset(tiny.Noisy(), range(4)),
        callbacks=[*callbacks, StopAt(stop_at)],
    )
