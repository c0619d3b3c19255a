"""``keepstep prove script.py`` tells a script that resumes exactly from one that does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import keepstep
import pytest

SCRIPT = Path(__file__).parent / "proved_script.py"


def prove(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "keepstep", "prove", str(SCRIPT), "--updates", "12", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_script_that_resumes_exactly() -> None:
    result = prove("--kills", "2")
    assert result.returncode == 0, result
    assert result.stdout.startswith("PROVED: 12 updates, 12 checkpoints, 2 SIGKILLs, "), result.stdout


def test_a_script_that_forgets() -> None:
    result = prove("--kills", "1", "--", "forget")
    assert result.returncode == 1, result
    assert result.stdout.startswith("NOT THE SAME: 12 updates")
    folder = Path(result.stdout.split("kept in ")[1].split(":")[0])
    assert (folder / "straight").is_dir()
    subprocess.run(["rm", "-rf", str(folder)], check=True)


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
