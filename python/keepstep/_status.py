"""``status.json`` in the run's folder: what other programs read. It is written whole."""

from __future__ import annotations

import json
import os

__all__ = ["write_status"]


def write_status(
    folder: str, state: str, position: tuple[int, int, int], reason: str | None, last_saved: str | None
) -> None:
    """Writes the state ("running", "stopped" or "finished"), the position and why the run stopped.

    A status that cannot be written ends no run.
    """
    epoch, step, global_step = position
    status = {
        "state": state,
        "epoch": epoch,
        "step": step,
        "global_step": global_step,
        "reason": reason,
        "last_checkpoint": os.path.basename(last_saved) if last_saved else None,
    }
    path = os.path.join(folder, "status.json")
    temporary = os.path.join(folder, ".status.json.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(status, file, indent=1)
            file.write("\n")
        os.replace(temporary, path)
    except OSError:
        pass
