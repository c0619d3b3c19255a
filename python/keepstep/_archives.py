"""Single files as `torch.save` writes them: saved whole or not at all, and verified by the checksums inside."""

from __future__ import annotations

import logging
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import torch

from ._errors import Error
from ._sealed import sync

__all__ = ["newest_valid", "number_in", "problem", "save"]

_log = logging.getLogger("keepstep")


def save(value: Any, path: str) -> None:
    """Writes `value` with `torch.save`.

    # Durability: when it returns, the file and its name are on the disk. A crash leaves the old file, or the new one.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.saving")
    with open(temporary, "wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(folder)


def problem(path: str) -> str | None:
    """Reads a whole file; returns why it is not what was saved, in words that follow its path, or None.

    PyTorch's files are zip archives with a CRC-32 of each record. `torch.load` does not check them.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            damaged = archive.testzip()
        # PyTorch's own reader is stricter about headers.
        torch._C.PyTorchFileReader(path).get_all_records()  # pyright: ignore[reportAttributeAccessIssue]
    except FileNotFoundError:
        return "it is missing"
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        return f"it is incomplete or damaged ({' '.join(str(error).split())})"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if damaged is not None:
        return f"the content of its record `{damaged}` has changed since it was saved"
    if not any(name.endswith("data.pkl") for name in names):
        return "it is no file of torch.save"
    return None


class _Nothing(dict[Any, Any]):
    """Stands for every object of a file that is no plain value."""

    def __new__(cls, *_: Any, **__: Any) -> _Nothing:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __call__(self, *_: Any, **__: Any) -> _Nothing:
        return _Nothing()

    def __setstate__(self, _: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Takes what a list takes."""

    def extend(self, _: Any) -> None:
        """Takes what a list takes."""


class _PlainValues(pickle.Unpickler):
    """Reads plain values, and makes no object of any class: nothing in the file is executed."""

    def find_class(self, module: str, name: str) -> Any:
        return _Nothing

    def persistent_load(self, pid: Any) -> Any:
        return None


def number_in(path: str, key: str) -> int | None:
    """Returns an int at the root of a file, without reading tensors and without executing what the file says."""
    try:
        with zipfile.ZipFile(path) as archive:
            [name] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            with archive.open(name) as file:
                value = _PlainValues(file).load()[key]
    except Exception:  # a damaged pickle may raise anything
        return None
    return value if isinstance(value, int) else None


def newest_valid(paths: Iterable[str], step_of: Callable[[str], int | None], goes_on: str) -> str | None:
    """Returns the valid file with the highest step; reports newer ones that are damaged.

    Args:
        paths: Candidates; of files with equal steps the first is preferred.
        step_of: Returns a file's step, or None where it cannot be read.
        goes_on: What to report, before the path that is taken.

    Raises:
        Error: if there are candidates and none is valid, naming each with the reason.
    """
    known = [(path, step_of(path)) for path in paths]
    passed = [f"{path}: {problem(path) or 'it is no checkpoint'}" for path, step in known if step is None]
    for path, _ in sorted(((path, step) for path, step in known if step is not None), key=lambda it: -it[1]):
        reason = problem(path)
        if reason is None:
            for each in passed:
                _log.warning("Passed over %s. %s %s", each, goes_on, path)
            return path
        passed.append(f"{path}: {reason}")
    if passed:
        raise Error("there is no valid checkpoint: " + "; ".join(passed))
    return None
