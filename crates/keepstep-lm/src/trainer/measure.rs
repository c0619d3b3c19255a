//! Measures how long an update and a batch of an evaluation take.

use super::learner::engine_spec;
use crate::config::{Config, Precision};
use keepstep_model::engine::{Batch, Engine, EngineError};
use keepstep_model::gpt2::{CpuEngine, Gpt2Config, initial_parameters};
use keepstep_model::train::adamw::ParamGroup;
use keepstep_model::train::optimizer_update::OptimizerUpdate;
use keepstep_model::train::train_state::TrainState;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The time limit of a measurement, in addition to one micro-batch to warm up and one to measure.
const MEASURING: Duration = Duration::from_millis(1_500);

/// Measures the time of an update of `num_micro_batches`, and of one batch of an evaluation.
pub(super) fn measure(
    config: &Config,
    precision: Precision,
    model: &Gpt2Config,
    num_micro_batches: u64,
) -> Result<(Duration, Duration), EngineError> {
    let layout = model.layout();
    let groups = ParamGroup::from_config(&config.optimizer, &layout);
    let state = TrainState::new(layout, initial_parameters(model, config.seed));
    let mut spec = engine_spec(config, model, precision);
    spec.has_spare = false;
    let mut engine = CpuEngine::new(&spec, groups, state)?;
    let num_tokens = config.batch_size * (model.block_size + 1);
    let tokens: Vec<u32> =
        (0..num_tokens).map(|index| (index * 7_919 % model.vocab_size.max(1)) as u32).collect();
    let batch = Batch::new(&tokens);

    let mut update = OptimizerUpdate::begin(&mut engine, config.seed, 0);
    black_box(update.accumulate(&batch)?);
    let (mut count, mut spent) = (0, Duration::ZERO);
    while count == 0 || spent < MEASURING && count < num_micro_batches.max(8) {
        let started = Instant::now();
        black_box(update.accumulate(&batch)?);
        spent += started.elapsed();
        count += 1;
    }
    let started = Instant::now();
    update.finish(1.0, config.optimizer.max_grad_norm, |_, _| Ok::<(), EngineError>(()))?;
    let optimizer = started.elapsed();
    let started = Instant::now();
    black_box(engine.evaluate(&batch)?);
    Ok(((spent / count as u32).mul_f64(num_micro_batches as f64) + optimizer, started.elapsed()))
}
