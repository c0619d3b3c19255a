"""Lightning with exact, durable checkpoints. Importing this module imports lightning.

::

    from keepstep.lightning import DurableCheckpointIO, ExactCheckpoint, ExactLoader, ExactResume, newest

    loader = ExactLoader(DataLoader(train_set, batch_size=16, shuffle=True, num_workers=2), seed=1337)
    trainer = Trainer(callbacks=[ExactResume(), ExactCheckpoint("ckpt", every_n_train_steps=1000)],
                      plugins=[DurableCheckpointIO()])
    trainer.fit(module, loader, ckpt_path=newest("ckpt"))

The ``.ckpt`` files stay Lightning's own.
"""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

try:
    from lightning.pytorch import Callback as _Callback  # pyright: ignore[reportMissingImports]
    from lightning.pytorch.callbacks import ModelCheckpoint as _ModelCheckpoint  # pyright: ignore[reportMissingImports]
    from lightning.pytorch.plugins.io import TorchCheckpointIO as _IO  # pyright: ignore[reportMissingImports]
except ImportError as _error:
    raise ImportError("keepstep.lightning needs lightning: pip install lightning") from _error

from . import _archives
from ._errors import Error
from ._keyed_loader import KeyedLoader, compare

__all__ = ["DurableCheckpointIO", "ExactCheckpoint", "ExactLoader", "ExactResume", "newest"]

_KEY = "keepstep"
_log = logging.getLogger("keepstep")
_CallbackBase: Any = _Callback
_CheckpointBase: Any = _ModelCheckpoint
_IOBase: Any = _IO


class ExactLoader:
    """The batches of a `DataLoader` in keepstep's order, with random numbers of their own.

    For training, give it to ``fit`` together with the callback `ExactResume`, which tells it where the epoch begins.
    For validation it needs no callback: every pass has the same draws, with any number of workers.
    """

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        """Takes `loader` apart: its dataset, collator, sampler and workers are used.

        Args:
            loader: Random, sequential and distributed samplers are replaced; others run under keyed random numbers.
            seed: 0 to 2**64 - 1; order and random numbers follow from it.

        Raises:
            TypeError, ValueError: in one sentence, if its batches may come in any order, or if it is a stream.
        """
        self._keyed = KeyedLoader(loader, seed)
        self._position: Callable[[], tuple[int, int]] | None = None

    @property
    def dataset(self) -> Any:
        """The user's dataset."""
        return self._keyed.source.loading.dataset

    @property
    def batch_size(self) -> int | None:
        """Samples per batch; None where a batch sampler decides."""
        return self._keyed.source.loading.batch_size

    @property
    def num_workers(self) -> int:
        """Processes that make batches."""
        return self._keyed.num_workers

    def __len__(self) -> int:
        self._share()
        return len(self._keyed)

    def __iter__(self) -> Iterator[Any]:
        """Yields the batches that are left of the epoch. The position is asked for with the first batch, not before."""
        self._share()
        keyed, place = self._keyed, self._position
        epoch, step = (0, 0) if place is None else place()
        keyed.requests.set_epoch(epoch)
        keyed.requests.first = step
        for batch in keyed:
            if place is not None:
                keyed.seed_micro_batch(epoch + 1, step)
            step += 1
            yield batch

    def _share(self) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._keyed.requests.rank = torch.distributed.get_rank()
            self._keyed.requests.world_size = torch.distributed.get_world_size()

    # Lightning takes a loader with these for one that knows where it is. `ExactResume` keeps what they return out of
    # the file, so that `fit` can go on from it with any loader.

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: the position follows from the trainer's counters."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Does nothing."""


class ExactResume(_CallbackBase):
    """Resumes in mid-epoch with the same batches and draws, the same means and metrics, and the same gradients.

    It tells `ExactLoader` the position, compares the data with the checkpoint's, and stores what Lightning forgets
    under the key ``keepstep`` of the checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loaders: list[ExactLoader] = []
        self._restored: dict[str, Any] | None = None
        self._sums: dict[str, dict[str, Any]] = {}
        """Sums of logged values from before the resume, until the first batch has logged them again."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lets a damaged checkpoint be passed over, in ``fit`` alone."""
        io = trainer.strategy.checkpoint_io
        if isinstance(io, DurableCheckpointIO):
            io.falls_back = stage == "fit"

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keeps what `on_save_checkpoint` stored."""
        self._restored = checkpoint.get(_KEY)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Tells the loader its position, and puts back gradients and sums.

        Raises:
            MismatchError: if the checkpoint's batches were others.
        """
        loop = trainer.fit_loop
        self._loaders = [it for it in _leaves(trainer.train_dataloader) if isinstance(it, ExactLoader)]
        if not self._loaders:
            _log.warning("No training loader is an ExactLoader: order and random draws are not exact after a resume")
        for loader in self._loaders:
            loader._position = lambda: (
                loop.epoch_progress.current.processed,
                loop.epoch_loop.batch_progress.current.ready,
            )
        saved, self._restored = self._restored, None
        if saved is None:
            return
        for number, loader in enumerate(self._loaders):
            before = dict(saved["data"][number]) if number < len(saved["data"]) else {}
            now = {**loader._keyed.identity(), "gradient_accumulation_steps": trainer.accumulate_grad_batches}
            compare("the checkpoint", before, now, "begin anew without ckpt_path")
        # What the last validation logged: monitors and plateau schedules ask for it.
        trainer.callback_metrics.update(saved["metrics"])
        for callback in trainer.early_stopping_callbacks:
            # Lightning puts the count back and trains on.
            if callback.stopped_epoch or callback.wait_count >= callback.patience:
                trainer.should_stop = True
        self._sums = dict(saved["sums"]) if saved["epoch"] == loop.epoch_progress.current.processed else {}
        for name, parameter in pl_module.named_parameters():
            if name in saved["gradients"]:
                parameter.grad = saved["gradients"][name].to(parameter.device, copy=True)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Adds the key ``keepstep`` with plain values and tensors."""
        loop = trainer.fit_loop
        checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).pop("combined_loader", None)
        if not self._loaders:
            return
        batches, progress = loop.epoch_loop.batch_progress.current, loop.epoch_progress.current
        gradients: dict[str, torch.Tensor] = {}
        if batches.processed % trainer.accumulate_grad_batches and not batches.processed == len(self._loaders[0]):
            named = pl_module.named_parameters()
            gradients = {name: it.grad.detach().cpu().clone() for name, it in named if it.grad is not None}
            if batches.processed != batches.ready:
                _log.warning("A checkpoint is saved inside a micro-batch: resuming from it is not exact")
        accumulation = trainer.accumulate_grad_batches
        checkpoint[_KEY] = {
            "data": [{**it._keyed.identity(), "gradient_accumulation_steps": accumulation} for it in self._loaders],
            "epoch": progress.processed,
            "sums": _sums(loop.epoch_loop._results) if progress.processed < progress.ready else {},
            "gradients": gradients,
            "metrics": {name: it.detach().cpu().clone() for name, it in trainer.callback_metrics.items()},
        }

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Completes the sums of what was logged after the last batch's end, and the count of epochs."""
        progress = trainer.fit_loop.epoch_progress
        if progress.current.ready <= progress.current.processed:
            # Lightning does not count an epoch that follows a resume at an epoch's last batch: the resume after that
            # would begin the epoch again.
            progress.increment_ready()
            progress.increment_started()
        self._complete_sums(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Completes the sums of what this batch logged."""
        self._complete_sums(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Completes the sums of what is still left."""
        self._complete_sums(trainer)
        self._sums = {}

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Seeds for the evaluation: its draws follow from the global step."""
        for loader in self._loaders[:1]:
            loader._keyed.randomness.start_evaluation(trainer.global_step)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lets go of the trainer."""
        io = trainer.strategy.checkpoint_io
        if isinstance(io, DurableCheckpointIO):
            io.falls_back = False
        for loader in self._loaders:
            loader._position = None

    def _complete_sums(self, trainer: Any) -> None:
        results = trainer.fit_loop.epoch_loop._results
        for key in [key for key in self._sums if key in results]:
            metric, saved = results[key], self._sums.pop(key)
            value = saved["value"].to(metric.value.device)
            if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
                metric.value = metric.meta.reduce_fx(metric.value, value)
            else:
                metric.value = metric.value + value
            if "size" in saved:
                metric.cumulated_batch_size = metric.cumulated_batch_size + saved["size"].to(metric.value.device)


class ExactCheckpoint(_CheckpointBase):
    """`ModelCheckpoint` that saves after what belongs to an update: its validation, and the end of its epoch.

    `ModelCheckpoint` saves before them, and Lightning does not make up for them when it resumes: a validation is
    missing, and with it what early stopping and the best model depend on.
    """

    _is_held = False

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *given: Any, **named: Any) -> None:
        """Saves what is due, unless a validation or the epoch's end comes next."""
        loop = trainer.fit_loop.epoch_loop
        self._is_held = loop.batch_progress.is_last_batch or loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        if not self._is_held:
            super().on_train_batch_end(trainer, pl_module, *given, **named)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Saves what was due before a validation within an epoch."""
        if self._is_held and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save_held(trainer, pl_module)
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Saves what was due at the epoch's last update."""
        if self._is_held:
            self._save_held(trainer, pl_module)
        super().on_train_epoch_end(trainer, pl_module)

    def _save_held(self, trainer: Any, pl_module: Any) -> None:
        self._is_held = False
        super().on_train_batch_end(trainer, pl_module, None, None, trainer.fit_loop.epoch_loop.batch_idx)


class DurableCheckpointIO(_IOBase):
    """Saves ``.ckpt`` files that survive a crash and a loss of power, and verifies them when they are loaded.

    Paths of other file systems, such as ``s3://``, are left to Lightning.
    """

    falls_back = False
    """Whether a damaged file is passed over for the newest valid one in its folder. `ExactResume` sets it in ``fit``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        # Durability: when it returns, the file and its name are on the disk. A crash leaves the old file, or the new one.
        """
        if storage_options is not None or not _is_local(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            _archives.save(checkpoint, os.fspath(path))

    def load_checkpoint(self, path: Any, *given: Any, **named: Any) -> dict[str, Any]:
        """Loads a checkpoint whose checksums are right; instead of ``last.ckpt`` a newer one in its folder.

        Raises:
            Error: if it is damaged, with the reason; in ``fit`` only if no other file in its folder is valid.
        """
        if _is_local(path) and os.path.lexists(path):
            path = self._valid(os.fspath(path))
        return super().load_checkpoint(path, *given, **named)

    def _valid(self, path: str) -> str:
        reason = _archives.problem(path)
        is_last = os.path.basename(path).startswith("last")
        if reason is None and not (is_last and self.falls_back):
            return path
        folder = os.path.dirname(os.path.abspath(path))
        if not self.falls_back:
            raise Error(f"{path} cannot be loaded: {reason}")
        if reason is not None:
            _log.warning("Passed over %s: %s", path, reason)
        others = [it for it in _files(folder) if os.path.abspath(it) != os.path.abspath(path)]
        found = _archives.newest_valid([path, *others] if reason is None else others, _step_of, "Training goes on from")
        if found is None:
            raise Error(f"{path} cannot be loaded: {reason}; there is no other checkpoint in its folder")
        if found != path:
            _log.warning("Training goes on from %s", found)
        return found


def newest(folder: str | os.PathLike[str]) -> str | None:
    """Returns the newest valid ``.ckpt`` in a folder, for ``fit(ckpt_path=...)``; None if there is none.

    Raises:
        Error: if there are files and none is valid, naming each with the reason.
    """
    return _archives.newest_valid(_files(os.fspath(folder)), _step_of, "Training goes on from")


def _files(folder: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(folder), "*.ckpt")))


def _step_of(path: str) -> int | None:
    return _archives.number_in(path, "global_step")


def _is_local(path: Any) -> bool:
    return "://" not in os.fspath(path)


def _leaves(loaders: Any) -> list[Any]:
    if isinstance(loaders, dict):
        return [leaf for it in loaders.values() for leaf in _leaves(it)]
    if isinstance(loaders, (list, tuple)):
        return [leaf for it in loaders for leaf in _leaves(it)]
    return [loaders]


def _sums(results: Any) -> dict[str, dict[str, Any]]:
    """Returns the sums behind the epoch's means of logged numbers."""
    sums: dict[str, dict[str, Any]] = {}
    for key, metric in results.items():
        if metric.is_tensor and metric.meta.on_epoch:
            sums[key] = {"value": metric.value.detach().cpu().clone()}
            if metric.meta.is_mean_reduction:
                sums[key]["size"] = metric.cumulated_batch_size.detach().cpu().clone()
    return sums
