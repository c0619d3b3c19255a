"""Saving (with fsync) and loading a state with torch.save and torch.load. Prints milliseconds."""

import os
import sys
import time

import torch

path, mebibytes = sys.argv[1], int(sys.argv[2])
length = mebibytes * (1 << 20) // 4 // 16
state = {f"tensor{i}": torch.arange(length, dtype=torch.float32) for i in range(16)}
start = time.perf_counter()
with open(path, "wb") as file:
    torch.save(state, file)
    file.flush()
    os.fsync(file.fileno())
print(f"publish {(time.perf_counter() - start) * 1e3:.1f}")
start = time.perf_counter()
torch.load(path, weights_only=True)
print(f"load {(time.perf_counter() - start) * 1e3:.1f}")
os.remove(path)
