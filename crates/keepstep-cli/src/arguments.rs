//! The command line as it is typed.

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
  1    anything that went wrong, except
  2    unusable arguments or config
  75   stopped early and resumable (SIGTERM, SIGHUP, SIGUSR2, SIGXCPU or time limit): run the
       same command again
  130  stopped by Ctrl-C, after saving

A second Ctrl-C or SIGTERM ends training at once, and loses what was done since the last checkpoint. SIGUSR1 makes
a checkpoint and goes on.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train, or continue training, the run that CONFIG describes
    Train(TrainArguments),
    /// Make a new run that starts from a checkpoint, with changed keys
    Branch(BranchArguments),
    /// Make a run of a checkpoint that a PyTorch loop saved
    Import(ImportArguments),
    #[cfg(feature = "hub")]
    /// Write a checkpoint's weights for other programs
    Export(ExportArguments),
    /// Write text with a trained model
    Generate(GenerateArguments),
    /// List the checkpoints of a run
    List {
        /// The run's folder (`output_dir`)
        run: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the sessions of a run: when, from where to where, replayed, lost, why they ended
    History {
        /// The run's folder (`output_dir`)
        run: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write a run as one HTML page: curves, sessions, checkpoints, config, texts
    Report {
        /// The run's folder (`output_dir`)
        run: PathBuf,
        /// The page's file; nothing else is written
        #[arg(long, value_name = "FILE.html")]
        out: PathBuf,
    },
    /// Prove on your own config that a killed run ends in the same bytes
    Prove(ProveArguments),
    /// Show what a checkpoint, or any .pt file, holds
    Inspect {
        /// A .pt file
        checkpoint: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check every checksum of a checkpoint, or of all checkpoints of a run
    Verify {
        /// A run's folder or a .pt file
        path: PathBuf,
    },
    /// Compare two checkpoints, value by value; exit status 1 if they differ
    Diff {
        /// The one
        left: PathBuf,
        /// The other
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
    /// Where to resume from: `auto` finds the newest valid checkpoint, `never` insists on a new run, or a .pt file or
    /// a folder of them
    #[arg(long, value_name = "auto|never|PATH")]
    pub(crate) resume: Option<String>,
    /// Allow starting below the newest checkpoint of the folder: later ones are moved to superseded/
    #[arg(long)]
    pub(crate) rewind: bool,
    /// Write progress as JSON lines on standard output, for other programs
    #[arg(long)]
    pub(crate) json_progress: bool,
    /// Print the plan (sizes, memory, disk, time, and what it would resume from) and do nothing: no file is written
    #[arg(long, conflicts_with = "json_progress")]
    pub(crate) dry_run: bool,
    /// With --dry-run, print JSON
    #[arg(long, requires = "dry_run")]
    pub(crate) json: bool,
    /// Stop, with a checkpoint, before this much time has passed, for example 11h30m (session_time_limit)
    #[arg(long, value_name = "TIME")]
    pub(crate) time_limit: Option<keepstep_lm::config::TimeSpan>,
    /// Stop after N updates of this session, as SIGTERM would (exit status 75)
    #[arg(long, value_name = "N")]
    pub(crate) stop_after: Option<u64>,
    /// Stop at global step G, likewise
    #[arg(long, value_name = "G")]
    pub(crate) stop_at: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ProveArguments {
    /// The run's config; nothing is written to its output_dir
    pub(crate) config: PathBuf,
    /// How many updates are trained, straight and again with kills
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub(crate) updates: u64,
    /// How often the second run is killed (SIGKILL)
    #[arg(long, value_name = "K", default_value_t = 8)]
    pub(crate) kills: u64,
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
    /// The notebook's checkpoint: a dict with epoch, step, global_step, model_state_dict and optimizer_state_dict
    pub(crate) file: PathBuf,
    /// The config that the run goes on with
    #[arg(long, value_name = "CONFIG")]
    pub(crate) config: PathBuf,
    /// The new run's folder
    #[arg(long, value_name = "RUN")]
    pub(crate) out: PathBuf,
    /// Set one key of the config
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
    /// The number of the notebook's first epoch, where its numbers do not tell
    #[arg(long, value_name = "0|1", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) epoch_base: Option<u8>,
    /// Whether the notebook's step counts completed micro-batches or is the index of the last one
    #[arg(long, value_enum, value_name = "count|index")]
    pub(crate) step_is: Option<StepIs>,
    /// Inside an accumulation window, go back to the last boundary
    #[arg(long)]
    pub(crate) round_down: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StepIs {
    Count,
    Index,
}

#[cfg(feature = "hub")]
#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// A run's folder (its best model is used, or else its newest checkpoint) or a .pt file
    pub(crate) checkpoint: PathBuf,
    /// `hf` is a folder for transformers' from_pretrained, `safetensors` the weights alone
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
    /// A run's folder (its best model is used, or else its newest checkpoint) or a .pt file
    pub(crate) path: PathBuf,
    /// The text to continue
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    /// How many tokens to write
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_new_tokens: usize,
    /// 0 takes the likeliest token each time; higher is wilder
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub(crate) temperature: f64,
    /// Choose among the K likeliest tokens only (0: among all)
    #[arg(long, value_name = "K", default_value_t = 50)]
    pub(crate) top_k: usize,
    /// The same seed writes the same text
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
