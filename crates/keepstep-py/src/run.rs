//! A run of the core as Python sees it. Whatever waits for a disk holds no GIL.

use crate::errors::{chain, run_error, usage};
use crate::remote::{self, Pushes};
use crate::search;
use crate::values::{ToValue, to_object};
use keepstep::identity::Identity;
use keepstep::metrics::Evaluation;
use keepstep::metrics::Objective;
use keepstep::position::Position;
use keepstep::run::{Policy, Replayed, Resume, RunBuilder, Saves, Sizes, UpdateStats};
use keepstep::store::Source;
use keepstep::{Checkpoint, State};
use keepstep_pt::{Archive, Value};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type Numbers = (u64, u64, u64);

fn numbers(position: Position) -> Numbers {
    (position.epoch, position.step, position.global_step)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a run is a function of.
pub(crate) fn identity(
    seed: u64,
    config: &Bound<'_, PyDict>,
    inputs: Vec<(String, String)>,
    convert: Bound<'_, PyAny>,
) -> PyResult<Identity> {
    let value = ToValue::new(convert)?.value("config", config)?;
    let mut identity = Identity::new(seed).with_config(value.as_dict().cloned().unwrap_or_default());
    for (name, value) in inputs {
        identity = identity.with_input(name, value);
    }
    Ok(identity)
}

/// A folder that has been looked at. Nothing has been written.
#[pyclass(frozen, module = "keepstep._core")]
pub(crate) struct Look(Mutex<Option<RunBuilder>>);

/// Looks for the checkpoint that a run in `folder` continues from: the folder's newest, or that of `source` where it is
/// later. With `rewind` it is the source in any case.
#[pyfunction]
#[pyo3(signature = (folder, *, source=None, remote=None, resume_remote=None, rewind=false, never=false, save_steps, max_checkpoints, eval_steps=None,
                    metric, goal))]
#[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
pub(crate) fn look(
    py: Python<'_>,
    folder: PathBuf,
    source: Option<PathBuf>,
    remote: Option<&Bound<'_, PyDict>>,
    resume_remote: Option<&str>,
    rewind: bool,
    never: bool,
    save_steps: u64,
    max_checkpoints: usize,
    eval_steps: Option<u64>,
    metric: &str,
    goal: &str,
) -> PyResult<Look> {
    let source = source.map_or(Source::None, Source::Path);
    let resume = match (rewind, never) {
        (true, _) => Resume::Rewind(source),
        (false, true) => Resume::Never,
        (false, false) => Resume::Newest(source),
    };
    let objective = match goal {
        "max" => Objective::max(metric),
        _ => Objective::min(metric),
    };
    let resume_remote = resume_remote.map(|url| remote::open(url, remote)).transpose()?;
    let remote = remote.map(remote::policy).transpose()?;
    let policy = Policy {
        remote,
        resume_remote,
        save_steps,
        max_checkpoints,
        eval_steps,
        objective,
        resume,
        status_file: true,
        ..Policy::default()
    };
    let opening = py.detach(|| RunBuilder::open(&folder, policy)).map_err(run_error)?;
    Ok(Look(Mutex::new(Some(opening))))
}

/// Searches a tree of inputs for the newest valid checkpoint of the run that seed, config and inputs describe. Gives the
/// path or None, whether any file has a name of keepstep's, and what was passed over.
#[pyfunction]
pub(crate) fn search_tree(
    root: PathBuf,
    seed: u64,
    config: &Bound<'_, PyDict>,
    inputs: Vec<(String, String)>,
    convert: Bound<'_, PyAny>,
) -> PyResult<(Option<PathBuf>, bool, Vec<String>)> {
    let py = convert.py();
    let identity = identity(seed, config, inputs, convert)?;
    let found = py.detach(|| search::search(&root, &identity));
    Ok((found.path, found.has_candidates, found.passed))
}

/// Refuses state that a checkpoint cannot hold, by its path. Nothing is written.
#[pyfunction]
pub(crate) fn check_storable(
    parts: Vec<(String, Bound<'_, PyAny>)>,
    convert: Bound<'_, PyAny>,
) -> PyResult<()> {
    Run::state(parts, convert).map(drop)
}

/// Writes an object as `torch.save` does: whole, or not at all.
#[pyfunction]
pub(crate) fn write_pt(path: PathBuf, object: &Bound<'_, PyAny>, convert: Bound<'_, PyAny>) -> PyResult<()> {
    let py = object.py();
    let value = ToValue::new(convert)?.value("state", object)?;
    py.detach(|| {
        let archive = Archive::new(&value);
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        let mut file = std::io::BufWriter::new(std::fs::File::create(&temporary)?);
        archive.write_to(&mut file)?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&temporary, &path)
    })
    .map_err(|error| usage(format!("{}: {error}", path.display())))
}

#[pymethods]
impl Look {
    /// The file that the run would continue from.
    #[getter]
    fn path(&self) -> Option<PathBuf> {
        lock(&self.0).as_ref()?.path().map(Path::to_path_buf)
    }

    /// The config of that checkpoint.
    fn config<'py>(&self, tensor: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let config = lock(&self.0).as_ref().and_then(|it| Some(it.checkpoint()?.identity.config.clone()));
        config.map(|config| to_object(&Value::Dict(config), tensor)).transpose()
    }

    /// The names of the state dicts in that checkpoint.
    fn names(&self) -> Option<Vec<String>> {
        lock(&self.0).as_ref()?.checkpoint().map(|it| it.state.names().map(str::to_owned).collect())
    }

    /// Lets go of the folder.
    fn close(&self) {
        drop(lock(&self.0).take());
    }

    /// Compares the checkpoint with the loop, and begins the run. The look is used up.
    #[pyo3(signature = (seed, config, inputs, convert, *, steps_per_epoch, gradient_accumulation_steps, epochs))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
    fn begin(
        &self,
        seed: u64,
        config: &Bound<'_, PyDict>,
        inputs: Vec<(String, String)>,
        convert: Bound<'_, PyAny>,
        steps_per_epoch: u64,
        gradient_accumulation_steps: u64,
        epochs: u64,
    ) -> PyResult<Run> {
        let py = convert.py();
        let identity = identity(seed, config, inputs, convert)?;
        let sizes =
            Sizes::new(steps_per_epoch, epochs).with_gradient_accumulation(gradient_accumulation_steps);
        let opening = lock(&self.0).take().ok_or_else(|| usage("the look has been used"))?;
        let run = py.detach(|| opening.start(identity, sizes)).map_err(run_error)?;
        let id = run.id().to_owned();
        Ok(Run { id, inner: Mutex::new(Some(run)), ended: Mutex::default(), pushes: Mutex::default() })
    }
}

/// A run under way.
#[pyclass(frozen, module = "keepstep._core")]
pub(crate) struct Run {
    id: String,
    inner: Mutex<Option<keepstep::Run>>,
    ended: Mutex<Ended>,
    pushes: Mutex<Pushes>,
}

/// Paths of files that have been saved, with seconds.
type Files = Vec<(PathBuf, f64)>;

/// What has become of saves since Python asked last.
#[derive(Default)]
struct Ended {
    files: Files,
    failure: Option<String>,
}

impl Run {
    fn with<T>(&self, work: impl FnOnce(&mut keepstep::Run) -> T) -> PyResult<T> {
        let mut guard = lock(&self.inner);
        let run = guard.as_mut().ok_or_else(|| usage("the run has been closed"))?;
        Ok(work(run))
    }

    fn keep(&self, saves: Saves) {
        let mut ended = lock(&self.ended);
        for save in saves.ended {
            let seconds = save.took.as_secs_f64();
            ended.files.extend(save.files.into_iter().map(|path| (path, seconds)));
            if let Err(error) = save.result {
                ended.failure.get_or_insert_with(|| chain(&error));
            }
        }
    }

    fn state(parts: Vec<(String, Bound<'_, PyAny>)>, convert: Bound<'_, PyAny>) -> PyResult<State> {
        let mut to_value = ToValue::new(convert)?;
        let mut state = State::default();
        for (name, object) in parts {
            let value = to_value.value(&name, &object)?;
            state.insert(name, value).map_err(|error| usage(error.to_string()))?;
        }
        Ok(state)
    }
}

#[pymethods]
impl Run {
    /// Sixteen digits that tell this run's function from others.
    #[getter]
    fn id(&self) -> &str {
        &self.id
    }

    /// `(epoch, step, global_step)`.
    #[getter]
    fn position(&self) -> PyResult<Numbers> {
        self.with(|run| numbers(run.position()))
    }

    /// `(steps_per_epoch, gradient_accumulation_steps, total_steps)`.
    #[getter]
    fn plan(&self) -> PyResult<Numbers> {
        self.with(|run| {
            let plan = run.plan();
            (plan.steps_per_epoch, plan.gradient_accumulation_steps, plan.total_steps)
        })
    }

    /// The checkpoint that the run continues from.
    #[getter]
    fn resumed_from(&self) -> PyResult<Option<PathBuf>> {
        self.with(|run| run.resumed().map(|(path, _)| path.to_path_buf()))
    }

    /// The state dict of a name in that checkpoint; tensors become what `tensor(Tensor)` gives.
    fn state_dict<'py>(&self, name: &str, tensor: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let value = self.with(|run| {
            run.resumed().and_then(|(_, checkpoint): (_, &Checkpoint)| checkpoint.state.get(name).cloned())
        })?;
        value.map(|value| to_object(&value, tensor)).transpose()
    }

    /// Lets go of that checkpoint.
    fn release_checkpoint(&self) -> PyResult<()> {
        self.with(keepstep::Run::release_checkpoint)
    }

    /// What people should know about how the run was opened.
    fn notes(&self) -> PyResult<Vec<String>> {
        self.with(|run| run.notes().iter().map(ToString::to_string).collect())
    }

    /// The running totals: `train_loss`, `val_loss`, `best` and where it was found, each possibly None.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metrics = self.with(|run| run.metrics().clone())?;
        let dict = PyDict::new(py);
        dict.set_item("train_loss", metrics.train_loss())?;
        dict.set_item("val_loss", metrics.val_loss)?;
        dict.set_item("others", metrics.others)?;
        dict.set_item("best", metrics.best.map(|best| best.value))?;
        dict.set_item("best_position", metrics.best.map(|best| numbers(best.position)))?;
        Ok(dict)
    }

    /// Whether every update of the run is made.
    #[getter]
    fn is_complete(&self) -> PyResult<bool> {
        self.with(|run| run.is_complete())
    }

    /// Whether an evaluation is due at this position.
    #[getter]
    fn evaluation_due(&self) -> PyResult<bool> {
        self.with(|run| run.evaluation_is_due())
    }

    /// Whether a save is due at this position.
    #[getter]
    fn save_is_due(&self) -> PyResult<bool> {
        self.with(|run| run.save_is_due())
    }

    /// Whether the last update was made before, by an earlier session.
    #[getter]
    fn is_replay(&self) -> PyResult<bool> {
        self.with(|run| run.is_replay())
    }

    /// Refuses an update whose loss or gradient norm is not finite.
    fn check_finite(&self, loss: Option<f64>, grad_norm: Option<f64>) -> PyResult<()> {
        self.with(|run| run.check_finite(loss, grad_norm))?.map_err(run_error)
    }

    /// Records that the next update was made.
    fn complete(
        &self,
        loss_sum: f64,
        num_tokens: u64,
        learning_rate: Option<f64>,
        grad_norm: Option<f64>,
        skipped: bool,
    ) -> PyResult<()> {
        self.with(|run| {
            let update = run.next_update().ok_or_else(|| usage("the run is complete"))?;
            let mut stats = UpdateStats::new(loss_sum, num_tokens).with_skipped(skipped);
            (stats.learning_rate, stats.grad_norm) = (learning_rate, grad_norm);
            run.record_update(&update, stats);
            Ok(())
        })?
    }

    /// Ends the run for good at this position; the next save records the reason.
    fn stop(&self, reason: &str) -> PyResult<()> {
        self.with(|run| run.stop(reason))
    }

    /// Why the loop has ended the run for good, in this session or an earlier one.
    #[getter]
    fn stopped(&self) -> PyResult<Option<String>> {
        self.with(|run| run.stopped().map(str::to_owned))
    }

    /// Records an evaluation: the validation loss and other metrics by name. True if it is the best so far.
    fn evaluated(&self, val_loss: Option<f64>, others: Vec<(String, f64)>) -> PyResult<bool> {
        let evaluation = val_loss.map_or_else(Evaluation::default, Evaluation::new);
        let add = |evaluation: Evaluation, (name, value): (String, f64)| evaluation.with(name, value);
        let evaluation = others.into_iter().fold(evaluation, add);
        self.with(|run| run.record_evaluation(evaluation))?.map(|event| event.best).map_err(run_error)
    }

    /// Saves what is due, in the background. `parts` are pairs of a name and a state dict.
    fn save_if_due(&self, parts: Vec<(String, Bound<'_, PyAny>)>, convert: Bound<'_, PyAny>) -> PyResult<()> {
        let py = convert.py();
        let state = Run::state(parts, convert)?;
        self.keep(py.detach(|| self.with(|run| run.save_if_due_in_background(|| state)))?);
        Ok(())
    }

    /// Nothing is to be saved at this position.
    fn skip_save(&self) -> PyResult<()> {
        self.keep(self.with(|run| run.save_if_due_in_background(State::default))?);
        Ok(())
    }

    /// Saves off schedule, in the background.
    fn save_now(&self, parts: Vec<(String, Bound<'_, PyAny>)>, convert: Bound<'_, PyAny>) -> PyResult<()> {
        let py = convert.py();
        let state = Run::state(parts, convert)?;
        self.keep(py.detach(|| self.with(|run| run.save_now_in_background(|| state)))?);
        Ok(())
    }

    /// What has become of saves since this was last asked: pairs of a path and seconds, and why one failed. With `wait`,
    /// once none is under way any more.
    #[pyo3(signature = (*, wait=false))]
    fn saved(&self, py: Python<'_>, wait: bool) -> PyResult<(Files, Option<String>)> {
        let ask = |run: &mut keepstep::Run| if wait { run.wait_for_saves() } else { run.saves() };
        self.keep(py.detach(|| self.with(ask))?);
        let Ended { files, failure } = std::mem::take(&mut *lock(&self.ended));
        Ok((files, failure))
    }

    /// Whether a save is under way.
    #[getter]
    fn is_saving(&self) -> PyResult<bool> {
        self.with(|run| run.saving_for().is_some())
    }

    /// What the comparison of updates that were made again has found since this was last asked.
    fn take_replayed<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(replayed) = self.with(keepstep::Run::take_replayed)? else { return Ok(None) };
        let dict = PyDict::new(py);
        match replayed {
            Replayed::Identical { updates, left } => {
                dict.set_item("identical", updates)?;
                dict.set_item("left", left)?;
            }
            Replayed::Diverged { what, global_step, journal, now, identical, .. } => {
                dict.set_item("diverged", what)?;
                dict.set_item("global_step", global_step)?;
                dict.set_item("journal", journal)?;
                dict.set_item("now", now)?;
                dict.set_item("identical", identical)?;
            }
            _ => {}
        }
        Ok(Some(dict))
    }

    /// Why the journal could not be written since this was last asked.
    fn take_journal_failure(&self) -> PyResult<Option<String>> {
        Ok(self.with(keepstep::Run::take_journal_failure)?.map(|error| error.to_string()))
    }

    /// What has become of copies in the other place since this was last asked, in words.
    fn pushes(&self) -> PyResult<Vec<String>> {
        let reports = self.with(keepstep::Run::pushes)?;
        Ok(lock(&self.pushes).note(&reports))
    }

    /// Waits for copies for some seconds. Whether there is no more to wait for: all is copied, or the other place fails.
    fn wait_for_pushes(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let until = Instant::now() + Duration::from_secs_f64(seconds.max(0.0));
        py.detach(|| self.with(|run| run.wait_for_pushes(Some(until))))
    }

    /// The seconds of the longest copy so far.
    #[getter]
    fn longest_push(&self) -> f64 {
        lock(&self.pushes).longest
    }

    /// How many seconds the end of the session may wait for the other place; None for as long as it works.
    fn push_until(&self, seconds: Option<f64>) -> PyResult<()> {
        // A time that no clock reaches is none.
        let wait = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok());
        let until = wait.and_then(|wait| Instant::now().checked_add(wait));
        self.with(|run| run.push_until(until))
    }

    /// Why not everything that was saved is in the other place. None if it is.
    fn is_pushed(&self) -> PyResult<Option<String>> {
        Ok(self.with(|run| run.is_pushed())?.err().map(|error| error.to_string()))
    }

    /// Refuses to go on if another session has taken over the other place, or if it fails and the settings are strict.
    fn check_remote(&self) -> PyResult<()> {
        self.with(|run| run.check_remote())?.map_err(run_error)
    }

    /// Ends the session, saying why in the journal and in `status.json`.
    fn end_session(&self, py: Python<'_>, reason: &str) -> PyResult<()> {
        py.detach(|| self.with(|run| run.end_session(reason)))
    }

    /// Begins another session at this position, after `end_session`.
    fn begin_session(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.with(keepstep::Run::begin_session))
    }

    /// Finishes the save under way and lets go of the folder.
    fn close(&self, py: Python<'_>) {
        py.detach(|| drop(lock(&self.inner).take()));
    }
}
