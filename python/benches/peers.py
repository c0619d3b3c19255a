"""Resuming next to what people use: the usual notebook loop, Hugging Face's Trainer and Lightning, with keepstep and without.

Each trains the same small model on the same samples: 3 epochs, dropout, random masking in the dataset, two workers.
Once straight, and once killed in the middle of epoch 2 and started again. Printed is what the second run did
differently from the first: samples of epoch 2 that its weights have seen twice or never, the largest difference of a
weight, and the mean loss that it reports.

    python peers.py [usual] [trainer] [lightning] [keepstep] [exact-trainer] [exact-lightning]
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

SAMPLES, BATCH, EPOCHS, SAVE, KILL, SEED = 400, 8, 3, 20, 75, 1337
STEPS = SAMPLES // BATCH
TOTAL = STEPS * EPOCHS
VOCABULARY, LENGTH = 64, 16


class Texts(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sequences in which one token of eight is masked at random."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(LENGTH + 1) * (index % 7 + 1) + index) % VOCABULARY
        masked = torch.where(torch.rand(LENGTH) < 0.125, 0, tokens[:-1])
        return {"input_ids": masked, "labels": tokens[1:], "index": torch.tensor(index)}


class Model(nn.Module):
    """Embedding, two layers with dropout, head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Embedding(VOCABULARY, 32), nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, VOCABULARY)
        )

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.body(input_ids)
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


class Log:
    """Which samples each update used, and the kill."""

    def __init__(self, folder: Path, kill: bool) -> None:
        self.file = open(folder / f"seen{len(list(folder.glob('seen*')))}.jsonl", "w")  # noqa: SIM115
        self.kill = kill

    def step(self, global_step: int, index: torch.Tensor) -> None:
        """Notes the samples of the update after `global_step` others."""
        self.file.write(json.dumps([global_step, index.tolist()]) + "\n")
        self.file.flush()
        if self.kill and global_step + 1 == KILL:
            os.kill(os.getpid(), signal.SIGKILL)


def result(folder: Path, model: nn.Module, mean_loss: float) -> None:
    """Writes what a session ended in."""
    torch.save(model.state_dict(), folder / "weights.pt")
    (folder / "result.json").write_text(json.dumps(mean_loss))


def usual(folder: Path, log: Log) -> None:
    """A loop as in most notebooks: it saves states and counters, and skips batches by walking through them."""
    torch.manual_seed(SEED)
    loader = torch.utils.data.DataLoader(Texts(), BATCH, shuffle=True, num_workers=2)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, TOTAL)
    path = folder / "checkpoint.pt"
    first_epoch = first_step = global_step = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first_epoch, first_step, global_step = state["at"]
    mean = 0.0
    for epoch in range(first_epoch, EPOCHS):
        losses: list[float] = []
        for step, batch in enumerate(loader):
            if epoch == first_epoch and step < first_step:
                continue
            log.step(global_step, batch.pop("index"))
            loss = model(**batch)["loss"]
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            global_step += 1
            if global_step % SAVE == 0:
                states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                at = (epoch, step + 1, global_step)
                torch.save({**states, "scheduler": scheduler.state_dict(), "at": at}, path)
        if epoch == 1:
            mean = sum(losses) / len(losses)
    result(folder, model, mean)


def trainer(folder: Path, log: Log, exact: bool = False) -> None:
    """Hugging Face's Trainer, resumed as its documentation says."""
    import transformers

    base = transformers.Trainer
    if exact:
        from keepstep.transformers import ExactTrainer as base

    class Logged(base):
        def training_step(self, model: Any, inputs: Any, *rest: Any, **given: Any) -> Any:
            log.step(self.state.global_step, inputs.pop("index"))
            return super().training_step(model, inputs, *rest, **given)

    transformers.set_seed(SEED)
    model = Model()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=EPOCHS,
        save_steps=SAVE,
        learning_rate=3e-3,
        seed=SEED,
        dataloader_num_workers=2,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1000,
    )
    there = bool(list((folder / "trainer").glob("checkpoint-*")))
    output = Logged(model=model, args=arguments, train_dataset=Texts()).train(resume_from_checkpoint=there)
    result(folder, model, output.training_loss)


def lightning(folder: Path, log: Log, exact: bool = False) -> None:
    """Lightning, resumed by ``ckpt_path="last"``."""
    import logging

    import lightning as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    logging.getLogger("lightning").setLevel(logging.ERROR)
    means: list[float] = []

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Model()

        def training_step(self, batch: Any, _: int) -> Any:
            log.step(self.global_step, batch.pop("index"))
            loss = self.model(**batch)["loss"]
            self.log("loss", loss, on_step=False, on_epoch=True)
            return loss

        def on_train_epoch_end(self) -> None:
            means.append(float(self.trainer.callback_metrics["loss"]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
            scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, TOTAL)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    pl.seed_everything(SEED, workers=True, verbose=False)
    module = Module()
    loader: Any = torch.utils.data.DataLoader(Texts(), BATCH, shuffle=True, num_workers=2)
    callbacks: list[Any] = []
    plugins: list[Any] = []
    if exact:
        from keepstep.lightning import DurableCheckpointIO, ExactCheckpoint, ExactLoader, ExactResume

        ModelCheckpoint, loader = ExactCheckpoint, ExactLoader(loader, SEED)
        callbacks, plugins = [ExactResume()], [DurableCheckpointIO()]
    saver = ModelCheckpoint(folder / "lightning", every_n_train_steps=SAVE, save_top_k=-1, save_last=True)
    fitter = pl.Trainer(
        max_epochs=EPOCHS,
        callbacks=[*callbacks, saver],
        plugins=plugins,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    there = (folder / "lightning" / "last.ckpt").exists()
    # Its own checkpoint, which holds classes of its own.
    fitter.fit(module, loader, ckpt_path="last" if there else None, weights_only=False)
    result(folder, module.model, means[-2])


def keepstep(folder: Path, log: Log) -> None:
    """The same loop with keepstep."""
    import keepstep as package

    run = package.Run(folder / "run", config={"lr": 3e-3}, seed=SEED, save_steps=SAVE, max_checkpoints=99, progress_bar=False)
    data = run.data(Texts(), batch_size=BATCH, epochs=EPOCHS, num_workers=2)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, data.total_steps)
    run.track(model=model, optimizer=optimizer, scheduler=scheduler)
    for batch in data:
        log.step(run.global_step, batch.pop("index"))
        loss = model(**batch)["loss"]
        loss.backward()
        run.record(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    run.finish()
    [second] = (folder / "run").glob("checkpoint_epoch2_final_*.pt")
    result(folder, model, torch.load(second, weights_only=True)["train_loss"])


TOOLS = {
    "usual": usual,
    "trainer": trainer,
    "exact-trainer": partial(trainer, exact=True),
    "lightning": lightning,
    "exact-lightning": partial(lightning, exact=True),
    "keepstep": keepstep,
}
NAMES = {
    "usual": "the usual notebook loop",
    "trainer": "HF Trainer",
    "exact-trainer": "HF Trainer with keepstep",
    "lightning": "Lightning",
    "exact-lightning": "Lightning with keepstep",
    "keepstep": "keepstep",
}


def session(tool: str, folder: Path, kill: bool) -> None:
    """Runs one session in a process of its own."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", __file__, "--session", tool, str(folder), "kill" if kill else "go"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode != (-signal.SIGKILL if kill else 0):
        raise SystemExit(f"{tool} ended with status {done.returncode}:\n{done.stdout}{done.stderr}")


def seen(folder: Path) -> Counter[int]:
    """Returns how often the weights have seen each sample in epoch 2: what was killed before it was saved is not counted."""
    steps: dict[int, list[int]] = {}
    for path in sorted(folder.glob("seen*.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if lines:  # a later session goes on from its checkpoint
            steps = {step: samples for step, samples in steps.items() if step < lines[0][0]}
        steps.update(dict(lines))
    return Counter(sample for step, samples in steps.items() if STEPS <= step < 2 * STEPS for sample in samples)


def compare(tool: str) -> None:
    """Prints a tool's row."""
    with tempfile.TemporaryDirectory() as place:
        straight, resumed = Path(place, "straight"), Path(place, "resumed")
        session(tool, straight, kill=False)
        session(tool, resumed, kill=True)
        session(tool, resumed, kill=False)
        counts = seen(resumed)
        twice = sum(count > 1 for count in counts.values())
        one = torch.load(straight / "weights.pt", weights_only=True)
        other = torch.load(resumed / "weights.pt", weights_only=True)
        difference = max(float((one[name] - other[name]).abs().max()) for name in one)
        means = [json.loads((folder / "result.json").read_text()) for folder in (straight, resumed)]
    row = f"| {NAMES[tool]} | {twice} | {SAMPLES - len(counts)} | {difference:.2g} | {means[0]:.4f} | {means[1]:.4f} |"
    print(row, flush=True)


def main() -> None:
    """Prints the table, or is a session."""
    if sys.argv[1:2] == ["--session"]:
        warnings.simplefilter("ignore")
        tool, folder, how = sys.argv[2:]
        with contextlib.redirect_stdout(sys.stderr):
            TOOLS[tool](Path(folder), Log(Path(folder), how == "kill"))
        return
    print(f"Killed at update {KILL} of {TOTAL}, resumed from update {KILL // SAVE * SAVE}, in epoch 2 of {EPOCHS}\n")
    print("| | samples twice | samples never | weights differ by | mean loss, straight | mean loss, resumed |")
    print("|---|---|---|---|---|---|")
    for tool in sys.argv[1:] or TOOLS:
        compare(tool)


if __name__ == "__main__":
    main()
