"""`keepstep.push` and `keepstep.pull` with a stand-in for kagglehub that keeps datasets in a folder. The program's own tests
call the real one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import keepstep
import pytest
import torch

STAND_IN = '''
import os, pathlib, shutil

ROOT = pathlib.Path(os.environ["STAND_IN_DATASETS"])


class Missing(Exception):
    class response:
        status_code, url = 403, "GetDataset"


def dataset_upload(handle, folder, version_notes=""):
    target = ROOT / handle
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)


def dataset_download(handle, path=None, output_dir=None):
    if not (ROOT / handle).is_dir():
        raise Missing("403 Client Error: " + os.environ["KAGGLE_KEY"])
    if path is not None:
        return str(ROOT / handle / path)
    shutil.copytree(ROOT / handle, output_dir, dirs_exist_ok=True)
    return output_dir
'''


def train(folder: Path, seed: int = 1) -> keepstep.Run:
    run = keepstep.Run(folder, config={"width": 4}, seed=seed, save_steps=1, rehearse=False, progress_bar=False)
    data = run.data(torch.arange(12.0), batch_size=2, epochs=2)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    run.track(model=model, optimizer=optimizer)
    for x in data:
        loss = model(x[:, None]).square().mean()
        loss.backward()
        run.record(loss)
        optimizer.step()
        optimizer.zero_grad()
    run.finish()
    return run


def newest(folder: Path) -> str:
    path = max(folder.glob("checkpoint_*.pt"), key=lambda path: int(path.stem.rsplit("global", 1)[1]))
    return path.name + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "packages" / "kagglehub"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    (package / "config.py").write_text("def get_kaggle_credentials():\n    return object()\n")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{Path(keepstep.__file__).parents[1]}")
    monkeypatch.setenv("STAND_IN_DATASETS", str(tmp_path / "datasets"))
    monkeypatch.setenv("KAGGLE_KEY", "a-secret-key")
    return tmp_path


def test_a_run_goes_out_and_comes_back(kaggle: Path) -> None:
    url = "kaggle://datasets/ann/run"
    run = train(kaggle / "run")
    answer = keepstep.push(run, url)
    assert answer["global_step"] == 12 and answer["checked"] is False
    answer = keepstep.pull(url, kaggle / "fresh")
    assert answer["changed"] is True and answer["run"] == run.id
    assert newest(kaggle / "fresh") == newest(kaggle / "run")
    assert keepstep.pull(url, kaggle / "fresh")["changed"] is False
    train(kaggle / "other", seed=2)
    with pytest.raises(keepstep.Error, match="choose another name, or add --take-over"):
        keepstep.push(kaggle / "other", url)
    keepstep.push(kaggle / "other", url, take_over=True)
    with pytest.raises(keepstep.Error, match="choose another folder"):
        keepstep.pull(url, kaggle / "run")


def test_failures_are_errors_without_secrets(kaggle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(kaggle / "run")
    with pytest.raises(keepstep.Error, match="access was denied \\(403\\)") as caught:
        keepstep.pull("kaggle://datasets/ann/missing", kaggle / "fresh")
    assert "a-secret-key" not in str(caught.value) and not (kaggle / "fresh").exists()
    with pytest.raises(keepstep.Error, match="expected kaggle://datasets/OWNER/SLUG"):
        keepstep.push(kaggle / "run", "kaggle://models/ann/run")
    with pytest.raises(keepstep.Error, match="add --best"):
        keepstep.push(kaggle / "run", "hf://ann/run")
    (kaggle / "packages" / "kagglehub" / "__init__.py").unlink()
    (kaggle / "packages" / "kagglehub" / "__init__.py").write_text("raise ImportError('none', name='kagglehub')")
    with pytest.raises(keepstep.Error, match="-m pip install kagglehub"):
        keepstep.push(kaggle / "run", "kaggle://datasets/ann/run")
