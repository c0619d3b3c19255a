//! From a config to everything that a run is a function of.

use super::error::TrainError;
use super::groups;
use super::observer::Observer;
use crate::config::{Config, ConfigError, Precision, TokenizerSpec, expand, functional};
use crate::hub::{InitialWeights, settings_from_hub};
use keepstep::identity::Identity;
use keepstep::position::{Length, Plan};
use keepstep::run::{Policy, Resume, Sizes};
use keepstep::{Checkpoint, store::Source};
use keepstep_model::train::schedule::Schedule;
use keepstep_numerics::NUMERICS_VERSION;
use keepstep_pt::Value;
use keepstep_text::corpus::{self, Corpus, SourceFile, Stage, Vocabulary};
use keepstep_text::tokenizer::{TOKENIZER_FILE, Tokenizer};
use std::path::{Path, PathBuf};

/// The key under which a checkpoint's config keeps the fingerprint of the weights that its run began with.
pub(crate) const INIT_FROM: &str = "init_from";

/// The threads that compute.
pub(crate) fn threads(config: &Config) -> Result<rayon::ThreadPool, TrainError> {
    let num_threads = config.num_threads.unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build();
    pool.map_err(|source| TrainError::Threads { num_threads, source })
}

/// The folder of the run.
pub(crate) fn output_dir(config: &Config) -> Result<PathBuf, TrainError> {
    Ok(PathBuf::from(expand(&config.output_dir).map_err(ConfigError::from)?))
}

/// What to continue from, unless the caller says otherwise.
pub(crate) fn source(config: &Config) -> Result<Source, TrainError> {
    Ok(match &config.resume_from_checkpoint {
        Some(path) => Source::Path(PathBuf::from(expand(path).map_err(ConfigError::from)?)),
        None => Source::None,
    })
}

/// Evaluations are decided once the corpus is known.
pub(crate) fn policy(config: &Config, resume: Resume) -> Policy {
    Policy {
        save_steps: config.save_steps,
        max_checkpoints: config.max_checkpoints,
        eval_steps: None,
        resume,
        allow_other_numerics: config.allow_other_numerics,
    }
}

/// Tells the observer what is being done to the corpus, and returns whether to go on.
pub(crate) fn progress<'a>(
    observer: &'a mut dyn Observer,
    stop: &'a (dyn Fn() -> bool + Sync),
) -> impl FnMut(Stage, u64, u64) -> bool + Send + 'a {
    move |stage, done, total| {
        match stage {
            Stage::TrainingTokenizer => observer.training_tokenizer(done, total),
            Stage::Tokenizing => observer.tokenizing(done, total),
            _ => observer.reading(done, total),
        }
        !stop()
    }
}

/// The files of the corpus, read where they have not been read before.
pub(crate) fn files(
    config: &Config,
    observer: &mut dyn Observer,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<SourceFile>, TrainError> {
    Ok(corpus::collect(&config.data, &mut progress(observer, stop))?)
}

/// The checkpoint's tokenizer, where the config asks for the same kind; otherwise the config's, trained on the corpus
/// if need be.
pub(crate) fn tokenizer(
    config: &Config,
    files: &[SourceFile],
    checkpoint: Option<&Checkpoint>,
    observer: &mut dyn Observer,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Tokenizer, TrainError> {
    let spec = &config.data.tokenizer;
    let saved = checkpoint.filter(|checkpoint| {
        let asked = functional(config);
        data_key(&asked, "tokenizer") == data_key(&checkpoint.identity.config, "tokenizer")
    });
    let from =
        |checkpoint: &Checkpoint| Tokenizer::from_json(&checkpoint.identity.tokenizer, "the checkpoint");
    let mut train =
        |vocabulary| corpus::train_tokenizer(files, vocabulary, &config.data, &mut progress(observer, stop));
    Ok(match (spec, saved) {
        // A run that goes on needs nothing of what `init_from` gave.
        (_, Some(checkpoint)) if config.leaves_tokenizer_open() => from(checkpoint)?,
        // A file that has changed since makes another function; one that is gone leaves the checkpoint's.
        (TokenizerSpec::File(path), saved) => {
            let path = PathBuf::from(expand(path).map_err(ConfigError::from)?);
            match saved {
                Some(checkpoint) if !path.exists() => from(checkpoint)?,
                _ if path.extension().is_some_and(|extension| extension == "pt") => of_checkpoint(&path)?,
                _ => Tokenizer::from_file(&path)?,
            }
        }
        (_, Some(checkpoint)) => from(checkpoint)?,
        (TokenizerSpec::Bytes, None) => Tokenizer::bytes(),
        (TokenizerSpec::Chars, None) => train(Vocabulary::Chars)?,
        (TokenizerSpec::Bpe(size), None) => train(Vocabulary::Bpe(*size))?,
    })
}

/// The tokenizer that travels in a checkpoint.
fn of_checkpoint(path: &Path) -> Result<Tokenizer, TrainError> {
    let unusable = |source| TrainError::Checkpoint { path: path.to_path_buf(), source };
    let checkpoint = keepstep::store::load(path).map_err(unusable)?;
    Ok(Tokenizer::from_json(&checkpoint.identity.tokenizer, &path.display().to_string())?)
}

/// The weights to begin with, and their fingerprint. A run that goes on needs nothing of them: where they cannot be read,
/// its checkpoint's fingerprint is enough.
pub(crate) fn initial(
    config: &Config,
    checkpoint: Option<&Checkpoint>,
    observer: &mut dyn Observer,
) -> Result<(Option<InitialWeights>, Option<String>), TrainError> {
    let Some(init_from) = &config.init_from else { return Ok((None, None)) };
    let path = PathBuf::from(expand(&init_from.path).map_err(ConfigError::from)?);
    let wrong = |source| TrainError::Foreign { path: path.clone(), source };
    if checkpoint.is_none() {
        // What config.json asks for and cannot be had; the config did without it until now.
        settings_from_hub(&path).map_err(wrong)?;
    }
    let found = InitialWeights::find(&path).and_then(|initial| Ok((initial.fingerprint()?, initial)));
    let saved = checkpoint.and_then(|checkpoint| checkpoint.identity.config.get(INIT_FROM)?.as_str());
    match (found, saved) {
        (Ok((fingerprint, initial)), _) => Ok((Some(initial), Some(fingerprint))),
        (Err(error), Some(saved)) => {
            observer.note(&format!(
                "`init_from` cannot be read ({}); the run goes on without it, as its checkpoint has everything",
                keepstep::store::chain(&error)
            ));
            Ok((None, Some(saved.to_owned())))
        }
        (Err(error), None) => Err(wrong(error)),
    }
}

fn data_key(config: &keepstep_pt::Dict, key: &str) -> Option<Value> {
    config.get("data")?.as_dict()?.get(key).cloned()
}

/// The corpus of the config.
pub(crate) fn corpus(
    config: &Config,
    files: &[SourceFile],
    tokenizer: &Tokenizer,
    observer: &mut dyn Observer,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Corpus, TrainError> {
    let mut notes = Vec::new();
    let mut progress = progress(observer, stop);
    let mut note = |note| notes.push(note);
    let corpus = Corpus::new(files, tokenizer, &config.data, config.sequences(), &mut progress, &mut note)?;
    drop(progress);
    notes.iter().for_each(|note| observer.note(note));
    Ok(corpus)
}

/// What the run is a function of. What a checkpoint brought with it, and no config says, goes on.
pub(crate) fn identity(
    config: &Config,
    precision: Precision,
    corpus_fingerprint: &str,
    tokenizer: &Tokenizer,
    saved: Option<&keepstep_pt::Dict>,
    init_from: Option<&str>,
) -> Identity {
    let config =
        Config { precision: precision.into(), ..config.without_default_rows(tokenizer.vocab_size()) };
    let mut functional = functional(&config);
    groups::carry(saved, &mut functional);
    if let Some(fingerprint) = init_from {
        functional.insert(INIT_FROM, fingerprint);
    }
    Identity {
        seed: config.seed,
        numerics: NUMERICS_VERSION,
        config: functional,
        corpus_fingerprint: corpus_fingerprint.to_owned(),
        tokenizer: tokenizer.json().to_owned(),
    }
}

pub(crate) fn sizes(config: &Config, num_train_windows: u64) -> Sizes {
    Sizes {
        steps_per_epoch: num_train_windows / config.batch_size as u64,
        gradient_accumulation_steps: config.gradient_accumulation_steps,
        length: Length { epochs: config.epochs, total_steps: config.total_steps },
    }
}

/// The schedule's length is `total_steps` where that is given, or else the run's.
pub(crate) fn schedule(config: &Config, plan: &Plan) -> Schedule {
    let total_steps = config.total_steps.unwrap_or(plan.total_steps);
    Schedule::new(&config.schedule, config.optimizer.learning_rate, total_steps)
}

/// Puts the tokenizer beside the checkpoints, where other programs look for it.
pub(crate) fn publish_tokenizer(folder: &Path, tokenizer: &Tokenizer) -> Result<(), TrainError> {
    let path = folder.join(TOKENIZER_FILE);
    if std::fs::read_to_string(&path).is_ok_and(|json| json == tokenizer.json()) {
        return Ok(());
    }
    keepstep::store::write_whole(&path, tokenizer.json().as_bytes())
        .map_err(|source| TrainError::TokenizerFile { path, source })
}
