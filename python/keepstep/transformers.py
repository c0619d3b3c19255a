"""Hugging Face's `Trainer` with exact, durable checkpoints. Importing this module imports transformers.

::

    from keepstep.transformers import ExactTrainer

    trainer = ExactTrainer(model=model, args=arguments, train_dataset=train_set)
    trainer.train(resume_from_checkpoint="auto")

Any other trainer takes the mixin: ``class Tuner(ExactTrainerMixin, trl.SFTTrainer): pass``.

Checkpoints stay Trainer's own ``checkpoint-N`` folders, with one more file: `keepstep.json`, the sizes and hashes of the
others and the little that Trainer forgets. A stopped run, resumed, ends in the same weights, the same optimizer and the
same log history as an uninterrupted one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch

try:
    import transformers as _transformers
except ImportError as error:
    raise ImportError("keepstep.transformers needs transformers: pip install transformers accelerate") from error

from ._errors import Error
from ._keyed_loader import KeyedLoader, compare
from ._random import Purpose, derive
from ._sealed import MANIFEST, numbered, problem, publish, read_state, recover, remove, seal, staging, tidy

__all__ = ["ExactTrainer", "ExactTrainerMixin"]

_Trainer: Any = _transformers.Trainer
if not hasattr(_Trainer, "_run_epoch"):
    raise ImportError(
        f"keepstep.transformers needs a Trainer that runs epoch by epoch (tested with transformers 5.23), and this is "
        f"transformers {_transformers.__version__}: pip install --upgrade transformers"
    )

_PREFIX = "checkpoint"
_STATE_FILE = "trainer_state.json"
_log = logging.getLogger("keepstep")
_Base: Any = object


class ExactTrainerMixin(_Base):
    """Goes before a `Trainer` class: ``class Tuner(ExactTrainerMixin, SFTTrainer): pass``.

    - Batches come in keepstep's order, a function of ``data_seed`` (or ``seed``) and the epoch. Samples, collators and
      micro-batches have random numbers of their own, in any number of workers. Resuming loads no batch twice.
    - A checkpoint is made in a hidden folder, synced, sealed with the hash of each file, and published by one rename.
      Older ones are deleted after that.
    - Resuming verifies every byte. A damaged checkpoint is reported, and the newest valid one before it is taken.
    - Logged losses, ``training_loss``, the best metric, early stopping and what a subclass sums up between logs
      (`exact_attributes`) go on where they were.
    """

    exact_attributes: tuple[str, ...] = ("_metrics", "_total_train_tokens")
    """Attributes of a subclass that hold numbers from one log to the next: saved and restored. These are SFTTrainer's."""

    _exact_loader: KeyedLoader | None = None
    _exact_evaluated: tuple[Any, KeyedLoader] | None = None
    """Trainer's loader for evaluation, and what is made of it."""
    _exact_restored: dict[str, Any] | None = None
    """State of keepstep's in the checkpoint that this session goes on from, until it has been put back."""
    _exact_epoch = 1
    _exact_step = 0
    _exact_saving: str | None = None
    """While a checkpoint is being saved: the folder in which it is made."""
    _exact_push: str | None = None
    _exact_last_call = -1
    _exact_save_is_held = False
    _exact_began = 0.0
    _exact_seconds_before = 0.0
    _exact_window: tuple[int, float, int, dict[str, Any]] = (-1, 0.0, 0, {})
    """The global step in which the last accumulation window began, and the sums as they were then."""
    _exact_is_continued = False

    # -- resuming

    def train(self, resume_from_checkpoint: str | bool | None = None, *given: Any, **named: Any) -> Any:
        """Trains, or goes on training, as `Trainer.train` does.

        Args:
            resume_from_checkpoint: True: go on from the newest valid checkpoint in ``output_dir``. ``"auto"``: the same,
                or begin if there is none. A path: that checkpoint, or the newest valid one of a folder with
                checkpoints, such as a read-only copy of an ``output_dir``. None or False: begin.
            given: Passed on.
            named: Passed on.

        Raises:
            Error: if there are checkpoints and none is valid, naming each with the reason.
            MismatchError: if the checkpoint's batches were others: another seed, dataset, batch size, or number of
                processes. ``ignore_data_skip=True`` in the arguments goes on all the same, without exactness.
        """
        path = self._exact_find(resume_from_checkpoint)
        self._exact_restored = None if path is None else read_state(path)
        self._exact_is_continued = path is not None
        self._exact_last_call = -1
        self._exact_seconds_before = 0.0
        self._exact_began = time.monotonic()
        return super().train(path, *given, **named)

    def _exact_find(self, wanted: str | bool | None) -> str | None:
        """Returns the checkpoint to go on from, verified; None to begin."""
        if wanted is None or wanted is False:
            return None
        found: list[Any] = [None]
        if self.args.process_index == 0:
            try:
                found = [self._exact_newest(wanted)]
            except (Error, ValueError) as error:
                found = [error]
        if self.args.world_size > 1:
            torch.distributed.broadcast_object_list(found, src=0)
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def _exact_newest(self, wanted: str | bool) -> str | None:
        root, below = str(self.args.output_dir), None
        automatic = wanted == "auto"
        if isinstance(wanted, (str, os.PathLike)) and not automatic:
            path = os.path.abspath(os.fspath(wanted))
            root, name = os.path.split(path)
            step = name.removeprefix(f"{_PREFIX}-")
            if name != step and step.isdigit():
                below = int(step)
            elif numbered(path, _PREFIX):
                root = path
            elif (reason := problem(path)) is None or not os.path.lexists(os.path.join(path, MANIFEST)):
                return path  # a checkpoint of another name: Trainer reads what it can
            else:
                raise Error(f"{path} cannot be resumed from: {reason}")
        if os.path.abspath(root) == os.path.abspath(self.args.output_dir):
            recover(root, _PREFIX)
        candidates = [(step, path) for step, path in numbered(root, _PREFIX) if below is None or step <= below]
        if below is not None and (not candidates or candidates[0][0] != below):
            raise Error(f"{os.path.join(root, f'{_PREFIX}-{below}')} cannot be resumed from: there is no such folder")
        passed: list[str] = []
        for step, path in candidates:
            reason = problem(path)
            if reason is None:
                for each in passed:
                    _log.warning("Passed over %s. Training goes on from %s", each, path)
                return path
            passed.append(f"{path}: {reason}")
        if not candidates:
            if automatic:
                return None
            raise ValueError(f"No checkpoint found in {root}: give resume_from_checkpoint='auto' to begin in that case")
        if below is not None and not any(
            os.path.lexists(os.path.join(path, MANIFEST)) for _, path in candidates
        ):
            _log.warning("%s was saved without keepstep: it cannot be verified, and the order of samples changes here", wanted)
            return str(wanted)
        raise Error(f"{root} has no checkpoint to resume from: " + "; ".join(passed))

    def _init_training_state(self, *given: Any, **named: Any) -> Any:
        result = super()._init_training_state(*given, **named)
        path = named.get("resume_from_checkpoint", given[3] if len(given) > 3 else None)
        best = self.state.best_global_step
        if path is not None and best and self.state.best_model_checkpoint is None:
            # The folder was moved or copied since.
            moved = os.path.join(os.path.dirname(path), f"{_PREFIX}-{best}")
            self.state.best_model_checkpoint = moved if os.path.isdir(moved) else None
        loader, saved = self._exact_loader, self._exact_restored
        if loader is not None and saved is not None and not self.args.ignore_data_skip:
            compare(str(path), saved.get("data", {}), self._exact_identity(loader), "pass ignore_data_skip=True")
        return result

    def _exact_identity(self, loader: KeyedLoader) -> dict[str, Any]:
        return {**loader.identity(), "gradient_accumulation_steps": self.args.gradient_accumulation_steps}

    def _load_callback_state(self) -> None:
        """Puts back the state of callbacks in place: their order stays."""
        for name, saved in self.state.stateful_callbacks.items():
            states = saved if isinstance(saved, list) else [saved]
            callbacks = [it for it in self.callback_handler.callbacks if type(it).__name__ == name]
            # Trainer appends to the list at each save: the last ones count.
            for callback, state in zip(callbacks, states[-len(callbacks) :] if callbacks else []):
                for attribute, value in {**state.get("args", {}), **state.get("attributes", {})}.items():
                    if hasattr(callback, attribute):
                        setattr(callback, attribute, value)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        # Random numbers follow from the position.
        if self._exact_loader is None:
            super()._load_rng_state(checkpoint)

    def _exact_put_back(self) -> None:
        """Restores the sums that Trainer begins anew."""
        saved, self._exact_restored = self._exact_restored, None
        if saved is None or "tr_loss" not in saved:
            return
        losses = saved["tr_loss"]
        self._tr_loss = torch.tensor(losses[self.args.process_index % len(losses)], device=self.args.device)
        self._total_loss_scalar = saved["total_loss"]
        self._globalstep_last_logged = saved["last_logged"]
        self._exact_seconds_before = saved["seconds"]
        for name, value in saved.get("attributes", {}).items():
            if hasattr(self, name):
                setattr(self, name, _like(value, getattr(self, name)))

    # -- batches and random numbers

    def get_train_dataloader(self) -> Any:
        """Returns the batches in keepstep's order; for a stream, Trainer's own loader."""
        with _unprepared(self.accelerator):
            loader = super().get_train_dataloader()
        self._exact_loader = None
        if isinstance(loader, KeyedLoader):
            self._exact_loader = loader
        elif isinstance(loader.dataset, torch.utils.data.IterableDataset):
            _log.warning("The training data is a stream: its order and its random draws are not exact after a resume")
            return self.accelerator.prepare(loader)
        else:
            rank, world_size = self.args.process_index, self.args.world_size
            self._exact_loader = KeyedLoader(loader, self._exact_seed_of_data(), rank=rank, world_size=world_size)
        return self._exact_loader

    def get_eval_dataloader(self, *given: Any, **named: Any) -> Any:
        """Returns the batches with draws of their own: the same in every evaluation, for any number of workers."""
        if self.args.world_size > 1:
            return super().get_eval_dataloader(*given, **named)
        with _unprepared(self.accelerator):
            loader = super().get_eval_dataloader(*given, **named)
        if isinstance(loader.dataset, torch.utils.data.IterableDataset):
            return self.accelerator.prepare(loader)
        if self._exact_evaluated is None or self._exact_evaluated[0] is not loader:
            seed = derive(self._exact_seed_of_data(), Purpose.EVALUATION)
            self._exact_evaluated = (loader, KeyedLoader(loader, seed))
        return self._exact_evaluated[1]

    def _exact_seed_of_data(self) -> int:
        return (self.args.seed if self.args.data_seed is None else self.args.data_seed) % (1 << 64)

    def _run_epoch(self, *given: Any, **named: Any) -> None:
        self._exact_put_back()
        if self._exact_is_complete():
            self.control.should_training_stop = True
            return
        epoch, loader = named["epoch"], self._exact_loader
        skipped = named["steps_trained_in_current_epoch"]
        if epoch != named["epochs_trained"] or named["resume_from_checkpoint"] is None or self.args.ignore_data_skip:
            skipped = 0
        self._exact_epoch, self._exact_step = epoch + 1, skipped
        if loader is not None:
            loader.requests.set_epoch(epoch)
            loader.requests.dropped = skipped
        super()._run_epoch(*given, **named)

    def _exact_is_complete(self) -> bool:
        """True if the checkpoint was a run's last one: Trainer would make one more update."""
        if not self._exact_is_continued:
            return False
        if self.state.global_step >= self.state.max_steps:
            return True
        return any(
            isinstance(it, _transformers.EarlyStoppingCallback)
            and it.early_stopping_patience_counter >= it.early_stopping_patience
            for it in self.callback_handler.callbacks
        )

    def get_batch_samples(self, *given: Any, **named: Any) -> Any:
        result = super().get_batch_samples(*given, **named)
        self._exact_window = (self.state.global_step, self.current_flos, self.state.num_input_tokens_seen, self._exact_sums())
        self._exact_seed()
        return result

    def training_step(self, *given: Any, **named: Any) -> Any:
        self._exact_seed()
        self._exact_step += 1
        return super().training_step(*given, **named)

    def _exact_seed(self) -> None:
        if self._exact_loader is not None:
            self._exact_loader.seed_micro_batch(self._exact_epoch, self._exact_step)

    def _evaluate(self, *given: Any, **named: Any) -> Any:
        # `eval_on_start` belongs to the run's first session.
        if named.get("skip_scheduler") and self._exact_is_continued:
            return {}
        if self._exact_loader is not None:
            self._exact_loader.randomness.start_evaluation(self.state.global_step)
        return super()._evaluate(*given, **named)

    # -- saving

    def _maybe_log_save_evaluate(self, *given: Any, **named: Any) -> None:
        """Trainer calls this after an update, and again at the epoch's end. The save waits for what happens there."""
        step = self.state.global_step
        after_update, self._exact_last_call = step != self._exact_last_call, step
        ends = self.control.should_training_stop or self.control.should_epoch_stop
        if self._exact_loader is not None and not ends:
            updates = -(-len(self._exact_loader) // self.args.gradient_accumulation_steps)
            ends = step % updates == 0
        if after_update and ends:
            self._exact_save_is_held, self.control.should_save = self.control.should_save, False
        elif not after_update and self._exact_save_is_held:
            self._exact_save_is_held, self.control.should_save = False, True
        super()._maybe_log_save_evaluate(*given, **named)

    def _get_output_dir(self, trial: Any) -> str:
        return self._exact_saving or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        root = self._get_output_dir(trial)
        name = f"{_PREFIX}-{self.state.global_step}"
        made, final = os.path.join(staging(root), name), os.path.join(root, name)
        if self.args.should_save:
            recover(root, _PREFIX)
            os.makedirs(staging(root), exist_ok=True)
        self.accelerator.wait_for_everyone()
        best = self.state.best_model_checkpoint
        self._exact_saving, self._exact_push = staging(root), None
        began, flos, tokens, sums = self._exact_window
        is_inside = began == self.state.global_step
        now = (self.current_flos, self.state.num_input_tokens_seen)
        if is_inside:  # a signal, say: a resume makes the whole window again
            self.current_flos, self.state.num_input_tokens_seen = flos, tokens
        else:
            sums = self._exact_sums()
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._exact_saving = None
        # Trainer looked for the best checkpoint in the folder in which this one is made.
        best_path = os.path.join(root, f"{_PREFIX}-{self.state.best_global_step}")
        self.state.best_model_checkpoint = best_path if best_path == final or os.path.isdir(best_path) else best
        # Each process has a sum of its own.
        sums["tr_loss"] = self.accelerator.gather(sums["tr_loss"].reshape(1)).tolist()
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(os.path.join(made, _STATE_FILE))
            seal(made, self._exact_state(sums))
            publish(made, final)
            self._exact_rotate(root)
            tidy(root)
        self.accelerator.wait_for_everyone()
        if is_inside:
            self.current_flos, self.state.num_input_tokens_seen = now[0] - flos, now[1]
        if self._exact_push is not None:
            super()._push_from_checkpoint(final)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Pushes to the hub once the folder has its name: uploads go on in the background."""
        if self._exact_saving is not None:
            self._exact_push = checkpoint_folder
        else:
            super()._push_from_checkpoint(checkpoint_folder)

    def _exact_sums(self) -> dict[str, Any]:
        """Returns copies of what is summed up from one log to the next; waits for no device."""
        attributes = {name: deepcopy(getattr(self, name)) for name in self.exact_attributes if hasattr(self, name)}
        return {
            "tr_loss": self._tr_loss.clone(),
            "total_loss": self._total_loss_scalar,
            "last_logged": self._globalstep_last_logged,
            "attributes": attributes,
        }

    def _exact_state(self, sums: dict[str, Any]) -> dict[str, Any]:
        return {
            **sums,
            "global_step": self.state.global_step,
            "data": self._exact_identity(self._exact_loader) if self._exact_loader is not None else {},
            "seconds": self._exact_seconds_before + time.monotonic() - self._exact_began,
        }

    def _exact_rotate(self, root: str) -> None:
        """Deletes the oldest checkpoints beyond ``save_total_limit``; the best one and later ones than this stay."""
        limit = self.args.save_total_limit
        if limit is None or limit <= 0:
            return
        now, best = self.state.global_step, self.state.best_model_checkpoint
        older = [path for step, path in numbered(root, _PREFIX) if step < now]
        kept = [path for path in older if best is not None and os.path.abspath(path) == os.path.abspath(best)]
        for path in older:
            if path not in kept and len(kept) + 1 < limit:
                kept.append(path)
        for path in older:
            if path not in kept:
                remove(path)

    # -- the end

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        reason = problem(best)
        if reason is not None and os.path.lexists(os.path.join(best, MANIFEST)):
            raise Error(f"the best model cannot be loaded from {best}: {reason}; the model in memory is the last one")
        super()._load_best_model()

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        self._exact_put_back()
        if self._exact_loader is not None:
            # The mean loss and the time are those of the whole run, not of its last session.
            self._initial_global_step = 0
        return super()._finalize_training(trial, num_train_samples, start_time - self._exact_seconds_before)


class ExactTrainer(ExactTrainerMixin, _transformers.Trainer):
    """`transformers.Trainer` with exact, durable checkpoints: see `ExactTrainerMixin`."""


@contextmanager
def _unprepared(accelerator: Any) -> Generator[None]:
    """Lets Accelerate leave a loader as it is: keepstep takes it apart and shares its batches out itself."""
    accelerator.prepare = lambda loader: loader
    try:
        yield
    finally:
        del accelerator.prepare


def _like(saved: Any, own: Any) -> Any:
    """Returns a value from a JSON file in the containers that `own` uses, such as a `defaultdict`."""
    if isinstance(own, dict) and isinstance(saved, dict):
        copy = own.copy()
        copy.clear()
        copy.update({name: _like(value, own.get(name)) for name, value in saved.items()})
        return copy
    return saved
