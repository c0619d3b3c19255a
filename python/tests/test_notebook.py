"""The example notebook in a real Jupyter kernel: run, interrupted, run again, killed, continued from a read-only copy."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

NOTEBOOK = Path(__file__).parents[2] / "examples" / "kaggle.ipynb"


def execute(folder: Path, source: Path | None = None, disturb: Callable[[Any], Any] | None = None, after: int = 0) -> str:
    """Runs the notebook in `folder`; once update `after` is saved, `disturb(kernel manager)`. Returns what it printed."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if source is not None:
        edited = 0
        for cell in notebook.cells:
            before = cell.source
            cell.source = before.replace('"resume_from_checkpoint": None', f'"resume_from_checkpoint": {str(source)!r}')
            edited += before != cell.source
        assert edited == 1, "one line is edited between sessions"
    folder.mkdir(exist_ok=True)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})

    async def run() -> None:
        task = asyncio.ensure_future(client.async_execute())
        deadline = time.monotonic() + 120
        while disturb is not None and not task.done():
            assert time.monotonic() < deadline, "no checkpoint came"
            await asyncio.sleep(0.05)
            steps = [int(path.stem.rsplit("global", 1)[1]) for path in (folder / "run").glob("checkpoint_*.pt")]
            if max(steps, default=0) >= after:
                result = disturb(client.km)
                if asyncio.iscoroutine(result):
                    await result
                break
        await task

    try:
        asyncio.run(run())
    finally:
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def final(folder: Path) -> str:
    paths = list((folder / "run").glob("checkpoint_epoch2_final_*.pt"))
    assert len(paths) == 1
    return hashlib.sha256(paths[0].read_bytes()).hexdigest()


def test_the_notebook(tmp_path: Path) -> None:
    printed = execute(tmp_path / "straight")
    assert "order of samples" in printed and "def " in printed

    working = tmp_path / "working"
    with pytest.raises(CellExecutionError, match="KeyboardInterrupt"):
        execute(working, disturb=lambda manager: manager.interrupt_kernel(), after=10)
    status = json.loads((working / "run" / "status.json").read_text())
    assert status["state"] == "stopped" and 10 <= status["global_step"] < status["total_steps"]
    assert (working / "run" / status["checkpoint"]).exists()

    with pytest.raises((DeadKernelError, RuntimeError)):
        execute(working, disturb=lambda manager: manager.shutdown_kernel(now=True), after=status["global_step"] + 10)

    inputs = tmp_path / "input" / "earlier-session"
    shutil.copytree(working / "run", inputs)
    for path in [*inputs.rglob("*"), inputs]:
        path.chmod(path.stat().st_mode & 0o555)
    printed = execute(tmp_path / "next", source=tmp_path / "input")
    assert "WILL RESUME FROM" in printed and str(inputs) in printed
    assert final(tmp_path / "next") == final(tmp_path / "straight")
