//! Everything that a run is a function of, found from its config in one place.

use super::corpus_record;
use super::error::TrainError;
use super::observer::Observer;
use super::precision;
use crate::config::{Config, ConfigError, DataConfig, Precision, StoredConfig, TokenizerSpec, expand};
use crate::hub::{InitialWeights, settings_from_hub};
use keepstep::identity::{CORPUS_FINGERPRINT, Identity, TOKENIZER};
use keepstep::position::Plan;
use keepstep::run::{Policy, Resume, RunBuilder, RunError, Sizes};
use keepstep::{Checkpoint, store::Source};
use keepstep_model::gpt2::settings::Gpt2Config;
use keepstep_model::train::schedule::Schedule;
use keepstep_numerics::NUMERICS_VERSION;
use keepstep_numerics::bf16::Support;
use keepstep_text::corpus::{self, Corpus, CorpusSizes, SourceFile, Stage, Vocabulary};
use keepstep_text::tokenizer::{TOKENIZER_FILE, Tokenizer};
use std::path::{Path, PathBuf};

/// What a run is a function of, and what follows from it. `C` is what is kept of the corpus.
#[derive(Debug)]
pub(crate) struct RunSpec<C> {
    /// The precision of matmuls.
    pub(crate) precision: Precision,
    /// What this processor can do in bf16.
    pub(crate) support: Support,
    /// The files of the corpus.
    pub(crate) files: Vec<SourceFile>,
    /// How text becomes tokens.
    pub(crate) tokenizer: Tokenizer,
    /// The corpus, or nothing where it was measured only.
    pub(crate) corpus: C,
    /// The corpus in numbers.
    pub(crate) corpus_sizes: CorpusSizes,
    /// The weights to begin with, where they are not drawn.
    pub(crate) initial: Option<InitialWeights>,
    /// What a checkpoint stores of the config.
    pub(crate) stored: StoredConfig,
    /// The model with its vocabulary.
    pub(crate) model: Gpt2Config,
    /// Micro-batches per epoch and per update, and the length.
    pub(crate) sizes: Sizes,
    seed: u64,
}

impl RunSpec<Corpus> {
    /// Finds everything and keeps the corpus, for a session that trains. `saved` is the checkpoint that the run continues
    /// from. Nothing is written outside the cache.
    ///
    /// # Errors
    /// Whatever the config asks for and cannot be had.
    pub(crate) fn find(
        config: &Config,
        saved: Option<(&Path, &Checkpoint)>,
        observer: &mut dyn Observer,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<RunSpec<Corpus>, TrainError> {
        RunSpec::with(config, saved, observer, stop, |files, tokenizer, observer| {
            let corpus = corpus(config, files, tokenizer, observer, stop)?;
            let sizes = corpus.sizes();
            Ok((corpus, sizes))
        })
    }
}

impl RunSpec<()> {
    /// Finds everything, but only measures the corpus. Writes nothing at all.
    ///
    /// # Errors
    /// As [`RunSpec::find`].
    pub(crate) fn measure(
        config: &Config,
        saved: Option<(&Path, &Checkpoint)>,
        observer: &mut dyn Observer,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<RunSpec<()>, TrainError> {
        let data = DataConfig { cache_dir: Some(String::new()), ..config.data.clone() };
        let without_cache = &Config { data, ..config.clone() };
        RunSpec::with(without_cache, saved, observer, stop, |files, tokenizer, observer| {
            let mut progress = progress(observer, stop);
            // Tokens that are cached already need not be counted again.
            let sizes = Corpus::measure(files, tokenizer, &config.data, config.sequences(), &mut progress)?;
            Ok(((), sizes))
        })
    }
}

impl<C> RunSpec<C> {
    fn with(
        config: &Config,
        saved: Option<(&Path, &Checkpoint)>,
        observer: &mut dyn Observer,
        stop: &(dyn Fn() -> bool + Sync),
        read: impl FnOnce(&[SourceFile], &Tokenizer, &mut dyn Observer) -> Result<(C, CorpusSizes), TrainError>,
    ) -> Result<RunSpec<C>, TrainError> {
        let support = Support::detect();
        let precision = precision::of_run(config, saved, support)?;
        let checkpoint = saved.map(|(_, checkpoint)| checkpoint);
        let (initial, init_from) = initial(config, checkpoint, observer)?;
        let files = files(config, observer, stop)?;
        let tokenizer = tokenizer(config, &files, checkpoint, observer, stop)?;
        tokenizer.notes().iter().for_each(|note| observer.note(note));
        let (corpus, corpus_sizes) = read(&files, &tokenizer, observer)?;
        let result =
            Config { precision: precision.into(), ..config.without_default_rows(tokenizer.vocab_size()) };
        let mut stored = StoredConfig::new(&result);
        if let Some(groups) =
            checkpoint.map(StoredConfig::from_checkpoint).as_ref().and_then(StoredConfig::param_groups)
        {
            stored.set_param_groups(groups.clone());
        }
        if let Some(hash) = init_from {
            stored.set_init_from(&hash);
        }
        Ok(RunSpec {
            precision,
            support,
            model: config.model_config(tokenizer.vocab_size())?,
            tokenizer,
            files,
            corpus,
            sizes: sizes(config, corpus_sizes.num_train_windows),
            corpus_sizes,
            initial,
            stored,
            seed: config.seed,
        })
    }

    /// The identity that checkpoints of this run store.
    pub(crate) fn identity(&self) -> Identity {
        Identity::new(self.seed)
            .with_numerics(NUMERICS_VERSION)
            .with_config(self.stored.clone().into_dict())
            .with_input(CORPUS_FINGERPRINT, self.corpus_sizes.fingerprint.as_str())
            .with_input(TOKENIZER, self.tokenizer.json())
    }
}

impl<C> RunSpec<C> {
    /// Checks that the checkpoint is one of this run, and that the run's tokenizer may be written to its folder. A changed
    /// corpus is reported file by file.
    ///
    /// # Errors
    /// The checkpoint belongs to another run, or the folder has another tokenizer.
    pub(crate) fn check(&self, builder: &RunBuilder, folder: &Path) -> Result<Plan, TrainError> {
        let plan = builder.check(&self.identity(), self.sizes).map_err(|error| match error {
            RunError::Input { path, difference } if difference.key == CORPUS_FINGERPRINT => {
                let saved = builder.checkpoint().map(saved_tokenizer);
                let change = if saved.is_some_and(|saved| saved != self.tokenizer.json()) {
                    "the tokenizer is another one".to_owned()
                } else {
                    let folders = [path.parent().unwrap_or(folder), folder];
                    corpus_record::change(&folders, &self.files).unwrap_or_else(|| {
                        let value = |value: Option<String>| value.unwrap_or_else(|| "not there".to_owned());
                        format!(
                            "its fingerprint is {} in the checkpoint and {} now",
                            value(difference.saved),
                            value(difference.configured)
                        )
                    })
                };
                TrainError::OtherCorpus { path, change }
            }
            error => error.into(),
        })?;
        tokenizer_file(folder, &self.tokenizer)?;
        Ok(plan)
    }
}

/// The threads that compute.
pub(crate) fn threads(config: &Config) -> Result<rayon::ThreadPool, TrainError> {
    let num_threads = config.num_threads.unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build();
    pool.map_err(|source| TrainError::Threads { num_threads, source })
}

/// The folder of the run.
pub(crate) fn output_dir(config: &Config) -> Result<PathBuf, TrainError> {
    let folder = PathBuf::from(expand(&config.output_dir).map_err(ConfigError::from)?);
    // A folder that does not exist will be made. A link to a disk that is not mounted only looks like one.
    for link in folder.ancestors() {
        if let (Ok(target), false) = (link.read_link(), link.exists()) {
            return Err(TrainError::OutputLink { folder: folder.clone(), link: link.to_path_buf(), target });
        }
    }
    Ok(folder)
}

/// The configured source to continue from.
pub(crate) fn source(config: &Config) -> Result<Source, TrainError> {
    Ok(match &config.resume_from_checkpoint {
        Some(path) => Source::Path(PathBuf::from(expand(path).map_err(ConfigError::from)?)),
        None => Source::None,
    })
}

/// The policy of the run. Evaluations are set later, when the corpus is known.
pub(crate) fn policy(config: &Config, resume: Resume) -> Policy {
    Policy {
        save_steps: config.save_steps,
        max_checkpoints: config.max_checkpoints,
        resume,
        allow_other_numerics: config.allow_other_numerics,
        ..Policy::default()
    }
}

/// Tells the observer what is being done to the corpus, and returns whether to go on.
pub(crate) fn progress<'a>(
    observer: &'a mut dyn Observer,
    stop: &'a (dyn Fn() -> bool + Sync),
) -> impl FnMut(Stage, u64, u64) -> bool + Send + 'a {
    move |stage, done, total| {
        match stage {
            Stage::Listing => observer.listing(done),
            Stage::TrainingTokenizer => observer.training_tokenizer(done, total),
            Stage::Tokenizing => observer.tokenizing(done, total),
            _ => observer.reading(done, total),
        }
        !stop()
    }
}

/// The files of the corpus. Reads those whose hashes are not cached.
fn files(
    config: &Config,
    observer: &mut dyn Observer,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<SourceFile>, TrainError> {
    let mut notes = Vec::new();
    let mut note = |note| notes.push(note);
    let files = corpus::collect(&config.data, &mut progress(observer, stop), &mut note)?;
    notes.iter().for_each(|note| observer.note(note));
    Ok(files)
}

/// The checkpoint's tokenizer, where the config asks for the same kind; otherwise the config's, trained on the corpus
/// if need be.
fn tokenizer(
    config: &Config,
    files: &[SourceFile],
    checkpoint: Option<&Checkpoint>,
    observer: &mut dyn Observer,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Tokenizer, TrainError> {
    let spec = &config.data.tokenizer;
    let saved = checkpoint.filter(|checkpoint| {
        StoredConfig::new(config).tokenizer() == StoredConfig::from_checkpoint(checkpoint).tokenizer()
    });
    let from = |checkpoint: &Checkpoint| Tokenizer::from_json(saved_tokenizer(checkpoint), "the checkpoint");
    let mut train =
        |vocabulary| corpus::train_tokenizer(files, vocabulary, &config.data, &mut progress(observer, stop));
    Ok(match (spec, saved) {
        // A run that goes on needs nothing of what `init_from` gave.
        (_, Some(checkpoint)) if config.leaves_tokenizer_open() => from(checkpoint)?,
        // A changed file makes another run. If the file is gone, the checkpoint's tokenizer remains.
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

fn saved_tokenizer(checkpoint: &Checkpoint) -> &str {
    checkpoint.identity.input(TOKENIZER).unwrap_or_default()
}

/// The tokenizer that travels in a checkpoint.
fn of_checkpoint(path: &Path) -> Result<Tokenizer, TrainError> {
    let unusable = |source| TrainError::Checkpoint { path: path.to_path_buf(), source };
    let checkpoint = keepstep::store::load(path).map_err(unusable)?;
    Ok(Tokenizer::from_json(saved_tokenizer(&checkpoint), &path.display().to_string())?)
}

/// The weights to begin with, and their fingerprint. A run that goes on needs nothing of them: where they cannot be read,
/// its checkpoint's fingerprint is enough.
fn initial(
    config: &Config,
    checkpoint: Option<&Checkpoint>,
    observer: &mut dyn Observer,
) -> Result<(Option<InitialWeights>, Option<String>), TrainError> {
    let Some(init_from) = &config.init_from else { return Ok((None, None)) };
    let path = PathBuf::from(expand(&init_from.path).map_err(ConfigError::from)?);
    let wrong = |source| TrainError::Hub { path: path.clone(), source };
    if checkpoint.is_none() {
        // What config.json asks for and cannot be had; the config did without it until now.
        settings_from_hub(&path).map_err(wrong)?;
    }
    let found = InitialWeights::find(&path).and_then(|initial| Ok((initial.fingerprint()?, initial)));
    let saved = checkpoint.map(StoredConfig::from_checkpoint);
    match (found, saved.as_ref().and_then(StoredConfig::init_from)) {
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

/// The corpus of the config.
fn corpus(
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

fn sizes(config: &Config, num_train_windows: u64) -> Sizes {
    Sizes::new(num_train_windows / config.batch_size as u64, config.epochs)
        .with_gradient_accumulation(config.gradient_accumulation_steps)
        .with_total_steps(config.total_steps)
}

/// The schedule. Its length is `total_steps` if set, otherwise the length of the run.
pub(crate) fn schedule(config: &Config, plan: &Plan) -> Schedule {
    let total_steps = config.total_steps.unwrap_or(plan.total_steps);
    Schedule::new(&config.schedule, config.optimizer.learning_rate, total_steps)
}

/// Where the run's tokenizer is to be written, next to its checkpoints. None if the file is there already: a model that
/// is trained further in its own folder, even if its file holds the state of a call.
///
/// # Errors
/// The folder has another tokenizer, which other files in it may depend on. It is never replaced.
pub(crate) fn tokenizer_file(folder: &Path, tokenizer: &Tokenizer) -> Result<Option<PathBuf>, TrainError> {
    let path = folder.join(TOKENIZER_FILE);
    if path.symlink_metadata().is_err() {
        return Ok(Some(path));
    }
    match Tokenizer::from_file(&path) {
        Ok(found) if found.json() == tokenizer.json() => Ok(None),
        _ => Err(TrainError::OtherTokenizer { path }),
    }
}

/// Writes the tokenizer next to the checkpoints, where other programs look for it.
pub(crate) fn publish_tokenizer(folder: &Path, tokenizer: &Tokenizer) -> Result<(), TrainError> {
    let Some(path) = tokenizer_file(folder, tokenizer)? else { return Ok(()) };
    keepstep::store::write_whole(&path, tokenizer.json().as_bytes())
        .map_err(|source| TrainError::TokenizerFile { path, source })
}
