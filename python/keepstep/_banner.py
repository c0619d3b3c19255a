"""What is printed when a run is opened, in the words of the guide's notebook."""

from __future__ import annotations

from typing import Any

__all__ = ["banner"]


def banner(
    path: str, names: list[str], position: tuple[int, int, int], metrics: dict[str, Any], steps_per_epoch: int, complete: bool
) -> str:
    """Returns the lines that say what was loaded and where the run goes on."""
    epoch, step, global_step = position
    lines = [f"Loading checkpoint: {path}"]
    lines += [f"✓ {name[:1].upper()}{name[1:].replace('_', ' ')} state loaded" for name in names]
    lines += [
        "✓ Checkpoint loaded successfully",
        f"  Epoch: {epoch}",
        f"  Step in epoch: {step}",
        f"  Global step: {global_step}",
        f"  Train loss: {_number(metrics['train_loss'])}",
        f"  Val loss: {_number(metrics['val_loss'])}",
    ]
    if complete:
        return "\n".join([*lines, "✓ The run is complete: nothing is left to do"])
    if step == steps_per_epoch:
        epoch, step = epoch + 1, 0
    lines += ["⚡ WILL RESUME FROM:", f"  Epoch: {epoch}", f"  Step in epoch: {step}", f"  Global step: {global_step}"]
    if step:
        lines.append(f"  (first {step} steps of epoch {epoch} already done)")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "none yet" if value is None else f"{value:.4f}"
