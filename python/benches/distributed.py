"""What the fixed sum costs next to stock DDP, with gloo on this machine, and what elastic mode costs.

Each way makes the same updates in the same processes, in turn, several rounds; medians are printed, and ratios of rounds.

    python distributed.py [processes...]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 7
UPDATES = 3
ACCUMULATE = 4


def worker() -> None:
    import torch
    from keepstep._elastic import Gradients
    from keepstep._plan import Plan
    from keepstep._ranks import join_ranks
    from keepstep._reduce import FixedSum
    from keepstep._sharing import _ddp_hook
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    width, depth, batch = (int(it) for it in os.environ["KEEPSTEP_SIZES"].split())
    ranks = join_ranks(600)
    plan = Plan(10**6, ACCUMULATE, 1, ranks.rank, ranks.size)
    share, shares = plan.share(ACCUMULATE), plan.shares(ACCUMULATE)
    total = FixedSum(ranks)

    def network() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(depth)), nn.Linear(width, 1))

    def ddp(hooked: bool) -> Callable[[], None]:
        model = network()
        if ranks.size > 1:
            model = DistributedDataParallel(model)
            if hooked:
                model.register_comm_hook([total], lambda holder, bucket: _ddp_hook(holder, bucket))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def update() -> None:
            for index in share:
                if ranks.size > 1:
                    model.require_backward_grad_sync = index == share[-1]
                (model(x).square().mean() / ACCUMULATE).backward()
            optimizer.step()
            optimizer.zero_grad()

        return update

    def own(elastic: bool) -> Callable[[], None]:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        gradients = Gradients(ranks, model.named_parameters(), total, elastic)

        def update() -> None:
            gradients.begin()
            for index in share:
                (model(x).square().mean() / ACCUMULATE).backward()
                if elastic:
                    gradients.take(index)
            if not elastic:
                gradients.take(ranks.rank)
            gradients.reduce(shares if elastic else [range(at, at + 1) for at in range(ranks.size)])
            optimizer.step()
            optimizer.zero_grad()

        return update

    x = torch.randn(batch, width)
    ways: dict[str, Any] = {"stock DDP": ddp(False), "our hook": ddp(True), "elastic": own(True)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for name, update in ways.items():
            ranks.gather("the next way")
            began = time.perf_counter()
            for _ in range(UPDATES):
                update()
            if round_:
                seconds[name].append((time.perf_counter() - began) / UPDATES)
    if ranks.rank == 0:
        length = sum(it.numel() for it in network().parameters())
        print(f"{ranks.size} processes, {length / 1e6:.1f} M parameters, {ACCUMULATE} micro-batches of {batch} per update")
        for name, times in seconds.items():
            ratio = statistics.median(mine / base for mine, base in zip(times, seconds["stock DDP"]))
            print(f"  {name:<10} {statistics.median(times) * 1e3:8.1f} ms per update, {ratio:.2f} of stock DDP")


def main(sizes: list[int]) -> None:
    for size in sizes:
        for network in ("512 4 64", "1024 8 64"):
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}", __file__]
            environment = {**os.environ, "KEEPSTEP_SIZES": network, "OMP_NUM_THREADS": "1"}
            subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    if "KEEPSTEP_SIZES" in os.environ:
        worker()
    else:
        main([int(it) for it in sys.argv[1:]] or [1, 2, 3, 4])
