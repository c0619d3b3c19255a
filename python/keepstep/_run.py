"""`keepstep.Run`: a training loop that continues from the exact micro-batch."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import torch

from ._data import Loader
from ._facts import Facts
from ._errors import UsageError
from ._notebook import OpenRuns
from ._prove import apply as apply_proof
from ._options import Options
from ._ranks import join_ranks
from ._session import Session
from ._sharing import Sharing
from ._remote import parse_remote
from ._settings import UNSET, Unset, parse_count, parse_duration, parse_optional_count, parse_timeout, split_config
from ._streams import StatefulSource
from ._track import state_of

__all__ = ["Run"]

_OPEN = OpenRuns()


class Run(Facts):
    """A run of a training loop: what is iterated over, tracked, saved and resumed.

    ::

        run = keepstep.Run("runs/gpt", config=CONFIG, seed=1337, save_steps=1000)
        data = run.data(train_set, batch_size=16, epochs=3, gradient_accumulation_steps=4)
        model, optimizer, scheduler = ...
        run.track(model=model, optimizer=optimizer, scheduler=scheduler)
        for x, y in data:
            loss = loss_of(model(x), y)
            (loss / run.window).backward()
            run.record(loss, count=y.numel())
            if run.update_due:
                optimizer.step(); scheduler.step(); optimizer.zero_grad()
        if run.finish():
            submit(model)

    Started again, the same script goes on where the last session stopped. Making a `Run` reads and writes nothing; the
    first batch opens the folder, compares, loads, and prints where the run goes on.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        runtime_keys: Iterable[str] = (),
        seed: int | None = None,
        resume_from_checkpoint: str | os.PathLike[str] | None | Unset = UNSET,
        rewind: str | os.PathLike[str] | None = None,
        branch_from: str | os.PathLike[str] | None = None,
        save_steps: int | None = None,
        save_every: float | str | None = None,
        max_checkpoints: int | None = None,
        eval_steps: int | None = None,
        session_time_limit: float | str | None = None,
        best: str = "min",
        metric: str = "val_loss",
        frozen: str = "store",
        num_threads: int | None = None,
        inputs: Mapping[str, str] | None = None,
        progress_bar: bool | None = None,
        rehearse: bool | int | None = None,
        quiet: bool = False,
        distributed: bool = False,
        elastic: bool = False,
        remote: str | Mapping[str, Any] | None = None,
        rank_timeout: float | str = "30m",
    ) -> None:
        """Reads the settings. Arguments come before keys of the config, which come before defaults.

        Args:
            output_dir: The folder that the run writes to.
            config: The settings that the result depends on, compared when the run is resumed, as in the guide's CONFIG.
                Keys that are settings of keepstep (``save_steps``, ``output_dir``, ``resume_from_checkpoint``, ...)
                may change between sessions.
            runtime_keys: More keys of the config that may change between sessions.
            seed: 0 to 2**64 - 1; order and random numbers follow from it. Default 0.
            resume_from_checkpoint: A checkpoint, or a folder that is searched to any depth for this run's newest valid
                one, or the URL of a run or checkpoint. It is only read. The output folder's own checkpoints count as well.
            rewind: A checkpoint to go back to; later ones in the folder move to ``superseded/``.
            branch_from: A checkpoint that a new run starts from, with another config.
            save_steps: Save every so many updates; epoch ends are saved in any case. Default 1000.
            save_every: Save as well every so many seconds, or after a time such as ``"30m"``.
            max_checkpoints: The newest so many are kept; the best is kept in any case. Default 4.
            eval_steps: Evaluate every so many updates and at epoch ends. None: never.
            session_time_limit: The session saves and ends in time, after seconds or a time such as ``"11h30m"``.
            best: ``"min"`` or ``"max"``: which values of `metric` are better.
            metric: The metric that decides the best: ``"val_loss"``, or one given to `evaluated` by name.
            frozen: ``"store"``, or ``"reference"`` to store only a digest of parameters without gradients.
            num_threads: Threads of torch on the CPU; bits depend on it. Default: as many as in the first session.
            inputs: Names with texts that tell what else the result depends on, such as a tokenizer's hash.
            progress_bar: Whether to show a bar. Default True.
            rehearse: Whether to make the first updates twice and compare them, or how many. Default: where it is cheap.
            quiet: Print nothing but the bar.
            distributed: Whether the processes that torchrun has started share the run.
            elastic: Whether any number of processes, up to ``gradient_accumulation_steps``, gives the same bytes.
            remote: A place that outlives the machine, such as ``"s3://bucket/run"``: the run continues from it, and each save
                is copied to it. A dict has the keys of the program's ``[remote]`` table.
            rank_timeout: How long the others wait for a process that does not come along, before it is named and the
                session ends. One without any sign of life is named after a minute at most.

        Raises:
            UsageError: in one sentence, if a setting is not what it must be.
        """
        results, settings = split_config(config, runtime_keys)

        def setting(name: str, given: Any, default: Any) -> Any:
            if given is not None and not isinstance(given, Unset):
                return given
            if isinstance(given, Unset) or given is None:
                value = settings.get(name, results.get(name))
                return default if value is None else value
            return default

        if elastic and not distributed:
            raise UsageError("elastic=True is for distributed=True: give both, also for one process")
        timeout = parse_timeout("rank_timeout", rank_timeout)
        sharing = Sharing(join_ranks(timeout), elastic) if distributed else None
        follows = sharing is not None and not sharing.is_first
        folder = setting("output_dir", output_dir, settings.get("checkpoint_dir"))
        if folder is None:
            raise UsageError("`output_dir` is missing: name the folder that the run writes to")
        if resume_from_checkpoint is None:
            source = None
        else:
            source = setting("resume_from_checkpoint", resume_from_checkpoint, None)
        options = Options(
            folder=os.fspath(folder),
            seed=setting("seed", seed, 0),
            config=results,
            source=None if source is None else os.fspath(source),
            rewind=None if rewind is None else os.fspath(rewind),
            branch_from=None if branch_from is None else os.fspath(branch_from),
            save_steps=parse_count("save_steps", setting("save_steps", save_steps, 1000)),
            save_every=parse_duration("save_every", setting("save_every", save_every, None)),
            max_checkpoints=parse_count("max_checkpoints", setting("max_checkpoints", max_checkpoints, 4)),
            eval_steps=parse_optional_count("eval_steps", setting("eval_steps", eval_steps, None)),
            time_limit=parse_duration("session_time_limit", setting("session_time_limit", session_time_limit, None)),
            metric=metric,
            goal=best,
            frozen=frozen,
            num_threads=parse_optional_count("num_threads", num_threads),
            inputs=dict(inputs or {}),
            progress_bar=bool(setting("progress_bar", progress_bar, True)) and not follows,
            rehearse=setting("rehearse", rehearse, None),
            quiet=quiet or follows,
            elastic=elastic,
            remote=parse_remote(setting("remote", remote, None)),
        )
        apply_proof(options)
        self._results = results
        self._session = Session(options, sharing)
        # The garbage collector may be what ends a run: the folder and the hooks are given back then.
        weakref.finalize(self, Session.close, self._session, "has been left")
        _OPEN.replace(options.folder, self, lambda run: run._session.close("was replaced by a new Run on its folder"))
        self._session.randomness.initial()

    # -- before the loop

    def data(
        self,
        data: Any,
        *,
        batch_size: int | None = None,
        epochs: int | None = None,
        gradient_accumulation_steps: int | None = None,
        **arguments: Any,
    ) -> Loader:
        """Returns what the loop iterates over: the batches that are still to be trained on.

        Args:
            data: A dataset or a `torch.utils.data.DataLoader`.
            batch_size: Samples per micro-batch, for a dataset. Default: the config's.
            epochs: Epochs of the whole run. Default: the config's ``epochs`` or ``num_epochs``, else 1.
            gradient_accumulation_steps: Micro-batches per update. Default: the config's, else 1.
            arguments: ``num_workers``, ``collate_fn``, ``shuffle``, ``drop_last`` and the other arguments of
                `DataLoader`, for a dataset; ``steps_per_epoch`` for a stream; ``dataset_fingerprint``.

        Raises:
            UsageError: if the run has data already.
            TypeError, ValueError: in one sentence, if the arguments contradict each other.
        """
        session = self._session
        session.check_open()
        if session.loader is not None:
            raise UsageError("run.data() was called before: a run has one loop over one dataset")
        config = self._results
        if batch_size is None and not isinstance(data, torch.utils.data.DataLoader) and "batch_sampler" not in arguments:
            batch_size = config.get("batch_size")
        if batch_size is not None:
            arguments["batch_size"] = batch_size
        if epochs is None:
            epochs = config.get("epochs", config.get("num_epochs", 1))
        if gradient_accumulation_steps is None:
            gradient_accumulation_steps = config.get("gradient_accumulation_steps", 1)
        loader = Loader(
            session,
            data,
            epochs=parse_count("epochs", epochs),
            gradient_accumulation_steps=parse_count("gradient_accumulation_steps", gradient_accumulation_steps),
            **arguments,
        )
        if session.sharing is not None:
            session.sharing.check_plan(loader.plan)
        session.loader = loader
        if isinstance(loader.source, StatefulSource):
            loader.source.position = lambda: session.position[:2]
            session.tracked_objects.add("data", loader.source)
        return loader

    def track(self, *, steps: int | Mapping[str, int | None] | None = 1, **objects: Any) -> None:
        """Registers what is saved and loaded, by name: whatever has ``state_dict()`` and ``load_state_dict()``.

        A checkpoint has ``{name}_state_dict`` for each, in this order. Nothing is loaded before the first batch.

        Args:
            steps: How often each tracked optimizer steps per update; a dict for some of them by name. None: as often as
                it likes.
            objects: The objects by name. Wrappers of DDP, `torch.compile` and Accelerate are looked through.

        Raises:
            UsageError: if a name is taken, or an object has no state. See `as_state`.
        """
        self._session.check_open()
        if self._session.core is not None:
            raise UsageError("run.track() comes before the loop: the run has begun")
        for name, target in objects.items():
            per_update = steps.get(name, 1) if isinstance(steps, Mapping) else steps
            self._session.tracked_objects.add(name, target, per_update)

    def resume(self) -> None:
        """Opens the run now instead of at the first batch: compares, loads, prints.

        Raises:
            Error: as the first batch would.
        """
        loader = self._session.loader
        if loader is None:
            raise UsageError("run.resume() comes after run.data()")
        self._session.open(loader)

    # -- in the loop

    def record(self, loss: Any = None, *, count: int | None = None, grad_norm: Any = None, **values: Any) -> None:
        """Notes numbers of this micro-batch; waits for no device.

        Args:
            loss: The mean loss of the micro-batch, a number or a tensor of one element.
            count: How many tokens or samples it is the mean of: the weight in the update's and the epoch's mean. Default 1.
            grad_norm: The norm of the update's gradient before clipping.
            values: Other numbers, for callbacks.

        Raises:
            UsageError: outside of the loop.
        """
        window = self._session.window
        if self._session.micro_batch is None or window is None:
            raise UsageError("run.record() belongs into the loop over run.data()")
        if not self._session.micro_batch.counts:
            return
        window.record(loss, count, grad_norm, values)

    @property
    def window(self) -> int:
        """Micro-batches of this update, over all processes: divide the loss by it. Fewer at an epoch's end."""
        return self._micro_batch("window").window

    @property
    def update_due(self) -> bool:
        """True in the last micro-batch of an update: the optimizer must step now.

        With several processes, reading it as true after ``backward()`` sums the gradients that neither DDP nor FSDP sums.
        """
        due = bool(self._micro_batch("update_due").update_due)
        if due and self._session.sharing is not None:
            self._session.sharing.update_due()
        return due

    @property
    def evaluation_due(self) -> bool:
        """True after an update after which the loop must evaluate and call `evaluated`. Seeds for the evaluation."""
        return self._session.evaluation_is_due()

    def evaluated(self, loss: float | None = None, **metrics: float) -> bool:
        """Records an evaluation; the best one's checkpoint becomes ``best_model.pt``. True if this is the best so far.

        Args:
            loss: The validation loss.
            metrics: Other metrics by name, such as ``accuracy=0.7``.

        Raises:
            UsageError: if no update has just been made, or the metric that decides the best is missing.
        """
        return self._session.evaluated(loss, metrics)

    def stop(self, reason: str) -> None:
        """Ends the run for good at the end of this update: started again, it stays ended, and `finish` is True."""
        self._micro_batch("stop")
        self._session.stop_for_good = str(reason)

    def _micro_batch(self, name: str) -> Any:
        micro_batch = self._session.micro_batch
        if micro_batch is None:
            self._session.check_open()
            raise UsageError(f"run.{name} has a meaning only in the loop over run.data()")
        return micro_batch

    @property
    def rehearsing(self) -> bool:
        """True while the rehearsal at a session's start makes the first updates, which are then made again.

        A loop that keeps a list of its losses leaves these out: ``if not run.rehearsing: losses.append(loss.item())``.
        """
        return self._session.rehearsing

    def on_update(self, callback: Callable[[dict[str, Any]], None]) -> None:
        """Calls `callback` once for each update, with a dict of its numbers.

        Its keys are ``epoch``, ``step``, ``global_step``, ``loss``, ``grad_norm``, ``learning_rate``, ``skipped``,
        ``replay`` and what was recorded by name. ``replay`` is True for an update that an earlier session has made and
        reported already.
        """
        self._session.reports.callbacks.append(callback)

    # -- after the loop

    def finish(self) -> bool:
        """Ends the session, once everything is on the disk. True if the run is complete, False if it goes on later.

        With a ``remote``, it waits until everything is copied there, or three attempts in a row have failed. What is not
        copied is printed, and `not_pushed` has the reason.

        Raises:
            SaveError: if something could not be saved.
            Error: if the run is complete, not all of it is copied, and the remote's ``on_error`` is ``"stop"``.
        """
        return self._session.finish()

    def exit(self) -> NoReturn:
        """Ends the session and the script: with status 0 if the run is complete, 75 if it is to be started again.

        A run that is complete and not all copied to its ``remote`` ends with status 1.

        Raises:
            SystemExit: always.
            SaveError: if something could not be saved.
            Error: as `finish` does.
        """
        complete = self.finish()
        sys.exit(75 if not complete else 0 if self.not_pushed is None else 1)

    # -- what else it does

    def sampling(self) -> Any:
        """Returns a context with random numbers of its own, for text that is generated in between."""
        return self._session.randomness.sampling(self.global_step)

    def save_weights(self, path: str | os.PathLike[str], *, name: str = "model") -> None:
        """Writes the weights of a tracked module as safetensors, for other programs.

        Args:
            path: The file; it is written whole, or not at all.
            name: The name that the module is tracked under.

        Raises:
            UsageError: if no module is tracked under that name.
        """
        from ._export import save_weights

        save_weights(self._module(name), os.fspath(path))

    def export(self, path: str | os.PathLike[str], *, name: str = "model") -> None:
        """Writes the whole state dict of a tracked module, frozen weights included, as ``torch.load`` opens it.

        Args:
            path: The file; it is written whole, or not at all.
            name: The name that the module is tracked under.

        Raises:
            UsageError: if no module is tracked under that name.
        """
        from ._export import export

        export(state_of(self._module(name), "store"), os.fspath(path))

    def _module(self, name: str) -> torch.nn.Module:
        target = self._session.tracked_objects.objects.get(name)
        if not isinstance(target, torch.nn.Module):
            raise UsageError(f"no module is tracked as `{name}`")
        return target
