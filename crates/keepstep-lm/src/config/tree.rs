//! The config as people write it.

use super::init_from::InitFrom;
use super::precision::Precisions;
use keepstep::settings;
use keepstep::settings::TimeSpan;
use keepstep_model::gpt2::settings::Gpt2Settings;
use keepstep_model::train::adamw::OptimizerConfig;
use keepstep_model::train::schedule::ScheduleConfig;
use keepstep_numerics::precision::Precision;
use keepstep_text::corpus::DataConfig;
use serde::{Deserialize, Serialize};

settings! {
    /// Everything that can be set. Required are `output_dir` and `data.paths` (or `data.cargo_packages`).
    pub struct Config {
        /// Where the checkpoints go.
        runtime output_dir: String = String::new(),
        /// The seed of the weights, the order and dropout.
        result seed: u64 = 1337,
        /// Passes over the corpus. Functional through the length of the schedule.
        result epochs: u64 = 1,
        /// Updates after which the run (and its schedule) ends, even within an epoch.
        result total_steps: Option<u64> = None,
        /// Sequences per micro-batch.
        result batch_size: usize = 12,
        /// Micro-batches per optimizer update.
        result gradient_accumulation_steps: u64 = 1,
        /// Save a checkpoint every so many updates, beside the ends of epochs.
        runtime save_steps: u64 = 1000,
        /// Save a checkpoint beside those after this much time, for example "10m".
        runtime save_every: Option<TimeSpan> = None,
        /// How many of the newest scheduled checkpoints are kept.
        runtime max_checkpoints: usize = 4,
        /// Evaluate every so many updates, beside the ends of epochs.
        result eval_steps: u64 = 1000,
        /// How many validation batches an evaluation takes; all of them if not set.
        result eval_batches: Option<u64> = None,
        /// A checkpoint, or a folder of them, to continue from; only ever read.
        runtime resume_from_checkpoint: Option<String> = None,
        /// Weights to begin a new run with: a folder as the Hugging Face hub has it, or a checkpoint of keepstep. What it
        /// says of the model and the tokenizer holds where the config does not.
        result init_from: Option<InitFrom> = None,
        /// Threads that compute; as many as there are processors if not set.
        runtime num_threads: Option<usize> = None,
        /// The precision of matrix products, or the allowed ones, the preferred one first.
        result precision: Precisions = Precisions::from(Precision::Float32),
        /// Compute bf16 without the processor's instructions for it: the same bytes, slower.
        runtime emulate_bf16: bool = false,
        /// Stop, with a checkpoint, before this much time has passed, for example "11h30m".
        runtime session_time_limit: Option<TimeSpan> = None,
        /// Keep less between forward and backward and compute it again: less memory, more time, the same bits.
        runtime recompute_activations: bool = false,
        /// Whether training goes on while a checkpoint is being written; takes memory for the state once more.
        runtime background_saving: bool = true,
        /// Whether a run goes on after a checkpoint could not be saved.
        runtime on_save_error: OnSaveError = OnSaveError::Stop,
        /// Whether a run ends where an update that is made again has another loss than the journal has.
        runtime on_divergence: OnDivergence = OnDivergence::Warn,
        /// Accept a checkpoint of another numerics version, and give up the promise of the same bytes.
        runtime allow_other_numerics: bool = false,
        /// Write TensorBoard's event files beside the checkpoints.
        runtime tensorboard: bool = true,
        /// The corpus.
        section data: DataConfig = DataConfig::default(),
        /// The model.
        section model: Gpt2Settings = Gpt2Settings::default(),
        /// AdamW.
        section optimizer: OptimizerConfig = OptimizerConfig::default(),
        /// The learning rate over time.
        section schedule: ScheduleConfig = ScheduleConfig::default(),
        /// The texts that the model writes.
        section sample: SampleConfig = SampleConfig::default(),
    }
}

settings! {
    /// The texts that the model writes while it is trained: a short one after each evaluation, which goes to the journal, and
    /// one that `train` prints at the end.
    pub struct SampleConfig {
        /// What is continued.
        runtime prompt: String = "\n".to_owned(),
        /// How many tokens are written after each evaluation, at most `model.block_size`; 0 writes none.
        runtime at_evaluation: usize = 64,
        /// How many tokens are written at the end; 0 prints none.
        runtime max_new_tokens: usize = 256,
        /// 0 takes the likeliest token each time.
        runtime temperature: f64 = 0.8,
        /// Choose among this many likeliest tokens; 0 among all.
        runtime top_k: usize = 50,
        /// The same seed writes the same text.
        runtime seed: u64 = 0,
    }
}

/// Whether a run goes on after a checkpoint could not be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnSaveError {
    /// It ends after three failures in a row.
    Stop,
    /// It never ends for that.
    Continue,
}

/// What a run does where an update that is made again has another loss than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDivergence {
    /// It says so loudly and goes on.
    Warn,
    /// It ends.
    Stop,
}
