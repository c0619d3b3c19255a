//! The command line: commands, flags and their help.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Trains text-generation models and never loses a step: a run that is killed continues from the exact step it had
/// reached and ends in the same bytes.
#[derive(Debug, Parser)]
#[command(name = "keepstep", version, max_term_width = 100, after_help = EXIT_STATUS)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_STATUS: &str = "\
Exit status:
  0    done
  1    an error other than the following
  2    unusable arguments or config
  75   stopped early (SIGTERM, SIGHUP, SIGUSR2, SIGXCPU or time limit): run the same command
       again to continue
  130  stopped by Ctrl-C, with a checkpoint

A second Ctrl-C or SIGTERM ends training at once and loses the updates since the last checkpoint. SIGUSR1 saves a
checkpoint without stopping.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train, or continue training, the run that CONFIG describes
    Train(TrainArguments),
    /// Make a new run from a checkpoint, with changed config keys
    Branch(BranchArguments),
    /// Make a run from a checkpoint of a PyTorch training loop
    Import(ImportArguments),
    #[cfg(feature = "hub")]
    /// Write a checkpoint's weights for transformers and other programs
    Export(ExportArguments),
    /// Generate text with a trained model
    Generate(GenerateArguments),
    /// List the checkpoints of a run
    List {
        /// The run's folder (`output_dir`), or a URL that it was pushed to
        run: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the sessions of a run: start, progress, replayed and lost updates, and why each ended
    History {
        /// The run's folder (`output_dir`)
        run: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a report of a run as one HTML page: curves, sessions, checkpoints, config, samples
    Report {
        /// The run's folder (`output_dir`)
        run: PathBuf,
        /// The HTML file to write
        #[arg(long, value_name = "FILE.html")]
        out: PathBuf,
    },
    /// Check with your own config that a killed run ends in the same bytes
    Prove(ProveArguments),
    /// Show the contents of a checkpoint or any other .pt file
    Inspect {
        /// A .pt file, or its URL
        checkpoint: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare the checksums of a checkpoint, or of all checkpoints of a run
    Verify {
        /// A run's folder or a .pt file, or the URL of either
        path: PathBuf,
    },
    /// Copy a run to a place that outlives this machine
    Push(PushArguments),
    /// Copy a run from such a place into a folder
    Pull(PullArguments),
    /// Run a notebook on Kaggle again and again until its run is complete
    #[command(after_help = RELAY)]
    Relay(RelayArguments),
    /// Compare two checkpoints value by value (exit status 1 if they differ)
    Diff {
        /// The first .pt file
        left: PathBuf,
        /// The second .pt file
        right: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TrainArguments {
    /// The run's config (TOML)
    pub(crate) config: PathBuf,
    /// Set one key of the config, for example `--set optimizer.learning_rate=1e-4`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Where to resume from: `auto` takes the newest valid checkpoint, `never` requires a new run, PATH is a .pt file or
    /// a folder of them, or the URL of a run
    #[arg(long, value_name = "auto|never|PATH")]
    pub(crate) resume: Option<String>,
    /// Allow resuming from a checkpoint that is not the newest: later ones move to superseded/
    #[arg(long)]
    pub(crate) rewind: bool,
    /// Print progress as JSON lines on standard output, for other programs
    #[arg(long)]
    pub(crate) json_progress: bool,
    /// Print the plan (sizes, memory, disk, time, the checkpoint to resume from) without writing a file
    #[arg(long, conflicts_with = "json_progress")]
    pub(crate) dry_run: bool,
    /// With --dry-run, print JSON
    #[arg(long, requires = "dry_run")]
    pub(crate) json: bool,
    /// Save and stop before this much time has passed, for example 11h30m (overrides session_time_limit)
    #[arg(long, value_name = "TIME")]
    pub(crate) time_limit: Option<keepstep_lm::config::TimeSpan>,
    /// Save and stop after N updates of this session (exit status 75)
    #[arg(long, value_name = "N")]
    pub(crate) stop_after: Option<u64>,
    /// Save and stop at global step G (exit status 75)
    #[arg(long, value_name = "G")]
    pub(crate) stop_at: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ProveArguments {
    /// The run's config (TOML); its output_dir is not touched
    pub(crate) config: PathBuf,
    /// Number of updates to train, once uninterrupted and again with kills
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub(crate) updates: u64,
    /// Number of times to kill the second run (SIGKILL)
    #[arg(long, value_name = "K", default_value_t = 8)]
    pub(crate) kills: u64,
    /// Copy the second run to this place, and remove its folder at each kill
    #[arg(long, value_name = "URL")]
    pub(crate) remote: Option<String>,
    /// Set one key of the config
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct BranchArguments {
    /// The checkpoint to start from
    pub(crate) checkpoint: PathBuf,
    /// The new run's folder
    #[arg(long, value_name = "RUN")]
    pub(crate) out: PathBuf,
    /// Change one key of the config, for example `--set optimizer.learning_rate=1e-4`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// The loop's checkpoint: a dict with epoch, step, global_step, model_state_dict and optimizer_state_dict
    pub(crate) file: PathBuf,
    /// The config to continue with (TOML)
    #[arg(long, value_name = "CONFIG")]
    pub(crate) config: PathBuf,
    /// The new run's folder
    #[arg(long, value_name = "RUN")]
    pub(crate) out: PathBuf,
    /// Set one key of the config
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// Number of the loop's first epoch, if the checkpoint leaves it open
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) epoch_base: Option<u8>,
    /// Meaning of the loop's step: the number of completed micro-batches, or the index of the last one
    #[arg(long, value_enum, value_name = "count|index")]
    pub(crate) step_is: Option<StepIs>,
    /// If the checkpoint is inside an accumulation window, go back to the window's start
    #[arg(long)]
    pub(crate) round_down: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StepIs {
    Count,
    Index,
}

#[derive(Debug, Args)]
pub(crate) struct PushArguments {
    /// The run's folder (`output_dir`)
    pub(crate) run: PathBuf,
    /// Where to: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, file:///FOLDER,
    /// kaggle://datasets/OWNER/SLUG, or with --best hf://OWNER/NAME (a model repository)
    pub(crate) url: String,
    /// Copy only best_model.pt and the tokenizer
    #[arg(long)]
    pub(crate) best: bool,
    /// The Python that has kagglehub or huggingface_hub (default: the one that runs keepstep, or python3)
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) python: Option<PathBuf>,
    /// Push although another session still writes there. That session can no longer write there afterwards
    #[arg(long)]
    pub(crate) take_over: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArguments {
    /// Where from: the URL that the run was pushed to, or kaggle://notebooks/OWNER/SLUG for a notebook's output
    pub(crate) url: String,
    /// The folder to write to
    pub(crate) dir: PathBuf,
    /// The Python that has kagglehub, for kaggle:// (default: the one that runs keepstep, or python3)
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) python: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

const RELAY: &str = "\
FOLDER has a notebook or a script and its kernel-metadata.json: what `kaggle kernels push` takes. The notebook trains
into a folder below /kaggle/working, resumes from /kaggle/input, and ends in time (session_time_limit or --time-limit).

Each session is a new version of the notebook, with the output of the one before among its inputs. When a session has
ended, relay reads the status.json that it left. It starts another one only if the session made progress with the same
run. It stops when the run is complete (exit status 0), after --max-sessions sessions (75), or with a sentence when a
session failed, made no progress, or trained another run (1). relay can be killed at any time: the session goes on, and
the same command continues. It uses your `kaggle` program (pip install kaggle) and your credentials.";

#[derive(Debug, Args)]
pub(crate) struct RelayArguments {
    /// The folder with kernel-metadata.json and the notebook
    pub(crate) folder: PathBuf,
    /// Number of sessions to start at most, counted over all calls of this command
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_sessions: u64,
    /// The run's folder in the notebook's output, if it has several runs
    #[arg(long, value_name = "FOLDER")]
    pub(crate) run: Option<String>,
    /// Let Kaggle end each session after this much time
    #[arg(long, value_name = "TIME")]
    pub(crate) session_limit: Option<keepstep_lm::config::TimeSpan>,
    /// Leave the notebook's inputs as they are: it pushes and pulls a dataset itself
    #[arg(long)]
    pub(crate) no_attach: bool,
    /// Time between two questions whether the session has ended [default: 2m]
    #[arg(long, value_name = "TIME")]
    pub(crate) poll: Option<keepstep_lm::config::TimeSpan>,
    /// The kaggle program (default: the one on the PATH, or that of the Python that runs keepstep)
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) kaggle: Option<PathBuf>,
    /// Print JSON at the end
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(feature = "hub")]
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// A .pt file, or a run's folder: its best model, or its newest checkpoint if it has no best model
    pub(crate) checkpoint: PathBuf,
    /// `hf` writes a folder for transformers' from_pretrained, `safetensors` only the weights
    #[arg(long, value_enum, value_name = "hf|safetensors")]
    pub(crate) format: ExportFormat,
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[cfg(feature = "hub")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ExportFormat {
    Hf,
    Safetensors,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    /// A .pt file, or a run's folder, or the URL of either. Of a run: its best model, or its newest checkpoint if it has
    /// no best model
    pub(crate) path: PathBuf,
    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// Number of texts to generate, which are computed together. Two or more are printed when they are complete, with a
    /// line of dashes between them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) num_samples: u32,
    /// Number of tokens to generate
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_new_tokens: usize,
    /// Sampling temperature; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub(crate) temperature: f64,
    /// Sample from the K most likely tokens (0: from all)
    #[arg(long, value_name = "K", default_value_t = 50)]
    pub(crate) top_k: usize,
    /// Seed of the sampling: the same seed gives the same text, and the same first texts of any number
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn key_and_value_are_split_at_the_first_equals_sign() {
        assert_eq!(key_value("a.b = x=y"), Ok(("a.b".to_owned(), "x=y".to_owned())));
        assert!(key_value("=1").is_err());
        assert!(key_value("seed").is_err());
    }
}
