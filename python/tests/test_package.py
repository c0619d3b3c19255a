"""The package itself: imports, stubs, types, the program that the wheel carries."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keepstep

PACKAGE = Path(keepstep.__file__).parent
FOLDER = PACKAGE.parent


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, **environment}
    )


def test_importing_does_not_import_torch() -> None:
    code = "import sys, keepstep; assert 'torch' not in sys.modules and 'tqdm' not in sys.modules; print(keepstep.__version__)"
    assert run("-c", code).stdout.strip() == keepstep.__version__


def test_without_torch_the_error_names_it() -> None:
    code = "import sys; sys.modules['torch'] = None; import keepstep; keepstep.EarlyStopping(2); keepstep.Run"
    result = run("-c", code)
    assert result.returncode == 1 and result.stderr.strip().endswith("pip install torch"), result.stderr


def test_every_public_name_is_there() -> None:
    assert all(hasattr(keepstep, name) for name in keepstep.__all__)
    assert (PACKAGE / "py.typed").exists() and (PACKAGE / "_core.pyi").exists()


def test_the_program(tmp_path: Path) -> None:
    result = run("-m", "keepstep", "--version")
    assert result.returncode == 0 and keepstep.__version__ in result.stdout
    assert run("-m", "keepstep", "list", str(tmp_path / "nothing")).returncode != 0
    assert run("-m", "keepstep", "no-such-command").returncode == 2


def test_stubs_match_the_core() -> None:
    result = run("-m", "mypy.stubtest", "keepstep._core", "--ignore-missing-stub", "--concise")
    assert result.returncode == 0, result.stdout + result.stderr


def test_types() -> None:
    result = run("-m", "pyright", "--pythonpath", sys.executable, str(PACKAGE))
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
