"""The snapshot of a save. Streams are stand-ins that record what they are asked for: no GPU is tested here."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn

from keepstep import _core
from keepstep._save import Converter, Snapshots, storage_id


class Event:
    def __init__(self, streams: Recorder, number: int) -> None:
        self.streams, self.number = streams, number

    def query(self) -> bool:
        return self.streams.done

    def synchronize(self) -> None:
        self.streams.log.append(f"host waits for {self.number}")
        self.streams.run()


class Recorder:
    """A side stream whose copies happen only when it is run, as a busy device's would."""

    def __init__(self, device: Any = None) -> None:
        self.log: list[str] = []
        self.queue: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.events = 0

    @property
    def done(self) -> bool:
        return not self.queue

    def run(self) -> None:
        for source, target in self.queue:
            target.copy_(source)
        self.queue.clear()

    def side_waits_for_current(self) -> None:
        self.log.append("side waits for current")

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        self.log.append("copy")
        self.queue.append((source, target))

    def record(self) -> Event:
        self.events += 1
        self.log.append(f"record {self.events}")
        return Event(self, self.events)

    def current_waits_for(self, event: Event) -> None:
        self.log.append(f"current waits for {event.number}")
        self.run()


def test_the_order_of_waits_and_events() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    recorder = Recorder()
    snapshots = Snapshots(lambda device: recorder, lambda device: True, pinned=False)
    constant = {storage_id(it) for it in model.parameters()}
    before = {name: it.clone() for name, it in model.state_dict().items()}
    snapshot = snapshots.take([("model", model.state_dict())], constant)
    assert recorder.log == ["side waits for current", *["copy"] * len(before), "record 1"]
    assert not snapshot.is_ready
    with torch.no_grad():
        # A forward pass changes the buffers while the copies are queued.
        model(torch.randn(8, 2))
        snapshot.hold_back_update()
        assert recorder.log[-1] == "current waits for 1"
        for parameter in model.parameters():
            parameter.add_(1)
    snapshot.wait()
    assert recorder.log[-1] == "host waits for 1" and snapshot.is_ready
    copied = dict(snapshot.parts)["model"]
    assert all(torch.equal(copied[name].tensor, value) for name, value in before.items())


def test_parameters_are_not_cloned_and_buffers_are() -> None:
    recorder = Recorder()
    model = nn.BatchNorm1d(2)
    snapshots = Snapshots(lambda device: recorder, lambda device: True, pinned=False)
    snapshots.take([("model", model.state_dict())], {storage_id(it) for it in model.parameters()})
    sources = {storage_id(source) for source, _ in recorder.queue}
    assert {storage_id(it) for it in model.parameters()} <= sources
    assert not {storage_id(it) for it in model.buffers()} & sources


def test_a_copy_on_the_host_does_not_change_later_and_is_used_again() -> None:
    snapshots = Snapshots()
    tensor = torch.arange(4.0)
    addresses = []
    for _ in range(3):
        snapshot = snapshots.take([("model", {"a": tensor, "same": tensor, "b": [tensor[:2] + 1, {"deep": (1, "x")}]})], set())
        state = dict(snapshot.parts)["model"]
        tensor.add_(1)
        assert torch.equal(state["a"].tensor, tensor - 1) and state["a"] is state["same"]
        addresses.append(state["a"].tensor.data_ptr())
        del snapshot, state
        gc.collect()
    assert len(set(addresses)) == 1, "buffers are used again"


def test_memory_stays_while_the_core_uses_it() -> None:
    snapshots = Snapshots()
    snapshot = snapshots.take([("model", torch.arange(3.0))], set())
    stored = Converter()(snapshot.parts[0][1])
    del snapshot
    gc.collect()
    other = snapshots.take([("model", torch.zeros(3))], set())
    out = torch.empty(3)
    stored.read_into(out.data_ptr(), 12)
    assert out.tolist() == [0, 1, 2] and other is not None


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3, 4).permute(2, 0, 1),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(6)[::2],
        torch.randn(1, 3).expand(4, 3),
        torch.tensor(2.5),
        torch.empty(0, 3),
        torch.arange(5, dtype=torch.uint8),
        torch.tensor([True, False]),
        torch.randn(3, dtype=torch.complex64),
        torch.randn(3).bfloat16(),
        torch.randn(3).half(),
    ],
    ids=lambda it: f"{it.dtype} {tuple(it.shape)}".replace("torch.", ""),
)
def test_every_layout_comes_back(tensor: torch.Tensor) -> None:
    from keepstep._track import new_tensor

    snapshot = Snapshots().take([("x", tensor)], set())
    back = new_tensor(Converter()(snapshot.parts[0][1]))
    assert back.dtype is tensor.dtype and torch.equal(back, tensor)
    if tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last) or tensor.dim() == 3:
        assert back.stride() == tensor.stride()


def test_memory_that_does_not_fit_is_refused() -> None:
    buffer = torch.zeros(4)
    for arguments in [
        ("float32", [5], [1], buffer.data_ptr(), 16),
        ("float32", [4], [2], buffer.data_ptr(), 16),
        ("float32", [4], [1], buffer.data_ptr(), 15),
        ("float32", [4], [1], 0, 16),
        ("no such type", [4], [1], buffer.data_ptr(), 16),
    ]:
        with pytest.raises(ValueError):
            _core.Tensor(*arguments, buffer)
    tensor = _core.Tensor("float32", [4], [1], buffer.data_ptr(), 16, buffer)
    with pytest.raises(ValueError, match="16 bytes, not 12"):
        tensor.read_into(buffer.data_ptr(), 12)
