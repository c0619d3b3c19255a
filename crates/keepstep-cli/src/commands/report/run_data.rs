//! Reads the data of a report from the run's journal and checkpoints.

use super::curve::Curve;
use crate::checkpoints::{Entry, entries};
use crate::failure::Failure;
use keepstep::Checkpoint;
use keepstep::journal::curve::Series;
use keepstep::journal::sessions::{Session, sessions};
use keepstep::journal::{Evaluation, Event, Sample};
use keepstep::position::Position;
use std::io;
use std::path::Path;

pub(super) struct RunData {
    /// The folder's name.
    pub(super) name: String,
    /// Why the journal cannot be read, if it cannot.
    pub(super) no_journal: Option<String>,
    pub(super) sessions: Vec<Session>,
    pub(super) checkpoints: Vec<Entry>,
    pub(super) curves: Curves,
}

pub(super) struct Curves {
    pub(super) loss: Curve,
    pub(super) learning_rate: Curve,
    pub(super) grad_norm: Curve,
    pub(super) speed: Curve,
    pub(super) evaluations: Vec<Evaluation>,
    pub(super) samples: Vec<Sample>,
    pub(super) num_updates: u64,
    pub(super) num_tokens: u64,
    pub(super) first_step: Option<u64>,
    pub(super) last: Option<Position>,
}

impl RunData {
    pub(super) fn read(folder: &Path) -> Result<RunData, Failure> {
        let checkpoints = entries(folder)?;
        let mut no_journal = None;
        let mut missing = |error: &io::Error| {
            no_journal = Some(match error.kind() {
                io::ErrorKind::NotFound => {
                    "This folder has no journal (journal.jsonl), so the page cannot show \
                                            sessions or curves."
                        .to_owned()
                }
                _ => format!("The journal cannot be read, so no curve can be drawn: {error}"),
            });
        };
        let sessions = sessions(folder).inspect_err(&mut missing).unwrap_or_default();
        let mut curves = Curves::new();
        if let Err(error) = Series::open(folder).and_then(|mut series| curves.read(&mut series)) {
            missing(&error);
        }
        if no_journal.is_some() && checkpoints.is_empty() {
            return Err(Failure::new(
                1,
                format!(
                    "{}: this folder has no journal and no checkpoint; give a run's output_dir",
                    folder.display()
                ),
            ));
        }
        let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
        let name =
            whole.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(RunData { name, no_journal, sessions, checkpoints, curves })
    }

    /// The valid checkpoint with the highest global step.
    pub(super) fn newest(&self) -> Option<&Checkpoint> {
        let valid = self.checkpoints.iter().filter_map(|entry| entry.content.as_ref().ok());
        valid.max_by_key(|checkpoint| checkpoint.position.global_step)
    }
}

impl Curves {
    fn new() -> Curves {
        Curves {
            loss: Curve::new(),
            learning_rate: Curve::new(),
            grad_norm: Curve::new(),
            speed: Curve::new(),
            evaluations: Vec::new(),
            samples: Vec::new(),
            num_updates: 0,
            num_tokens: 0,
            first_step: None,
            last: None,
        }
    }

    /// The validation losses and their global steps.
    pub(super) fn losses(&self) -> impl Iterator<Item = (u64, f64)> {
        let losses = self.evaluations.iter().filter_map(|it| Some((it.global_step, it.val_loss?)));
        losses.filter(|(_, loss)| loss.is_finite())
    }

    fn read(&mut self, series: &mut Series) -> io::Result<()> {
        while let Some(point) = series.next_point()? {
            match point.event {
                Event::Update(update) => {
                    let step = update.global_step;
                    for (curve, value) in [
                        (&mut self.loss, update.loss),
                        (&mut self.learning_rate, update.learning_rate),
                        (&mut self.grad_norm, update.grad_norm),
                        (&mut self.speed, point.tokens_per_second),
                    ] {
                        if let Some(value) = value {
                            curve.push(step, value);
                        }
                    }
                    self.num_updates += 1;
                    self.num_tokens += update.num_tokens;
                    self.first_step.get_or_insert(step);
                    self.last = Some(update.position());
                }
                Event::Evaluation(evaluation) => self.evaluations.push(evaluation),
                Event::Sample(sample) => self.samples.push(sample),
                _ => {}
            }
        }
        Ok(())
    }
}
