"""Lightning: stopped anywhere, with workers, in mid-epoch and inside an accumulation window, the end is the same."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning
import pytest
import tiny_lightning
import tiny
import torch
from keepstep import Error, MismatchError, _archives
from keepstep.lightning import DurableCheckpointIO, newest
from lightning.pytorch.callbacks import Callback, EarlyStopping
from sessions import KILLS, SEED, flip, in_child, kill_after, truncate
from tiny_lightning import fit


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tiny_lightning.Module:
    return fit(tmp_path_factory.mktemp("straight"))


def same(left: Any, right: Any) -> bool:
    """True for equal bits; dicts and lists are compared item by item."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(value, right[name]) for name, value in left.items())
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


def end(folder: Path) -> Any:
    """Weights, optimizer, schedule and counters in the file of a run's end."""
    content = torch.load(folder / "end.ckpt", weights_only=False)
    return [content[name] for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")]


# In mid-epoch, inside a window of five, at an epoch's end, in the ragged last window, at the run's end.
@pytest.mark.parametrize("stops", [[3, 5, 7], [11, 12, 13], [20, 23, 24, 30], [36]])
def test_stopped_and_resumed(stops: list[int], straight: tiny_lightning.Module, tmp_path: Path) -> None:
    fit(tmp_path / "one")
    path, means = None, {}
    for at, stop in enumerate(stops):
        means |= fit(tmp_path / "two", stop, path, workers=2 * (at % 2)).means
        path = tmp_path / "two" / f"stopped{stop:02}.ckpt"
    module = fit(tmp_path / "two", None, path, workers=2)
    assert same(end(tmp_path / "two"), end(tmp_path / "one"))
    assert means | module.means == straight.means


@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 5, "accumulate": 2}])
def test_every_checkpoint_leads_to_the_same_end(settings: dict[str, Any], tmp_path: Path) -> None:
    """After a kill nothing of a session but its checkpoints is left: no validation may be missing, or made twice."""
    patience = EarlyStopping("val_loss", patience=3)
    whole = fit(tmp_path, every=1, extra=[patience], **settings)
    checkpoints = sorted(tmp_path.glob("step=*.ckpt"))
    assert len(checkpoints) >= 6
    for path in checkpoints:
        again = fit(tmp_path / "again", None, path, every=1, extra=[EarlyStopping("val_loss", patience=3)], **settings)
        # A session that has nothing left to do does not count its epoch as ended.
        assert same(end(tmp_path / "again")[:4], end(tmp_path)[:4]), path
        assert again.means.items() <= whole.means.items(), path
        saved = torch.load(path, weights_only=False)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"]
        assert again.validations == {at: it for at, it in whole.validations.items() if at > saved}, path


def test_lightning_without_keepstep_opens_the_checkpoints(tmp_path: Path) -> None:
    fit(tmp_path, 13)
    module = fit(tmp_path, None, tmp_path / "stopped13.ckpt", exact=False)
    assert module.trainer.current_epoch == tiny_lightning.EPOCHS
    content = torch.load(tmp_path / "end.ckpt", weights_only=False)
    assert "pytorch-lightning_version" in content and "combined_loader" not in content["loops"]["fit_loop"]["state_dict"]


def flip_data(path: Path) -> None:
    """Flips a bit that counts: much of a small file is padding."""
    random_ = random.Random(SEED)
    while _archives.problem(str(path)) is None:
        flip(path, random_)


def test_damage_is_passed_over(straight: tiny_lightning.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path / "one")
    for number, damage in enumerate([truncate, flip_data, lambda path: path.write_bytes(b"")]):
        folder = tmp_path / str(number)
        fit(folder, 30)
        (folder / "end.ckpt").unlink()
        last = folder / "stopped30.ckpt"
        damage(last)
        caplog.clear()
        if number == 0:  # named, or searched for
            fit(folder, None, last)
        else:
            fit(folder, None, newest(folder))
        assert same(end(folder), end(tmp_path / "one"))
        assert f"Passed over {last}: " in caplog.text and f"goes on from {folder / 'step=6.ckpt'}" in caplog.text
    with pytest.raises(Error, match=r"stopped30.ckpt cannot be loaded: "):
        DurableCheckpointIO().load_checkpoint(tmp_path / "0" / "stopped30.ckpt")  # outside of `fit` nothing else will do
    for path in (tmp_path / "0").glob("*.ckpt"):
        truncate(path)
    with pytest.raises(Error, match="there is no valid checkpoint: "):
        newest(tmp_path / "0")
    assert newest(tmp_path / "nowhere") is None


def test_any_flipped_bit_is_found_or_harmless(tmp_path: Path) -> None:
    fit(tmp_path, 5)
    path = tmp_path / "stopped05.ckpt"
    content, right = path.read_bytes(), torch.load(path, weights_only=False)
    random_ = random.Random(SEED)
    for _ in range(60):
        damaged = bytearray(content)
        damaged[random_.randrange(len(content))] ^= 1 << random_.randrange(8)
        path.write_bytes(damaged)
        if _archives.problem(str(path)) is None:
            loaded = torch.load(path, weights_only=False)
            assert all(same(loaded[name], right[name]) for name in ("state_dict", "optimizer_states"))


def test_last_gives_way_to_a_newer_one(tmp_path: Path, straight: tiny_lightning.Module) -> None:
    """A crash between a checkpoint and ``last.ckpt`` loses nothing."""
    fit(tmp_path, 10, save_last=True)
    older = (tmp_path / "last.ckpt").read_bytes()
    fit(tmp_path, 24, tmp_path / "last.ckpt", save_last=True)
    (tmp_path / "last.ckpt").write_bytes(older)
    (tmp_path / "end.ckpt").unlink()
    starts: list[int] = []

    class Start(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            starts.append(trainer.global_step)

    module = fit(tmp_path, None, tmp_path / "last.ckpt", extra=[Start()])
    assert starts == [6] and same(module.state_dict(), straight.state_dict())


def test_other_batches_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path, 7)
    monkeypatch.setattr(tiny, "SAMPLES", 21)
    with pytest.raises(MismatchError, match="the number of batches per epoch was 12 and is 11 now"):
        fit(tmp_path, None, tmp_path / "stopped07.ckpt")


def test_a_scheduled_stop_and_the_module_are_lightnings_own(tmp_path: Path) -> None:
    fit(tmp_path, 5)
    loaded = torch.load(tmp_path / "stopped05.ckpt", weights_only=False)
    module = tiny_lightning.Module()
    module.load_state_dict(loaded["state_dict"])
    assert isinstance(module, lightning.LightningModule) and loaded["global_step"] == 1


class DyingIO(DurableCheckpointIO):
    """Dies a while after it has begun to save."""

    delay: float | None = None
    number = 0

    def save_checkpoint(self, *given: Any, **named: Any) -> None:
        DyingIO.number -= 1
        if DyingIO.delay is not None and DyingIO.number == 0:
            kill_after(DyingIO.delay)
        super().save_checkpoint(*given, **named)


@pytest.mark.parametrize("kills", KILLS)
def test_killed_inside_saves(kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL at random instants of a save: what is there is valid, and the end is the same."""
    monkeypatch.setattr(tiny_lightning, "DurableCheckpointIO", DyingIO)
    fit(tmp_path / "one")
    random_ = random.Random(SEED)

    def session(folder: Path, delay: float | None) -> None:
        DyingIO.number, DyingIO.delay = random_.randrange(1, 8), delay
        fit(folder, None, newest(folder), every=1, save_last=True)

    done = rounds = 0
    while done < kills:
        rounds += 1
        folder = tmp_path / str(rounds + 1)
        for _ in range(5):
            delay = random_.random() * 0.01
            status = in_child(lambda: session(folder, delay))
            assert status in (-9, 0)
            done += status == -9
            assert all(_archives.problem(str(path)) is None for path in folder.glob("*.ckpt"))
            if status == 0:
                break
        assert in_child(lambda: session(folder, None)) == 0
        assert same(end(folder), end(tmp_path / "one")), f"round {rounds}"
