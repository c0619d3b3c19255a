"""Runs that are copied to a place that outlives the machine. The program's tests have the protocol and the servers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keepstep
import pytest
import torch
from keepstep._session import Session


def train(
    folder: Path,
    stop_after: int | None = None,
    at: Callable[[int], object] = int,
    end: Callable[[keepstep.Run], object] = keepstep.Run.finish,
    **settings: Any,
) -> keepstep.Run:
    """Trains a small regression for three epochs, or so many updates of this session. `at` is called in each."""
    run = keepstep.Run(folder, config={"lr": 0.1}, seed=3, save_steps=2, quiet=True, rehearse=False, **settings)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)
    data = torch.utils.data.TensorDataset(torch.arange(36.0).reshape(12, 3) / 36, torch.arange(12.0) / 12)
    for made, (inputs, targets) in enumerate(run.data(data, batch_size=2, epochs=3), 1):
        optimizer.zero_grad()
        loss = (model(inputs).squeeze(1) - targets).pow(2).mean()
        loss.backward()
        optimizer.step()
        run.record(loss)
        at(made)
        if made == stop_after:
            break
    end(run)
    return run


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.pt")}


def test_a_proof_leaves_the_remote_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    wish = {"folder": str(tmp_path / "proof"), "updates": 4, "save_steps": 1}
    monkeypatch.setenv("KEEPSTEP_PROVE", json.dumps(wish))
    train(tmp_path / "run", remote=f"file://{tmp_path}/store/run")
    assert list(tmp_path.glob("proof/run*/*.pt")) and not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize("limit", [float("inf"), 1e30])
def test_a_limit_beyond_all_clocks_is_none(tmp_path: Path, limit: float) -> None:
    (tmp_path / "store").mkdir()
    train(tmp_path / "run", remote=f"file://{tmp_path}/store/run", session_time_limit=limit)
    assert json.loads((tmp_path / "run/status.json").read_text())["state"] == "finished"


def test_an_empty_disk_continues_from_the_copy(tmp_path: Path) -> None:
    train(tmp_path / "straight")
    (tmp_path / "store").mkdir()
    url = f"file://{tmp_path}/store/run"
    environments: list[str] = []
    for stop_after in (5, 6, None):
        train(tmp_path / "run", stop_after, remote={"url": url, "max_lag": 0})
        status = json.loads((tmp_path / "run/status.json").read_text())
        assert status["remote"]["error"] is None and status["remote"]["url"] == url
        last = files(tmp_path / "run")
        environments.append((tmp_path / "run/environment.json").read_text())
        shutil.rmtree(tmp_path / "run")
    # The first session's environment, which later ones are compared with, comes back too.
    assert any("environment" in path.name for path in (tmp_path / "store/run").iterdir())
    assert len(set(environments)) == 1
    straight = files(tmp_path / "straight")
    newest = "checkpoint_epoch3_final_global18.pt"
    assert last[newest] == straight[newest]
    # Another run continues from the copy, which is only read.
    before = sorted(path.name for path in (tmp_path / "store/run").iterdir())
    train(tmp_path / "other", resume_from_checkpoint=url)
    assert files(tmp_path / "other")[newest] == straight[newest]
    assert sorted(path.name for path in (tmp_path / "store/run").iterdir()) == before


def test_what_is_not_pushed_is_never_lost_silently(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store, url = tmp_path / "store/run", f"file://{tmp_path}/store/run"
    store.parent.mkdir()

    def break_off(update: int) -> None:
        """Before the last save the place is gone: a file is where its folder was."""
        if update == 18:
            shutil.move(store, tmp_path / "lost")
            store.write_text("no folder")

    # The run is complete, and its copy is not: the last sentence says so, even if all else is quiet, and a script ends
    # with 1, as the program does.
    runs: list[keepstep.Run] = []
    with pytest.raises(SystemExit) as ended:
        train(tmp_path / "run", at=break_off, end=lambda run: (runs.append(run), run.exit()), remote=url)
    reason, last = runs[0].not_pushed, capfd.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 1 and reason is not None
    assert last.startswith(f"NOT ALL OF THE RUN IS PUSHED: {reason}; to push the rest: keepstep.push("), last
    assert json.loads((tmp_path / "run/status.json").read_text())["remote"]["error"]
    newest = "checkpoint_epoch3_final_global18.pt"
    assert newest in files(tmp_path / "run")
    # The next session pushes the rest.
    store.unlink()
    shutil.move(tmp_path / "lost", store)
    with pytest.raises(SystemExit) as ended:
        train(tmp_path / "run", end=keepstep.Run.exit, remote=url)
    assert ended.value.code == 0 and "NOT ALL" not in capfd.readouterr().err
    keepstep.pull(url, tmp_path / "pulled")
    assert files(tmp_path / "pulled")[newest] == files(tmp_path / "run")[newest]


def test_an_incomplete_copy_is_an_exception_if_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    end_session = Session._end_session

    def end_and_fail(session: Session) -> None:
        """Ends the session as if its last copy had failed, which takes many seconds."""
        end_session(session)
        session.pushes.not_pushed = "the store is gone"

    monkeypatch.setattr(Session, "_end_session", end_and_fail)

    def remote(name: str, **settings: Any) -> dict[str, Any]:
        return {"remote": {"url": f"file://{tmp_path}/store/{name}", **settings}}

    with pytest.raises(keepstep.Error, match="is complete and not all of it is pushed: the store is gone; .*push"):
        train(tmp_path / "a", **remote("a", on_error="stop"))
    assert train(tmp_path / "b", **remote("b")).not_pushed == "the store is gone"
    # A session that stopped early continues from its folder.
    assert train(tmp_path / "c", 5, **remote("c", on_error="stop")).not_pushed == "the store is gone"
    for name, stop_after, code in (("d", 5, 75), ("e", None, 1)):
        with pytest.raises(SystemExit) as ended:
            train(tmp_path / name, stop_after, end=keepstep.Run.exit, **remote(name))
        assert ended.value.code == code


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    wrong: list[tuple[Any, str]] = [
        ("runs/x", "must be a URL"),
        ({"url": "s3://b/x", "bucket": 1}, "unknown key 'bucket'"),
        ({"url": "s3://b/x", "max_lag": "1"}, "must be a int"),
        ({"url": "s3://b/x", "on_error": "maybe"}, "'continue' or 'stop'"),
    ]
    for remote, words in wrong:
        with pytest.raises(keepstep.UsageError, match=words):
            keepstep.Run(tmp_path / "run", remote=remote)
    with pytest.raises(keepstep.Error, match="is it mounted"):
        train(tmp_path / "run", remote="file:///nowhere/at/all")
