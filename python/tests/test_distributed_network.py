"""Two processes in two network namespaces: their traffic crosses a link that is slowed and cut in a run.

It needs root and Debian's iproute2, so it is a long form: `cargo xtask soak pytorch`.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ranks import Job, files, straight, train

pytestmark = pytest.mark.soak

LOOP = {"accumulate": 5, "samples": 63, "width": 200, "save_steps": 1}


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Link:
    """Two namespaces with a pair of virtual devices between them."""

    def __init__(self) -> None:
        mark = f"ks{os.getpid() % 10000}"
        self.names = [f"{mark}a", f"{mark}b"]
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.names[0], "netns", self.names[0], "type", "veth", "peer", self.names[1], "netns", self.names[1])
        for at, name in enumerate(self.names):
            ip("-n", name, "addr", "add", f"10.77.0.{at + 1}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
            ip("-n", name, "link", "set", "lo", "up")

    def environment(self, rank: int) -> dict[str, str]:
        """What a process gets to be at its end of the link; rank 0 keeps the store."""
        return {
            "KEEPSTEP_NAMESPACE": self.names[rank],
            "GLOO_SOCKET_IFNAME": self.names[rank],
            "MASTER_ADDR": "10.77.0.1",
            "MASTER_PORT": "29511",
            "TORCHELASTIC_USE_AGENT_STORE": "False",
        }

    def slow(self, rate: str) -> None:
        for name in self.names:
            words = ["tc", "-n", name, "qdisc", "replace", "dev", name, "root", "tbf", "rate", rate, "burst", "16kb", "latency", "200ms"]
            subprocess.run(words, check=True)

    def cut(self) -> None:
        ip("-n", self.names[0], "link", "set", self.names[0], "down")

    def sent(self) -> int:
        """Bytes that have left the first end."""
        text = ip("-n", self.names[0], "-s", "link", "show", self.names[0])
        return int(text.split("TX:")[1].splitlines()[1].split()[0])

    def close(self) -> None:
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False)


@pytest.fixture
def link() -> Iterator[Link]:
    assert os.geteuid() == 0, "this test makes network namespaces: run it as root"
    link = Link()
    yield link
    link.close()


def start(link: Link, folder: Path, **options: object) -> Job:
    began = folder.with_name("began")
    began.unlink(missing_ok=True)
    job = Job(2, folder, {**LOOP, "announce": str(began), **options}, link.environment)
    while not began.exists() and job.processes[0].exitcode is None:
        time.sleep(0.01)
    return job


def test_a_slowed_link_changes_nothing(link: Link, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = straight(1, tmp_path / "alone", **LOOP)
    seconds = {}
    for rate in (None, "8mbit"):
        folder = tmp_path / f"over {rate}"
        before, since = link.sent(), time.monotonic()
        job = start(link, folder)
        if rate is not None:
            link.slow(rate)
        assert job.wait() == [0, 0], job.log(0) + job.log(1)
        seconds[rate] = time.monotonic() - since
        assert files(folder) == alone
        sums = re.search(r"send ([\d,]+) bytes", job.log(0))
        assert sums is not None
        assert link.sent() - before > 10 * int(sums[1].replace(",", "")), "the gradients of 10 updates crossed the link"
    with capsys.disabled():
        print(f"\nover a link: {seconds[None]:.1f} s; slowed to 8 Mbit/s: {seconds['8mbit']:.1f} s; the same files")


def test_a_cut_link_is_named_and_the_run_goes_on(link: Link, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = straight(1, tmp_path / "alone", **LOOP)
    job = start(link, tmp_path / "run", sleep=0.2, rank_timeout=5)
    time.sleep(2.5)
    link.cut()
    since = time.monotonic()
    for process in job.processes:
        process.join(40)
    seconds = time.monotonic() - since
    job.kill()
    for rank, expected in enumerate(["rank 1 has given no sign of life", "the store .* does not answer"]):
        assert job.processes[rank].exitcode in (1, 70), job.log(rank)
        assert re.search(f"{expected}.*start the run again", job.log(rank)), job.log(rank)
    assert files(tmp_path / "run")
    assert train(2, tmp_path / "run", **LOOP) == [0, 0]
    assert files(tmp_path / "run") == alone
    with capsys.disabled():
        print(f"\na cut link: both processes had ended after {seconds:.1f} s; the resumed run has the same files")
