"""What a run reports about itself: its position, its processes, why it ended, what is promised."""

from __future__ import annotations

import os
from html import escape

import torch

from ._environment import Exactness, exactness
from ._errors import UsageError
from ._rehearsal import RehearsalReport
from ._session import Session
from ._source import MapSource

__all__ = ["Facts"]


class Facts:
    """The part of `Run` that changes nothing."""

    _session: Session

    @property
    def epoch(self) -> int:
        """The epoch, from 1."""
        micro_batch = self._session.micro_batch
        return self._session.position[0] if micro_batch is None else int(micro_batch.epoch)

    @property
    def step(self) -> int:
        """Micro-batches done in the epoch, this one not included."""
        micro_batch = self._session.micro_batch
        return self._session.position[1] if micro_batch is None else int(micro_batch.step)

    @property
    def global_step(self) -> int:
        """Updates done over all epochs, this one not included."""
        return self._session.global_step

    @property
    def id(self) -> str:
        """Sixteen digits that stay the same over all sessions and machines: a hash of all that the result depends on."""
        if self._session.core is None:
            raise UsageError("run.id is known once the run is open: call run.resume(), or ask in the loop")
        return self._session.core.id

    @property
    def rank(self) -> int:
        """This process, from 0: the one that reads and writes the run's folder."""
        return self._session.share[0]

    @property
    def world_size(self) -> int:
        """The number of processes that share the run."""
        return self._session.share[1]

    @property
    def output_dir(self) -> str:
        """The folder that the run writes to."""
        return self._session.options.folder

    @property
    def reason(self) -> str | None:
        """Why the session ended before the run's end: a signal's name, ``"time limit"``, or what `stop` was given."""
        return self._session.reason

    @property
    def not_pushed(self) -> str | None:
        """Why not everything that was saved is in the ``remote``, once the loop has ended. None if it is."""
        return self._session.pushes.not_pushed

    @property
    def rehearsal(self) -> RehearsalReport | None:
        """What this session's rehearsal found; None if none was held, or its updates are not made yet."""
        return self._session.rehearsal_report

    @property
    def exactness(self) -> Exactness:
        """What is promised for this run in this environment, as a table."""
        loader = self._session.loader
        tensors = (
            parameter
            for target in self._session.tracked_objects.objects.values()
            if isinstance(target, torch.nn.Module)
            for parameter in target.parameters()
        )
        order = MapSource.promise if loader is None else loader.source.promise
        table = exactness(any(it.is_cuda for it in tensors), order)
        sharing = self._session.sharing
        if sharing is not None:
            table.rows.append(sharing.row(self._session.updates_made))
        return table

    def __repr__(self) -> str:
        epoch, step, global_step = self._session.position
        return f"<keepstep.Run {self.output_dir!r}: epoch {epoch}, step {step}, global step {global_step}>"

    def _repr_html_(self) -> str:
        session = self._session
        epoch, step, global_step = session.position
        loader = session.loader
        rows = [
            ("Folder", self.output_dir),
            ("Epoch", str(epoch) if loader is None else f"{epoch} of {loader.epochs}"),
            ("Step in epoch", str(step) if loader is None else f"{step} of {loader.steps_per_epoch}"),
            ("Global step", str(global_step) if loader is None else f"{global_step} of {loader.total_steps}"),
        ]
        numbers = session.reports.last
        if numbers is not None and numbers.loss is not None:
            rows.append(("Loss", f"{numbers.loss:.4f}"))
        if session.saver is not None and session.saver.last_saved is not None:
            rows.append(("Last checkpoint", os.path.basename(session.saver.last_saved)))
        if session.closed is not None:
            rows.append(("State", session.closed))
        cells = "".join(f"<tr><th style='text-align:left'>{a}</th><td>{escape(b)}</td></tr>" for a, b in rows)
        return f"<table>{cells}</table>"
