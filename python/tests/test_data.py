"""The loader: same samples and same draws wherever a run goes on, and whatever loads the batches."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from keepstep._data import Loader
from keepstep._plan import Plan
from loops import CountingDriver, Noisy, NoisyBatched, noisy_collate, run_through, same
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

SIZES: dict[str, Any] = {"batch_size": 4, "epochs": 2, "gradient_accumulation_steps": 2, "collate_fn": noisy_collate}


def samples_of(seen: list[torch.Tensor], batch_size: int = 4) -> list[int]:
    return [int(number) for batch in seen for number in batch[: batch_size * 5 : 5].tolist()]


def test_each_sample_comes_once_an_epoch() -> None:
    seen = run_through(Noisy(24), **SIZES)
    assert len(seen) == 12
    first, second = samples_of(seen[:6]), samples_of(seen[6:])
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second and first != list(range(24))
    for draw in (1, 2, 3):
        draws = [number for batch in seen for number in batch[draw:20:5].tolist()]
        assert len(set(draws)) == len(draws) == 48, "each sample of each epoch has draws of its own"


@pytest.mark.parametrize("dataset", [Noisy(), NoisyBatched()])
def test_the_remainder_is_the_same_from_every_position(dataset: Noisy) -> None:
    straight = run_through(dataset, **SIZES)
    plan = Plan(5, 2, 2)
    for epoch in (1, 2):
        for step in range(6):
            if plan.is_boundary(step):
                rest = run_through(dataset, at=(epoch, step), **SIZES)
                assert same(rest, straight[(epoch - 1) * 5 + step :]), (epoch, step)


@pytest.mark.parametrize(
    "workers",
    [
        {"num_workers": 1},
        {"num_workers": 2, "prefetch_factor": 1},
        {"num_workers": 2, "prefetch_factor": 4, "persistent_workers": True},
        {"num_workers": 1, "multiprocessing_context": "spawn"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dataset", [Noisy(), NoisyBatched()])
def test_workers_change_nothing(dataset: Noisy, workers: dict[str, Any]) -> None:
    straight = run_through(dataset, **SIZES)
    assert same(run_through(dataset, **SIZES, **workers), straight)
    assert same(run_through(dataset, at=(1, 4), **SIZES, **workers), straight[4:])


def test_a_dataloader_is_taken_apart() -> None:
    straight = run_through(Noisy(), **SIZES)
    loader = DataLoader(Noisy(), 4, shuffle=True, collate_fn=noisy_collate, drop_last=True, num_workers=2)
    assert same(run_through(loader, epochs=2, gradient_accumulation_steps=2), straight)


def test_the_short_last_batch_is_kept_if_the_dataloader_keeps_it() -> None:
    loader = DataLoader(Noisy(), 4, shuffle=True, collate_fn=noisy_collate)
    seen = run_through(loader, epochs=1, gradient_accumulation_steps=4)
    assert [len(batch) for batch in seen] == [23] * 5 + [13]


def test_the_order_of_the_dataset_can_be_kept() -> None:
    for data, given in [
        (DataLoader(Noisy(), 4, collate_fn=noisy_collate, drop_last=True), {}),
        (Noisy(), {"batch_size": 4, "collate_fn": noisy_collate, "shuffle": False}),
    ]:
        assert samples_of(run_through(data, epochs=1, **given)) == list(range(20))


def test_other_samplers_run_under_the_epochs_numbers() -> None:
    own = torch.Generator().manual_seed(5)
    for sampler in [
        WeightedRandomSampler([0.1, 0.9] * 11, 12),
        SubsetRandomSampler(range(3, 15)),
        WeightedRandomSampler([0.1, 0.9] * 11, 12, generator=own),
        RandomSampler(Noisy(), replacement=True, num_samples=12),
    ]:
        loader = DataLoader(Noisy(), 4, sampler=sampler, collate_fn=noisy_collate)
        straight = run_through(loader, epochs=3)
        assert len(straight) == 9
        assert samples_of(straight[:3]) != samples_of(straight[3:6])
        own.manual_seed(6)
        assert same(run_through(loader, at=(2, 1), epochs=3), straight[4:])


def test_batch_samplers_make_whole_batches() -> None:
    batches = BatchSampler(SubsetRandomSampler(range(10)), 4, drop_last=False)

    class Own(BatchSampler):
        pass

    batches = Own(SubsetRandomSampler(range(10)), 4, drop_last=False)
    loader = DataLoader(Noisy(), batch_sampler=batches, collate_fn=noisy_collate)
    straight = run_through(loader, epochs=2)
    assert [len(batch) for batch in straight] == [23, 23, 13] * 2
    assert same(run_through(loader, at=(2, 2), epochs=2), straight[5:])


def test_a_sampler_whose_length_changes_is_refused() -> None:
    class Shrinking(SubsetRandomSampler):
        turns = 0

        def __iter__(self) -> Any:
            self.turns += 1
            return iter(list(super().__iter__())[self.turns - 1 :])

    loader = DataLoader(Noisy(), 2, sampler=Shrinking(range(8)))
    with pytest.raises(ValueError, match="`Shrinking` gave 7 places for epoch 2, but 8"):
        run_through(loader, epochs=2)


def test_samples_without_batches() -> None:
    loader = DataLoader(Noisy(), batch_size=None, shuffle=True)
    straight = run_through(loader, epochs=2)
    assert len(straight) == 44
    assert same(run_through(loader, at=(2, 3), epochs=2), straight[25:])


def test_batches_that_come_in_any_order_are_refused() -> None:
    with pytest.raises(ValueError, match="in_order=False"):
        Loader(CountingDriver(), DataLoader(Noisy(), 4, in_order=False), epochs=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "`batch_size` is missing"),
        ({"batch_size": 4, "nonsense": 1}, "does not take `nonsense`"),
        ({"batch_size": 40}, "too few for one batch of 40"),
        ({"batch_size": 4, "sampler": range(3), "shuffle": True}, "leave out `shuffle`"),
        ({"batch_size": 4, "epochs": 0}, "`epochs` is 0"),
        ({"batch_size": 4, "gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` is 0"),
        ({"batch_size": 4, "steps_per_epoch": 3}, "is for streams"),
    ],
)
def test_bad_arguments_get_one_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Loader(CountingDriver(), Noisy(), **{"epochs": 1, **given})


def test_a_dataloader_is_not_told_what_it_has() -> None:
    with pytest.raises(TypeError, match="`batch_size` together with a `DataLoader`"):
        Loader(CountingDriver(), DataLoader(Noisy(), 4), epochs=1, batch_size=4)


def test_windows_and_updates() -> None:
    driver = CountingDriver()
    loader = Loader(driver, Noisy(), batch_size=4, epochs=2, gradient_accumulation_steps=3)
    assert (loader.steps_per_epoch, loader.updates_per_epoch, loader.total_steps) == (5, 2, 4)
    for _ in loader:
        pass
    assert [each.window for each in driver.seen] == [3, 3, 3, 2, 2] * 2
    assert [each.update_due for each in driver.seen] == [False, False, True, False, True] * 2
    assert [each.epoch_ends for each in driver.seen] == [False] * 4 + [True] + [False] * 4 + [True]
    assert [each.step_after for each in driver.seen] == [3, 3, 3, 5, 5] * 2
    assert driver.ended == 1


def test_the_loop_ends_where_the_run_says() -> None:
    driver = CountingDriver(stop_after=3)
    assert len(list(Loader(driver, Noisy(), batch_size=4, epochs=2))) == 3
    assert driver.ended == 1


def test_epochs_one_at_a_time() -> None:
    straight = run_through(Noisy(), **SIZES)
    driver = CountingDriver(at=(1, 4))
    loader = Loader(driver, Noisy(), **SIZES)
    lengths: list[tuple[int, int]] = []
    for epoch in loader.epochs_left():
        count = 0
        for batch in epoch:
            assert torch.equal(batch.flatten(), straight[len(driver.seen) + 3][: batch.numel()])
            count += 1
        lengths.append((epoch.number, count))
    assert lengths == [(1, 1), (2, 5)]
    assert driver.ended == 1


def test_an_epoch_that_is_left_early_is_an_error() -> None:
    loader = Loader(CountingDriver(), Noisy(), **SIZES)
    with pytest.raises(RuntimeError, match="left epoch 1 before its end"):
        for epoch in loader.epochs_left():
            for _ in epoch:
                break


def test_two_loops_at_once_are_refused() -> None:
    driver = CountingDriver()
    loader = Loader(driver, Noisy(), **SIZES)
    for _ in loader:
        with pytest.raises(RuntimeError, match="still running"):
            next(iter(loader))
        break
    assert driver.ended == 1


def test_a_length_is_refused_with_what_to_use() -> None:
    with pytest.raises(TypeError, match="steps_per_epoch"):
        len(Loader(CountingDriver(), Noisy(), **SIZES))


class Seeded(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Any:
        return iter(torch.arange(11, dtype=torch.float64).split(1))


def test_streams_are_read_in_their_own_order() -> None:
    with pytest.raises(ValueError, match="steps_per_epoch"):
        Loader(CountingDriver(), Seeded(), batch_size=2, epochs=1)
    given: dict[str, Any] = {"batch_size": 2, "epochs": 2, "steps_per_epoch": 4}
    loader = Loader(CountingDriver(), Seeded(), **given)
    assert not loader.exact
    straight = run_through(Seeded(), **given)
    assert [int(batch[0]) for batch in straight] == [0, 2, 4, 6, 8, 0, 2, 4]
    assert same(run_through(Seeded(), at=(2, 1), **given), straight[5:])


def test_processes_share_windows() -> None:
    for steps, window, world in [(13, 4, 3), (7, 5, 3), (9, 3, 4), (8, 8, 1)]:
        everything = list(Plan(steps, window, 2).micro_batches(1, 0))
        shares = [list(Plan(steps, window, 2, rank, world).micro_batches(1, 0)) for rank in range(world)]
        counted = sorted((each.epoch, each.step) for share in shares for each in share if each.counts)
        assert counted == [(each.epoch, each.step) for each in everything]
        for share in shares:
            assert sum(each.update_due for each in share) == sum(each.update_due for each in everything)
            assert sum(each.epoch_ends for each in share) == 2


def test_a_position_inside_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="epoch 1, step 3 is not the end of an update"):
        list(Plan(5, 2, 1).micro_batches(1, 3))


def test_a_far_position_costs_nothing() -> None:
    class Huge(Noisy):
        def __init__(self) -> None:
            super().__init__(10**12)
            self.asked: list[int] = []

        def __getitem__(self, index: int) -> torch.Tensor:
            self.asked.append(index)
            return super().__getitem__(index)

    dataset = Huge()
    loader = Loader(CountingDriver(at=(3, 10**11), stop_after=1), dataset, batch_size=4, epochs=5)
    assert len(list(loader)) == 1
    assert len(dataset.asked) == 4


def test_a_dataset_that_changed_is_recognized() -> None:
    def fingerprint(dataset: Any) -> str:
        return Loader(CountingDriver(), dataset, batch_size=2, epochs=1).fingerprint()

    def texts(numbers: list[int]) -> list[dict[str, Any]]:
        return [{"text": f"text {number}", "label": number} for number in numbers]

    usual = fingerprint(texts(list(range(100))))
    assert usual == fingerprint(texts(list(range(100))))
    assert usual != fingerprint(texts(list(range(99))))
    assert usual != fingerprint(texts(list(range(99, -1, -1))))
    assert usual != fingerprint(texts(random.Random(1).sample(range(100), 100)))
    assert fingerprint(Noisy()) == fingerprint(Noisy())
    pictures = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(50)
    assert fingerprint(TensorDataset(pictures, labels)) == fingerprint(TensorDataset(pictures * (1 + 1e-7), labels))
    assert fingerprint(TensorDataset(pictures, labels)) != fingerprint(TensorDataset(pictures.flip(0), labels))


def test_a_fingerprint_disturbs_no_generator() -> None:
    loader = Loader(CountingDriver(), Noisy(), batch_size=2, epochs=1)
    torch.manual_seed(1)
    random.seed(1)
    expected = (random.random(), torch.rand(3))
    torch.manual_seed(1)
    random.seed(1)
    loader.fingerprint()
    assert random.random() == expected[0]
    assert torch.equal(torch.rand(3), expected[1])


@pytest.mark.parametrize("threads", [1, 2])
def test_samples_are_made_with_one_thread_and_the_body_has_its_own(threads: int) -> None:
    seen: list[int] = []

    class Threads(Noisy):
        def __getitem__(self, index: int) -> torch.Tensor:
            if index == self.length - 1:
                torch.set_num_threads(3)
            else:
                seen.append(torch.get_num_threads())
            return super().__getitem__(index)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in Loader(CountingDriver(), Threads(), batch_size=1, epochs=1, shuffle=False):
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}
