"""One session of a run: what happens between micro-batches. The loader calls it; `Run` is its public face."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ._banner import banner
from ._bar import Bar
from ._clock import Clock
from ._environment import Environment
from ._errors import NotFiniteError, UsageError
from ._forks import belongs_here
from ._notebook import Interrupts, after_cell
from ._opening import load_checkpoint, open_run
from ._options import Options
from ._random import Randomness
from ._pushes import Pushes
from ._rehearsal import Rehearsal, RehearsalReport, updates_to_rehearse
from ._reports import Reports
from ._saver import Saver
from ._track import Tracked
from ._window import Steps, Window

if TYPE_CHECKING:
    from ._data import Loader
    from ._sharing import Sharing
    from ._plan import MicroBatch

__all__ = ["Session"]


class Session:
    """The driver of a run's loop."""

    def __init__(self, options: Options, sharing: Sharing | None = None) -> None:
        self.options = options
        self.sharing = sharing
        """What this process does with the others; None if it is alone."""
        self.updates_made = 0
        """Updates of this session."""
        self.randomness = Randomness(options.seed)
        self.tracked_objects = Tracked()
        self.steps = Steps(self.tracked_objects, self._hold_back_update)
        self.interrupts = Interrupts()
        self.environment = Environment()
        self.core: Any = None
        self.saver: Saver | None = None
        self.loader: Loader | None = None
        self.reports = Reports(sharing, self._say)
        self.pushes = Pushes(options, sharing is None or sharing.is_first, self._say, self._warn)
        self.position: tuple[int, int, int] = (1, 0, 0)
        self.closed: str | None = None
        self.running = False
        self.clean = True
        """False if the loop was left inside an update: the objects in memory are at no position."""
        self.reason: str | None = None
        """Why the loop has ended before the run's end."""
        self.micro_batch: MicroBatch | None = None
        self.window: Window | None = None
        self._completed = False
        """The update that ends with this micro-batch is counted already, because it was evaluated."""
        self._evaluated = False
        self._ended = False
        """The end of the session is in the journal."""
        self._rehearsal: Rehearsal | None = None
        self._before_rehearsal: tuple[tuple[int, int, int], str | None] | None = None
        """Position and reason to stop for good at the start of a rehearsal's first pass, while that is under way."""
        self.stop_for_good: str | None = None
        self._clock = Clock(options)
        self._bar = Bar(False, 1)
        self._undo_cell: Callable[[], None] = lambda: None

    # -- before the loop

    @property
    def rehearsal_report(self) -> RehearsalReport | None:
        """What the rehearsal found; None if there was none, or it is not complete."""
        return None if self._rehearsal is None else self._rehearsal.report

    @property
    def rehearsing(self) -> bool:
        """True in a rehearsal's first pass, whose updates are made again."""
        return self._before_rehearsal is not None

    @property
    def share(self) -> tuple[int, int]:
        """This process, and the number of processes."""
        return (0, 1) if self.sharing is None else (self.sharing.ranks.rank, self.sharing.ranks.size)

    @property
    def global_step(self) -> int:
        """Updates done; in the loop's body those before this window's."""
        return self.position[2] - (1 if self.micro_batch is not None and self._completed else 0)

    def check_open(self) -> None:
        """Refuses the use of a run that is closed.

        Raises:
            UsageError: saying why it is closed.
        """
        if self.closed is not None:
            raise UsageError(f"this run {self.closed}")

    def begin(self, loader: Loader) -> tuple[int, int]:
        """Opens the run, loads what is tracked and prints where it goes on; a second loop goes on where the first ended."""
        self.check_open()
        if self.loader is not None and loader is not self.loader:
            raise UsageError("the loop is over batches of another run.data(): a run has one")
        if not self.clean:
            raise UsageError("the loop was left inside an update, so its state is at no position: make a new keepstep.Run")
        self.open(loader)
        self.reason = self.stop_for_good = self.pushes.not_pushed = None
        if self.core.is_complete or self._is_proved():
            # The loader ends by itself at the last position.
            epoch, step, _ = self.position
            return (loader.epochs, loader.steps_per_epoch) if epoch <= loader.epochs else (epoch, step)
        self.running = True
        self._clock.update_begins()
        if self._ended:
            self._ended = False
            self.core.begin_session()
        self.interrupts.install()
        self._undo_cell = after_cell(self._cell_ended)
        self._bar = Bar(self.options.progress_bar, loader.steps_per_epoch)
        return self.position[:2]

    def open(self, loader: Loader) -> None:
        """Compares, loads and prints, once."""
        self.check_open()
        self.loader = loader
        if self.core is None:
            self._open(loader)

    def _open(self, loader: Loader) -> None:
        sharing, tracked = self.sharing, self.tracked_objects
        opened = (sharing.open if sharing is not None else open_run)(self.options, tracked, loader)
        self.core = opened.core
        if sharing is None or sharing.is_first:
            belongs_here(self)
        self.saver = (Saver if sharing is None else sharing.saver)(opened.core, tracked, self.options.frozen)
        self.position = opened.core.position
        for note in opened.notes:
            self._say(note)
        if opened.path is not None:
            load_checkpoint(opened.core, tracked, self.options.frozen)
            where = (self.position, opened.core.metrics(), loader.steps_per_epoch, opened.core.is_complete)
            self._say(banner(opened.path, list(tracked.objects), *where))
            self.saver.last_saved = opened.path
        if sharing is None or sharing.is_first:
            self.environment.compare(self.options.folder, opened.path, self._say)
        for name, optimizer in self.tracked_objects.optimizers().items():
            self.steps.watch(name, optimizer)
        self._next_window()

    # -- the loop

    def rehearsal(self, loader: Loader, epoch: int, step: int) -> Rehearsal | None:
        """Returns the rehearsal to hold before a session's first loop, or None where it is not wanted or not cheap."""
        if self._rehearsal is not None or self.core.is_complete:
            return None
        options, done = self.options, self.position[2]
        left = loader.total_steps - done
        number = updates_to_rehearse(loader.plan, epoch, step, left, options.eval_steps, done, options.rehearse)
        if number and not (self.sharing is not None and self.sharing.sharded):
            self._rehearsal = Rehearsal(self, loader, number)
        return self._rehearsal

    def tracked(self) -> Mapping[str, Any]:
        """Returns what is tracked, by name."""
        return self.tracked_objects.objects

    def rehearsal_started(self) -> None:
        """Until `rehearsal_rewound` the body's updates count for nothing."""
        self._before_rehearsal = (self.position, self.stop_for_good)

    def rehearsal_rewound(self) -> None:
        """What is tracked has been put back: so are the counters."""
        assert self._before_rehearsal is not None
        (self.position, self.stop_for_good), self._before_rehearsal = self._before_rehearsal, None
        self.micro_batch = None
        self.clean = True
        self._clock.update_begins()
        self._next_window()

    def _rehearsed(self, micro_batch: MicroBatch) -> bool:
        """Counts an update of a rehearsal's first pass; returns False to cut it short."""
        assert self.window is not None and self._rehearsal is not None
        self.steps.check(micro_batch.window, self.window.may_skip, lambda: "that was rehearsed")
        self._rehearsal.updated(self.window.values())
        self.position = (micro_batch.epoch, micro_batch.step_after, self.position[2] + 1)
        stop, for_good = self._wish_to_stop(), self.stop_for_good
        if self.sharing is not None:
            stop, for_good, _ = self.sharing.agree(stop, for_good, False)
        return stop is None and for_good is None

    def before(self, micro_batch: MicroBatch) -> None:
        """A batch is there, and the loop's body is about to run."""
        self.micro_batch = micro_batch
        self.clean = False
        if micro_batch.first:
            self._next_window()
        if self.window is not None:
            self.window.place = micro_batch.index
        if self.sharing is not None:
            self.sharing.before(micro_batch)
        if self._before_rehearsal is None:
            self._bar.begin(micro_batch.epoch, micro_batch.step)
        if self.saver is not None:
            self.saver.submit_if_ready()

    def after(self, micro_batch: MicroBatch) -> bool:
        """The body has run; at an update's end: counts, saves, stops."""
        self.micro_batch = None
        if self.sharing is not None:
            self.sharing.after(micro_batch)
        if self._before_rehearsal is not None:
            return self._rehearsed(micro_batch) if micro_batch.update_due else True
        self._bar.advance()
        if not micro_batch.update_due:
            return True
        if not self._completed:
            self._end_update(micro_batch)
        self.clean = True
        if self._rehearsal is not None and self.window is not None and self._rehearsal.updated(self.window.values()):
            self._say(str(self._rehearsal.report))
        return self._at_boundary()

    def end(self) -> None:
        """The loop has ended, whatever ended it."""
        self.running = False
        self._bar.close()
        self.interrupts.give_back()
        self._undo_cell()
        if self.core is None or self.closed is not None:
            return
        if self.clean and self.saver is not None:
            self._settle_pending()
            self.saver.wait()
        if self.reason is None and not self.core.is_complete:
            self.reason = "left by the loop" if self.clean else "left inside an update"
        self._end_session()

    def _cell_ended(self) -> None:
        """A notebook's cell has ended while the loop is suspended in its body: an exception left it."""
        self.interrupts.give_back()
        self._bar.close()

    def _next_window(self) -> None:
        self.steps.begin()
        self.window = Window(self.tracked_objects.scalers())
        self._completed = self._evaluated = False

    def _hold_back_update(self) -> None:
        if self.sharing is not None:
            self.sharing.before_step()
        if self.saver is not None:
            self.saver.hold_back_update()

    def _end_update(self, micro_batch: MicroBatch) -> None:
        """The window's update has been made: moves the position on; numbers on a device are read an update later."""
        assert self.window is not None
        self.steps.check(micro_batch.window, self.window.may_skip, lambda: f"at {micro_batch.where}")
        pending = self.window.close(self.steps.rate)
        self._settle_pending()
        # The core's position moves on next, and the snapshot is of this one.
        assert self.saver is not None
        self.saver.submit()
        self.reports.pending = pending
        epoch, _, global_step = self.position
        self.position = (micro_batch.epoch, micro_batch.step_after, global_step + 1)
        self._completed = True
        self.updates_made += 1
        if pending.used_no_device or (pending.on_host and self.sharing is None):
            self._settle_pending()
        self._clock.update_ended()

    def _settle_pending(self) -> None:
        """Gives the numbers of the last update to the core.

        Raises:
            NotFiniteError: if one of them is not finite.
        """
        try:
            self.reports.settle(self.core, self._bar)
        except NotFiniteError:
            self.clean = False
            raise

    # -- evaluation

    def evaluation_is_due(self) -> bool:
        """Whether the loop's body must evaluate now; seeds the generators for it where it must."""
        micro_batch, global_step = self.micro_batch, self.global_step + 1
        if micro_batch is None or not micro_batch.update_due or self._evaluated or self._before_rehearsal is not None:
            return False
        if not self.options.evaluates_after(global_step, micro_batch.epoch_ends):
            return False
        self.randomness.start_evaluation(global_step)
        return True

    def evaluated(self, loss: float | None, metrics: dict[str, float]) -> bool:
        """Records an evaluation after this window's update; returns whether it is the best so far."""
        if self.micro_batch is None or not self.micro_batch.update_due:
            raise UsageError("run.evaluated() belongs behind the optimizer's step, where `run.evaluation_due` is true")
        if self._before_rehearsal is not None:
            return False
        if self._evaluated:
            raise UsageError("run.evaluated() was called twice after one update: give all metrics in one call")
        leads = self.sharing is None or self.sharing.is_first
        if leads and self.options.metric != "val_loss" and self.options.metric not in metrics:
            raise UsageError(f"run.evaluated() was not given `{self.options.metric}`, which decides the best")
        val_loss = None if loss is None else float(loss)
        values = [(name, float(value)) for name, value in metrics.items()]
        if not self._completed:
            self._end_update(self.micro_batch)
        self._settle_pending()
        is_best = bool(self.core.evaluated(val_loss, values))
        self._evaluated = True
        return is_best

    # -- saving and stopping

    def _is_proved(self) -> bool:
        last = self.options.last_update
        return last is not None and self.position[2] >= last

    def _at_boundary(self) -> bool:
        """Saves what is due; returns False to end the loop."""
        options, (_, _, global_step) = self.options, self.position
        assert self.loader is not None and self.saver is not None
        stop = self._wish_to_stop()
        by_clock = options.save_every is not None and time.monotonic() - self.saver.saved_at >= options.save_every
        if self.sharing is not None:
            stop, self.stop_for_good, by_clock = self.sharing.agree(stop, self.stop_for_good, by_clock)
        ends = global_step >= self.loader.total_steps or self.stop_for_good is not None
        ends_epoch = self.position[1] == self.loader.steps_per_epoch
        if options.evaluates_after(global_step, ends_epoch) and not self._evaluated:
            raise UsageError(
                f"an evaluation was due after update {global_step}, and run.evaluated() was not called: call it where "
                "`run.evaluation_due` is true, or leave out eval_steps"
            )
        scheduled = ends or ends_epoch or global_step % options.save_steps == 0
        if scheduled or self._evaluated or stop is not None:
            self._settle_pending()
        if self.stop_for_good is not None:
            self.core.stop(self.stop_for_good)
            self.reason = self.stop_for_good
        if self.reports.pending is None and self.core.save_is_due:
            self.saver.save("save_if_due")
        elif self.reports.pending is None:
            self.core.skip_save()
        if ends:
            return False
        if stop is None:
            if by_clock:
                self._settle_pending()
                self.saver.save("save_now")
            self.saver.poll()
            self.pushes.poll(self.core)
            return True
        if not scheduled:
            self.saver.save("save_now")
        self.saver.wait()
        self.reason = stop
        if stop == "SIGINT":
            self.interrupts.wish = None
            raise KeyboardInterrupt
        self._say(f"Stopped ({stop}) after update {global_step}; the run goes on from here when it is started again")
        return False

    def _wish_to_stop(self) -> str | None:
        if self._is_proved():
            return "the updates to prove have been made"
        if self.interrupts.wish is not None:
            return self.interrupts.wish
        if self.saver is not None and self._clock.is_over(self.saver.seconds, self.pushes.longest(self.core)):
            return "time limit"
        return None

    # -- the end

    def finish(self) -> bool:
        """Ends the session; True if the run is complete."""
        self.check_open()
        if self.core is None:
            raise UsageError("run.finish() comes after the loop over run.data()")
        if self.running:
            raise UsageError("run.finish() comes after the loop over run.data(), not inside it")
        if self.clean and self.saver is not None:
            self._settle_pending()
            self.saver.wait()
        self._end_session()
        if self.sharing is not None:
            self.sharing.finish()
        complete = bool(self.core.is_complete)
        self.close("has been finished")
        if complete:
            self.pushes.check()
        return complete

    def _end_session(self) -> None:
        """Says in the journal and in ``status.json`` why the session ends, once."""
        if self._ended:
            return
        self._ended = True
        self.pushes.wait(self.core, self._clock.end)
        self.core.end_session("complete" if self.core.is_complete else self.reason or "stopped")
        self.reports.say_replayed(self.core)
        self.pushes.end(self.core)

    def close(self, why: str) -> None:
        """Lets go of everything: hooks, signals, the folder. A save under way is finished."""
        if self.closed is not None:
            return
        self.interrupts.give_back()
        self._undo_cell()
        self._bar.close()
        self.steps.unwatch()
        if self.core is not None:
            if self.saver is not None and self.clean:
                self.saver.submit()
            self.core.close()
        self.closed = why

    def _say(self, text: str) -> None:
        if not self.options.quiet:
            self._bar.write(text)

    def _warn(self, text: str) -> None:
        """Prints what nobody may miss, on standard error where everything else is quiet."""
        if self.options.quiet:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text)
