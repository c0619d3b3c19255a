"""ckpt-chaos crashes a run at file events of its saves: with keepstep every point passes."""

from __future__ import annotations

from pathlib import Path

import chaos
import pytest
import torch

LIMITS = [3, pytest.param(None, marks=pytest.mark.soak, id="all")]


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", ["Trainer with keepstep", "Lightning with keepstep"])
def test_every_crash_point_passes(name: str, limit: int | None, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    crashes = chaos.Crashes(chaos.TOOLS[name], tmp_path / "runs")
    verdicts = {point: crashes.verdict(*point) for point in crashes.points(limit)}
    print(f"{name}: {len(verdicts)} crash points, {len(crashes.events)} file events")
    assert set(verdicts.values()) == {"PASS"}, {point: it for point, it in verdicts.items() if it != "PASS"}


def test_without_keepstep_a_crash_stops_the_run(tmp_path: Path) -> None:
    """Why: Trainer takes the newest folder, complete or not. The last event of a save is behind its folder's creation."""
    torch.set_num_threads(1)
    crashes = chaos.Crashes(chaos.TOOLS["Trainer"], tmp_path / "runs")
    [first, *_] = [int(number) for number, kind, name, _ in crashes.events if name == "optimizer.pt"]
    assert crashes.verdict(first, "before") == "HARD_FAIL"
