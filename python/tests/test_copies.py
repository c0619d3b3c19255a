"""`keepstep.push` and `keepstep.pull` with a stand-in for kagglehub that keeps datasets in a folder. The program's own tests
call the real one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    """Trains a small model for two epochs, without an evaluation."""
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


class Net(torch.nn.Module):
    """A layer that may be frozen, and one that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.second = torch.nn.Linear(3, 1)


def train_net(folder: Path, name: str = "model", **settings: Any) -> dict[str, torch.Tensor]:
    """Trains a module that is tracked as `name`, with evaluations of which the second is the best. Gives its state then."""
    run = keepstep.Run(folder, seed=1, save_steps=2, eval_steps=2, rehearse=False, quiet=True, **settings)
    net, best = Net(), {}
    net.first.requires_grad_(not settings)
    optimizer = torch.optim.SGD([it for it in net.parameters() if it.requires_grad], lr=0.1)
    run.track(**{name: net, "optimizer": optimizer})
    data = torch.utils.data.TensorDataset(torch.arange(24.0).reshape(12, 2) / 24, torch.arange(12.0) / 12)
    for made, (x, y) in enumerate(run.data(data, batch_size=2, epochs=1), 1):
        loss = (net.second(net.norm(net.first(x))).squeeze(1) - y).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        run.record(loss)
        if run.evaluation_due:
            if made == 4:
                best = {key: value.clone() for key, value in net.state_dict().items()}
            run.evaluated(abs(made - 4.0))
    run.finish()
    return best


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], bytes]]:
    """A server that speaks as the hub does. Gives what reads a file of a repository there."""
    server = Path(__file__).parents[2] / "crates/keepstep-cli/tests/it/support/hugging_face/server.py"
    with subprocess.Popen([sys.executable, server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_TOKEN", "hf_TokenOfAnn123456")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("PYTHONPATH", str(Path(keepstep.__file__).parents[1]))

        def read(name: str) -> bytes:
            with urllib.request.urlopen(f"{url}/files/ann/{name}") as answer:
                content: bytes = answer.read()
                return content

        yield read
        process.kill()


def test_the_best_model_of_a_loop_becomes_a_repository(tmp_path: Path, hub: Callable[[str], bytes]) -> None:
    best = train_net(tmp_path / "run")
    answer = keepstep.push(tmp_path / "run", "hf://ann/net", best=True)
    assert answer["kind"] == "a state dict of PyTorch" and answer["global_step"] == 4 and answer["checked"] is True
    path = tmp_path / "model_state_dict.pt"
    path.write_bytes(hub("net/model_state_dict.pt"))
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    Net().load_state_dict(loaded)
    assert list(loaded) == list(best) and all(torch.equal(loaded[key], best[key]) for key in best)
    card = hub("net/README.md").decode()
    assert "library_name: pytorch" in card and "Its val_loss was 0.0000" in card and "strict" not in card
    # Where the frozen weights were never stored, the card says so.
    best = train_net(tmp_path / "lora", frozen="reference")
    answer = keepstep.push(tmp_path / "lora", "hf://ann/lora", best=True)
    assert answer["kind"] == "a state dict of PyTorch without the frozen weights"
    path.write_bytes(hub("lora/model_state_dict.pt"))
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    missing = Net().load_state_dict(loaded, strict=False).missing_keys
    assert missing == ["first.weight", "first.bias"] and torch.equal(loaded["second.weight"], best["second.weight"])
    assert "weights_only=True), strict=False)" in hub("lora/README.md").decode()


def test_what_is_no_model_is_refused_in_a_sentence(tmp_path: Path, hub: Callable[[str], bytes]) -> None:
    train_net(tmp_path / "run", name="generator")
    with pytest.raises(keepstep.Error, match=r"tracks is named `model` \(it has generator, optimizer\).*save_weights") as error:
        keepstep.push(tmp_path / "run", "hf://ann/net", best=True)
    assert str(error.value).count(". ") == 0
    train(tmp_path / "never-evaluated")
    with pytest.raises(keepstep.Error, match=r"has no best_model.pt; it comes with the first evaluation"):
        keepstep.push(tmp_path / "never-evaluated", "hf://ann/net", best=True)
