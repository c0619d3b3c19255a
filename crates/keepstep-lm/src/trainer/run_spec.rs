//! Everything that determines a run's result, found from its config in one place.

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

/// The inputs that determine a run's result, and the sizes that follow from them. `C` is the corpus, or `()`.
#[derive(Debug)]
pub(crate) struct RunSpec<C> {
    /// The precision of matmuls.
    pub(crate) precision: Precision,
    /// This processor's support for bf16.
    pub(crate) support: Support,
    /// The files of the corpus.
    pub(crate) files: Vec<SourceFile>,
    /// The tokenizer.
    pub(crate) tokenizer: Tokenizer,
    /// The corpus, or `()` if it was only measured.
    pub(crate) corpus: C,
    /// The sizes of the corpus.
    pub(crate) corpus_sizes: CorpusSizes,
    /// The initial weights, unless they are random.
    pub(crate) initial: Option<InitialWeights>,
    /// The part of the config that a checkpoint stores.
    pub(crate) stored: StoredConfig,
    /// The model's config, including the size of the vocabulary.
    pub(crate) model: Gpt2Config,
    /// Micro-batches per epoch and per update, and the length of the run.
    pub(crate) sizes: Sizes,
    seed: u64,
}

impl RunSpec<Corpus> {
    /// Finds everything and keeps the corpus, for a session that trains. `saved` is the checkpoint from which the run
    /// continues. Writes nothing outside the cache.
    ///
    /// # Errors
    /// Fails if something that the config asks for is not available.
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
    /// Finds everything and only measures the corpus. Writes nothing at all.
    ///
    /// # Errors
    /// Fails for the same reasons as [`RunSpec::find`].
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
            // Cached tokens are not counted again.
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
        let precision = precision::choose(config, saved, support)?;
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

    /// Returns the identity that checkpoints of this run store.
    pub(crate) fn identity(&self) -> Identity {
        Identity::new(self.seed)
            .with_numerics(NUMERICS_VERSION)
            .with_config(self.stored.clone().into_dict())
            .with_input(CORPUS_FINGERPRINT, self.corpus_sizes.fingerprint.as_str())
            .with_input(TOKENIZER, self.tokenizer.json())
    }
}

impl<C> RunSpec<C> {
    /// Checks that the checkpoint belongs to this run, and that the run's tokenizer may be written to its folder.
    /// Reports a changed corpus file by file.
    ///
    /// # Errors
    /// Fails if the checkpoint belongs to another run, or if the folder has another tokenizer.
    pub(crate) fn check(&self, builder: &RunBuilder, folder: &Path) -> Result<Plan, TrainError> {
        let plan = builder.check(&self.identity(), self.sizes).map_err(|error| match error {
            RunError::Input { path, difference } if difference.key == CORPUS_FINGERPRINT => {
                let saved = builder.checkpoint().map(saved_tokenizer);
                let change = if saved.is_some_and(|saved| saved != self.tokenizer.json()) {
                    "the tokenizer is another one".to_owned()
                } else {
                    let folders = [path.parent().unwrap_or(folder), folder];
                    corpus_record::change(&folders, &self.files).unwrap_or_else(|| {
                        let value = |value: Option<String>| value.unwrap_or_else(|| "missing".to_owned());
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

/// Creates the compute threads.
pub(crate) fn threads(config: &Config) -> Result<rayon::ThreadPool, TrainError> {
    let num_threads = config.num_threads.unwrap_or(0);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build();
    pool.map_err(|source| TrainError::Threads { num_threads, source })
}

/// Returns the folder of the run.
pub(crate) fn output_dir(config: &Config) -> Result<PathBuf, TrainError> {
    let folder = PathBuf::from(expand(&config.output_dir).map_err(ConfigError::from)?);
    // A folder that does not exist will be created. A dangling link often means that a disk is not mounted.
    for link in folder.ancestors() {
        if let (Ok(target), false) = (link.read_link(), link.exists()) {
            return Err(TrainError::OutputLink { folder: folder.clone(), link: link.to_path_buf(), target });
        }
    }
    Ok(folder)
}

/// Returns the configured source to continue from.
pub(crate) fn source(config: &Config) -> Result<Source, TrainError> {
    Ok(match &config.resume_from_checkpoint {
        Some(path) => Source::Path(PathBuf::from(expand(path).map_err(ConfigError::from)?)),
        None => Source::None,
    })
}

/// Returns the policy of the run. Evaluations are set later, once the corpus is known.
pub(crate) fn policy(config: &Config, resume: Resume) -> Policy {
    Policy {
        save_steps: config.save_steps,
        max_checkpoints: config.max_checkpoints,
        resume,
        status_file: true,
        allow_other_numerics: config.allow_other_numerics,
        ..Policy::default()
    }
}

/// Reports progress on the corpus to the observer, and returns whether to continue.
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

/// Finds the files of the corpus. Reads those whose hashes are not cached.
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

/// Returns the checkpoint's tokenizer if the config asks for the same kind. Otherwise it reads the config's tokenizer,
/// or trains it on the corpus.
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
        // A run that continues needs nothing from `init_from`.
        (_, Some(checkpoint)) if config.leaves_tokenizer_open() => from(checkpoint)?,
        // A changed file makes a different run. If the file is missing, the checkpoint's tokenizer is used.
        (TokenizerSpec::File(path), saved) => {
            let path = PathBuf::from(expand(path).map_err(ConfigError::from)?);
            match saved {
                Some(checkpoint) if !path.exists() => from(checkpoint)?,
                _ if path.extension().is_some_and(|extension| extension == "pt") => {
                    tokenizer_from_checkpoint(&path)?
                }
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

/// Reads the tokenizer in a checkpoint.
fn tokenizer_from_checkpoint(path: &Path) -> Result<Tokenizer, TrainError> {
    let unusable = |source| TrainError::Checkpoint { path: path.to_path_buf(), source };
    let checkpoint = keepstep::store::load(path).map_err(unusable)?;
    Ok(Tokenizer::from_json(saved_tokenizer(&checkpoint), &path.display().to_string())?)
}

/// Finds the initial weights and their fingerprint. A run that continues does not need them: if they cannot be read,
/// the fingerprint in its checkpoint is enough.
fn initial(
    config: &Config,
    checkpoint: Option<&Checkpoint>,
    observer: &mut dyn Observer,
) -> Result<(Option<InitialWeights>, Option<String>), TrainError> {
    let Some(init_from) = &config.init_from else { return Ok((None, None)) };
    let path = PathBuf::from(expand(&init_from.path).map_err(ConfigError::from)?);
    let wrong = |source| TrainError::Hub { path: path.clone(), source };
    if checkpoint.is_none() {
        // Only checks config.json: the config is complete without its settings.
        settings_from_hub(&path).map_err(wrong)?;
    }
    let found = InitialWeights::find(&path).and_then(|initial| Ok((initial.fingerprint()?, initial)));
    let saved = checkpoint.map(StoredConfig::from_checkpoint);
    match (found, saved.as_ref().and_then(StoredConfig::init_from)) {
        (Ok((fingerprint, initial)), _) => Ok((Some(initial), Some(fingerprint))),
        (Err(error), Some(saved)) => {
            observer.note(&format!(
                "`init_from` cannot be read ({}); the run continues without it, because its checkpoint has everything",
                keepstep::store::chain(&error)
            ));
            Ok((None, Some(saved.to_owned())))
        }
        (Err(error), None) => Err(wrong(error)),
    }
}

/// Opens the corpus of the config.
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

/// Returns the schedule. Its length is `total_steps` if set, otherwise the length of the run.
pub(crate) fn schedule(config: &Config, plan: &Plan) -> Schedule {
    let total_steps = config.total_steps.unwrap_or(plan.total_steps);
    Schedule::new(&config.schedule, config.optimizer.learning_rate, total_steps)
}

/// Returns the path for the run's tokenizer next to its checkpoints, or `None` if the file exists already. That is so
/// when a model is trained further in its own folder, even if the tokenizer's file holds the state of a call.
///
/// # Errors
/// Fails if the folder has another tokenizer. It is never replaced, because other files may depend on it.
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
