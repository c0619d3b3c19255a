"""Starts the processes of a run for tests, without importing torch in each: they are forked from one that has done so.

They meet as under torchrun: in a store that the test keeps, so that any of them may die.
"""

from __future__ import annotations

import atexit
import hashlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
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

    def __init__(self, size: int, folder: Path, options: dict[str, Any]) -> None:
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
            }
            arguments = (environment, str(self.folder / f"{rank}.log"), str(folder), options)
            process = _context.Process(target=child, args=arguments)
            process.start()
            self.processes.append(process)

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
