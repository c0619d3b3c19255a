"""Random numbers are a function of the seed, the purpose and the position."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy
import torch
from keepstep._random import Purpose, Randomness, derive, derive_range, reseed, seed_host


def draw() -> tuple[float, float, float]:
    return random.random(), float(numpy.random.rand()), float(torch.rand(()))


def test_the_same_place_gives_the_same_draws() -> None:
    first, second = Randomness(1), Randomness(1)
    first.training(2, 3)
    expected = draw()
    second.training(1, 1)
    draw()
    second.training(2, 3)
    assert draw() == expected
    for seed, epoch, step in [(2, 2, 3), (1, 3, 2), (1, 2, 4)]:
        Randomness(seed).training(epoch, step)
        assert all(one != other for one, other in zip(draw(), expected))


def test_purposes_do_not_meet() -> None:
    keys = {derive(1, purpose, 2, 3) for purpose in Purpose}
    assert len(keys) == len(Purpose)


def test_the_keys_are_part_of_the_format() -> None:
    assert derive(1337, Purpose.TRAINING, 1, 0) == TRAINING_KEY
    assert derive(1337, Purpose.SAMPLE, 2, 5) == SAMPLE_KEY


TRAINING_KEY = 8412895907590904191
SAMPLE_KEY = 14291791173082461588


def test_evaluation_and_sampling_disturb_nothing() -> None:
    randomness = Randomness(1)
    randomness.training(1, 0)
    draw()
    expected = draw()
    randomness.training(1, 0)
    draw()
    with randomness.evaluation(7):
        evaluation = draw()
        with randomness.sampling(7, index=2):
            sampling = draw()
        between = draw()
    assert draw() == expected
    with randomness.evaluation(7):
        assert draw() == evaluation
        assert draw() == between
    with randomness.sampling(7, index=2):
        assert draw() == sampling
    with randomness.sampling(7, index=3):
        assert draw() != sampling


def test_generators_are_put_back_after_an_error() -> None:
    randomness = Randomness(1)
    randomness.training(1, 0)
    expected = draw()
    randomness.training(1, 0)
    try:
        with randomness.sampling(1):
            raise KeyError
    except KeyError:
        pass
    assert draw() == expected


def test_initial_weights() -> None:
    def weights() -> torch.Tensor:
        Randomness(3).initial()
        return torch.nn.Linear(4, 4).weight.detach()

    torch.rand(5)
    first = weights()
    torch.rand(6)
    assert torch.equal(first, weights())


def test_generator_objects_of_every_kind() -> None:
    for generator, take in [
        (torch.Generator(), lambda each: float(torch.rand((), generator=each))),
        (random.Random(5), lambda each: each.random()),
        (numpy.random.default_rng(5), lambda each: each.random()),
        (numpy.random.Generator(numpy.random.MT19937(5)), lambda each: each.random()),
        (numpy.random.RandomState(5), lambda each: each.rand()),
    ]:
        assert reseed(generator, 2**63 + 5)
        expected = take(generator)
        take(generator)
        assert reseed(generator, 2**63 + 5)
        assert take(generator) == expected
    assert not reseed(random.SystemRandom(), 1)
    assert not reseed("generator", 1)


def test_without_numpy() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "import random, torch\n"
        "from keepstep._random import Randomness\n"
        "r = Randomness(1); r.training(1, 0); a = (random.random(), float(torch.rand(())))\n"
        "with r.evaluation(1): random.random(), torch.rand(())\n"
        "r.training(1, 0); assert a == (random.random(), float(torch.rand(())))\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_device_that_starts_late_gets_the_key_in_force(monkeypatch) -> None:  # noqa: ANN001
    asked: list[object] = []
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "_lazy_call", lambda call, **_: asked.append(call))
    randomness = Randomness(1)
    randomness.initial()
    randomness.training(1, 0)
    randomness.training(1, 1)
    assert len(asked) == 2
    device = torch.Generator()
    monkeypatch.setattr(torch.cuda, "default_generators", (device,))
    for call in asked:
        call()  # type: ignore[operator]
    assert device.initial_seed() == derive(1, Purpose.TRAINING, 1, 1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    randomness.training(1, 2)
    assert device.initial_seed() == derive(1, Purpose.TRAINING, 1, 2)


def test_keys_of_a_range() -> None:
    assert derive_range(1337, Purpose.SAMPLE, 2, 3, 9) == [derive(1337, Purpose.SAMPLE, 2, place) for place in range(3, 9)]


def test_numpy_gets_all_bits_of_the_key() -> None:
    key = derive(1337, Purpose.SAMPLE, 2, 5)
    draws = []
    for each in (key, key ^ 1 << 40, key ^ 1 << 3):
        seed_host(each)
        draws.append(float(numpy.random.rand()))
    assert len(set(draws)) == 3
