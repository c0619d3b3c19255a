//! The config as people write it.

use super::duration::TimeSpan;
use super::precision::{Precision, Precisions};
use super::settings::settings;
use serde::{Deserialize, Serialize};

settings! {
    /// Everything that can be set. Required are `output_dir` and `data.paths` (or `data.cargo_packages`).
    pub struct Config {
        /// Where the checkpoints go.
        operational output_dir: String = String::new(),
        /// The seed of the weights, the order and dropout.
        functional seed: u64 = 1337,
        /// Passes over the corpus. Functional through the length of the schedule.
        functional epochs: u64 = 1,
        /// Updates after which the run (and its schedule) ends, even within an epoch.
        functional total_steps: Option<u64> = None,
        /// Sequences per micro-batch.
        functional batch_size: usize = 12,
        /// Micro-batches per optimizer update.
        functional gradient_accumulation_steps: u64 = 1,
        /// Save a checkpoint every so many updates, beside the ends of epochs.
        operational save_steps: u64 = 1000,
        /// Save a checkpoint beside those after this much time, for example "10m".
        operational save_every: Option<TimeSpan> = None,
        /// How many of the newest scheduled checkpoints are kept.
        operational max_checkpoints: usize = 4,
        /// Evaluate every so many updates, beside the ends of epochs.
        functional eval_steps: u64 = 1000,
        /// How many validation batches an evaluation takes; all of them if not set.
        functional eval_batches: Option<u64> = None,
        /// A checkpoint, or a folder of them, to continue from; only ever read.
        operational resume_from_checkpoint: Option<String> = None,
        /// Weights to begin a new run with: a folder as the Hugging Face hub has it, or a checkpoint of keepstep. What it
        /// says of the model and the tokenizer holds where the config does not.
        functional init_from: Option<String> = None,
        /// Threads that compute; as many as there are processors if not set.
        operational num_threads: Option<usize> = None,
        /// The precision of matrix products, or the allowed ones, the preferred one first.
        functional precision: Precisions = Precisions::from(Precision::Float32),
        /// Compute bf16 without the processor's instructions for it: the same bytes, slower.
        operational emulate_bf16: bool = false,
        /// Stop, with a checkpoint, before this much time has passed, for example "11h30m".
        operational session_time_limit: Option<TimeSpan> = None,
        /// Keep less between forward and backward and compute it again: less memory, more time, the same bits.
        operational recompute_activations: bool = false,
        /// Whether training goes on while a checkpoint is being written; takes memory for the state once more.
        operational background_saving: bool = true,
        /// Whether a run goes on after a checkpoint could not be saved.
        operational on_save_error: OnSaveError = OnSaveError::Stop,
        /// Whether a run ends where an update that is made again has another loss than the journal has.
        operational on_divergence: OnDivergence = OnDivergence::Warn,
        /// Accept a checkpoint of another numerics version, and give up the promise of the same bytes.
        operational allow_other_numerics: bool = false,
        /// Write TensorBoard's event files beside the checkpoints.
        operational tensorboard: bool = true,
        /// The corpus.
        section data: DataConfig = DataConfig::default(),
        /// The model.
        section model: ModelSection = ModelSection::default(),
        /// AdamW.
        section optimizer: OptimizerConfig = OptimizerConfig::default(),
        /// The learning rate over time.
        section schedule: ScheduleConfig = ScheduleConfig::default(),
        /// The texts that the model writes.
        section sample: SampleConfig = SampleConfig::default(),
    }
}

settings! {
    /// The corpus.
    pub struct DataConfig {
        /// Files or globs; `~` and `${VAR:-default}` expand.
        operational paths: Vec<String> = Vec::new(),
        /// Crates whose Rust sources cargo has on the disk, as name-version.
        operational cargo_packages: Vec<String> = Vec::new(),
        /// The part of the windows, from the end, that is held out.
        functional validation_fraction: f64 = 0.05,
        /// How text becomes tokens.
        functional tokenizer: TokenizerSpec = TokenizerSpec::Bytes,
        /// Where tokens are cached; the user's cache folder if not set.
        operational cache_dir: Option<String> = None,
    }
}

settings! {
    /// The sizes of the GPT-2.
    pub struct ModelSection {
        /// The longest context, in tokens.
        functional block_size: usize = 128,
        /// Transformer blocks.
        functional n_layer: usize = 4,
        /// Attention heads.
        functional n_head: usize = 4,
        /// Width of the residual stream.
        functional n_embd: usize = 128,
        /// Probability of dropping an element.
        functional dropout: f64 = 0.0,
        /// Added to the variance in LayerNorm.
        functional layer_norm_epsilon: f64 = 1e-5,
    }
}

settings! {
    /// AdamW.
    pub struct OptimizerConfig {
        /// The highest learning rate.
        functional learning_rate: f64 = 5e-4,
        /// Decoupled weight decay, for tensors of two or more dimensions.
        functional weight_decay: f64 = 0.1,
        /// Decay rates of the two moments.
        functional betas: [f64; 2] = [0.9, 0.95],
        /// Added to the denominator.
        functional eps: f64 = 1e-8,
        /// The gradient's global norm is clipped to this; 0 does not clip.
        functional max_grad_norm: f64 = 1.0,
    }
}

settings! {
    /// The learning rate over time, by transformers' formulas.
    pub struct ScheduleConfig {
        /// The shape.
        functional kind: ScheduleKind = ScheduleKind::Constant,
        /// Updates during which the rate rises from 0.
        functional warmup_steps: u64 = 0,
        /// Where the rate ends: `cosine_with_min_lr` and `warmup_stable_decay`.
        functional min_lr: f64 = 0.0,
        /// Updates of the last phase: `warmup_stable_decay`.
        functional decay_steps: u64 = 0,
    }
}

settings! {
    /// The texts that the model writes while it is trained: a short one after each evaluation, which goes to the journal, and
    /// one that `train` prints at the end.
    pub struct SampleConfig {
        /// What is continued.
        operational prompt: String = "\n".to_owned(),
        /// How many tokens are written after each evaluation, at most `model.block_size`; 0 writes none.
        operational at_evaluation: usize = 64,
        /// How many tokens are written at the end; 0 prints none.
        operational max_new_tokens: usize = 256,
        /// 0 takes the likeliest token each time.
        operational temperature: f64 = 0.8,
        /// Choose among this many likeliest tokens; 0 among all.
        operational top_k: usize = 50,
        /// The same seed writes the same text.
        operational seed: u64 = 0,
    }
}

/// How text becomes tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerSpec {
    /// Each byte is a token.
    Bytes,
    /// Each character of the corpus is a token.
    Chars,
    /// Byte-level BPE with this many entries, trained on the corpus.
    Bpe(usize),
    /// A tokenizer.json.
    File(String),
}

/// The shapes of the learning rate, under transformers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// The same at every update.
    Constant,
    /// The same once it has risen.
    ConstantWithWarmup,
    /// Down to 0 in a straight line.
    Linear,
    /// Down to 0 in half a cosine.
    Cosine,
    /// Down to `min_lr` in half a cosine.
    CosineWithMinLr,
    /// Constant, and down to `min_lr` in half a cosine over the last `decay_steps`.
    WarmupStableDecay,
}

impl ScheduleKind {
    /// Whether the rate does not depend on how long the run is.
    pub fn is_constant(self) -> bool {
        matches!(self, ScheduleKind::Constant | ScheduleKind::ConstantWithWarmup)
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bpe {
    bpe: usize,
}

impl Serialize for TokenizerSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            TokenizerSpec::Bytes => serializer.serialize_str("bytes"),
            TokenizerSpec::Chars => serializer.serialize_str("chars"),
            TokenizerSpec::Bpe(bpe) => Bpe { bpe: *bpe }.serialize(serializer),
            // Where the file lies is no part of the function: its content is, and stands in the checkpoint.
            TokenizerSpec::File(_) => serializer.serialize_str("tokenizer.json"),
        }
    }
}

impl<'de> Deserialize<'de> for TokenizerSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<TokenizerSpec, D::Error> {
        const EXPECTED: &str = "expected \"bytes\", \"chars\", { bpe = SIZE } or the path of a tokenizer.json (ending in .json) or of a checkpoint (.pt)";
        let unexpected = || serde::de::Error::custom(EXPECTED);
        match toml::Value::deserialize(deserializer).map_err(|_| unexpected())? {
            toml::Value::String(text) => match text.as_str() {
                "bytes" => Ok(TokenizerSpec::Bytes),
                "chars" => Ok(TokenizerSpec::Chars),
                path if path.ends_with(".json") || path.ends_with(".pt") => Ok(TokenizerSpec::File(text)),
                _ => Err(unexpected()),
            },
            table @ toml::Value::Table(_) => {
                table.try_into::<Bpe>().map(|bpe| TokenizerSpec::Bpe(bpe.bpe)).map_err(|_| unexpected())
            }
            _ => Err(unexpected()),
        }
    }
}
