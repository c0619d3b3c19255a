"""The loop that the tests run, in a process of its own: ``python resume_loop.py FOLDER [key=value]...``.

It has everything that people forget to save: dropout, random augmentations from all three generators (or a masking
collator with a generator of its own), EMA, a scheduler, clipping, a moving best, a ragged last window.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from typing import Any

import numpy
import torch
from torch import nn

import keepstep

SAMPLES = 46


class Noisy(torch.utils.data.Dataset):
    """Samples with noise from all three generators."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        x = torch.full((8,), index / SAMPLES) + torch.randn(8) * 0.1
        return x + random.random() + float(numpy.random.rand()), torch.tensor([index / SAMPLES])


TEXTS: list[dict[str, Any]] = [{"input_ids": [(index * 7 + at) % 38 + 2 for at in range(12)]} for index in range(SAMPLES)]


def masking() -> Any:
    """A collator of transformers that masks tokens with a generator of its own."""
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[MASK]": 1, **{f"w{number}": number for number in range(2, 40)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[PAD]")), pad_token="[PAD]", mask_token="[MASK]"
    )
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.4, seed=11)


class Filler(nn.Module):
    """Guesses masked tokens from the mean of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 8)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, 40)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        return self.head(self.dropout(x + x.mean(1, keepdim=True)))


def main(folder: str, **options: Any) -> int:
    torch.set_num_threads(1)
    stop_at = options.pop("stop_at", None)
    kill_at = options.pop("kill_at", None)
    how = options.pop("how", "SIGTERM")
    workers = options.pop("workers", {})
    scaler_on = options.pop("scaler", False)
    mlm = options.pop("mlm", False)
    epochs = options.pop("epochs", 2)
    announce = options.pop("announce", False)
    settings = {"save_steps": 3, "max_checkpoints": 2, "eval_steps": 2, "progress_bar": False, "num_threads": 1} | options
    config = {"lr": 1e-2, "width": 16}
    run = keepstep.Run(folder, config=config, seed=7, **settings)
    dataset = TEXTS if mlm else Noisy()
    if mlm:
        workers = workers | {"collate_fn": masking()}
    data = run.data(dataset, batch_size=3, epochs=epochs, gradient_accumulation_steps=4, **workers)
    model = Filler() if mlm else nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 1))
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, config["lr"], total_steps=data.total_steps)
    run.track(model=model, optimizer=optimizer, scheduler=scheduler, ema=ema)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3, enabled=scaler_on)
    if scaler_on:
        run.track(scaler=scaler)
    losses = []
    for batch in data:
        if announce:
            print("training", flush=True)
            announce = False
        if mlm:
            y = batch["labels"]
            loss = nn.functional.cross_entropy(model(batch["input_ids"]).flatten(0, 1), y.flatten())
        else:
            x, y = batch
            loss = nn.functional.mse_loss(model(x), y)
        scaler.scale(loss / run.window).backward()
        run.record(loss, count=len(y))
        losses.append(loss.item())
        if run.update_due:
            scaler.unscale_(optimizer)
            run.record(grad_norm=nn.utils.clip_grad_norm_(model.parameters(), 1.0))
            if scaler_on and run.global_step % 3 == 1:
                for parameter in model.parameters():
                    parameter.grad.fill_(float("inf"))
                scaler._per_optimizer_states.clear()
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            ema.update_parameters(model)
            if run.evaluation_due:
                # Goes up and down, so that the best moves.
                run.evaluated(abs(3 - run.global_step % 5) + float(torch.rand(())), accuracy=0.5)
            if stop_at == run.global_step + 1:
                os.kill(os.getpid(), getattr(signal, how))
            if kill_at == run.global_step + 1:
                os.kill(os.getpid(), signal.SIGKILL)
    complete = run.finish()
    if "losses" in os.environ:
        with open(os.environ["losses"], "a") as file:
            file.write(json.dumps(losses) + "\n")
    return 0 if complete else 75


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], **{key: json.loads(value) for key, value in (it.split("=", 1) for it in sys.argv[2:])}))
