"""Loading a file with torch.load in a process of its own. Prints milliseconds, and the most memory held beyond start."""

import sys
import time

import torch


def held(what):
    for line in open("/proc/self/status"):
        if line.startswith(what):
            return int(line.split()[1]) / 1024


torch.zeros(1)
before = held("VmRSS:")
start = time.perf_counter()
torch.load(sys.argv[1], weights_only=True)
print(f"load {(time.perf_counter() - start) * 1e3:.1f}")
print(f"peak {held('VmHWM:') - before:.1f}")
