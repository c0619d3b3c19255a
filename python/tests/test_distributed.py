"""Several processes share a run: any number gives the same bytes, and what cannot be is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from keepstep._elastic import blocks
from keepstep._plan import Plan
from keepstep._reduce import tree_sum

from ranks import Job, files, straight, train

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


def test_shares_cover_a_window_and_the_first_process_has_one() -> None:
    for size in range(1, 9):
        for world in range(1, 9):
            shares = Plan(8, 8, 1, 0, world).shares(size)
            assert [index for share in shares for index in share] == list(range(size)) and len(shares[0]) > 0


def test_ranks_without_a_micro_batch(tmp_path: Path) -> None:
    one = straight(1, tmp_path / "1", **RAGGED)
    assert straight(3, tmp_path / "3", **RAGGED) == one
    assert len(one) == 7


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_any_number_of_processes(alone: dict[str, str], tmp_path: Path, size: int) -> None:
    assert straight(size, tmp_path, **EIGHT) == alone


def test_the_number_changes_at_every_resume(alone: dict[str, str], tmp_path: Path) -> None:
    for stop, size in enumerate([3, 1, 4], 1):
        # Any rank may be the one that gets the signal.
        assert train(size, tmp_path, stop_at=stop, stop_rank=size - 1, **EIGHT) == [75] * size
    assert train(2, tmp_path, **EIGHT) == [0, 0]
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
        again = straight(3, tmp_path / how / "again", **options)
        assert whole == again
        assert train(3, tmp_path / how / "resumed", stop_at=3, **options) == [75] * 3
        results[how] = straight(3, tmp_path / how / "resumed", **options) == whole
    assert results == {"stock": False, "ddp": True}


@pytest.mark.parametrize("how", ["ddp", "plain"])
def test_uneven_and_empty_shares_without_elastic(tmp_path: Path, how: str) -> None:
    whole = straight(3, tmp_path / "straight", how=how, **RAGGED)
    for stop in (2, 6):
        assert train(3, tmp_path / "resumed", how=how, stop_at=stop, **RAGGED) == [75] * 3
    assert straight(3, tmp_path / "resumed", how=how, **RAGGED) == whole


def test_fsdp(tmp_path: Path) -> None:
    options: dict[str, Any] = {"how": "fsdp", "accumulate": 6, "samples": 54, "eval_steps": None}
    whole = straight(3, tmp_path / "straight", **options)
    assert train(3, tmp_path / "resumed", stop_at=2, **options) == [75] * 3
    assert straight(3, tmp_path / "resumed", **options) == whole
    one = tmp_path / "one"
    assert train(1, one, **options) == [0]
    assert set(files(one)) == set(whole), "the same files as one process"
    ours, theirs = (torch.load(folder / max(whole), weights_only=True) for folder in (tmp_path / "straight", one))
    for part in ("model_state_dict", "optimizer_state_dict"):
        assert shapes(ours[part]) == shapes(theirs[part]), "the same layout as one process"
    # Another layout: three processes stop, two go on, then one.
    other = tmp_path / "other"
    assert train(3, other, stop_at=2, **options) == [75] * 3
    assert train(2, other, stop_at=4, **options) == [75] * 2
    assert train(1, other, **options) == [0]
    assert set(files(other)) == set(whole)


def shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.stride()
    if isinstance(value, dict):
        return {key: shapes(item) for key, item in value.items()}
    return [shapes(item) for item in value] if isinstance(value, (list, tuple)) else value


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


@pytest.mark.parametrize(
    ("timeout", "trouble", "expected"),
    [
        (30, {"kill": "SIGKILL"}, r"rank 1 has died or lost its connection; last heard of in epoch 1, micro-batch \d+"),
        (30, {"raise": "mine"}, r"rank 1 has ended: ValueError: mine"),
        (3, {"sleep": 1000}, r"rank 1 has not come to .* within 3 seconds: it is alive, in epoch 1, micro-batch \d+"),
        (3, {"kill": "SIGSTOP"}, r"rank 1 has given no sign of life for \d seconds: it is stopped or its machine is gone"),
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
    assert re.search(r"2 processes send [\d,]+ bytes each per update for gradients; a ring sends [\d,]+", result.stdout)
