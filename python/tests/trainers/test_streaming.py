"""Streams: what resumes exactly, with how many workers, and what `run.exactness` reports of the rest."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import keepstep
import pytest
import torch
import webdataset
from keepstep import MismatchError
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

SAMPLES = 37


class Counting(IterableDataset[Any]):
    """A stream that knows its place, shared out by worker, with a draw of its own in each sample."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info is not None else (0, 1)
        for index in range(first, SAMPLES, step)[self.at :]:
            self.at += 1
            yield torch.tensor([float(index), random.random(), float(torch.rand(()))])
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.at = state_dict["at"]


class Mapped(torch.utils.data.Dataset[Any]):
    """The same samples by index."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index), random.random(), float(torch.rand(()))])


def hub(buffer: int | None = None) -> Any:
    """A stream of `datasets` in four shards, with a random map."""

    def rows(shards: list[int]) -> Iterator[dict[str, float]]:
        for shard in shards:
            for index in range(9):
                yield {"x": shard * 9.0 + index}

    stream: Any = datasets.IterableDataset.from_generator(rows, gen_kwargs={"shards": [0, 1, 2, 3]})
    if buffer:
        stream = stream.shuffle(3, buffer_size=buffer)
    return stream.map(lambda row: {"x": [row["x"], random.random(), float(torch.rand(()))]}).with_format("torch")


def tar(folder: Path) -> Any:
    """A WebDataset in two shards, in the order of its files."""
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for index in range(18):
                info = tarfile.TarInfo(f"{shard}-{index}.txt")
                content = str(shard * 18 + index).encode()
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    stream = webdataset.WebDataset(str(folder / "{0..1}.tar"), shardshuffle=False).decode()
    return stream.map(lambda sample: torch.tensor([float(sample["txt"]), random.random(), float(torch.rand(()))]))


def tensors(batch: Any) -> torch.Tensor:
    return batch["x"] if isinstance(batch, dict) else batch


def session(
    folder: Path, make: Callable[[], Any], stop_at: int | None = None, rehearse: bool = False, **loading: Any
) -> tuple[list[torch.Tensor], Any, keepstep.Run]:
    """One session of a small run; returns the batches that it had, and the weights."""
    shown = {"progress_bar": False, "quiet": True, "rehearse": rehearse}
    run = keepstep.Run(folder, config={"lr": 0.1}, seed=7, save_steps=1, max_checkpoints=99, **shown)
    source = make()
    if not isinstance(source, DataLoader):
        loading = {"batch_size": 4, "steps_per_epoch": 9} | loading
    elif isinstance(source.dataset, IterableDataset):
        loading = {"steps_per_epoch": 9}
    data = run.data(source, epochs=3, gradient_accumulation_steps=2, **loading)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    run.track(model=model, optimizer=optimizer)
    seen = []
    for batch in data:
        x = tensors(batch)
        loss = (model(x) + torch.rand(())).square().mean()
        (loss / run.window).backward()
        run.record(loss)
        if not rehearse:
            seen.append(x)
        if run.update_due:
            optimizer.step()
            optimizer.zero_grad()
            if run.global_step + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
    run.finish()
    return seen, model.state_dict(), run


def resumed(folder: Path, make: Callable[[], Any], stops: list[int], **loading: Any) -> tuple[list[torch.Tensor], Any]:
    """The same run in several sessions."""
    seen: list[torch.Tensor] = []
    for stop in [*stops, None]:
        batches, weights, _ = session(folder, make, stop, **loading)
        seen += batches
    return seen, weights


def same(left: Any, right: Any) -> bool:
    (seen, weights), (others, other_weights) = left[:2], right[:2]
    return (
        len(seen) == len(others)
        and all(map(torch.equal, seen, others))
        and all(torch.equal(it, other_weights[name]) for name, it in weights.items())
    )


# At an odd number of batches, so that another worker is next; in the stream's second and third turn.
STOPS = [5, 11]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["own", "datasets", "torchdata"])
def test_streams_with_a_state(kind: str, workers: int, tmp_path: Path) -> None:
    def made() -> Any:
        if kind == "torchdata":
            return StatefulDataLoader(Counting(), 4, num_workers=workers)
        return Counting() if kind == "own" else hub()

    loading = {"num_workers": workers} if workers else {}
    whole = session(tmp_path / "one", made, **loading)
    assert len({tuple(x.flatten().tolist()) for x in whole[0]}) == 27, "every draw is its own"
    assert same(whole, resumed(tmp_path / "two", made, STOPS, **loading))
    assert "num_workers must stay" in str(whole[2].exactness) and "not exact" not in str(whole[2].exactness)
    if kind == "own":  # a rehearsal goes back by two updates, and the stream with it
        assert same(([], whole[1]), session(tmp_path / "three", made, rehearse=True, **loading))
        [first] = (tmp_path / "three").glob("*_global1.pt")
        (tmp_path / "four").mkdir()
        shutil.copy(first, tmp_path / "four")
        assert same(([], whole[1]), ([], session(tmp_path / "four", made, **loading)[1]))


def test_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    session(tmp_path, Counting, 2, num_workers=2)
    with pytest.raises(MismatchError, match="num_workers"):
        session(tmp_path, Counting)


def test_a_stateful_loader_over_a_dataset_needs_no_state(tmp_path: Path) -> None:
    """Its samples have indices: any number of workers, and nothing is stored."""

    def make(workers: int) -> Callable[[], Any]:
        return lambda: StatefulDataLoader(Mapped(), 4, shuffle=True, num_workers=workers)

    whole = session(tmp_path / "one", make(0))
    first = session(tmp_path / "two", make(2), 4)
    second = session(tmp_path / "two", make(1), None)
    assert same(whole, (first[0] + second[0], second[1]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shuffle_buffer_and_webdataset_are_read_again(workers: int, tmp_path: Path) -> None:
    """Their states lack something: what was used is read again. That is right if it can be repeated, and said."""
    loading = {"num_workers": workers} if workers else {}
    streams = [(lambda: hub(8), "leaves out its shuffle buffer"), (lambda: tar(tmp_path), "has no state_dict()")]
    for number, (make, why) in enumerate(streams):
        whole = session(tmp_path / f"{number} one", make, **loading)
        assert same(whole, resumed(tmp_path / f"{number} two", make, [6], **loading))
        assert "not exact" in str(whole[2].exactness) and why in str(whole[2].exactness)
