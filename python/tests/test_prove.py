"""``keepstep prove script.py`` tells a script that resumes exactly from one that does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import keepstep
import pytest
from keepstep import _prove
from keepstep._core import KillPlan

SCRIPT = Path(__file__).parent / "proved_script.py"


def prove(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "keepstep", "prove", str(SCRIPT), "--updates", "12", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_script_that_resumes_exactly() -> None:
    result = prove("--kills", "2")
    assert result.returncode == 0, result
    assert re.match(r"PROVED: 12 updates, 12 checkpoints, \d+ SIGKILLs, ", result.stdout), result.stdout


def test_a_script_that_forgets() -> None:
    result = prove("--kills", "1", "--", "forget")
    assert result.returncode == 1, result
    assert result.stdout.startswith("NOT THE SAME: 12 updates")
    folder = Path(result.stdout.split("kept in ")[1].split(":")[0])
    assert (folder / "straight").is_dir()
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_kills_go_on_until_one_proves_something(monkeypatch: pytest.MonkeyPatch) -> None:
    class EarlyPlan:
        """A plan whose first session is killed before its first save."""

        def __init__(self, *arguments: Any) -> None:
            self.plan = KillPlan(*arguments)

        def next_instant(self) -> float:
            return 0.0 if self.plan.num_kills == 0 else self.plan.next_instant()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.plan, name)

    monkeypatch.setattr(_prove, "KillPlan", EarlyPlan)
    proof = keepstep.prove(SCRIPT, updates=6, kills=1)
    assert proof and proof.kills > 1 and proof.kills_after_a_save == 1 and proof.resumes >= 1, proof


def test_a_script_that_differs_without_a_kill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def file(folder: Path) -> None:
        (folder / "run1").mkdir(parents=True)
        (folder / "run1/checkpoint_epoch1_step4_global2.pt").write_text(folder.name)

    def straight(_: Any, folder: Path) -> float:
        file(folder)
        (folder / "run1/journal.jsonl").write_text('{"event": "update", "global_step": 2}\n')
        return 1.0

    def killed(_: Any, folder: Path, *__: Any) -> None:
        file(folder)  # its session ends before its kill

    monkeypatch.setattr(_prove.tempfile, "mkdtemp", lambda **_: str(tmp_path))
    monkeypatch.setattr(_prove._Proving, "straight", straight)  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(_prove._Proving, "killed", killed)  # pyright: ignore[reportPrivateUsage]
    proof = keepstep.prove(SCRIPT, updates=2, kills=1)
    assert not proof and proof.kills == 0 and proof.different == ["killed0/run1/checkpoint_epoch1_step4_global2.pt"]


def test_kills_before_every_save_prove_nothing() -> None:
    proof = _prove.Proof(12, 12, kills=21)
    assert not proof
    assert str(proof).startswith("NOTHING IS PROVED: 12 updates") and "use more updates" in str(proof)
    assert "the run is too short" in str(_prove.Proof(1, 1, kills=1))
    assert _prove.Proof(12, 12, kills=2, kills_after_a_save=1)
    assert not _prove.Proof(12, 12, kills=2, kills_after_a_save=1, different=["killed0/run1/x.pt"])


def test_what_was_saved_before_a_kill(tmp_path: Path) -> None:
    def saved(*names: str) -> int | None:
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        return _prove._saved(tmp_path, 12)  # pyright: ignore[reportPrivateUsage]

    assert saved() is None
    assert saved("run1/.checkpoint_epoch1_step4_global2.pt.tmp", "run1/best_model.pt", "run1/journal.jsonl") is None
    assert saved("run1/checkpoint_epoch1_step4_global2.pt", "run1/checkpoint_epoch1_step20_global10.pt") == 10
    assert saved("run1/checkpoint_epoch1_final_global12.pt") == 12
    assert saved("run2/checkpoint_epoch1_step2_global1.pt") == 1


def test_what_cannot_be_proved(tmp_path: Path) -> None:
    with pytest.raises(keepstep.UsageError, match="is not a file"):
        keepstep.prove(tmp_path / "missing.py")
    script = tmp_path / "script.py"
    script.write_text("print('no run here')")
    with pytest.raises(keepstep.UsageError, match="made no update"):
        keepstep.prove(script)
    script.write_text("raise SystemExit('some trouble')")
    with pytest.raises(keepstep.UsageError, match="ended with status 1:\nsome trouble"):
        keepstep.prove(script)
