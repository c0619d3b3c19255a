"""What only a CUDA device can show of the Python package's random numbers and rehearsal: ``python on_gpu.py``."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch  # noqa: E402

import keepstep  # noqa: E402
from keepstep._random import Randomness  # noqa: E402


class Rows(torch.utils.data.Dataset[torch.Tensor]):
    """Rows with noise."""

    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((64,), index / 400) + torch.rand(64)


def train(folder: str, *, stop_at: int | None, atomics: bool, rehearse: bool | int) -> keepstep.Run:
    """Trains 50 updates on the GPU with dropout and mixed precision; `atomics` adds in an order that varies."""
    torch.use_deterministic_algorithms(not atomics)
    torch.backends.cudnn.benchmark = False
    run = keepstep.Run(folder, seed=3, save_steps=10, progress_bar=False, quiet=True, rehearse=rehearse)
    data = run.data(Rows(), batch_size=8, num_workers=2, pin_memory=True)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 512), torch.nn.BatchNorm1d(512), torch.nn.GELU(), torch.nn.Dropout(0.2), torch.nn.Linear(512, 64)
    ).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", growth_interval=3, init_scale=2.0**24)
    run.track(model=model, optimizer=optimizer, scaler=scaler)
    for x in data:
        x = x.cuda(non_blocking=True)
        with torch.autocast("cuda", dtype=torch.float16):
            out = model(x + 0.1 * torch.randn_like(x))
            loss = (out - x).float().square().mean()
        if atomics:
            source = out.float().repeat(4096, 1)
            where = torch.zeros(len(source), dtype=torch.long, device="cuda")
            loss = loss + 1e-3 * torch.zeros(1, 64, device="cuda").index_add(0, where, source).square().mean()
        scaler.scale(loss).backward()
        run.record(loss)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if stop_at == run.global_step + 1:
            signal.raise_signal(signal.SIGTERM)
    return run


def hashes(folder: str) -> dict[str, str]:
    """Returns the hash of each checkpoint that a finished run has."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(Path(folder).glob("*.pt"))}


def late_start() -> None:
    """In a process of its own: CUDA starts in the body of the first micro-batch."""
    torch.manual_seed(99)
    randomness = Randomness(5)
    randomness.initial()
    randomness.training(1, 0)
    assert not torch.cuda.is_initialized()
    first = torch.rand(4, device="cuda").cpu()
    torch.rand(4, device="cuda")
    randomness.training(1, 1)
    torch.rand(4, device="cuda")
    randomness.training(1, 0)
    assert torch.equal(torch.rand(4, device="cuda").cpu(), first)
    with randomness.sampling(3):
        torch.rand(8, device="cuda")
    rest = torch.rand(4, device="cuda").cpu()
    randomness.training(1, 0)
    torch.rand(4, device="cuda")
    assert torch.equal(torch.rand(4, device="cuda").cpu(), rest)


def main() -> None:
    """Prints one line per check."""
    if sys.argv[1:] == ["late"]:
        late_start()
        return
    subprocess.run([sys.executable, __file__, "late"], check=True)
    print("keys reach a device that starts late, and sampling disturbs nothing: yes")
    with tempfile.TemporaryDirectory() as place:
        whole: dict[str, Any] = {"atomics": False, "rehearse": False}
        train(f"{place}/straight", stop_at=None, **whole).finish()
        for stop in (3, 17, 33):
            train(f"{place}/stopped", stop_at=stop, **whole).finish()
        train(f"{place}/stopped", stop_at=None, **whole).finish()
        one, other = hashes(f"{place}/straight"), hashes(f"{place}/stopped")
        print(f"stopped three times with workers, dropout and a scaler: {'the same bytes' if one == other else (one, other)}")
        rehearsed = train(f"{place}/rehearsed", stop_at=None, atomics=False, rehearse=5)
        print(rehearsed.rehearsal)
        rehearsed.finish()
        print(f"and the run that rehearsed: {'the same bytes' if hashes(f'{place}/rehearsed') == one else 'other bytes'}")
        print(train(f"{place}/atomics", stop_at=None, atomics=True, rehearse=5).rehearsal)


if __name__ == "__main__":
    main()
