//! Opening a session: all checks, the checkpoint, and the first writes to the run's folder.

use super::Session;
use super::prepared::Prepared;
use crate::config::Config;
use crate::import::resume::take_over;
use crate::trainer::clock::Clock;
use crate::trainer::control::Control;
use crate::trainer::corpus_record;
use crate::trainer::disk_need::{DiskNeed, check_file_size};
use crate::trainer::dry_run::checkpoint_bytes;
use crate::trainer::error::TrainError;
use crate::trainer::learner::{Learner, engine_spec};
use crate::trainer::observer::{Observer, PlanReport, ResumeReport};
use crate::trainer::run_spec::{self, RunSpec};
use crate::trainer::sampler::Sampler;
use crate::trainer::{precision, tensorboard};
use keepstep::position::Plan;
use keepstep::run::{Policy, Resume, RunBuilder};
use keepstep::store::Storage;
use keepstep_model::train::state_dict::StateDictError;
use keepstep_text::corpus::Corpus;
use keepstep_text::tokenizer::Tokenizer;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl<'a> Session<'a> {
    /// Checks everything, loads the checkpoint, and only then writes to the run's folder.
    pub(super) fn open(
        config: &'a Config,
        control: &'a Control,
        observer: &'a mut dyn Observer,
        storage: Arc<dyn Storage>,
    ) -> Result<Session<'a>, TrainError> {
        let mut clock = Clock::new(config, control.started.unwrap_or_else(Instant::now));
        let stop = || control.stop.load(Ordering::SeqCst) || clock.is_over_unsaved();
        let folder = run_spec::output_dir(config)?;
        let resume = match &control.resume {
            Some(resume) => resume.clone(),
            None => Resume::Newest(run_spec::source(config)?),
        };
        let resume = take_over(resume, config, &folder, observer, &stop)?;
        let (remote, resume_remote) = (control.remote.clone(), control.resume_remote.clone());
        let has_remote = remote.is_some();
        let policy = Policy { remote, resume_remote, ..run_spec::policy(config, resume) };
        let mut builder = RunBuilder::open_to_verify_later(&folder, policy, storage)?;
        let prepared = loop {
            let damage = match Prepared::load(config, &builder, &folder, observer, &stop) {
                Ok(prepared) => match builder.verify_rest() {
                    Ok(()) => break prepared,
                    Err(damage) => damage,
                },
                Err(TrainError::State { source: StateDictError::Read { source, .. }, .. })
                    if source.is_damage() =>
                {
                    source
                }
                Err(error) => return Err(error),
            };
            builder = builder.without_damaged(&damage)?;
        };
        let Prepared { config: completed, spec, plan, groups, schedule, train_state } = prepared;
        let config: &Config = &completed;
        let identity = spec.identity();
        let RunSpec { precision, support, files, tokenizer, corpus, model, sizes, .. } = spec;
        let engine_spec = engine_spec(config, &model, precision);
        let learner = Learner::new(config, &engine_spec, schedule, groups, train_state)?;
        let len_bytes = checkpoint_bytes(config, &model, &identity, &plan);
        check_file_size(len_bytes)?;
        clock.expect_saves_of(len_bytes);
        if has_remote {
            clock.expect_pushes_of(len_bytes);
        }
        let mut run = builder.start(identity, sizes)?;
        let run_folder = folder.clone();
        run.evaluate_every((corpus.num_validation_windows() > 0).then_some(config.eval_steps));
        run_spec::publish_tokenizer(&folder, &tokenizer)?;
        // Without this record a changed corpus is still detected, but not which file changed.
        let _ = corpus_record::write(&folder, &files);

        run.notes().iter().for_each(|notice| observer.notice(notice));
        if let Some(text) = precision::note(precision, support) {
            observer.note(&text);
        }
        observer.planned(&plan_report(config, &corpus, &tokenizer, &learner, &plan, folder));
        if let Some((path, checkpoint)) = run.resumed() {
            observer.resumed(&ResumeReport::new(path, checkpoint, run.plan()));
        }
        run.release_checkpoint();
        let needed = DiskNeed::new(config, run.plan(), run.position(), len_bytes, run.room());
        needed.shortage().iter().for_each(|shortage| observer.short_of_disk(shortage));
        let sampler = Sampler::new(config, &run_folder, &run);
        let tensorboard = tensorboard::follow(config, &run_folder);
        Ok(Session {
            config: completed,
            control,
            observer,
            run,
            corpus,
            tokenizer,
            learner,
            clock,
            sampler,
            tensorboard,
            updates: 0,
            evaluations: 0,
            save_failures: 0,
            journal_failed: false,
            wait_said: false,
            saved: None,
        })
    }
}

fn plan_report(
    config: &Config,
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    learner: &Learner,
    plan: &Plan,
    output_dir: PathBuf,
) -> PlanReport {
    PlanReport {
        num_parameters: learner.num_parameters() as u64,
        num_tokens: corpus.num_tokens(),
        num_train_windows: corpus.num_train_windows(),
        num_validation_windows: corpus.num_validation_windows(),
        vocab_size: tokenizer.vocab_size(),
        steps_per_epoch: plan.steps_per_epoch,
        epochs: config.epochs,
        total_steps: plan.total_steps,
        num_threads: rayon::current_num_threads(),
        output_dir,
    }
}
