//! From a config to everything that a run is a function of.

use super::error::TrainError;
use super::observer::Observer;
use crate::config::{Config, TokenizerSpec, expand, functional};
use crate::corpus::{Corpus, SourceFile};
use crate::numerics::NUMERICS_VERSION;
use crate::schedule::Schedule;
use crate::tokenizer::{TOKENIZER_FILE, Tokenizer};
use keepstep::identity::Identity;
use keepstep::position::{Length, Plan};
use keepstep::run::{Policy, Resume, Sizes};
use keepstep::{Checkpoint, store::Source};
use keepstep_pt::Value;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder of the run.
pub(super) fn output_dir(config: &Config) -> Result<PathBuf, TrainError> {
    Ok(PathBuf::from(expand(&config.output_dir)?))
}

/// What to continue from, unless the caller says otherwise.
pub(super) fn source(config: &Config) -> Result<Source, TrainError> {
    Ok(match &config.resume_from_checkpoint {
        Some(path) => Source::Path(PathBuf::from(expand(path)?)),
        None => Source::None,
    })
}

/// Evaluations are decided once the corpus is known.
pub(super) fn policy(config: &Config, resume: Resume) -> Policy {
    Policy {
        save_steps: config.save_steps,
        max_checkpoints: config.max_checkpoints,
        eval_steps: None,
        resume,
        allow_other_numerics: config.allow_other_numerics,
    }
}

/// The checkpoint's tokenizer, where the config asks for the same kind; otherwise the config's, trained on the corpus
/// if need be.
pub(super) fn tokenizer(
    config: &Config,
    files: &[SourceFile],
    checkpoint: Option<&Checkpoint>,
    observer: &mut dyn Observer,
) -> Result<Tokenizer, TrainError> {
    let spec = &config.data.tokenizer;
    let saved = checkpoint.filter(|checkpoint| {
        let asked = functional(config);
        data_key(&asked, "tokenizer") == data_key(&checkpoint.identity.config, "tokenizer")
    });
    let from =
        |checkpoint: &Checkpoint| Tokenizer::from_json(&checkpoint.identity.tokenizer, "the checkpoint");
    let texts: Vec<&str> = files.iter().map(SourceFile::text).collect();
    Ok(match (spec, saved) {
        // A file that has changed since makes another function; one that is gone leaves the checkpoint's.
        (TokenizerSpec::File(path), saved) => {
            let path = PathBuf::from(expand(path)?);
            match saved {
                Some(checkpoint) if !path.exists() => from(checkpoint)?,
                _ => Tokenizer::from_file(&path)?,
            }
        }
        (_, Some(checkpoint)) => from(checkpoint)?,
        (TokenizerSpec::Bytes, None) => Tokenizer::bytes(),
        (TokenizerSpec::Chars, None) => Tokenizer::chars(texts.iter().flat_map(|text| text.chars())),
        (TokenizerSpec::Bpe(size), None) => {
            Tokenizer::train_bpe(&texts, *size, &mut |done, total| observer.tokenizing(done, total))?
        }
    })
}

fn data_key(config: &keepstep_pt::Dict, key: &str) -> Option<Value> {
    config.get("data")?.as_dict()?.get(key).cloned()
}

/// The corpus of the config.
pub(super) fn corpus(
    config: &Config,
    files: &[SourceFile],
    tokenizer: &Tokenizer,
    observer: &mut dyn Observer,
) -> Result<Corpus, TrainError> {
    let mut notes = Vec::new();
    let mut progress = |done, total| observer.tokenizing(done, total);
    let corpus = Corpus::new(files, tokenizer, config, &mut progress, &mut |note| notes.push(note))?;
    notes.iter().for_each(|note| observer.note(note));
    Ok(corpus)
}

pub(super) fn identity(config: &Config, corpus: &Corpus, tokenizer: &Tokenizer) -> Identity {
    Identity {
        seed: config.seed,
        numerics: NUMERICS_VERSION,
        config: functional(config),
        corpus_fingerprint: corpus.fingerprint().to_owned(),
        tokenizer: tokenizer.json().to_owned(),
    }
}

pub(super) fn sizes(config: &Config, corpus: &Corpus) -> Sizes {
    Sizes {
        steps_per_epoch: corpus.num_train_windows() / config.batch_size as u64,
        gradient_accumulation_steps: config.gradient_accumulation_steps,
        length: Length { epochs: config.epochs, total_steps: config.total_steps },
    }
}

/// The schedule's length is `total_steps` where that is given, or else the run's.
pub(super) fn schedule(config: &Config, plan: &Plan) -> Schedule {
    let total_steps = config.total_steps.unwrap_or(plan.total_steps);
    Schedule::new(&config.schedule, config.optimizer.learning_rate, total_steps)
}

/// Puts the tokenizer beside the checkpoints, where other programs look for it.
pub(super) fn publish_tokenizer(folder: &Path, tokenizer: &Tokenizer) -> Result<(), TrainError> {
    let path = folder.join(TOKENIZER_FILE);
    if std::fs::read_to_string(&path).is_ok_and(|json| json == tokenizer.json()) {
        return Ok(());
    }
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(tokenizer.json().as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        std::fs::File::open(folder)?.sync_all()
    };
    write().map_err(|source| TrainError::TokenizerFile { path: path.clone(), source })
}
