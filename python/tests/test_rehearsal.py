"""A rehearsal names what keeps a loop from resuming exactly, and nothing in loops that do."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from keepstep._plan import Plan
from keepstep._rehearsal import updates_to_rehearse
from rehearsing import RehearsingDriver, findings
from torch.utils.data import Dataset

Body = Callable[[RehearsingDriver], None]


class Points(Dataset[Any]):
    """Points whose samples may draw from `rng`."""

    def __init__(self, rng: Any = None, clock: bool = False) -> None:
        self.points = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
        self.rng = rng
        self.clock = clock

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        point = self.points[index] + 0.1 * random.random()
        if self.rng is not None:
            point = point + float(self.rng.random())
        return point, time.time() if self.clock else 0.0


def parts(driver: RehearsingDriver) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def step(driver: RehearsingDriver, optimizer: torch.optim.Optimizer) -> None:
    if driver.update_due:
        optimizer.step()
        optimizer.zero_grad()


SIZES: dict[str, Any] = {"batch_size": 4, "gradient_accumulation_steps": 2}


def plain(driver: RehearsingDriver) -> None:
    model, optimizer = parts(driver)
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(), **SIZES):
        loss = model(x).square().mean()
        (loss / driver.window).backward()
        driver.record(loss)
        step(driver, optimizer)


def with_workers(driver: RehearsingDriver) -> None:
    model, optimizer = parts(driver)
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(), num_workers=2, **SIZES):
        loss = model(x).square().mean()
        (loss / driver.window).backward()
        driver.record(loss)
        step(driver, optimizer)


def with_logging(driver: RehearsingDriver) -> None:
    model, optimizer = parts(driver)
    driver.track(model=model, optimizer=optimizer)
    losses: list[float] = []
    began, seen = time.time(), 0
    for x, _ in driver.data(Points(), **SIZES):
        loss = model(x).square().mean()
        (loss / driver.window).backward()
        driver.record(loss)
        step(driver, optimizer)
        losses.append(loss.item())
        seen += len(x)
        rate = seen / (time.time() - began)
        assert rate > 0


def with_schedule_and_batch_norm(driver: RehearsingDriver) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = driver.data(Points(), **SIZES)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=data.total_steps)
    driver.track(model=model, optimizer=optimizer, scheduler=scheduler)
    for x, _ in data:
        loss = model(x).square().mean()
        (loss / driver.window).backward()
        driver.record(loss)
        step(driver, optimizer)
        if driver.update_due:
            scheduler.step()


def with_ema(driver: RehearsingDriver) -> None:
    model, optimizer = parts(driver)
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    driver.track(model=model, optimizer=optimizer, ema=ema)
    for x, _ in driver.data(Points(), **SIZES):
        loss = model(x).square().mean()
        loss.backward()
        driver.record(loss)
        step(driver, optimizer)
        if driver.update_due:
            ema.update_parameters(model)


def with_scaler(driver: RehearsingDriver) -> None:
    model, optimizer = parts(driver)
    scaler = torch.amp.GradScaler("cpu", growth_interval=2)
    driver.track(model=model, optimizer=optimizer, scaler=scaler)
    for x, _ in driver.data(Points(), **SIZES):
        loss = model(x).square().mean()
        scaler.scale(loss / driver.window).backward()
        driver.record(loss)
        if driver.update_due:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()


class Trainer:
    """The usual class around a loop."""

    def __init__(self, driver: RehearsingDriver) -> None:
        self.driver = driver
        self.model, self.optimizer = parts(driver)
        self.validation = Points()
        self.history: dict[str, list[float]] = {"loss": []}
        driver.track(model=self.model, optimizer=self.optimizer)

    def training_step(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(x) * numpy.random.rand()
        return self.model(x + noise).square().mean()

    def fit(self) -> None:
        for x, _ in self.driver.data(Points(), **SIZES):
            loss = self.training_step(x)
            loss.backward()
            self.driver.record(loss)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            step(self.driver, self.optimizer)
            self.history["loss"].append(float(loss))


def in_a_class(driver: RehearsingDriver) -> None:
    Trainer(driver).fit()


def clears_gradients_first(driver: RehearsingDriver) -> None:
    model, optimizer = parts(driver)
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(), batch_size=4):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        driver.record(loss)
        optimizer.step()


def with_two_optimizers(driver: RehearsingDriver) -> None:
    generator, critic = torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)
    first = torch.optim.RMSprop(generator.parameters())
    second = torch.optim.Adam(critic.parameters())
    driver.track(generator=generator, critic=critic, first=first, second=second)
    for x, _ in driver.data(Points(), batch_size=4):
        second.zero_grad()
        loss = critic(generator(torch.randn_like(x)).detach()).mean() - critic(x).mean()
        loss.backward()
        second.step()
        first.zero_grad()
        critic(generator(torch.randn_like(x))).mean().neg().backward()
        first.step()
        driver.record(loss)


def compiled_checkpointed(driver: RehearsingDriver) -> None:
    model, optimizer = parts(driver)
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(), **SIZES):
        hidden = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
        loss = hidden.square().mean()
        loss.backward()
        driver.record(loss)
        step(driver, optimizer)


def tracks_its_memory(driver: RehearsingDriver) -> None:
    model, optimizer = parts(driver)
    baseline = torch.nn.Module()
    baseline.register_buffer("mean", torch.zeros(()))
    driver.track(model=model, optimizer=optimizer, baseline=baseline)
    for x, _ in driver.data(Points(), **SIZES):
        loss = model(x).square().mean()
        (loss * (1 + baseline.mean)).backward()
        with torch.no_grad():
            baseline.mean.mul_(0.9).add_(loss, alpha=0.1)
        driver.record(loss)
        step(driver, optimizer)


CLEAN: list[Body] = [
    plain,
    with_workers,
    with_logging,
    with_schedule_and_batch_norm,
    with_ema,
    with_scaler,
    in_a_class,
    clears_gradients_first,
    with_two_optimizers,
    compiled_checkpointed,
    tracks_its_memory,
]


@pytest.mark.parametrize("body", CLEAN, ids=lambda body: body.__name__)
def test_nothing_is_found_in_a_clean_loop(body: Body) -> None:
    driver = RehearsingDriver()
    body(driver)
    assert driver.report is not None and driver.report.complete
    assert str(driver.report).startswith("Rehearsal: 2 updates made twice gave the same bits"), str(driver.report)
    without = RehearsingDriver(num_updates=0)
    body(without)
    assert driver.losses == without.losses


def test_an_average_of_weights_that_is_not_tracked() -> None:
    driver = RehearsingDriver()
    model, optimizer = parts(driver)
    ema = copy.deepcopy(model)
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(), **SIZES):
        model(x).square().mean().backward()
        step(driver, optimizer)
        with torch.no_grad():
            for mine, theirs in zip(ema.parameters(), model.parameters()):
                mine.lerp_(theirs, 0.1)
    assert findings(driver) == [("untracked", "ema")]
    assert driver.report is not None and driver.report.same_bits
    assert "run.track(ema=" in str(driver.report)


def test_an_average_in_a_dict_that_is_made_anew() -> None:
    driver = RehearsingDriver()
    model, optimizer = parts(driver)
    shadow = {name: value.clone() for name, value in model.state_dict().items()}
    driver.track(model=model, optimizer=optimizer)

    def update_shadow() -> None:
        nonlocal shadow
        shadow = {name: 0.9 * shadow[name] + 0.1 * value for name, value in model.state_dict().items()}

    for x, _ in driver.data(Points(), **SIZES):
        model(x).square().mean().backward()
        step(driver, optimizer)
        update_shadow()
    assert findings(driver) == [("untracked", "shadow")]


def test_a_scaler_that_is_not_tracked() -> None:
    driver = RehearsingDriver()
    model, optimizer = parts(driver)
    scaler = torch.amp.GradScaler("cpu")
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(), **SIZES):
        scaler.scale(model(x).square().mean()).backward()
        if driver.update_due:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert findings(driver) == [("untracked", "scaler")]
    assert "`scaler`, a GradScaler" in str(driver.report)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_generator_of_the_datasets_own(num_workers: int) -> None:
    driver = RehearsingDriver()
    model, optimizer = parts(driver)
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(numpy.random.default_rng(5)), num_workers=num_workers, **SIZES):
        model(x).square().mean().backward()
        step(driver, optimizer)
    # A worker's first batches come from a copy of the generator: the same bits, once.
    assert findings(driver) == [("data" if num_workers == 0 else "untracked", "dataset.rng")]
    assert "`dataset.rng` is a generator of its own" in str(driver.report)


def test_time_in_a_batch() -> None:
    driver = RehearsingDriver()
    model, optimizer = parts(driver)
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(clock=True), **SIZES):
        model(x).square().mean().backward()
        step(driver, optimizer)
    [(kind, name)] = findings(driver)
    assert kind == "clock" and name.startswith("test_rehearsal.py:")
    assert "calls time.time()" in str(driver.report) and "`batch[1]`" in str(driver.report)


def test_losses_that_feed_the_loss() -> None:
    driver = RehearsingDriver()
    model, optimizer = parts(driver)
    driver.track(model=model, optimizer=optimizer)
    losses: list[float] = []
    for x, _ in driver.data(Points(), **SIZES):
        loss = model(x).square().mean()
        loss = loss * (1 + sum(losses[-3:]))
        losses.append(loss.item())
        loss.backward()
        driver.record(loss)
        step(driver, optimizer)
    assert findings(driver) == [("memory", "losses")]
    assert "it had 4 entries, then 8" in str(driver.report)


def test_a_generator_in_the_body() -> None:
    driver = RehearsingDriver()
    model, optimizer = parts(driver)
    noise = torch.Generator().manual_seed(1)
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(), **SIZES):
        loss = model(x + torch.randn(x.shape, generator=noise)).square().mean()
        loss.backward()
        driver.record(loss)
        step(driver, optimizer)
    assert findings(driver) == [("draws", "noise")]


def test_a_generator_that_is_made_in_the_body() -> None:
    driver = RehearsingDriver()
    model, optimizer = parts(driver)
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(), **SIZES):
        loss = model(x * numpy.random.default_rng().random()).square().mean()
        loss.backward()
        driver.record(loss)
        step(driver, optimizer)
    assert findings(driver)[0][0] == "draws"
    assert "calls numpy.random.default_rng()" in str(driver.report)


def test_gradients_that_are_never_cleared() -> None:
    driver = RehearsingDriver()
    model, optimizer = parts(driver)
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(), **SIZES):
        model(x).square().mean().backward()
        if driver.update_due:
            optimizer.step()
    assert findings(driver) == [("gradients", "zero_grad")]


def test_a_kernel_that_is_not_deterministic() -> None:
    class Unsteady(torch.autograd.Function):
        turns = 0

        @staticmethod
        def forward(_context: Any, value: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return value.clone()

        @staticmethod
        def backward(_context: Any, *outputs: torch.Tensor) -> torch.Tensor:
            Unsteady.turns += 1
            return outputs[0] * (1 + 1e-6 * Unsteady.turns)

    driver = RehearsingDriver()
    model, optimizer = parts(driver)
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(), **SIZES):
        loss = Unsteady.apply(model(x)).square().mean()
        loss.backward()
        driver.record(loss)
        step(driver, optimizer)
    assert findings(driver) == [("kernel", "deterministic")]
    assert "the gradient of `model.0.weight` in update 1 differs" in str(driver.report)


def test_leaving_the_body_puts_everything_back() -> None:
    driver = RehearsingDriver()
    model, optimizer = parts(driver)
    before = copy.deepcopy(model.state_dict())
    driver.track(model=model, optimizer=optimizer)
    for x, _ in driver.data(Points(), batch_size=4):
        model(x).square().mean().backward()
        optimizer.step()
        break
    assert not driver.in_rehearsal and driver.report is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert optimizer.state_dict()["state"] == {}


def test_a_run_that_wants_to_stop_cuts_the_rehearsal_short() -> None:
    driver = RehearsingDriver()
    driver.stop_at_once = True
    plain(driver)
    without = RehearsingDriver(num_updates=0)
    plain(without)
    assert driver.report is None
    assert driver.losses == without.losses


def test_how_many_updates_are_rehearsed() -> None:
    plan = Plan(steps_per_epoch=100, gradient_accumulation_steps=2, epochs=10)

    def held(epoch: int, step: int, left: int, every: int | None = None, wish: bool | int | None = None) -> int:
        done = (epoch - 1) * 50 + step // 2
        return updates_to_rehearse(plan, epoch, step, left, every, done, wish)

    assert held(1, 0, 500) == 2
    assert held(1, 0, 199) == 0
    assert held(1, 0, 199, wish=True) == 2
    assert held(1, 0, 500, wish=False) == 0
    assert held(1, 0, 500, wish=5) == 5
    assert held(1, 0, 500, every=3, wish=5) == 2
    assert held(1, 2, 500, every=3, wish=5) == 1
    assert held(1, 98, 500) == 0
    assert held(1, 96, 500) == 1
    assert held(1, 100, 500) == 2
