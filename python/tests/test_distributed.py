"""Several processes share a run: any number gives the same bytes, and what cannot be is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keepstep
import pytest
import torch
from keepstep._elastic import Gradients, blocks
from keepstep._plan import Plan
from keepstep._ranks import Ranks
from keepstep._reduce import FixedSum, tree_sum

from ranks import Job, files, kill_at_random, straight, train

RAGGED = {"accumulate": 5, "samples": 63}
"""21 micro-batches: windows of 5, 5, 5, 5 and 1."""
EIGHT = {"accumulate": 8, "samples": 63}
"""21 micro-batches: windows of 8, 8 and 5."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return straight(1, tmp_path_factory.mktemp("alone"), **EIGHT)


def test_the_tree_is_the_cores() -> None:
    parts = [torch.tensor([2.0**-24 * (1 + at), 1.0]) for at in range(7)]
    a, b, c, d, e, f, g = (part.clone() for part in parts)
    expected = ((a + b) + (c + d)) + ((e + f) + g)
    assert torch.equal(tree_sum([part.clone() for part in parts]), expected)
    assert blocks(3, 8) == [(3, 0), (4, 2)] and blocks(0, 5) == [(0, 2), (4, 0)] and blocks(2, 2) == []


def test_a_gradient_that_is_none_is_not_zero() -> None:
    """Against the definition: pairs of neighbours, an odd one passes up, nothing is added where there is no gradient."""

    def defined(leaves: list[Any]) -> Any:
        while len(leaves) > 1:
            pairs = [leaves[at : at + 2] for at in range(0, len(leaves), 2)]
            present = [[it for it in pair if it is not None] for pair in pairs]
            leaves = [None if not pair else pair[0] if len(pair) == 1 else pair[0] + pair[1] for pair in present]
        return leaves[0]

    named = [(name, torch.nn.Parameter(torch.zeros(2, 3))) for name in "abc"]
    ranks = Ranks(0, 1, None, None)
    gradients = Gradients(ranks, named, FixedSum(ranks), True)
    draw = torch.Generator().manual_seed(1)
    for size in range(1, 9):
        for mask in range(1 << size):
            # `a` has a gradient in every micro-batch, `b` in some, `c` in none; a single -0.0 shows whether 0.0 was added.
            leaves = [torch.randn(2, 3, generator=draw) for _ in range(size)]
            some = [torch.full((2, 3), -0.0) if mask >> at & 1 else None for at in range(size)]
            gradients.begin()
            for at in range(size):
                named[0][1].grad = leaves[at].clone()
                named[1][1].grad = None if some[at] is None else some[at].clone()
                assert gradients.take(at)
            gradients.reduce([range(size)])
            for (_, parameter), expected in zip(named, [defined(leaves), defined(some), None]):
                if expected is None:
                    assert parameter.grad is None
                else:
                    assert parameter.grad is not None
                    assert torch.equal(parameter.grad.view(torch.int32), expected.view(torch.int32))


def test_shares_cover_a_window_and_the_first_process_has_one() -> None:
    for size in range(1, 9):
        for world in range(1, 9):
            shares = Plan(8, 8, 1, 0, world).shares(size)
            assert [index for share in shares for index in share] == list(range(size)) and len(shares[0]) > 0


def test_ranks_without_a_micro_batch(tmp_path: Path) -> None:
    one = straight(1, tmp_path / "1", **RAGGED)
    assert straight(3, tmp_path / "3", **RAGGED) == one
    assert len(one) == 7


@pytest.mark.parametrize(
    ("size", "options"), [(2, {"how": "elastic ddp", "workers": 1}), (3, {"rehearse": True}), (4, {}), (8, {})]
)
def test_any_number_of_processes(alone: dict[str, str], tmp_path: Path, size: int, options: dict[str, Any]) -> None:
    assert straight(size, tmp_path, **EIGHT, **options) == alone


def test_the_number_changes_at_every_resume(alone: dict[str, str], tmp_path: Path) -> None:
    for stop, size in enumerate([3, 4], 1):
        # Any rank may be the one that gets the signal.
        assert train(size, tmp_path, stop_at=stop, stop_rank=size - 1, **EIGHT) == [75] * size
    job = Job(2, tmp_path, EIGHT | {"batch": 4})
    assert job.wait() == [1, 1]
    for rank in range(2):
        assert re.search(r"MismatchError: .*batch_size", job.log(rank)), job.log(rank)
    assert train(1, tmp_path, **EIGHT) == [0]
    assert files(tmp_path) == alone
    assert train(2, tmp_path, **EIGHT) == [0, 0], "a run that is complete stays so"


def test_a_stop_for_good_by_one_rank(tmp_path: Path) -> None:
    one = straight(1, tmp_path / "1", stop_for_good=4, **EIGHT)
    assert straight(3, tmp_path / "3", stop_for_good=4, **EIGHT) == one


def test_a_time_limit_is_agreed(tmp_path: Path) -> None:
    assert train(2, tmp_path, session_time_limit=1.5, sleep=0.2, **EIGHT) == [75, 75]


def test_stock_ddp_differs_after_a_resume_and_ours_does_not(tmp_path: Path) -> None:
    """With three processes: the first iteration of a process reduces in one bucket, later ones in several."""
    results = {}
    for how in ("stock", "ddp"):
        options: dict[str, Any] = {"how": how, "accumulate": 3, "samples": 36, "width": 600, "every": True, "eval_steps": None}
        whole = straight(3, tmp_path / how / "straight", **options)
        if how == "stock":
            assert straight(3, tmp_path / how / "again", **options) == whole, "without a stop it repeats itself"
        assert train(3, tmp_path / how / "resumed", stop_at=3, **options) == [75] * 3
        results[how] = straight(3, tmp_path / how / "resumed", **options) == whole
    assert results == {"stock": False, "ddp": True}


@pytest.mark.parametrize("how", ["ddp", "plain"])
def test_uneven_and_empty_shares_without_elastic(tmp_path: Path, how: str) -> None:
    whole = straight(3, tmp_path / "straight", how=how, **RAGGED)
    assert train(3, tmp_path / "resumed", how=how, stop_at=2, **RAGGED) == [75] * 3
    assert straight(3, tmp_path / "resumed", how=how, **RAGGED) == whole
    straight(1, tmp_path / "one", how=how, **RAGGED)
    assert_close(tmp_path / "straight", tmp_path / "one")


def assert_close(one: Path, other: Path) -> None:
    """Other bits are right, other gradients are not: compares the last weights and the norms of all updates."""
    states = [torch.load(folder / max(files(folder)), weights_only=True)["model_state_dict"] for folder in (one, other)]
    for mine, theirs in zip(*(state.values() for state in states)):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    norms = []
    for folder in (one, other):
        events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
        norms.append([event["grad_norm"] for event in events if event["event"] == "update"])
    torch.testing.assert_close(torch.tensor(norms[0]), torch.tensor(norms[1]), rtol=1e-3, atol=1e-4)


def test_fsdp(tmp_path: Path) -> None:
    options: dict[str, Any] = {"how": "fsdp", "accumulate": 6, "samples": 54, "eval_steps": None}
    whole = straight(3, tmp_path / "straight", **options)
    assert train(3, tmp_path / "resumed", stop_at=2, **options) == [75] * 3
    shutil.copytree(tmp_path / "resumed", tmp_path / "two")
    assert straight(3, tmp_path / "resumed", **options) == whole
    # Another layout: two processes go on, then one.
    assert train(2, tmp_path / "two", stop_at=4, **options) == [75] * 2
    assert train(1, tmp_path / "two", **options) == [0]
    assert set(files(tmp_path / "two")) == set(whole), "the same files as one process"
    ours, theirs = (torch.load(tmp_path / folder / max(whole), weights_only=True) for folder in ("straight", "two"))
    for part in ("model_state_dict", "optimizer_state_dict"):
        assert shapes(ours[part]) == shapes(theirs[part]), "the same layout as one process"
    straight(1, tmp_path / "one", **options)
    assert_close(tmp_path / "straight", tmp_path / "one")


def shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.stride()
    if isinstance(value, dict):
        return {key: shapes(item) for key, item in value.items()}
    return [shapes(item) for item in value] if isinstance(value, (list, tuple)) else value


class Counts(torch.nn.Linear):
    """A module whose forward pass changes a buffer."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (None, None),
        ("unread", "read `run.update_due` in every micro-batch"),
        ("early", "read `run.update_due` in every micro-batch"),
        ("twice", "`model.weight` has got another gradient after `run.update_due` was read"),
        ("buffer", "the forward pass changes the buffer `model.calls`"),
        ("LBFGS", "`optimizer` is LBFGS"),
    ],
)
def test_loops_that_cannot_be_elastic(tmp_path: Path, wrong: str | None, expected: str | None) -> None:
    run = keepstep.Run(tmp_path, distributed=True, elastic=True, quiet=True, progress_bar=False)
    xs = torch.arange(12.0).reshape(6, 2)
    data = run.data(torch.utils.data.TensorDataset(xs), batch_size=1, gradient_accumulation_steps=3)
    model = Counts() if wrong == "buffer" else torch.nn.Linear(2, 1)
    kind: Any = torch.optim.LBFGS if wrong == "LBFGS" else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=0.1)
    run.track(model=model, optimizer=optimizer)

    def loop() -> None:
        for number, (x,) in enumerate(data):
            due = (number % 3 == 2) if wrong == "unread" else run.update_due if wrong == "early" else None
            (model(x).mean() / run.window).backward()
            if run.update_due if due is None else due:
                if wrong == "twice":
                    optimizer.zero_grad()
                    model(x).mean().backward()
                optimizer.step()

    if expected is None:
        loop()
        assert run.finish()
        return
    with pytest.raises(keepstep.UsageError, match=re.escape(expected)):
        loop()
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        (2, {"accumulate": 1}, "2 processes cannot share 1 micro-batches per update"),
        (1, {"trouble": {"rank": 0, "batch_norm": True}}, "`norm` is a BatchNorm1d in training mode"),
        (2, {"how": "fsdp", "accumulate": 3}, "gives 2 processes unequal shares, which FSDP cannot have"),
        (2, {"trouble": {"rank": 1, "config": {"lr": 0.5}}}, "rank 1 disagrees with rank 0: config key `lr` is 0.5 there and 0.01"),
        (2, {"trouble": {"rank": 1, "samples": 1}}, "rank 1 disagrees with rank 0: `num_samples` is 70 there and 69"),
    ],
)
def test_refusals(tmp_path: Path, size: int, options: dict[str, Any], expected: str) -> None:
    job = Job(size, tmp_path / "run", options)
    assert job.wait() == [1] * size
    for rank in range(size):
        assert expected in job.log(rank).strip().splitlines()[-1], job.log(rank)
    assert not (tmp_path / "run").exists()


def test_an_evaluation_in_one_process_alone_is_refused(tmp_path: Path) -> None:
    job = Job(2, tmp_path, {"trouble": {"rank": 1, "no_evaluation": True}})
    assert job.wait() == [1, 1]
    for rank in range(2):
        last = job.log(rank).strip().splitlines()[-1]
        assert "rank 1 is at the end of the update, and rank 0 at run.evaluated()" in last, job.log(rank)


@pytest.mark.parametrize(
    ("timeout", "trouble", "expected"),
    [
        (30, {"kill": "SIGKILL"}, r"rank 1 has died or lost its connection; last heard of in epoch 1, micro-batch \d+"),
        (30, {"raise": "mine"}, r"rank 1 has ended: ValueError: mine"),
        (6, {"sleep": 1000}, r"rank 1 has not come to .* within 6 seconds: it is alive, in epoch 1, micro-batch \d+"),
        (6, {"kill": "SIGSTOP"}, r"rank 1 has given no sign of life for \d seconds: it is stopped or its machine is gone"),
    ],
)
def test_a_lost_process_is_named(tmp_path: Path, timeout: int, trouble: dict[str, Any], expected: str) -> None:
    job = Job(3, tmp_path, {"trouble": {"rank": 1, "at": 3, **trouble}, "sleep": 0.2, "rank_timeout": timeout, **RAGGED})
    for rank in (0, 2):
        job.processes[rank].join(40)
        assert job.processes[rank].exitcode in (1, 70), job.log(rank)
        last = job.log(rank).strip().splitlines()[-1]
        assert re.search(expected + ".*start the run again to continue", last), job.log(rank)
    job.kill()
    assert "checkpoint_epoch1_step10_global2.pt" in files(tmp_path)
    assert train(2, tmp_path, **RAGGED) == [0, 0], "what was saved is valid"


def test_torchrun(alone: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = str(Path(__file__).with_name("ranks_loop.py"))
    options = [f"{key}={value}" for key, value in EIGHT.items()]
    result = subprocess.run(
        [*command, script, str(tmp_path), *options], capture_output=True, text=True, env={**os.environ, "KEEPSTEP_SAY": "1"}
    )
    assert result.returncode == 0, result.stderr
    assert files(tmp_path) == alone
    assert result.stdout.count("bests [1, 0]\n") == 2, "both ranks know rank 0's best"
    assert re.search(r"2 processes send [\d,]+ bytes each per update for gradients; a ring sends [\d,]+", result.stdout)


def test_killed_at_random_instants(tmp_path: Path) -> None:
    expected = straight(1, tmp_path / "straight", save_steps=1, **RAGGED)
    found = kill_at_random(tmp_path, 2, 11, [2, 3, 5], expected, save_steps=1, sleep=0.04, **RAGGED)
    assert found.named >= 1, str(found)


@pytest.mark.soak
def test_killed_at_random_instants_for_long(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``KEEPSTEP_RANK_KILLS`` processes, 50 by default, get SIGKILL or SIGSTOP."""
    signals, seed = int(os.environ.get("KEEPSTEP_RANK_KILLS", 50)), int(os.environ.get("KEEPSTEP_SEED", 1))
    options: dict[str, Any] = {"save_steps": 1, "epochs": 6, "max_checkpoints": 1000, **RAGGED}
    expected = straight(1, tmp_path / "straight", **options)
    found = kill_at_random(tmp_path, signals, seed, [1, 2, 3, 4, 5], expected, sleep=0.05, **options)
    with capsys.disabled():
        print(f"\n{found} (seed {seed})")
