"""Hugging Face's Trainer and trl's SFTTrainer: stopped anywhere, the end is the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import tiny_trainer
import torch
import transformers
from keepstep import Error, MismatchError
from keepstep._sealed import problem, staging
from keepstep.transformers import ExactTrainer, ExactTrainerMixin
from sessions import KILLS, SEED, digests, flip, in_child, kill_after, truncate

UPDATES = 9
TIMES = ("_runtime", "_per_second")


@pytest.fixture(autouse=True)
def quiet() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()


def newest(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def end(folder: Path) -> tuple[str, list[str], Any, Any]:
    """What a run ended in: its last checkpoint's bytes, the log history without times, and the best."""
    last = newest(folder)
    state = json.loads((last / "trainer_state.json").read_text())
    log = [{name: it for name, it in entry.items() if not name.endswith(TIMES)} for entry in state["log_history"]]
    return last.name, digests(last, "model.safetensors", "optimizer.pt", "scheduler.pt"), log, state["best_metric"]


def train(folder: Path, stop_at: int | None = None, resume: Any = "auto", **settings: Any) -> Any:
    return tiny_trainer.trainer(folder, stop_at, **settings).train(resume_from_checkpoint=resume)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An uninterrupted run without workers, and what it returned."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, train(folder)


@pytest.mark.parametrize("stops", [[1, 2, 4], [3, 5, 5], [6, 7, 8], [UPDATES]])
def test_stopped_and_resumed(stops: list[int], straight: tuple[Path, Any], tmp_path: Path) -> None:
    folder, whole = straight
    for at, stop in enumerate(stops):
        train(tmp_path, stop, workers=2 * (at % 2))
    output = train(tmp_path, workers=2)
    assert end(tmp_path) == end(folder)
    assert output.training_loss == whole.training_loss and output.global_step == UPDATES


def test_trainer_without_keepstep_opens_the_checkpoints(tmp_path: Path) -> None:
    train(tmp_path, 4)
    output = tiny_trainer.trainer(tmp_path, base=transformers.Trainer).train(resume_from_checkpoint=True)
    assert output.global_step == UPDATES


def test_a_resume_loads_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, 5)
    seen: list[int] = []
    monkeypatch.setattr(tiny.Noisy, "__getitem__", note(seen, tiny.Noisy.__getitem__))
    trainer = tiny_trainer.trainer(tmp_path, eval_strategy="no")
    trainer.get_train_dataloader().identity()  # looks at six samples, twice
    seen.clear()
    monkeypatch.setattr(type(trainer.get_train_dataloader()), "identity", lambda self: {})
    trainer.train(resume_from_checkpoint=True)
    # Update 5 ends after micro-batch 10 of 12 in epoch 2: three samples are left of it.
    assert len(seen) == 3 + tiny.SAMPLES


def note(seen: list[int], original: Any) -> Any:
    def getitem(self: Any, index: int) -> Any:
        seen.append(index)
        return original(self, index)

    return getitem


@pytest.mark.parametrize(
    ("how", "asked"),
    [("truncated", "path"), ("flipped", "copy"), ("missing file", True), ("no manifest", True), ("damaged manifest", True)],
)
def test_damage_is_passed_over(
    how: str, asked: Any, straight: tuple[Path, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, 6)
    last = tmp_path / "checkpoint-6"
    expected = {
        "truncated": "`model.safetensors` has",
        "flipped": "the content of `optimizer.pt` has changed",
        "missing file": "`scheduler.pt` is missing",
        "no manifest": "it has no keepstep.json",
        "damaged manifest": "its keepstep.json cannot be read",
    }[how]
    if how == "truncated":
        truncate(last / "model.safetensors")
    elif how == "flipped":
        flip(last / "optimizer.pt", random.Random(1))
    elif how == "missing file":
        (last / "scheduler.pt").unlink()
    elif how == "no manifest":
        (last / "keepstep.json").unlink()
    else:
        truncate(last / "keepstep.json")
    resume = {True: True, "path": str(last), "copy": str(tmp_path)}[asked]
    goes_to = tmp_path / "other" if asked == "copy" else tmp_path
    train(goes_to, resume=resume)
    assert end(goes_to)[:3] == end(straight[0])[:3]
    assert f"Passed over {last}: {expected}" in caplog.text and f"from {tmp_path / 'checkpoint-4'}" in caplog.text


def test_nothing_valid_is_an_error_and_not_a_start(tmp_path: Path) -> None:
    train(tmp_path, 2)
    truncate(tmp_path / "checkpoint-2" / "trainer_state.json")
    before = sorted(tmp_path.rglob("*"))
    for wanted in ("auto", True, str(tmp_path / "checkpoint-2")):
        with pytest.raises(Error, match=r"no checkpoint to resume from: .*checkpoint-2: `trainer_state.json` has"):
            train(tmp_path, resume=wanted)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(Error, match="there is no such folder"):
        train(tmp_path, resume=str(tmp_path / "checkpoint-7"))
    with pytest.raises(ValueError, match="No checkpoint found"):
        train(tmp_path / "empty", resume=True)


def test_other_batches_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, 2)
    with pytest.raises(MismatchError, match="the seed of the order was 7 and is 8 now"):
        train(tmp_path, data_seed=8)
    monkeypatch.setattr(tiny, "SAMPLES", 21)
    with pytest.raises(MismatchError, match="was 12 and is 11 now"):
        train(tmp_path)
    assert train(tmp_path, ignore_data_skip=True).global_step > 2


def test_rotation_and_the_best(straight: tuple[Path, Any], tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit": 2, "save_steps": 1, "eval_steps": 1, "logging_steps": 1}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
    names = []
    for folder, stops in ((tmp_path / "one", []), (tmp_path / "two", [2, 6])):
        for stop in stops:
            train(folder, stop, **options)
        trainer = tiny_trainer.trainer(folder, workers=2, **options)
        trainer.train(resume_from_checkpoint="auto")
        state = json.loads((newest(folder) / "trainer_state.json").read_text())
        best = Path(state["best_model_checkpoint"])
        weights = safetensors.torch.load_file(best / "model.safetensors")
        assert all(torch.equal(it, weights[name]) for name, it in trainer.model.state_dict().items())
        names.append((sorted(path.name for path in folder.glob("checkpoint-*")), best.name, end(folder)))
    assert names[0] == names[1] and len(names[0][0]) <= 2
    flip(tmp_path / "two" / names[0][1] / "model.safetensors", random.Random(2))
    if names[0][1] != f"checkpoint-{UPDATES}":
        with pytest.raises(Error, match="the best model cannot be loaded"):
            train(tmp_path / "two", **options)


def test_early_stopping_goes_on_and_stays(tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_steps": 1, "eval_steps": 1}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    ends = []
    for folder, stops in ((tmp_path / "one", []), (tmp_path / "two", [1, 2])):
        for stop in [*stops, None, None]:
            patience = transformers.EarlyStoppingCallback(2, early_stopping_threshold=10.0)
            train(folder, stop, callbacks=[patience], **options)
        ends.append(end(folder))
    # The first is the best by far: patience ends at the third, and a session after that adds nothing.
    assert ends[0] == ends[1] and ends[0][0] == "checkpoint-3"


class SaveInside(transformers.TrainerCallback):
    """Saves inside a window, as Trainer does on a signal, and dies."""

    trainer: Any = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 4:
            self.trainer._save_checkpoint(self.trainer.model, None)
            os._exit(3)


def test_saved_inside_a_window(straight: tuple[Path, Any], tmp_path: Path) -> None:
    def session() -> None:
        callback = SaveInside()
        callback.trainer = tiny_trainer.trainer(tmp_path, callbacks=[callback], logging_steps=3)
        callback.trainer.train()

    assert in_child(session) == 3
    whole = train(tmp_path / "whole", logging_steps=3)
    output = train(tmp_path, logging_steps=3)
    assert output.training_loss == whole.training_loss and end(tmp_path) == end(tmp_path / "whole")


@pytest.mark.parametrize("at", [2, 3])
def test_a_checkpoint_alone_leads_to_the_same_end(at: int, tmp_path: Path) -> None:
    """After a kill nothing else is left: an epoch's evaluation may neither be missing nor be made twice."""
    options = {"save_steps": 1, "eval_strategy": "epoch"}
    train(tmp_path / "one", **options)
    shutil.copytree(tmp_path / "one" / f"checkpoint-{at}", tmp_path / "two" / f"checkpoint-{at}")
    train(tmp_path / "two", **options)
    assert end(tmp_path / "one") == end(tmp_path / "two")


class SlowDisk(ExactTrainer):
    """Dies a while after it has begun to save."""

    delay: float | None = None
    number = 0

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.number -= 1
        if self.delay is not None and self.number == 0:
            kill_after(self.delay)
        super()._save_checkpoint(model, trial)


@pytest.mark.parametrize("kills", KILLS)
def test_killed_inside_saves(kills: int, straight: tuple[Path, Any], tmp_path: Path) -> None:
    """SIGKILL at random instants of a save: what is there is valid, and the end is the same."""
    random_ = random.Random(SEED)

    def session(folder: Path, delay: float | None) -> None:
        SlowDisk.number, SlowDisk.delay = random_.randrange(1, 4), delay
        train(folder, base=SlowDisk, limit=2)

    done = rounds = 0
    while done < kills:
        rounds += 1
        folder = tmp_path / str(rounds)
        for _ in range(5):
            delay = random_.random() * 0.06
            status = in_child(lambda: session(folder, delay))
            assert status in (-9, 0)
            done += status == -9
            for path in folder.glob("checkpoint-*"):
                assert problem(str(path)) is None
            if status == 0:
                break
        assert in_child(lambda: session(folder, None)) == 0
        assert end(folder)[:3] == end(straight[0])[:3], f"round {rounds}"
        assert not Path(staging(str(folder))).exists()


@pytest.mark.soak
def test_two_processes(tmp_path: Path) -> None:
    """DDP with gloo: order and draws are shared out, and each process has its own sum of losses."""
    script = Path(__file__).with_name("ranks_trainer.py")
    for name, stops in (("one", []), ("two", ["2", "5"])):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
        done = subprocess.run([*command, str(tmp_path / name), *stops], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert end(tmp_path / "one") == end(tmp_path / "two")
    assert (tmp_path / "one" / "loss").read_text() == (tmp_path / "two" / "loss").read_text()


def test_sft_trainer(tmp_path: Path) -> None:
    """trl's SFTTrainer, with LoRA left out: its metrics between logs go on as well."""
    import datasets
    import trl

    class Tuner(ExactTrainerMixin, trl.SFTTrainer):
        pass

    texts = [{"input_ids": [(i * j) % 50 + 1 for j in range(3, 3 + 5 + i % 4)]} for i in range(1, 24)]

    def run(folder: Path, stop: int | None, workers: int = 0) -> Any:
        transformers.set_seed(3)
        sizes = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
        config = transformers.GPT2Config(vocab_size=64, pad_token_id=0, eos_token_id=1, bos_token_id=1, **sizes)
        arguments = trl.SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            num_train_epochs=2,
            save_steps=2,
            logging_steps=4,
            seed=3,
            dataloader_num_workers=workers,
            dataloader_pin_memory=False,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            bf16=False,
            activation_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        )
        tuner = Tuner(
            model=transformers.GPT2LMHeadModel(config),
            args=arguments,
            train_dataset=datasets.Dataset.from_list(texts),
            processing_class=tokenizer(),
            callbacks=[tiny_trainer.StopAt(stop)],
        )
        return tuner.train(resume_from_checkpoint="auto")

    whole = run(tmp_path / "one", None)
    for stop in (2, 3, 7):
        run(tmp_path / "two", stop, workers=stop % 2 * 2)
    assert run(tmp_path / "two", None).training_loss == whole.training_loss
    assert end(tmp_path / "one") == end(tmp_path / "two")
    assert any("mean_token_accuracy" in entry for entry in end(tmp_path / "two")[2])
    transformers.GPT2LMHeadModel.from_pretrained(newest(tmp_path / "two"))


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    words = {name: at for at, name in enumerate(["<pad>", "<end>", *(f"w{i}" for i in range(62))])}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, "<pad>")), pad_token="<pad>", eos_token="<end>"
    )
