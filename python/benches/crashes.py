"""Crashes at every file event of a run, by ckpt-chaos: Trainer and Lightning without keepstep, and with it.

    python crashes.py [POINTS]

POINTS limits the crash points of each tool.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "trainers"))

import chaos  # noqa: E402
import torch  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("keepstep").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        print(chaos.table(Path(place), int(sys.argv[1]) if len(sys.argv) > 1 else None))
