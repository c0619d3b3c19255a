"""A script that is proved: it trains with workers, and forgets its running mean if it is told to."""

from __future__ import annotations

import sys
import tempfile
import time

import torch
from loops import Noisy

import keepstep

forgets = "forget" in sys.argv
torch.set_num_threads(1)
run = keepstep.Run(tempfile.gettempdir() + "/never-written", config={"lr": 0.01}, seed=3, save_steps=1000)
data = run.data(Noisy(64), batch_size=2, gradient_accumulation_steps=2, epochs=2, num_workers=1)
model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
mean = torch.zeros(())
run.track(model=model, optimizer=optimizer)
for x in data:
    loss = model(x.float()).square().mean()
    if forgets:
        mean.mul_(0.9).add_(loss.detach(), alpha=0.1)
        loss = loss * (1 + mean)
    (loss / run.window).backward()
    run.record(loss)
    if run.update_due:
        optimizer.step()
        optimizer.zero_grad()
    time.sleep(0.04)
run.exit()
