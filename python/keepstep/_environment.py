"""What the bits depend on next to the run's own inputs: versions, devices, flags. And what is promised here."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Environment", "Exactness"]

FILE = "environment.json"


class Environment:
    """The environment of this session, and how it differs from the last one's."""

    def facts(self) -> dict[str, Any]:
        """Returns what can change bits. Starts no device."""
        facts: dict[str, Any] = {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "cpu capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        }
        if torch.cuda.is_available():
            facts["GPU"] = torch.cuda.get_device_name()
            facts["CUDA"] = torch.version.cuda or torch.version.hip
            facts["cuDNN"] = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
            facts["cudnn.benchmark"] = torch.backends.cudnn.benchmark
            facts["CUBLAS_WORKSPACE_CONFIG"] = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
            facts["TF32"] = torch.backends.cuda.matmul.allow_tf32
        return facts

    def compare(self, folder: str, checkpoint: str | None, say: Callable[[str], None]) -> None:
        """Reports what differs from the session that the run continues from, and notes this one's facts in `folder`.

        Those of the earlier session lie next to its checkpoint, which may be in another folder than this run's.
        """
        facts = self.facts()
        before = None if checkpoint is None else _read(os.path.dirname(checkpoint))
        if before is None:
            before = _read(folder)
        if isinstance(before, dict):
            names = [name for name in {**before, **facts} if before.get(name) != facts.get(name)]
            if names:
                list_ = ", ".join(f"{name} is {facts.get(name)} and was {before.get(name)}" for name in names)
                say(f"The environment has changed: {list_}. Order and counters go on exactly; bits may differ from here")
        path, temporary = os.path.join(folder, FILE), os.path.join(folder, f".{FILE}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(facts, file, indent=1)
                file.write("\n")
            os.replace(temporary, path)
        except OSError:
            pass


def _read(folder: str) -> Any:
    try:
        with open(os.path.join(folder, FILE), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


class Exactness:
    """What is promised for a run in this environment: a table that prints itself."""

    def __init__(self, rows: list[tuple[str, str, str]]) -> None:
        self.rows = rows
        """Triples of what is meant, what is promised, and on which condition."""

    def __str__(self) -> str:
        widths = [max(len(row[at]) for row in self.rows) for at in range(2)]
        return "\n".join(f"{what:<{widths[0]}}  {promise:<{widths[1]}}  {why}".rstrip() for what, promise, why in self.rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        return f"<table>{rows}</table>"


def exactness(uses_cuda: bool, order: tuple[str, str]) -> Exactness:
    """Returns the table for this environment; `order` is what is promised for the data, and on which condition."""
    rows = [("order of samples", *order), ("counters, schedule", "exact", "stored in the checkpoint")]
    if not uses_cuda:
        capability = torch.backends.cpu.get_cpu_capability()
        rows.append(("random draws", "exact", "keyed by the position"))
        rows.append(("bits", "exact", f"on a CPU with {capability} and {torch.get_num_threads()} threads of torch"))
        return Exactness(rows)
    rows.append(("random draws", "exact", f"on {torch.cuda.get_device_name()}"))
    missing = []
    if not torch.are_deterministic_algorithms_enabled():
        missing.append("torch.use_deterministic_algorithms(True)")
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        missing.append("CUBLAS_WORKSPACE_CONFIG=:4096:8, set before CUDA starts")
    if torch.backends.cudnn.benchmark:
        missing.append("torch.backends.cudnn.benchmark = False")
    if missing:
        rows.append(("bits", "not promised", "they need " + "; ".join(missing)))
    else:
        rows.append(("bits", "exact", "on the same GPU model, driver and versions"))
    return Exactness(rows)
