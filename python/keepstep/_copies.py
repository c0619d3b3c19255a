"""Copies of a run outside this machine: what the program's ``push`` and ``pull`` do, for a notebook's last cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from ._errors import Error

__all__ = ["pull", "push"]


def push(run: Any, url: str, *, best: bool = False, take_over: bool = False) -> dict[str, Any]:
    """Copies a run to a place that outlives this machine.

    The newest valid checkpoint, the best one, the journal and the tokenizer are verified and copied. Kaggle and Hugging
    Face are called through `kagglehub` and `huggingface_hub`, which must be installed.

    Args:
        run: A `Run`, or its folder.
        url: For example ``"kaggle://datasets/YOU/gpt-run"``, ``"s3://bucket/run"``, or with ``best=True``
            ``"hf://YOU/NAME"`` (a model repository).
        best: Copies the best checkpoint alone.
        take_over: Replaces another run there.

    Returns:
        What was copied, with the position.

    Raises:
        Error: It could not be copied, in one sentence.
    """
    folder = getattr(run, "output_dir", run)
    flags = [flag for flag, given in (("--best", best), ("--take-over", take_over)) if given]
    return _call("push", os.fspath(folder), url, *flags)


def pull(url: str, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Copies a run from such a place into a folder. Everything is verified first; a folder of another run is refused.

    Args:
        url: Where the run was pushed to, or ``"kaggle://notebooks/YOU/SLUG"`` for the output of a notebook.
        folder: The folder to write to: the next `Run` continues there.

    Returns:
        What was copied, with the position.

    Raises:
        Error: It could not be copied, in one sentence. The folder is unchanged.
    """
    return _call("pull", url, os.fspath(folder))


def _call(*words: str) -> dict[str, Any]:
    """Runs the program. Its messages appear below the cell; its answer is returned."""
    command = [sys.executable, "-m", "keepstep", *words, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stdout is not None
        last = ""
        for line in process.stderr:
            if line.startswith("keepstep: "):
                last = line.removeprefix("keepstep: ").strip()
            else:
                print(line, end="", file=sys.stderr)
        answer = process.stdout.read()
    if process.returncode != 0:
        raise Error(last or f"`keepstep {words[0]}` ended with status {process.returncode}")
    result: dict[str, Any] = json.loads(answer)
    return result
