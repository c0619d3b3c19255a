"""`keepstep.Run`: what it does for the loop, and what it says where the loop is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from keepstep import _clock
from torch import nn

import keepstep

X = torch.linspace(0, 1, 24).reshape(12, 2)
DATA = torch.utils.data.TensorDataset(X, X.sum(1, keepdim=True))


class Loop:
    """A small loop, each part of which a test can change."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        options: dict[str, Any] = {"seed": 3, "save_steps": 1, "max_checkpoints": 99, "progress_bar": False, "quiet": True}
        self.run = keepstep.Run(folder, **options | settings)
        self.data = self.run.data(DATA, batch_size=2, epochs=2, gradient_accumulation_steps=2)
        self.model = nn.Linear(2, 1)
        self.optimizer: Any = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def track(self, **others: Any) -> Loop:
        self.run.track(model=self.model, optimizer=self.optimizer, **others)
        return self

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def go(self, each: Callable[[Loop], Any] = lambda loop: None, loss: Callable[[Any], Any] = lambda it: it) -> Loop:
        for x, y in self.data:
            value = loss(nn.functional.mse_loss(self.model(x), y))
            (value / self.run.window).backward()
            self.run.record(value, count=2)
            if self.run.update_due:
                self.update()
            each(self)
        return self


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pt"))


def test_positions_and_names(tmp_path: Path) -> None:
    seen = []
    loop = Loop(tmp_path).track().go(lambda loop: seen.append((loop.run.epoch, loop.run.step, loop.run.global_step, loop.run.window)))
    assert seen[:7] == [(1, 0, 0, 2), (1, 1, 0, 2), (1, 2, 1, 2), (1, 3, 1, 2), (1, 4, 2, 2), (1, 5, 2, 2), (2, 0, 3, 2)]
    assert loop.run.finish()
    expected = [f"checkpoint_epoch{e}_step{s}_global{g}.pt" for e, s, g in [(1, 2, 1), (1, 4, 2), (2, 2, 4), (2, 4, 5)]]
    assert names(tmp_path) == sorted([*expected, "checkpoint_epoch1_final_global3.pt", "checkpoint_epoch2_final_global6.pt"])


def test_callbacks_get_each_update_once(tmp_path: Path) -> None:
    events: list[Any] = []
    loop = Loop(tmp_path, save_steps=100).track()
    loop.run.on_update(events.append)
    with pytest.raises(RuntimeError, match="mine"):
        loop.go(lambda loop: (_ for _ in ()).throw(RuntimeError("mine")) if loop.run.global_step == 5 else None)
    loop = Loop(tmp_path, save_steps=100).track()
    loop.run.on_update(events.append)
    assert loop.go().run.finish()
    assert [event["global_step"] for event in events] == [1, 2, 3, 4, 5, 4, 5, 6]
    assert [event["replay"] for event in events] == [False] * 5 + [True, True, False]
    assert events[3]["loss"] == events[5]["loss"] and events[0]["learning_rate"] == 0.1


def test_a_second_loop_is_a_session_of_its_own(tmp_path: Path) -> None:
    loop = Loop(tmp_path).track()
    for x, y in loop.data:
        nn.functional.mse_loss(loop.model(x), y).backward()
        if loop.run.update_due:
            loop.update()
        if loop.run.step == 2:
            break
    # `break` leaves the loop inside an update: only a stop at a boundary can go on in the same process.
    with pytest.raises(keepstep.UsageError, match="inside an update"):
        loop.go()
    loop = Loop(tmp_path, session_time_limit=0.5).track().go(lambda loop: time.sleep(0.1))
    assert loop.run.reason == "time limit"
    loop.run._session.options.time_limit = None
    assert loop.go().run.finish()
    events = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    sessions = "".join({"start": "(", "stop": ")", "update": "."}.get(event["event"], "") for event in events)
    assert sessions.count("(") == 3 and sessions.startswith("(.)(.") and sessions.endswith(".)")
    assert sessions.replace(".", "") == "()()()", sessions
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "finished"


def test_the_environment_is_compared_with_that_of_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = tmp_path / "input" / "deep"
    Loop(inputs, session_time_limit=0.5).track().go(lambda loop: time.sleep(0.1)).run.finish()
    facts = json.loads((inputs / "environment.json").read_text())
    (inputs / "environment.json").write_text(json.dumps(facts | {"torch": "1.0"}))
    loop = Loop(tmp_path / "working", resume_from_checkpoint=str(tmp_path / "input"), quiet=False).track()
    assert loop.go().run.finish()
    assert f"torch is {torch.__version__} and was 1.0" in capsys.readouterr().out
    assert json.loads((tmp_path / "working" / "environment.json").read_text()) == facts


def test_time_limit(tmp_path: Path) -> None:
    loop = Loop(tmp_path, session_time_limit=0.6).track().go(lambda loop: time.sleep(0.1))
    assert loop.run.reason == "time limit" and not loop.run.finish()
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("stopped", "time limit")
    assert status["checkpoint"] in names(tmp_path)


def test_an_evaluation_without_its_metric_can_be_made_good(tmp_path: Path) -> None:
    def each(loop: Loop) -> None:
        if loop.run.evaluation_due:
            with pytest.raises(keepstep.UsageError, match="was not given `accuracy`"):
                loop.run.evaluated(1.0)
            with pytest.raises(ValueError):
                loop.run.evaluated(1.0, accuracy="high")  # pyright: ignore[reportArgumentType]
            loop.run.evaluated(1.0, accuracy=0.5)

    assert Loop(tmp_path / "metric", eval_steps=1, best="max", metric="accuracy").track().go(each).run.finish()

    def without_loss(loop: Loop) -> None:
        if loop.run.evaluation_due:
            with pytest.raises(keepstep.Error, match="val_loss"):
                loop.run.evaluated(accuracy=0.5)
            loop.run.evaluated(1.0)

    assert Loop(tmp_path / "loss", eval_steps=1).track().go(without_loss).run.finish()


def test_a_time_limit_does_not_take_what_comes_before_the_loop_for_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(_clock, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def take(seconds: float) -> None:
        now[0] += seconds

    loop = Loop(tmp_path, session_time_limit=100, rehearse=False).track()
    take(30)  # the data is read
    loop.go(lambda _: take(6))
    # Updates end at 42, 54, 66, 78 and 90. Another one would not end in time.
    assert (loop.run.reason, loop.run.global_step) == ("time limit", 5)


def test_best_by_another_metric(tmp_path: Path) -> None:
    values = iter([0.5, 0.9, 0.7, 0.8, 0.2, 0.1])
    found = []

    def each(loop: Loop) -> None:
        if loop.run.evaluation_due:
            found.append(loop.run.evaluated(1.0, accuracy=next(values)))

    assert Loop(tmp_path, eval_steps=1, best="max", metric="accuracy").track().go(each).run.finish()
    assert found == [True, True, False, False, False, False]
    assert torch.load(tmp_path / "best_model.pt", weights_only=True)["global_step"] == 2


def test_early_stopping_stays_stopped(tmp_path: Path) -> None:
    def train() -> Loop:
        loop = Loop(tmp_path, eval_steps=1)
        early = keepstep.EarlyStopping(patience=2)

        def each(loop: Loop) -> None:
            if loop.run.evaluation_due:
                value = 1.0 + loop.run.global_step
                loop.run.evaluated(value)
                if early.should_stop(value):
                    loop.run.stop("no improvement")

        return loop.track(early=early).go(each)

    loop = train()
    assert loop.run.global_step == 3 and loop.run.finish()
    before = names(tmp_path)
    loop = train()
    assert loop.run.global_step == 3 and loop.run.finish(), "it stays stopped"
    assert names(tmp_path) == before


def test_branch_and_rewind(tmp_path: Path) -> None:
    Loop(tmp_path / "a", config={"lr": 0.1}).track().go().run.finish()
    path = tmp_path / "a" / "checkpoint_epoch1_step4_global2.pt"
    with pytest.raises(keepstep.MismatchError, match=r"`lr` is 0.1 in the checkpoint and 0.2 .*branch_from='.*pt'") as kept:
        Loop(tmp_path / "a", config={"lr": 0.2}).track().go()
    loop = Loop(tmp_path / "b", config={"lr": 0.2}, branch_from=path).track().go()
    assert loop.run.finish() and "checkpoint_epoch2_final_global6.pt" in names(tmp_path / "b")
    assert torch.load(tmp_path / "b" / "checkpoint_epoch2_final_global6.pt")["keepstep"]["lineage"][0]["global_step"] == 2
    loop = Loop(tmp_path / "a", config={"lr": 0.1}, rewind=path).track()
    loop.run.resume()
    assert loop.run.global_step == 2
    assert "checkpoint_epoch2_final_global6.pt" in names(tmp_path / "a" / "superseded")
    assert kept.tb is not None, "a traceback that is kept holds no lock"


def test_adopting_a_checkpoint_from_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = Loop(tmp_path / "unused").track()
    path = tmp_path / "old.pt"
    state = {"model_state_dict": loop.model.state_dict(), "optimizer_state_dict": loop.optimizer.state_dict()}
    torch.save({"epoch": 1, "step": 4, "global_step": 2, **state, "train_loss": 0.5, "val_loss": 0.25, "config": {}}, path)
    loop = Loop(tmp_path / "run", resume_from_checkpoint=path, quiet=False).track()
    loop.run.resume()
    assert (loop.run.epoch, loop.run.step, loop.run.global_step) == (1, 4, 2)
    assert torch.equal(loop.model.weight, state["model_state_dict"]["weight"])
    assert "order of the samples before it is not known" in capsys.readouterr().out
    assert loop.go().run.finish()
    torch.save({"epoch": 1, "step": 4, "weights": {}}, path)
    with pytest.raises(keepstep.MismatchError, match="no `model_state_dict`.*`weights`"):
        Loop(tmp_path / "other", resume_from_checkpoint=path).track().go()


def test_frozen_weights_are_a_digest(tmp_path: Path) -> None:
    def loop(value: float) -> Loop:
        it = Loop(tmp_path, frozen="reference")
        it.model.bias.requires_grad_(False).fill_(value)
        it.optimizer = torch.optim.SGD([it.model.weight], lr=0.1)
        return it.track()

    first = loop(0.5).go()
    first.run.export(tmp_path / "whole.pth")
    assert list(torch.load(tmp_path / "whole.pth", weights_only=True)) == ["weight", "bias"]
    first.run.save_weights(tmp_path / "weights.safetensors")
    first.run.finish()
    checkpoint = torch.load(tmp_path / "checkpoint_epoch2_final_global6.pt", weights_only=True)
    assert list(checkpoint["model_state_dict"]) == ["weight"]
    assert loop(0.5).go().run.finish()
    with pytest.raises(keepstep.MismatchError, match="frozen weights of model"):
        loop(0.75).go()


def test_several_runs_in_one_process(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Loop(tmp_path / name).track().go().run.finish()
    one, two = Loop(tmp_path / "c").track(), Loop(tmp_path / "d").track()
    for (x, y), (z, t) in zip(one.data, two.data):
        for loop, a, b in ((one, x, y), (two, z, t)):
            loss = nn.functional.mse_loss(loop.model(a), b)
            (loss / loop.run.window).backward()
            loop.run.record(loss, count=2)
            if loop.run.update_due:
                loop.update()
    # `zip` leaves the second loop suspended behind its last batch.
    assert names(tmp_path / "c") == names(tmp_path / "a")
    final = "checkpoint_epoch2_final_global6.pt"
    assert (tmp_path / "a" / final).read_bytes() == (tmp_path / "b" / final).read_bytes()


def test_a_new_run_replaces_the_earlier_one(tmp_path: Path) -> None:
    first = Loop(tmp_path).track()
    batches = iter(first.data)
    next(batches)
    second = Loop(tmp_path).track()
    with pytest.raises(keepstep.UsageError, match="was replaced by a new Run"):
        first.run.finish()
    hooks = len(first.optimizer._optimizer_step_pre_hooks)
    assert hooks == 0 and second.go().run.finish()


def test_another_process_is_refused(tmp_path: Path) -> None:
    loop = Loop(tmp_path).track()
    loop.run.resume()
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_run, pathlib\n" + textwrap.dedent(
        f"""
        import keepstep
        try:
            test_run.Loop(pathlib.Path({str(tmp_path)!r})).track().go()
        except keepstep.LockedError as error:
            print(error)
        """
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) in output


class TwoSteps(torch.optim.SGD):
    """Calls its parent's step: one step, two runs of the hooks."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


def test_a_subclass_counts_once(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.optimizer = TwoSteps(loop.model.parameters(), lr=0.1)
    assert loop.track().go().run.finish()


def raises(match: str, kind: type[BaseException] = keepstep.Error) -> Any:
    return pytest.raises(kind, match=match)


def test_bad_use_gets_one_sentence(tmp_path: Path) -> None:
    def fresh() -> Loop:
        fresh.count += 1  # type: ignore[attr-defined]
        return Loop(tmp_path / str(fresh.count))  # type: ignore[attr-defined]

    fresh.count = 0  # type: ignore[attr-defined]
    with raises("`optimizer` made 0 steps in the update at epoch 1, steps 1 to 2"):
        loop = fresh().track()
        loop.update = lambda: None  # type: ignore[method-assign]
        loop.go()
    with raises("made 3 steps .*call step.. only where `run.update_due`"):
        loop = fresh().track()
        loop.go(lambda loop: loop.optimizer.step())
    with raises("nothing is tracked"):
        fresh().go()
    with raises("`model` is the object that is tracked as `net`|tracked as `model`"):
        loop = fresh()
        loop.run.track(model=loop.model, net=loop.model)
    with raises("`x` is a list without state_dict.*as_state"):
        fresh().run.track(x=[])
    with raises("`config` cannot name"):
        fresh().run.track(config=nn.Linear(1, 1))
    with raises("run.data.. was called before"):
        loop = fresh()
        loop.run.data(DATA, batch_size=2)
    with raises("comes before the loop"):
        loop = fresh().track()
        loop.go(lambda loop: loop.run.track(other=nn.Linear(1, 1)))
    with raises("only in the loop"):
        fresh().run.update_due  # noqa: B018
    with raises("belongs into the loop"):
        fresh().run.record(1.0)
    with raises("loss is not finite", keepstep.NotFiniteError):
        fresh().track().go(loss=lambda loss: loss * float("nan"))
    with raises("evaluation was due after update 1"):
        Loop(tmp_path / "evaluation", eval_steps=1).track().go()
    with raises("`seed` is -1"):
        keepstep.Run(tmp_path / "seed", seed=-1)
    with raises("`output_dir` is missing"):
        keepstep.Run()
    with raises("`session_time_limit` is 'soon'"):
        keepstep.Run(tmp_path / "x", session_time_limit="soon")
    for timeout in (float("inf"), "366d"):
        with raises(f"`rank_timeout` is {timeout!r}, but must be at most 365 days"):
            keepstep.Run(tmp_path / "x", rank_timeout=timeout)
    with raises("does not exist"):
        Loop(tmp_path / "y", resume_from_checkpoint=tmp_path / "nowhere").track().go()
    with raises("in_order=False", ValueError):
        keepstep.Run(tmp_path / "z").data(DATA, batch_size=2, in_order=False, num_workers=1)
    with raises("not a tensor of shape"):
        fresh().track().go(lambda loop: loop.run.record(torch.zeros(3)))


def test_state_that_cannot_be_stored_is_named(tmp_path: Path) -> None:
    class Strange:
        def __init__(self, value: Any) -> None:
            self.value = value

        def state_dict(self) -> Any:
            return {"state": [1, {"foo": self.value}]}

        def load_state_dict(self, state: Any) -> None: ...

    for index, (value, kind) in enumerate([(numpy.float64(1), "numpy.float64"), (object(), "object"), (b"x", "bytes")]):
        with pytest.raises(keepstep.StateError, match=rf"`strange.state\[1\].foo` is {kind}"):
            Loop(tmp_path / str(index)).track(strange=Strange(value)).go()
        assert names(tmp_path / str(index)) == []


def test_tracked_objects_are_compared(tmp_path: Path) -> None:
    Loop(tmp_path).track(ema=nn.Linear(2, 1)).go().run.finish()
    with raises(r"holds `ema`, which is not tracked: add run.track\(ema=...\)", keepstep.MismatchError):
        Loop(tmp_path).track().go()
    with raises("does not hold `more`", keepstep.MismatchError):
        Loop(tmp_path).track(ema=nn.Linear(2, 1), more=nn.Linear(2, 1)).go()


def test_another_dataset_and_another_seed_are_refused(tmp_path: Path) -> None:
    Loop(tmp_path).track().go().run.finish()
    with raises("`seed` is 3", keepstep.MismatchError):
        Loop(tmp_path, seed=4).track().go()
    with raises("no checkpoint of this run.*seed is 3", keepstep.MismatchError):
        Loop(tmp_path / "new", seed=4, resume_from_checkpoint=tmp_path).track().go()
    loop = Loop(tmp_path)
    loop.data._source.loading.dataset = torch.utils.data.TensorDataset(X + 1, X)  # type: ignore[union-attr]
    with raises("dataset", keepstep.MismatchError):
        loop.track().go()


def test_states_come_back_as_they_were(tmp_path: Path) -> None:
    """Counters, tuples, tied weights, strided tensors, big ints."""

    def objects() -> tuple[nn.Module, Any, Any]:
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
        tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        tied[1].weight = tied[0].weight
        tied.register_buffer("strided", torch.arange(6.0).reshape(2, 3).t())
        return tied, scheduler, keepstep.as_state(lambda: dict(value), value.update)

    value: dict[str, Any] = {"big": 1 << 80, "tuple": (1, 2.5, None), "nan": float("inf")}
    tied, scheduler, state = objects()
    Loop(tmp_path).track(tied=tied, steps_taken=scheduler, other=state).go().run.finish()
    stored = torch.load(tmp_path / "checkpoint_epoch2_final_global6.pt", weights_only=True)
    weights = stored["tied_state_dict"]
    assert weights["0.weight"].untyped_storage().data_ptr() == weights["1.weight"].untyped_storage().data_ptr()
    assert weights["strided"].stride() == (1, 3)
    assert stored["other_state_dict"] == value
    before = dict(value)
    value.clear()
    tied, scheduler, state = objects()
    loop = Loop(tmp_path).track(tied=tied, steps_taken=scheduler, other=state)
    loop.run.resume()
    assert value == before
    assert type(scheduler.milestones).__name__ == "Counter"
    assert torch.equal(tied[0].weight, weights["0.weight"]) and tied[0].weight is tied[1].weight


def test_rehearsal_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Loop(tmp_path / "a", rehearse=False).track().go().run.finish()
    Loop(tmp_path / "b", rehearse=2, quiet=False).track().go().run.finish()
    assert "made twice gave the same bits" in capsys.readouterr().out
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_shown_in_a_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = Loop(tmp_path, progress_bar=True, quiet=False).track().go()
    html = loop.run._repr_html_()
    assert "6 of 6" in html and "checkpoint_epoch2_final_global6.pt" in html
    assert "exact" in loop.run.exactness._repr_html_()
    error = capsys.readouterr().err
    assert "Epoch 2: 100%" in error and "global_step=" in error and "lr=1.00e-01" in error
    assert len(loop.run.id) == 16
    loop.run.finish()


def test_exit_status(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as done:
        Loop(tmp_path).track().go().run.exit()
    assert done.value.code == 0
    loop = Loop(tmp_path / "stopped").track()
    loop.go(lambda loop: os.kill(os.getpid(), 15) if loop.run.global_step == 2 else None)
    with pytest.raises(SystemExit) as stopped:
        loop.run.exit()
    assert stopped.value.code == 75
