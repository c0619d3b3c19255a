"""What keepstep costs in a loop: per micro-batch, per save, and at a resume, next to the bare loop and torch's savers.

Everything that is compared is measured in turn in this one process, several rounds; medians or the fastest are printed.

    python overhead.py [loop] [between] [save] [resume]
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

import keepstep

ROUNDS = 5
SKIP = 20
RESUME_AT = 20_000
WINDOW = 100


class Rows(torch.utils.data.Dataset[torch.Tensor]):
    """Rows of a table in memory."""

    def __init__(self, length: int, width: int) -> None:
        self.rows = torch.randn(min(length, 4096), width, generator=torch.Generator().manual_seed(1))
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.rows[index % len(self.rows)]


def perceptron(width: int, depth: int) -> nn.Module:
    layers = [nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth)]
    return nn.Sequential(*layers, nn.Linear(width, 1))


def update(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> torch.Tensor:
    began = time.perf_counter()
    loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    UPDATES.append(time.perf_counter() - began)
    return loss


UPDATES: list[float] = []
"""Seconds that each update took."""

Times = tuple[float, float, float]
"""Seconds by the clock, those of the main thread's processor, and by the clock between two updates."""


def timed(batches: Iterator[Any], body: Callable[[Any], None], steps: int) -> Times:
    """Returns seconds per step, after the first few; those between two updates as a median."""
    began = used = 0.0
    UPDATES.clear()
    ends: list[float] = []
    for number, batch in enumerate(batches):
        body(batch)
        ends.append(time.perf_counter())
        if number + 1 == SKIP:
            began, used = time.perf_counter(), time.thread_time()
        if number + 1 == SKIP + steps:
            break
    elapsed = (time.perf_counter() - began) / steps, (time.thread_time() - used) / steps
    between = [end - before - spent for before, end, spent in zip(ends[SKIP:], ends[SKIP + 1 :], UPDATES[SKIP + 1 :])]
    return *elapsed, statistics.median(between)


def bare(width: int, depth: int, batch: int, steps: int, workers: int) -> Times:
    torch.manual_seed(1)
    rows = Rows(batch * (SKIP + steps + 10), width)
    loader = torch.utils.data.DataLoader(rows, batch, shuffle=True, num_workers=workers)
    model = perceptron(width, depth)
    optimizer = torch.optim.AdamW(model.parameters())
    last: list[Any] = [None]

    def body(batch: torch.Tensor) -> None:
        last[0] = update(model, optimizer, batch)

    return timed(iter(loader), body, steps)


def ours(width: int, depth: int, batch: int, steps: int, workers: int) -> Times:
    with tempfile.TemporaryDirectory() as folder:
        run = keepstep.Run(folder, seed=1, save_steps=10**9, progress_bar=False, quiet=True, rehearse=False)
        rows = Rows(batch * (SKIP + steps + 10), width)
        data = run.data(rows, batch_size=batch, num_workers=workers)
        model = perceptron(width, depth)
        optimizer = torch.optim.AdamW(model.parameters())
        run.track(model=model, optimizer=optimizer)
        return timed(iter(data), lambda x: run.record(update(model, optimizer, x)), steps)


def measure_loop() -> None:
    """Prints microseconds per micro-batch of the bare loop and of ours.

    The clock's figures are the fastest rounds'. The processor's are those of the main thread, which other programs on the
    machine hardly change; the workers' own are not in them. What lies between two updates shows what keepstep does there,
    whatever the updates themselves take: a busy memory changes them by more.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print("one micro-batch (each an update), 1 thread, microseconds   bare loop   keepstep  difference")
    for name, (width, depth, batch, steps) in {"tiny": (16, 1, 8, 1000), "middle": (768, 6, 64, 60)}.items():
        for workers in (0, 2):
            rounds = [(bare(width, depth, batch, steps, workers), ours(width, depth, batch, steps, workers)) for _ in range(ROUNDS)]
            for at, what in enumerate(("by the clock", "processor time", "between updates")):
                one, other = (min(times[at] for times in side) * 1e6 for side in zip(*rounds))
                title = f"{name} model, {workers} workers, {what}"
                print(f"{title:<57} {one:>10.0f} {other:>10.0f} {other - one:>7.0f} ({(other / one - 1) * 100:+.1f} %)")
    torch.set_num_threads(threads)


def measure_between(steps: int = 1500) -> None:
    """Prints how long an update of the bare loop takes, by what is done between two of them, which it has no part in."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = perceptron(16, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    loader = torch.utils.data.DataLoader(Rows(8 * (steps + SKIP), 16), 8, shuffle=True)
    print("one update of the tiny model in a bare loop, 1 thread, microseconds")
    with tempfile.TemporaryDirectory() as folder:
        run = keepstep.Run(folder, seed=1, save_steps=10**9, progress_bar=False, quiet=True, rehearse=False)
        data = run.data(Rows(8 * (ROUNDS * (steps + SKIP) + 1), 16), batch_size=8)
        run.track(model=perceptron(16, 1))
        batches = iter(data)
        next(batches)

        def keepsteps(loss: torch.Tensor) -> None:
            run.record(loss)
            next(batches)

        works: dict[str, Callable[[torch.Tensor], Any]] = {
            "nothing": lambda _: None,
            "a JSON text written 20 times": lambda _: [json.dumps({"a": n, "b": [1, 2, 3]}) for n in range(20)],
            "a micro-batch of a keepstep run with another model": keepsteps,
        }
        medians: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, work in works.items():
                timed(iter(loader), lambda batch: work(update(model, optimizer, batch)), steps)
                medians[name].append(statistics.median(UPDATES[SKIP:]))
    for name, times in medians.items():
        print(f"between two updates: {name:<60} {min(times) * 1e6:>6.0f}")
    torch.set_num_threads(threads)


def parts(megabytes: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Returns a model and an optimizer with as many MB of state in all."""
    width = int((megabytes * 1e6 / 12 / 8) ** 0.5)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(8)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, width)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def measure_save(megabytes: int = 240) -> None:
    """Prints how long a save stalls the loop, and how long it takes until the file is there."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    rows: dict[str, list[tuple[float, float]]] = {}

    def note(name: str, stall: float, total: float) -> None:
        rows.setdefault(name, []).append((stall, total))

    with tempfile.TemporaryDirectory() as place:
        dist.init_process_group("gloo", init_method=f"file://{place}/group", rank=0, world_size=1)
        model, optimizer = parts(megabytes)
        state = lambda: {"model": model.state_dict(), "optimizer": optimizer.state_dict()}  # noqa: E731
        for number in range(ROUNDS):
            began = time.perf_counter()
            copies = [each.clone() for each in _tensors(state())]
            note("one copy of the state", time.perf_counter() - began, time.perf_counter() - began)
            del copies
            began = time.perf_counter()
            torch.save(state(), f"{place}/plain{number}.pt")
            note("torch.save (no fsync)", time.perf_counter() - began, time.perf_counter() - began)
            began = time.perf_counter()
            future: Any = dcp.async_save(state(), checkpoint_id=f"{place}/dcp{number}")
            stall = time.perf_counter() - began
            future.result()
            note("DCP async_save", stall, time.perf_counter() - began)
        dist.destroy_process_group()
        first, *later = _our_saves(f"{place}/run", megabytes)
        note("keepstep's first save of a session: fresh memory", *first)
        for stall, total in later:
            note("keepstep (fsync, read back, verified)", stall, total)
    print(f"a save of {megabytes} MB of state, milliseconds             stalls the loop   until it is there")
    for name, times in rows.items():
        stall, total = (statistics.median(each) * 1e3 for each in zip(*times))
        print(f"{name:<55} {stall:>13.0f} {total:>19.0f}")


def _our_saves(folder: str, megabytes: int) -> list[tuple[float, float]]:
    run = keepstep.Run(folder, seed=1, save_steps=2, max_checkpoints=2, progress_bar=False, quiet=True, rehearse=False)
    data = run.data(Rows(64, 4), batch_size=1)
    model, optimizer = parts(megabytes)
    run.track(model=model, optimizer=optimizer)
    gaps: list[float] = []
    durations: list[float] = []
    left = time.perf_counter()
    for number, _ in enumerate(data):
        gaps.append(time.perf_counter() - left)
        if number % 2 == 0 and number > 0:
            # The gap before this batch began a save of update `number`: wait until it is there and verified.
            before = time.perf_counter()
            run._session.saver.wait()  # pyright: ignore
            durations.append(gaps[-1] + time.perf_counter() - before)
        if number == 2 * ROUNDS + 2:
            break
        # The state changes, but training it is not what is measured.
        next(model.parameters()).grad = torch.zeros_like(next(model.parameters()))
        optimizer.step()
        optimizer.zero_grad()
        left = time.perf_counter()
    usual = statistics.median(gaps[3::2])
    return [(max(0.0, gap - usual), total) for gap, total in zip(gaps[2::2], durations)]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list):
        for item in value:
            yield from _tensors(item)


def measure_resume() -> None:
    """Prints the time from a process's start to the first batch that is not a repetition, at micro-batch 20,000."""
    print(f"from the process's start to the first batch at step {RESUME_AT}, seconds")
    with tempfile.TemporaryDirectory() as folder:
        for how in ("usual", "keepstep"):
            _session(how, folder)  # goes there and saves
        for name, how in {"bare loop that walks through what it skips": "usual", "keepstep": "keepstep"}.items():
            times: list[float] = []
            for _ in range(ROUNDS):
                began = time.time()
                times.append(float(_session(how, folder)) - began)
            print(f"{name:<55} {statistics.median(times):>13.2f}")
        began = time.time()
        subprocess.run([sys.executable, "-c", "import torch, torch._dynamo"], check=True)
        print(f"{'importing torch alone':<55} {time.time() - began:>13.2f}")


def _session(how: str, folder: str) -> str:
    command = [sys.executable, __file__, "--session", how, folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 75):
        raise SystemExit(f"the session ended with status {done.returncode}:\n{done.stderr}")
    return done.stdout


class Decoded(Rows):
    """Rows that take a little time to make, as pictures and texts do."""

    def __getitem__(self, index: int) -> torch.Tensor:
        end = time.perf_counter() + 20e-6
        while time.perf_counter() < end:
            pass
        return super().__getitem__(index)


def session(how: str, folder: str) -> None:
    """Leaves a checkpoint at `RESUME_AT` if the folder is empty, else prints when the first batch after it is there.

    How the run came to its position does not matter: it gets there with hardly any training.
    """
    there = Path(folder, "usual.pt" if how == "usual" else "run").exists()
    rows = (Decoded if there else Rows)(8 * (RESUME_AT + WINDOW), 16)
    model = perceptron(16, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    if how == "usual":
        path = Path(folder, "usual.pt")
        torch.manual_seed(1)
        loader = torch.utils.data.DataLoader(rows, 8, shuffle=True)
        if not there:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": RESUME_AT}, path)
            return
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        for step, _ in enumerate(loader):
            if step < state["step"]:
                continue
            print(time.time())
            return
    run = keepstep.Run(Path(folder, "run"), seed=1, save_steps=RESUME_AT, progress_bar=False, quiet=True, rehearse=False)
    data = run.data(rows, batch_size=8, gradient_accumulation_steps=WINDOW)
    run.track(model=model, optimizer=optimizer)
    for batch in data:
        if there:
            print(time.time())
            return
        if run.update_due:
            update(model, optimizer, batch)
        if run.step + 1 == RESUME_AT:
            signal.raise_signal(signal.SIGTERM)  # it saves and ends the loop
    run.exit()


def main() -> None:
    """Measures what is named, or everything."""
    if sys.argv[1:2] == ["--session"]:
        session(*sys.argv[2:])
        return
    measures = {"loop": measure_loop, "between": measure_between, "save": measure_save, "resume": measure_resume}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    for name in sys.argv[1:] or measures:
        measures[name]()
        print()


if __name__ == "__main__":
    main()
