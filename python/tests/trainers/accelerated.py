"""A loop under Accelerate, and the same without: ``accelerate launch accelerated.py FOLDER [STOP_AT]``, or torchrun."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import accelerate
import keepstep
import tiny
import torch


def loop(folder: str, stop_at: int | None = None, prepares: bool = True, workers: int = 0, precision: str = "no") -> bool:
    """Runs a session; returns whether the run is complete."""
    torch.set_num_threads(1)
    settings: dict[str, Any] = {"save_steps": 2, "max_checkpoints": 99, "num_threads": 1, "progress_bar": False, "quiet": True}
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    run = keepstep.Run(folder, config={"lr": 1e-2}, seed=7, distributed=several, **settings)
    loading: dict[str, Any] = {"num_workers": workers, "collate_fn": tiny.Masking()}
    data = run.data(tiny.Noisy(), batch_size=2, epochs=3, gradient_accumulation_steps=4, drop_last=False, **loading)
    model: Any = tiny.Model()
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler: Any = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=data.total_steps)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision) if prepares else None
    if accelerator is not None:
        model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    run.track(model=model, optimizer=optimizer, scheduler=scheduler)
    for batch in data:
        loss = model(**batch)["loss"]
        (accelerator.backward if accelerator is not None else torch.Tensor.backward)(loss / run.window)
        run.record(loss)
        if run.update_due:
            clip = torch.nn.utils.clip_grad_norm_ if accelerator is None else accelerator.clip_grad_norm_
            run.record(grad_norm=clip(model.parameters(), 1.0))
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if run.global_step + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
    return run.finish()


if __name__ == "__main__":
    complete = loop(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
    print("complete" if complete else "stopped")
    # torchrun takes any other status for a failure.
    sys.exit(0 if complete or "TORCHELASTIC_RUN_ID" in os.environ else 75)
