"""Saving (with fsync) and loading a state with torch.save, safetensors and DCP's asynchronous save. Prints milliseconds."""

import os
import shutil
import sys
import time
import warnings

import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp

warnings.filterwarnings("ignore")
path, mebibytes = sys.argv[1], int(sys.argv[2])
length = mebibytes * (1 << 20) // 4 // 16
state = {f"tensor{i}": torch.arange(length, dtype=torch.float32) for i in range(16)}


def timed(what, work):
    start = time.perf_counter()
    result = work()
    print(f"{what} {(time.perf_counter() - start) * 1e3:.1f}")
    return result


def save():
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def save_safetensors():
    safetensors.torch.save_file(state, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


timed("publish", save)
timed("load", lambda: torch.load(path, weights_only=True))
os.remove(path)
timed("safetensors", save_safetensors)
os.remove(path)
# The call returns when training may go on.
for _ in range(3):
    future = timed("stall", lambda: dcp.async_save(state, checkpoint_id=path + ".dcp", no_dist=True))
    future.result()
    shutil.rmtree(path + ".dcp")
