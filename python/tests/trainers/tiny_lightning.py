"""A small run of Lightning with dropout, draws in workers, accumulation with a ragged window, and means over epochs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import tiny
import torch
from keepstep.lightning import DurableCheckpointIO, ExactCheckpoint, ExactLoader, ExactResume
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

EPOCHS = 3
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


class Module(lightning.LightningModule):
    """`tiny.Model` with AdamW and a schedule, and its means of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny.Model()
        self.means: dict[int, dict[str, float]] = {}
        self.validations: dict[int, float] = {}
        """Validation losses by the number of micro-batches trained on."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {**batch, "x": batch["x"] + torch.randn_like(batch["x"]) * 0.01}

    def training_step(self, batch: Any, _: int) -> Any:
        loss = self.model(**batch)["loss"]
        size = len(batch["x"])
        self.log("loss", loss, on_epoch=True, batch_size=size)
        self.log("most", loss, on_step=False, on_epoch=True, reduce_fx="max", batch_size=size)
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_loss", self.model(**batch)["loss"] + torch.rand(()) * 0.01, batch_size=len(batch["x"]))

    def on_validation_end(self) -> None:
        done = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self.validations[done] = float(self.trainer.callback_metrics["val_loss"])

    def on_train_epoch_end(self) -> None:
        wanted = ("loss_epoch", "most", "val_loss")
        metrics = self.trainer.callback_metrics
        self.means[self.current_epoch] = {name: float(metrics[name]) for name in wanted if name in metrics}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-2)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 12)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class StopAt(Callback):
    """Ends a session after a micro-batch, saving there."""

    def __init__(self, batch: int | None, folder: Path) -> None:
        self.batch = batch
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if done == self.batch:
            trainer.save_checkpoint(self.folder / f"stopped{done:02}.ckpt")
            trainer.should_stop = True


def fit(
    folder: Path,
    stop_at: int | None = None,
    path: Any = None,
    *,
    workers: int = 0,
    exact: bool = True,
    every: int = 2,
    accumulate: int = 5,
    save_last: bool = False,
    extra: Any = (),
    ends: bool = True,
    **settings: Any,
) -> Module:
    """Fits a `Module` whose checkpoints are in `folder`, for 3 epochs of 12 micro-batches."""
    lightning.seed_everything(7, workers=True, verbose=False)
    module = Module()
    data = torch.utils.data.DataLoader(
        tiny.Noisy(), tiny.BATCH, shuffle=True, num_workers=workers, collate_fn=tiny.Masking()
    )
    held_out = torch.utils.data.DataLoader(torch.utils.data.Subset(tiny.Noisy(), range(4)), 2)
    saver = (ExactCheckpoint if exact else ModelCheckpoint)(
        folder, "step={step}", auto_insert_metric_name=False, every_n_train_steps=every, save_top_k=-1, save_last=save_last
    )
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accumulate_grad_batches=accumulate,
        callbacks=[*([ExactResume()] if exact else []), *extra, StopAt(stop_at, folder), saver],
        plugins=[DurableCheckpointIO()] if exact else [],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    if exact:
        trainer.fit(module, ExactLoader(data, 7), ExactLoader(held_out, 8), ckpt_path=path, weights_only=False)
    else:
        trainer.fit(module, data, held_out, ckpt_path=path, weights_only=False)
    if ends:
        trainer.save_checkpoint(folder / "end.ckpt")
    return module
