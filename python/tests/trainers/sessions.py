"""Sessions of a run in child processes that share what this one has imported, and ways to damage what they left."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SEED = int(os.environ.get("KEEPSTEP_SEED", "3"))
LONG = int(os.environ.get("KEEPSTEP_KILLS", "100"))
KILLS = [3, pytest.param(LONG, marks=pytest.mark.soak, id="long")]
"""Numbers of kills: for the short form, and for the long one of `cargo xtask soak pytorch`."""


def in_child(session: Callable[[], Any], quiet: bool = False) -> int:
    """Runs `session` in a forked process; returns its exit status, or minus the signal that ended it."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            session()
            status = 0
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:
            if not quiet:
                traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_after(seconds: float) -> None:
    """Sends SIGKILL to this process after a time."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()


def digests(folder: Path, *names: str) -> list[str]:
    """Returns the hashes of files in a folder."""
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


def truncate(path: Path) -> None:
    """Cuts a file to half its size."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path, random_: random.Random) -> None:
    """Flips one bit of a file, not in its first or last bytes."""
    content = bytearray(path.read_bytes())
    content[random_.randrange(len(content) // 4, 3 * len(content) // 4)] ^= 1 << random_.randrange(8)
    path.write_bytes(content)
