"""Starts the processes of a run for tests, without importing torch in each: they are forked from one that has done so.

They meet as under torchrun: in a store that the test keeps, so that any of them may die.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

_context: Any = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "numpy", "torch._dynamo", "torch.distributed.fsdp", "keepstep._run", "ranks_loop"])


def files(folder: Path) -> dict[str, str]:
    """The hash of each checkpoint."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.pt"))}


def child(environment: dict[str, str], log: str, folder: str, options: dict[str, Any]) -> None:
    """The main function of a process."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ.update(environment)
    namespace = environment.get("KEEPSTEP_NAMESPACE")
    if namespace is not None:
        with open(f"/run/netns/{namespace}") as file:
            if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), "setns")
    import ranks_loop

    code = 1
    try:
        code = ranks_loop.main(folder, **options)
    except Exception as error:  # noqa: BLE001 -- what the interpreter does at the end of a script
        sys.last_value = error
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


class Job:
    """The processes of one session."""

    def __init__(
        self, size: int, folder: Path, options: dict[str, Any], network: Callable[[int], dict[str, str]] = lambda rank: {}
    ) -> None:
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.folder = Path(tempfile.mkdtemp(prefix="keepstep-ranks-"))
        self.processes: list[Any] = []
        for rank in range(size):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self.store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "KEEPSTEP_SAY": "1",
                "GLOO_SOCKET_IFNAME": "lo",
                **network(rank),
            }
            arguments = (environment, str(self.folder / f"{rank}.log"), str(folder), options)
            process = _context.Process(target=child, args=arguments)
            process.start()
            self.processes.append(process)
        # A test that fails leaves processes that may wait for ever, and this one would wait for them.
        atexit.register(self.kill)

    def wait(self, timeout: float = 90) -> list[int | None]:
        """Returns the exit codes; what is still there after the time is killed, and has None."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.1, end - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        self.kill()
        return codes

    def signal(self, rank: int, number: int) -> None:
        """Sends a signal to one process, if it lives."""
        process = self.processes[rank]
        if process.exitcode is None:
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                pass

    def kill(self) -> None:
        """Ends what is left, as torchrun does when one process has failed."""
        for rank, process in enumerate(self.processes):
            if process.exitcode is None:
                self.signal(rank, signal.SIGKILL)
                process.join()

    def log(self, rank: int) -> str:
        """What a process has printed."""
        return (self.folder / f"{rank}.log").read_text()


def train(size: int, folder: Path, **options: Any) -> list[int | None]:
    """Runs one session to its end and returns the exit codes; prints what was printed."""
    job = Job(size, folder, options)
    codes = job.wait()
    print(f"{size} processes, {options}: {codes}")
    for rank in range(size):
        text = job.log(rank)
        if text.strip():
            print(f"--- rank {rank}\n{text}")
    return codes


def straight(size: int, folder: Path, **options: Any) -> dict[str, str]:
    """Runs to the end and returns the hashes."""
    assert train(size, folder, **options) == [0] * size
    return files(folder)


@dataclass
class Killed:
    """What a series of kills has shown."""

    kills: int = 0
    stops: int = 0
    """Processes that got SIGSTOP."""
    runs: int = 0
    """Runs that were completed."""
    left: int = 0
    """Times that other processes were left, and had not just completed the run."""
    named: int = 0
    """Times that one of them named the right rank."""
    slowest: float = 0.0
    """Seconds until the others had ended, at most."""

    def __str__(self) -> str:
        return (
            f"{self.kills} processes killed, {self.stops} stopped, in {self.runs} runs; of {self.left} times that others "
            f"were left, they named it {self.named} times, and ended within {self.slowest:.1f} s"
        )


def kill_at_random(folder: Path, signals: int, seed: int, sizes: list[int], expected: dict[str, str], **options: Any) -> Killed:
    """Kills or stops one process of a session at random instants, over changing numbers of processes.

    A run goes on until it is complete, then its files are compared and another begins.
    """
    times, found = random.Random(seed), Killed()
    while found.kills + found.stops < signals:
        run = folder / f"run{found.runs}"
        while True:
            size, began = times.choice(sizes), folder / "began"
            began.unlink(missing_ok=True)
            job = Job(size, run, options | {"announce": str(began), "rank_timeout": 4})
            while not began.exists() and any(process.exitcode is None for process in job.processes):
                time.sleep(0.01)
            time.sleep(times.uniform(0.0, 1.0))
            rank, stops = times.randrange(size), size > 1 and times.random() < 0.4
            lives = all(process.exitcode is None for process in job.processes)
            if lives and found.kills + found.stops < signals:
                job.signal(rank, signal.SIGSTOP if stops else signal.SIGKILL)
                since = time.monotonic()
                others = [other for other in range(size) if other != rank]
                for other in others:
                    job.processes[other].join(60)
                    text = job.log(other)
                    assert job.processes[other].exitcode in (0, 1, 70), f"rank {other} of {size} still runs (seed {seed})\n{text}"
                found.slowest = max(found.slowest, time.monotonic() - since)
                found.left += any(job.processes[other].exitcode != 0 for other in others)
                named = any(f"rank {rank} has" in job.log(other) for other in others)
                found.named += named
                if others and not named:
                    print(f"rank {rank} of {size} was not named:", *(job.log(other)[-300:] for other in others), sep="\n")
                found.kills, found.stops = found.kills + (not stops), found.stops + stops
                job.kill()
                continue
            codes = job.wait()
            assert codes == [0] * size, f"{codes} (seed {seed})\n" + "\n".join(map(job.log, range(size)))
            break
        found.runs += 1
        assert files(run) == expected, f"run {found.runs}, after {found} (seed {seed})"
    return found
