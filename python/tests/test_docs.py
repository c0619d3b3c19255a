"""The Python blocks of docs/pytorch.md about the package run as they are."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "pytorch.md"


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.S | re.M)
    assert len(blocks) == 2
    loop, callbacks = blocks
    monkeypatch.chdir(tmp_path)
    logged: list[Any] = []
    wandb = types.ModuleType("wandb")
    wandb.log = lambda values, step: logged.append((step, values))  # type: ignore[attr-defined]
    wandb.init = lambda **options: logged.append(options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    xs = torch.randn(32, 2)
    names: dict[str, Any] = {
        "torch": torch,
        "wandb": wandb,
        "CONFIG": {"width": 4},
        "train_set": torch.utils.data.TensorDataset(xs, xs.sum(1, keepdim=True)),
        "build_model": lambda config: torch.nn.Linear(2, 1),
        "loss_of": torch.nn.functional.mse_loss,
        "validate": lambda model: model(xs).square().mean().item(),
    }
    head, body = loop.split("for x, y in data:")
    exec(f"{head}run.resume()\n{callbacks}\nfor x, y in data:{body}", names)
    assert names["complete"]
    assert [each["id"] for each in logged[:1]] == [names["run"].id]
    assert [step for step, _ in logged[1:]] == list(range(1, 9))
