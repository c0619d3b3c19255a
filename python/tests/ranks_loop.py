"""The loop that the tests run in several processes: ``torchrun ranks_loop.py FOLDER [key=value]...``.

`how` is one of: ``elastic``, ``plain`` (keepstep sums, not elastic), ``ddp``, ``fsdp``, and ``stock``, which is DDP as it comes
with keepstep's order and no fixed sum.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from typing import Any

import numpy
import torch
from torch import nn

import keepstep
from keepstep._sharing import Sharing


class Noisy(torch.utils.data.Dataset):
    """Samples with noise from all three generators."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        x = torch.full((8,), index / self.length) + torch.randn(8) * 0.1
        return x + random.random() + float(numpy.random.rand()), torch.tensor([index / self.length]), index


class Net(nn.Module):
    """Dropout, a branch that few micro-batches take, and a layer that none takes: gradients that are None."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(8, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.2)
        self.rare = nn.Linear(width, width)
        self.never = nn.Linear(3, 3)
        self.last = nn.Linear(width, 1)

    def forward(self, x: Any, rare: bool = False) -> Any:
        x = self.dropout(self.norm(torch.relu(self.first(x))))
        if rare:
            x = x + self.rare(x)
        return self.last(x)


def main(folder: str, how: str = "elastic", accumulate: int = 5, samples: int = 69, width: int = 16, **options: Any) -> int:
    torch.set_num_threads(1)
    stop_at, stop_rank = options.pop("stop_at", None), options.pop("stop_rank", 0)
    every, epochs, announce = options.pop("every", False), options.pop("epochs", 2), options.pop("announce", None)
    batch, workers = options.pop("batch", 3), options.pop("workers", 0)
    sleep, trouble = options.pop("sleep", 0.0), options.pop("trouble", {})
    rank = int(os.environ.get("RANK", "0"))
    trouble = trouble if trouble.get("rank") == rank else {}
    settings = {"save_steps": 2, "max_checkpoints": 50, "eval_steps": 3, "progress_bar": False, "num_threads": 1} | options
    if "stop_for_good" in settings:
        ends_at = settings.pop("stop_for_good")
    else:
        ends_at = None
    config = {"lr": 1e-2, "width": width} | trouble.get("config", {})
    run = keepstep.Run(folder, config=config, seed=7, distributed=True, elastic="elastic" in how, **settings)
    size = samples + trouble.get("samples", 0)
    data = run.data(Noisy(size), batch_size=batch, epochs=epochs, gradient_accumulation_steps=accumulate, num_workers=workers)
    model: Any = Net(width)
    if trouble.get("batch_norm"):
        model.norm = nn.BatchNorm1d(width)
    if every:
        model.never = nn.Identity()
    if how == "fsdp":
        model.never, model.rare = nn.Identity(), nn.Identity()
    inner = model
    if how == "stock":
        Sharing._hook = lambda self, module: None
    if how in ("ddp", "stock", "elastic ddp") and run.world_size > 1:
        model = nn.parallel.DistributedDataParallel(model, find_unused_parameters=not every)
    if how == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (run.world_size,)) if run.world_size > 1 else None
        if mesh is not None:
            fully_shard(model.first, mesh=mesh)
            fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(inner.parameters(), lr=config["lr"], weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, config["lr"], total_steps=data.total_steps)
    run.track(model=model, optimizer=optimizer, scheduler=scheduler)
    bests: list[int] = []
    for x, y, index in data:
        if announce is not None and run.rank == 0:
            open(announce, "w").close()
        rare = every or (how not in ("stock", "fsdp") and int(index[0]) % 7 == 0)
        loss = nn.functional.mse_loss(model(x, rare), y)
        (loss / run.window * (run.world_size if how == "stock" else 1)).backward()
        run.record(loss, count=len(y))
        if sleep:
            time.sleep(sleep)
        if trouble.get("at") == run.global_step:
            if "kill" in trouble:
                os.kill(os.getpid(), getattr(signal, trouble["kill"]))
            if "raise" in trouble:
                raise ValueError(trouble["raise"])
            time.sleep(trouble.get("sleep", 0.0))
        if run.update_due:
            norm = nn.utils.clip_grad_norm_(inner.parameters(), 1.0)
            run.record(grad_norm=norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=bool(run.global_step % 2))
            if run.evaluation_due and not trouble.get("no_evaluation"):
                found = run.evaluated(abs(3 - run.global_step % 5) + float(torch.rand(())) + run.rank)
                bests.append(int(found))
            if stop_at == run.global_step + 1 and run.rank == stop_rank:
                os.kill(os.getpid(), signal.SIGTERM)
            if ends_at == run.global_step + 1 and run.rank == 0:
                run.stop("enough")
    complete = run.finish()
    if os.environ.get("KEEPSTEP_SAY"):
        print(f"bests {bests}\n{run.exactness if run.rank == 0 else ''}")
    return 0 if complete else 75


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], **{key: json.loads(value) for key, value in (it.split("=", 1) for it in sys.argv[2:])}))
