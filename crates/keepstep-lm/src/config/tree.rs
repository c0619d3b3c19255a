//! The config: one struct, one field per key.

use super::init_from::InitFrom;
use super::precision::Precisions;
use super::remote::RemoteConfig;
use keepstep::settings;
use keepstep::settings::TimeSpan;
use keepstep_model::gpt2::settings::Gpt2Settings;
use keepstep_model::train::adamw::OptimizerConfig;
use keepstep_model::train::schedule::ScheduleConfig;
use keepstep_numerics::precision::Precision;
use keepstep_text::corpus::DataConfig;
use serde::{Deserialize, Serialize};

settings! {
    /// Everything that can be set. `output_dir` and `data.paths` (or `data.cargo_packages`) are required.
    pub struct Config {
        /// Where the checkpoints go.
        runtime output_dir: String = String::new(),
        /// The seed of the weights, the order and dropout.
        result seed: u64 = 1337,
        /// Passes over the corpus. They affect the result through the length of the schedule.
        result epochs: u64 = 1,
        /// Updates after which the run (and its schedule) ends, even within an epoch.
        result total_steps: Option<u64> = None,
        /// Sequences per micro-batch.
        result batch_size: usize = 12,
        /// Micro-batches per optimizer update.
        result gradient_accumulation_steps: u64 = 1,
        /// Updates between scheduled checkpoints. The end of each epoch is saved too.
        runtime save_steps: u64 = 1000,
        /// Also save after this much time, for example "10m". Such a checkpoint is off schedule.
        runtime save_every: Option<TimeSpan> = None,
        /// How many of the newest scheduled checkpoints are kept.
        runtime max_checkpoints: usize = 4,
        /// Updates between evaluations. The end of each epoch is evaluated too.
        result eval_steps: u64 = 1000,
        /// Validation batches per evaluation; all if not set.
        result eval_batches: Option<u64> = None,
        /// A checkpoint, or a folder of checkpoints, to continue from. keepstep never writes to it.
        runtime resume_from_checkpoint: Option<String> = None,
        /// The weights of a new run: a folder in the layout of the Hugging Face hub, or a checkpoint. It also gives the
        /// sizes of the model and the tokenizer where the config does not set them.
        result init_from: Option<InitFrom> = None,
        /// Computing threads; one per processor if not set.
        runtime num_threads: Option<usize> = None,
        /// The precision of matmuls, or a list of allowed ones, the preferred one first.
        result precision: Precisions = Precisions::from(Precision::Float32),
        /// Compute bf16 on processors without instructions for it: the same bytes, slower.
        runtime emulate_bf16: bool = false,
        /// Stop, with a checkpoint, before this much time has passed, for example "11h30m".
        runtime session_time_limit: Option<TimeSpan> = None,
        /// Compute activations again in the backward pass instead of keeping them: less memory, more time, the same bits.
        runtime recompute_activations: bool = false,
        /// Whether training goes on while a checkpoint is written. It takes memory for a second copy of the state.
        runtime background_saving: bool = true,
        /// Whether a run continues after a failed save.
        runtime on_save_error: OnSaveError = OnSaveError::Stop,
        /// What to do when a replayed update has another loss than the journal.
        runtime on_divergence: OnDivergence = OnDivergence::Warn,
        /// Accept a checkpoint of another numerics version, and give up the promise of the same bytes.
        runtime allow_other_numerics: bool = false,
        /// Write TensorBoard event files to `tensorboard/` in the run's folder.
        runtime tensorboard: bool = true,
        /// The corpus.
        section data: DataConfig = DataConfig::default(),
        /// The model.
        section model: Gpt2Settings = Gpt2Settings::default(),
        /// AdamW.
        section optimizer: OptimizerConfig = OptimizerConfig::default(),
        /// The learning rate over time.
        section schedule: ScheduleConfig = ScheduleConfig::default(),
        /// A copy of the run in a place that outlives the machine.
        section remote: RemoteConfig = RemoteConfig::default(),
        /// The texts that the model writes.
        section sample: SampleConfig = SampleConfig::default(),
    }
}

settings! {
    /// Sample texts: a short one after each evaluation, which goes to the journal, and one that `train` prints at the
    /// end.
    pub struct SampleConfig {
        /// The prompt.
        runtime prompt: String = "\n".to_owned(),
        /// Tokens per text after an evaluation, at most `model.block_size`; 0 writes none.
        runtime at_evaluation: usize = 64,
        /// Tokens of the text at the end; 0 prints none.
        runtime max_new_tokens: usize = 256,
        /// 0 always takes the likeliest token.
        runtime temperature: f64 = 0.8,
        /// Sample from this many likeliest tokens; 0 means all.
        runtime top_k: usize = 50,
        /// The same seed writes the same text.
        runtime seed: u64 = 0,
    }
}

/// Whether a run continues after a failed save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSaveError {
    /// End the run after three failures in a row.
    Stop,
    /// Never end the run because of it.
    Continue,
}

/// What a run does when a replayed update has another loss than the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDivergence {
    /// Print a warning and go on.
    Warn,
    /// End the run.
    Stop,
}
