"""Folders that are complete or not there: files and folders are synced, a manifest is written, and one rename publishes.

A folder is *sealed* by `MANIFEST`, a file in it with the size and the sha256 of every other file. It is written last,
under a temporary name, once everything that it lists is on the disk. A sealed folder gets its name by a rename, and the
folder around it is synced. So a crash leaves a folder that is sealed, or one that `problem` finds. Imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ._core import __version__

__all__ = ["MANIFEST", "numbered", "problem", "publish", "read_state", "recover", "remove", "seal", "staging", "sync", "tidy"]

MANIFEST = "keepstep.json"
"""Name of the manifest in a sealed folder."""

STAGING = "_saving"
"""Folder next to the checkpoints in which they are made. The hub's uploads leave out names that begin with ``_``."""

_FORMAT = 1


def staging(root: str) -> str:
    """Returns the folder below `root` in which new folders are made."""
    return os.path.join(root, STAGING)


def sync(path: str | os.PathLike[str]) -> None:
    """Makes a file's content, or a folder's list of names, durable."""
    if not os.path.isdir(path):
        with open(path, "r+b" if os.access(path, os.W_OK) else "rb") as file:
            os.fsync(file.fileno())
    elif os.name != "nt":  # Windows cannot open a folder
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def seal(folder: str, state: dict[str, Any]) -> None:
    """Syncs everything in `folder`, and writes its manifest, which also holds `state`.

    # Durability: when it returns, every file, every folder inside and the manifest are on the disk.
    """
    manifest = os.path.join(folder, MANIFEST)
    if os.path.lexists(manifest):
        os.unlink(manifest)
    files: dict[str, Any] = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        files[name] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
        sync(path)
    for inside, _, _ in os.walk(folder):
        sync(inside)
    content = {"format": _FORMAT, "keepstep": __version__, "state": state, "files": files}
    temporary = manifest + ".tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
    sync(temporary)
    os.replace(temporary, manifest)
    sync(folder)


def publish(folder: str, final: str) -> None:
    """Gives a sealed folder its name, replacing what has it.

    # Durability: when it returns, the new name is on the disk. In between, `folder` is sealed: see `recover`.
    """
    around = os.path.dirname(os.path.abspath(final))
    if os.path.lexists(final):
        remove(final)
    os.rename(folder, final)
    sync(around)


def remove(folder: str) -> None:
    """Removes a folder of checkpoints. A crash leaves it whole, or out of sight in the staging folder."""
    root, name = os.path.split(os.path.abspath(folder))
    out_of_sight = os.path.join(staging(root), f"removed-{name}")
    os.makedirs(staging(root), exist_ok=True)
    shutil.rmtree(out_of_sight, ignore_errors=True)
    os.rename(folder, out_of_sight)
    shutil.rmtree(out_of_sight, ignore_errors=True)


def tidy(root: str) -> None:
    """Removes the staging folder if nothing is left in it."""
    with contextlib.suppress(OSError):
        os.rmdir(staging(root))


def problem(folder: str) -> str | None:
    """Reads a whole folder; returns why it is not what was saved, in words that follow its path, or None."""
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            content = json.load(file)
        if content["format"] != _FORMAT:
            return f"its {MANIFEST} has format {content['format']}, which this version does not read"
        listed = {str(name): (int(it["bytes"]), str(it["sha256"])) for name, it in content["files"].items()}
    except FileNotFoundError:
        return f"it has no {MANIFEST}, so it is incomplete or was saved without keepstep"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {MANIFEST} cannot be read: {type(error).__name__}"
    for name, (num_bytes, digest) in sorted(listed.items()):
        path = Path(folder, name)
        try:
            size = path.stat().st_size
            if size != num_bytes:
                return f"`{name}` has {size} bytes and was saved with {num_bytes}"
            if _digest(path) != digest:
                return f"the content of `{name}` has changed since it was saved"
        except FileNotFoundError:
            return f"`{name}` is missing"
        except OSError as error:
            return f"`{name}` cannot be read: {error.strerror}"
    return None


def read_state(folder: str) -> dict[str, Any] | None:
    """Returns the state that `seal` was given, or None for a folder without a manifest."""
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            state = json.load(file)["state"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if isinstance(state, dict) else None


def numbered(root: str, prefix: str) -> list[tuple[int, str]]:
    """Returns the folders ``{prefix}-{number}`` in `root` with their numbers, the highest first."""
    try:
        names = os.listdir(root)
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = [(re.fullmatch(rf"{re.escape(prefix)}-(\d+)", name), os.path.join(root, name)) for name in names]
    return sorted(((int(match[1]), path) for match, path in found if match and os.path.isdir(path)), reverse=True)


def recover(root: str, prefix: str) -> None:
    """Publishes what a crash left sealed in the staging folder and nowhere else, and removes the rest there."""
    made_in = staging(root)
    if not os.path.isdir(made_in) or not os.access(root, os.W_OK):
        return
    for _, path in numbered(made_in, prefix):
        final = os.path.join(root, os.path.basename(path))
        if problem(path) is None and (not os.path.isdir(final) or problem(final) is not None):
            publish(path, final)
    shutil.rmtree(made_in, ignore_errors=True)


def _files(folder: str) -> Iterator[Path]:
    for inside, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(inside, name)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
