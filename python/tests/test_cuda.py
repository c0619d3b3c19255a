"""On a CUDA GPU: the snapshot's side stream, the stall of a save, bits after a resume, a scaler with real overflows.

Skipped where there is no GPU. ``CUBLAS_WORKSPACE_CONFIG`` must be set before CUDA starts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch  # noqa: E402
from torch import nn  # noqa: E402

import keepstep  # noqa: E402
from keepstep._save import Converter, Snapshots, storage_id  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


@pytest.fixture(autouse=True)
def deterministic() -> Any:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    yield
    torch.use_deterministic_algorithms(before)


class Samples(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 46

    def __getitem__(self, index: int) -> Any:
        return torch.full((64,), index / 46) + torch.randn(64) * 0.1, torch.tensor([index / 46])


def train(
    folder: Path,
    *,
    stop_at: int | None = None,
    precision: str = "float32",
    fused: bool = False,
    compiled: bool = False,
    workers: int = 0,
    **options: Any,
) -> bool:
    settings: dict[str, Any] = {"save_steps": 3, "max_checkpoints": 9, "eval_steps": 2, "progress_bar": False, "quiet": True}
    run = keepstep.Run(folder, seed=7, config={"precision": precision}, **settings | options)
    data = run.data(Samples(), batch_size=3, epochs=2, gradient_accumulation_steps=4, num_workers=workers)
    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.Dropout(0.2), nn.GELU(), nn.Linear(256, 1)).cuda()
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=data.total_steps)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**22, growth_interval=2, enabled=precision == "float16")
    run.track(model=model, optimizer=optimizer, scheduler=scheduler, ema=ema)
    if precision == "float16":
        run.track(scaler=scaler)
    step = torch.compile(model) if compiled else model
    skipped = []
    run.on_update(lambda event: skipped.append(event["skipped"]))
    for x, y in data:
        with torch.autocast("cuda", dtype=getattr(torch, precision), enabled=precision != "float32"):
            loss = nn.functional.mse_loss(step(x.cuda()), y.cuda())
        scaler.scale(loss / run.window).backward()
        run.record(loss, count=len(y))
        if run.update_due:
            scaler.unscale_(optimizer)
            run.record(grad_norm=nn.utils.clip_grad_norm_(model.parameters(), 1.0))
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            ema.update_parameters(model)
            at = run.global_step + 1
            if run.evaluation_due:
                run.evaluated(abs(3 - at % 5) + float(torch.rand((), device="cuda")))
            if at == stop_at:
                os.kill(os.getpid(), 15)
    train.skipped = skipped  # type: ignore[attr-defined]
    return run.finish()


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.pt"))}


@pytest.mark.parametrize(
    "options",
    [{}, {"fused": True}, {"precision": "bfloat16"}, {"precision": "float16"}, {"precision": "float16", "fused": True}, {"workers": 2}],
    ids=["float32", "fused", "bfloat16", "scaler", "fused scaler", "2 workers"],
)
def test_stopped_at_every_boundary(tmp_path: Path, options: dict[str, Any]) -> None:
    assert train(tmp_path / "straight", **options)
    expected = files(tmp_path / "straight")
    if options.get("precision") == "float16":
        assert any(train.skipped), "the first scale overflows"  # type: ignore[attr-defined]
    for stop in range(1, 8):
        assert not train(tmp_path / "stopped", stop_at=stop, **options)
    assert train(tmp_path / "stopped", **options)
    assert files(tmp_path / "stopped") == expected


def test_pytorch_opens_it_on_the_cpu(tmp_path: Path) -> None:
    assert train(tmp_path)
    checkpoint = torch.load(next(tmp_path.glob("*_final_*.pt")), weights_only=True)
    assert checkpoint["model_state_dict"]["0.weight"].device.type == "cpu"
    assert checkpoint["global_step"] == 8


def big_state(megabytes: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    width = 1024
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(megabytes // 4))).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    torch.cuda.synchronize()
    return model, optimizer


def test_a_snapshot_holds_the_state_of_its_boundary() -> None:
    """Updates that are queued right behind the snapshot do not reach it."""
    model, optimizer = big_state(256)
    snapshots = Snapshots()
    for _ in range(3):
        expected = [it.detach().cpu() for it in model.parameters()]
        constant = {storage_id(it) for it in model.parameters()}
        constant |= {storage_id(it) for state in optimizer.state.values() for it in state.values() if it.is_cuda}
        parts = [("model", model.state_dict()), ("optimizer", optimizer.state_dict())]
        snapshot = snapshots.take(parts, constant)
        handle = optimizer.register_step_pre_hook(lambda *_: snapshot.hold_back_update())
        for _ in range(4):
            optimizer.step()
        handle.remove()
        snapshot.wait()
        copied = [it.tensor for it in dict(snapshot.parts)["model"].values()]
        assert all(torch.equal(one, other) for one, other in zip(copied, expected))
        assert Converter()(dict(snapshot.parts)["model"]["0.weight"]).num_bytes == 4 << 20


def test_stall_of_a_snapshot(capsys: pytest.CaptureFixture[str]) -> None:
    """The host goes on long before the copy is done. Prints microseconds."""
    model, optimizer = big_state(512)
    constant = {storage_id(it) for it in model.parameters()}
    constant |= {storage_id(it) for state in optimizer.state.values() for it in state.values() if it.is_cuda}
    snapshots = Snapshots()
    parts = [("model", model.state_dict()), ("optimizer", optimizer.state_dict())]
    snapshots.take(parts, constant).wait()
    torch.cuda.synchronize()
    began = time.perf_counter()
    snapshot = snapshots.take(parts, constant)
    stalled = time.perf_counter() - began
    was_ready = snapshot.is_ready
    snapshot.wait()
    whole = time.perf_counter() - began
    with capsys.disabled():
        size = snapshots.num_bytes / 2**20
        print(f"\n{size:.0f} MiB: the loop stalls {stalled * 1e6:.0f} µs, the copy takes {whole * 1e3:.1f} ms")
    assert not was_ready and stalled < whole / 2


def test_recording_does_not_wait(tmp_path: Path) -> None:
    """`record` reads nothing from the device while the GPU is busy."""
    from keepstep._window import Window

    x = torch.randn(4096, 4096, device="cuda")
    # What happens once: kernels are loaded, memory is pinned.
    for _ in range(2):
        window = Window([])
        window.record(x.mean(), 3, x.mean().abs(), {})
        window.close(0.1).read()
    torch.cuda.synchronize()
    window = Window([])
    for _ in range(30):
        x = torch.nn.functional.normalize(x @ x)
    loss = x.mean()
    began = time.perf_counter()
    window.record(loss, 3, loss.abs(), {})
    pending = window.close(0.1)
    seconds = time.perf_counter() - began
    on_host = pending.on_host
    numbers = pending.read()
    assert not on_host and seconds < 0.02
    assert numbers.loss == pytest.approx(loss.item(), rel=1e-6) and numbers.count == 3


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    run = keepstep.Run(tmp_path, seed=1, save_steps=1, progress_bar=False, quiet=True)
    data = run.data(Samples(), batch_size=4, epochs=1)
    model = nn.Linear(64, 1).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    run.track(model=model, optimizer=optimizer)
    with pytest.raises(keepstep.NotFiniteError, match="loss is not finite"):
        for x, _ in data:
            loss = model(x.cuda()).mean() * (float("nan") if run.global_step == 3 else 1.0)
            loss.backward()
            run.record(loss)
            optimizer.step()
            optimizer.zero_grad()
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [f"checkpoint_epoch1_step{it}_global{it}.pt" for it in (1, 2, 3)]


def test_environment_and_exactness(tmp_path: Path) -> None:
    run = keepstep.Run(tmp_path, seed=1)
    model = nn.Linear(2, 2).cuda()
    run.track(model=model)
    assert "same GPU model" in str(run.exactness)
    torch.use_deterministic_algorithms(False)
    assert "use_deterministic_algorithms" in str(run.exactness)


def test_compiled(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("torch.compile needs a C compiler")
    assert train(tmp_path / "straight", compiled=True)
    assert not train(tmp_path / "stopped", stop_at=3, compiled=True)
    assert train(tmp_path / "stopped", compiled=True)
    assert files(tmp_path / "stopped") == files(tmp_path / "straight")
