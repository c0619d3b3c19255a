//! Everything that a session computes with, loaded and checked against its checkpoint. Nothing is written.

use crate::config::Config;
use crate::trainer::error::TrainError;
use crate::trainer::groups;
use crate::trainer::learner::restore;
use crate::trainer::memory::Memory;
use crate::trainer::observer::Observer;
use crate::trainer::run_spec::{self, RunSpec};
use keepstep::position::Plan;
use keepstep::run::RunBuilder;
use keepstep_model::gpt2::layout::initial_parameters;
use keepstep_model::train::adamw::ParamGroup;
use keepstep_model::train::schedule::Schedule;
use keepstep_model::train::train_state::TrainState;
use keepstep_text::corpus::Corpus;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

pub(super) struct Prepared<'a> {
    /// The config, completed with what the checkpoint has.
    pub(super) config: Cow<'a, Config>,
    pub(super) spec: RunSpec<Corpus>,
    pub(super) plan: Plan,
    pub(super) groups: Vec<ParamGroup>,
    pub(super) schedule: Schedule,
    pub(super) train_state: TrainState,
}

impl<'a> Prepared<'a> {
    /// Finds the run's inputs and loads the builder's checkpoint, or the first weights of a new run.
    pub(super) fn load(
        config: &'a Config,
        builder: &RunBuilder,
        folder: &Path,
        observer: &mut dyn Observer,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Prepared<'a>, TrainError> {
        let saved = builder.checkpoint().map(|checkpoint| checkpoint.identity.config.clone());
        let completed = config.with_saved(saved.as_ref());
        let config: &Config = &completed;
        let spec = RunSpec::find(config, builder.path().zip(builder.checkpoint()), observer, stop)?;
        let plan = spec.check(builder, folder)?;
        Memory::new(config, &spec.model).check()?;
        let layout = spec.model.layout();
        let is_new = builder.checkpoint().is_none();
        let mut train_state = if is_new && spec.initial.is_none() {
            TrainState::new(layout, initial_parameters(&spec.model, config.seed))
        } else {
            TrainState::zeros(layout)
        };
        let path = builder.path().unwrap_or(folder).to_path_buf();
        let state = |source| TrainError::State { path: path.clone(), source };
        let groups = groups::stored_or_configured(Some(&spec.stored), &config.optimizer, &train_state.layout)
            .map_err(state)?;
        if let (Some(initial), true) = (&spec.initial, is_new) {
            let notes = initial.notes(config, &spec.tokenizer);
            let loaded = notes.and_then(|notes| {
                let layout = Arc::clone(&train_state.layout);
                initial.load(&layout, train_state.parameters.get_mut())?;
                Ok(notes)
            });
            let wrong = |source| TrainError::Hub { path: initial.path().to_path_buf(), source };
            loaded.map_err(wrong)?.iter().for_each(|note| observer.note(note));
        }
        let schedule = run_spec::schedule(config, &plan);
        if let Some(checkpoint) = builder.checkpoint() {
            restore(&mut train_state, checkpoint, &groups, &schedule).map_err(state)?;
        }
        Ok(Prepared { config: completed, spec, plan, groups, schedule, train_state })
    }
}
