//! Plans a session without writing anything.

use super::disk_need::{DiskNeed, check_file_size};
use super::error::TrainError;
use super::measure::measure;
use super::memory::Memory;
use super::observer::{Observer, PlanReport, ResumeReport};
use super::run_spec::{self, RunSpec};
use crate::config::Config;
use crate::import::resume::{Taken, inspect};
use keepstep::cadence::Cadence;
use keepstep::identity::Identity;
use keepstep::position::{Plan, Position};
use keepstep::run::{Notice, Resume, RunBuilder};
use keepstep::store::{Room, Source};
use keepstep_model::engine::EngineError;
use keepstep_model::gpt2::Gpt2Config;
use keepstep_model::train::adamw::ParamGroup;
use keepstep_model::train::train_state::TrainState;
use keepstep_text::corpus::CorpusSizes;
use std::time::Duration;

/// The plan of a session.
#[derive(Debug, Clone)]
pub struct DryRun {
    /// The sizes of the run.
    pub plan: PlanReport,
    /// The checkpoint from which the session would continue.
    pub resume: Option<ResumeReport>,
    /// Facts about how the run would be opened.
    pub notices: Vec<Notice>,
    /// Other messages for the user.
    pub notes: Vec<String>,
    /// The number of remaining updates.
    pub updates_left: u64,
    /// The number of remaining evaluations.
    pub evaluations_left: u64,
    /// The memory that training takes.
    pub memory: Memory,
    /// The disk space for checkpoints.
    pub disk: DiskNeed,
    /// The estimated time, or `None` if there is not enough memory to measure it.
    pub estimate: Option<Estimate>,
}

/// Estimated times, measured on micro-batches of made-up tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The time of one update.
    pub update: Duration,
    /// The time of one evaluation.
    pub evaluation: Duration,
    /// The time of all remaining updates and evaluations, without saving.
    pub total: Duration,
}

/// Plans what [`train`](super::train) would do with this config. Text is tokenized if the cache does not have its
/// tokens, and a few micro-batches are computed. It writes nothing and takes no lock.
///
/// # Errors
/// Fails for the same reasons as `train`, as far as they can be known in advance.
pub fn dry_run(
    config: &Config,
    resume: Option<Resume>,
    observer: &mut dyn Observer,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<DryRun, TrainError> {
    let mut observer = observer;
    run_spec::threads(config)?.install(|| plan(config, resume, &mut observer, stop))
}

fn plan(
    config: &Config,
    resume: Option<Resume>,
    observer: &mut &mut dyn Observer,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<DryRun, TrainError> {
    let folder = run_spec::output_dir(config)?;
    let resume = match resume {
        Some(resume) => resume,
        None => Resume::Newest(run_spec::source(config)?),
    };
    let mut notes = Vec::new();
    let resume = match (inspect(&resume, &folder)?, resume) {
        (Taken::Import, Resume::Newest(Source::Path(path))) => {
            notes.push(format!("Would import {} as the run's first checkpoint", path.display()));
            Resume::Newest(Source::None)
        }
        (Taken::Imported, _) => Resume::Newest(Source::None),
        (_, resume) => resume,
    };
    let builder = RunBuilder::inspect(&folder, run_spec::policy(config, resume))?;
    let checkpoint = builder.checkpoint();
    let config = &*config.with_saved(checkpoint.map(|checkpoint| &checkpoint.identity.config));
    let spec = RunSpec::measure(config, builder.path().zip(checkpoint), *observer, stop)?;
    let plan = spec.check(&builder, &folder)?;
    let CorpusSizes { num_tokens, num_train_windows, num_validation_windows, .. } = spec.corpus_sizes;
    let (identity, model) = (spec.identity(), spec.model);
    let position = checkpoint.map_or(Position::START, |checkpoint| checkpoint.position);
    let updates_left = plan.total_steps.saturating_sub(position.global_step);
    let pending = checkpoint.is_some_and(|checkpoint| checkpoint.pending);
    let evaluations_left = match num_validation_windows {
        0 => 0,
        _ => {
            Cadence::new(config.save_steps, Some(config.eval_steps)).evaluations_after(&plan, position)
                + u64::from(pending)
        }
    };
    if let (Some(initial), None) = (&spec.initial, checkpoint) {
        let wrong = |source| TrainError::Hub { path: initial.path().to_path_buf(), source };
        notes.extend(initial.notes(config, &spec.tokenizer).map_err(wrong)?);
    }
    let memory = Memory::new(config, &model);
    // The measurement needs address space for the state.
    let checkpoint_bytes = match memory.check() {
        Ok(()) => checkpoint_bytes(config, &model, &identity, &plan),
        Err(_) => memory.weights_bytes + memory.moments_bytes,
    };
    check_file_size(checkpoint_bytes)?;
    let estimate = || -> Result<Estimate, EngineError> {
        let batches = num_validation_windows.div_ceil(config.batch_size as u64);
        let batches = config.eval_batches.map_or(batches, |most| batches.min(most));
        let steps = config.gradient_accumulation_steps.min(plan.steps_per_epoch);
        let (update, batch) = measure(config, spec.precision, &model, steps)?;
        let evaluation = batch.mul_f64(batches as f64);
        let total = update.mul_f64(updates_left as f64) + evaluation.mul_f64(evaluations_left as f64);
        Ok(Estimate { update, evaluation, total })
    };
    let estimate = if memory.is_too_much() { None } else { Some(estimate()?) };
    Ok(DryRun {
        resume: builder
            .path()
            .zip(checkpoint)
            .map(|(path, checkpoint)| ResumeReport::new(path, checkpoint, &plan)),
        notices: builder.notes().to_vec(),
        notes,
        updates_left,
        evaluations_left,
        memory,
        disk: DiskNeed::new(config, &plan, position, checkpoint_bytes, Room::of(&folder)),
        estimate,
        plan: PlanReport {
            num_parameters: model.layout().num_parameters() as u64,
            num_tokens,
            num_train_windows,
            num_validation_windows,
            vocab_size: spec.tokenizer.vocab_size(),
            steps_per_epoch: plan.steps_per_epoch,
            epochs: config.epochs,
            total_steps: plan.total_steps,
            num_threads: rayon::current_num_threads(),
            output_dir: folder,
        },
    })
}

/// Computes the size of a checkpoint from its numbers and its text.
pub(super) fn checkpoint_bytes(config: &Config, model: &Gpt2Config, identity: &Identity, plan: &Plan) -> u64 {
    use keepstep::Checkpoint;
    let layout = model.layout();
    let groups = ParamGroup::from_config(&config.optimizer, &layout);
    let schedule = run_spec::schedule(config, plan);
    // Zeros that are never touched take no memory.
    let mut weights = TrainState::zeros(layout);
    weights.num_updates = 1;
    let state = weights.state(&groups, &schedule, 1);
    let checkpoint = Checkpoint::new(identity.clone(), *plan, Position::START, state);
    keepstep_pt::Archive::new(&checkpoint.to_value()).len_bytes()
}
