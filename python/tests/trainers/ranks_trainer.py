"""A run of Trainer in several processes: ``torchrun --nproc_per_node 2 ranks_trainer.py FOLDER [STOP_AT ...]``."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny_trainer
import torch
import transformers

if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for stop in [*map(int, sys.argv[2:]), None]:
        trainer = tiny_trainer.trainer(Path(sys.argv[1]), stop, workers=2 * (stop == 5), eval_strategy="no", logging_steps=2)
        output = trainer.train(resume_from_checkpoint="auto")
    if trainer.args.process_index == 0:
        Path(sys.argv[1], "loss").write_text(repr(output.training_loss))
