//! The thread that pushes while training continues, with a queue of one.

use crate::explain::Failed;
use crate::journal;
use crate::manifest::RUN_JSON;
use crate::patience::{Patience, Pulse};
use crate::transfer::{Meter, Progress};
use crate::upload::Content;
use crate::writer::{Done, Item, PushError, Work, Writer};
use keepstep::name::{BEST_MODEL, COMPANION_FILES, Name};
use keepstep::remote::{Mirror, PushReport, Snapshot};
use keepstep::run::STATUS_FILE;
use keepstep::store::Retention;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// The pause after a failure; it doubles with each in a row. While somebody waits it is no longer than the shortest two.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Waiting ends if no request has succeeded for this long.
const SILENCE: Duration = Duration::from_secs(60);

/// A thread that owns the writer of a remote.
#[derive(Debug)]
pub(crate) struct ObjectMirror {
    session: String,
    shared: Arc<Shared>,
    pulse: Arc<Pulse>,
    /// Waiting ends if no request has succeeded for this long.
    pub(crate) silence: Duration,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wake: Notify,
    stop: Notify,
    /// Ends the pause after a failure.
    hurry: Notify,
}

#[derive(Debug, Default)]
struct State {
    pending: Option<Save>,
    finish: Option<Finish>,
    /// Checkpoints of the folder that are not in the remote, oldest first: pushed when nothing newer waits.
    missing: Vec<String>,
    is_busy: bool,
    is_pausing: bool,
    /// When the attempt under way began.
    since: Option<Instant>,
    reports: Vec<PushReport>,
    /// Failures in a row.
    failures: u32,
    /// Set while somebody waits until there is nothing left to do.
    patience: Option<Patience>,
    /// No more is pushed: another session is the writer, or the thread has ended.
    is_over: bool,
}

/// A save that waits for its turn.
#[derive(Debug, Clone)]
struct Save {
    global_step: u64,
    items: Vec<Item>,
    journal_bytes: u64,
    retention: Option<Retention>,
}

#[derive(Debug, Clone)]
struct Finish {
    journal_bytes: u64,
    retention: Option<Retention>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts a save in the queue. The newer of two stays; of the other, its best model.
    fn queue(&mut self, save: Save) {
        self.since.get_or_insert_with(Instant::now);
        let (old, mut new) = match self.pending.take() {
            None => {
                self.pending = Some(save);
                return;
            }
            // A failed attempt comes back while a newer save waits.
            Some(waiting) if waiting.global_step > save.global_step => (save, waiting),
            Some(waiting) => (waiting, save),
        };
        for item in old.items {
            if new.items.iter().any(|other| other.name == item.name) {
                continue;
            }
            if item.name == BEST_MODEL {
                new.items.push(item);
            } else if Name::parse(&item.name).is_some() {
                let (file, global_step) = (item.name.clone(), old.global_step);
                self.reports.push(PushReport::Skipped { file, global_step });
                self.missing.push(item.name);
            }
        }
        self.pending = Some(new);
    }

    fn is_idle(&self) -> bool {
        self.pending.is_none() && self.finish.is_none() && !self.is_busy
    }
}

impl ObjectMirror {
    /// Starts the thread. `missing` are checkpoints of the folder that the remote does not have yet.
    pub(crate) fn start(
        runtime: Arc<Runtime>,
        writer: Writer,
        folder: &Path,
        missing: Vec<String>,
        notes: Vec<String>,
        progress: Option<Arc<dyn Progress>>,
    ) -> std::io::Result<ObjectMirror> {
        let session = writer.manifest().writer.session.clone();
        let pulse = Arc::clone(&writer.bucket().pulse);
        let reports = notes.into_iter().map(|text| PushReport::Note { text }).collect();
        let shared = Arc::new(Shared::default());
        *shared.state() = State { missing, reports, ..State::default() };
        let (theirs, folder) = (Arc::clone(&shared), folder.to_path_buf());
        let work = move || {
            lower_priority();
            let worker = Worker { shared: Arc::clone(&theirs), writer, folder, progress };
            runtime.block_on(worker.run());
            theirs.state().is_over = true;
            theirs.changed.notify_all();
        };
        let thread = Builder::new().name("keepstep-remote".to_owned()).spawn(work)?;
        Ok(ObjectMirror { session, shared, pulse, silence: SILENCE, thread: Some(thread) })
    }

    /// Waits until nothing is left to do, the remote has failed or been silent for too long, or `until`. Returns false if
    /// `until` ended the wait.
    fn wait_until_idle(&self, until: Option<Instant>) -> bool {
        let mut state = self.shared.state();
        loop {
            if state.is_idle() || state.is_over {
                state.patience = None;
                return true;
            }
            let (failures, is_pausing) = (state.failures, state.is_pausing);
            let patience = state.patience.get_or_insert_with(|| {
                if is_pausing {
                    self.shared.hurry.notify_one();
                }
                Patience::new(failures)
            });
            let (now, end) = (Instant::now(), patience.ends(&self.pulse, self.silence));
            if end <= now || until.is_some_and(|until| until <= now) {
                return end <= now;
            }
            let left = until.map_or(end, |until| until.min(end)) - now;
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
impl ObjectMirror {
    /// Pretends that many attempts have failed already.
    pub(crate) fn pretend_failures(&self, failures: u32) {
        self.shared.state().failures = failures;
    }
}

impl Mirror for ObjectMirror {
    fn session(&self) -> &str {
        &self.session
    }

    fn submit(&mut self, snapshot: Snapshot) {
        let global_step = snapshot.position.global_step;
        let items = snapshot.files.into_iter().filter_map(|(name, file)| item(&name, file)).collect();
        let (journal_bytes, retention) = (snapshot.journal_bytes, snapshot.retention);
        let mut state = self.shared.state();
        state.patience = None;
        state.queue(Save { global_step, items, journal_bytes, retention });
        drop(state);
        self.shared.wake.notify_one();
    }

    fn reports(&mut self) -> Vec<PushReport> {
        std::mem::take(&mut self.shared.state().reports)
    }

    fn pushing_for(&self) -> Option<Duration> {
        // A remote that is silent needs no room: waiting for it is bounded.
        self.shared.state().since.map(|since| self.pulse.last().saturating_duration_since(since))
    }

    fn wait(&mut self, until: Option<Instant>) -> bool {
        self.wait_until_idle(until)
    }

    fn finish(&mut self, journal_bytes: u64, retention: Option<Retention>, until: Option<Instant>) {
        {
            let mut state = self.shared.state();
            if state.is_over {
                return;
            }
            state.finish = Some(Finish { journal_bytes, retention });
            if let Some(patience) = &mut state.patience {
                patience.extend();
                if state.is_pausing {
                    self.shared.hurry.notify_one();
                }
            }
        }
        self.shared.wake.notify_one();
        let is_silent = self.wait_until_idle(until);
        let mut state = self.shared.state();
        if state.finish.take().is_some() || state.is_busy {
            let has_failure = state.reports.iter().any(|report| matches!(report, PushReport::Failed { .. }));
            if !has_failure && !state.is_over {
                let error = if is_silent {
                    format!("it has not answered for {} s", self.silence.as_secs())
                } else {
                    "there was no time to push the rest of the run's folder".to_owned()
                };
                state.reports.push(PushReport::Failed { global_step: 0, error, in_a_row: 1 });
            }
        }
    }
}

impl Drop for ObjectMirror {
    fn drop(&mut self) {
        // A permit is kept for a thread that does not wait yet.
        self.shared.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A file with the global step that it states.
pub(crate) fn item(name: &str, file: File) -> Option<Item> {
    let file = Arc::new(file);
    let global_step = match Name::parse(name) {
        Some(name) => Some(name.global_step),
        None if name == BEST_MODEL => crate::reader::global_step(name, Arc::<File>::clone(&file)),
        None => None,
    };
    let content = Content::of_file(file).ok()?;
    Some(Item { name: name.to_owned(), content, global_step })
}

/// The small files of a folder that exist.
pub(crate) fn small_items(folder: &Path, names: &[&str]) -> Vec<Item> {
    let read = |name: &&str| {
        let bytes = std::fs::read(folder.join(name)).ok()?;
        Some(Item { name: (*name).to_owned(), content: Content::Bytes(bytes.into()), global_step: None })
    };
    names.iter().filter_map(read).collect()
}

/// What the thread does next.
#[derive(Debug)]
enum Task {
    Save(Save),
    Missing(String),
    Finish(Finish),
}

struct Worker {
    shared: Arc<Shared>,
    writer: Writer,
    folder: PathBuf,
    progress: Option<Arc<dyn Progress>>,
}

impl Worker {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            () = shared.stop.notified() => {}
            () = self.work() => {}
        }
    }

    async fn work(&mut self) {
        loop {
            let Some(task) = self.next() else {
                self.shared.wake.notified().await;
                continue;
            };
            let began = Instant::now();
            match self.perform(&task).await {
                Ok(done) => self.succeeded(&task, done, began.elapsed()),
                Err(PushError::TakenOver(error)) => {
                    let text =
                        format!("{error}: this session no longer pushes, and it deletes nothing there");
                    self.shared.state().reports.push(PushReport::TakenOver { error: text });
                    return;
                }
                Err(PushError::Failed(failed)) => {
                    self.failed(task, &failed).await;
                }
            }
        }
    }

    fn next(&self) -> Option<Task> {
        let mut state = self.shared.state();
        let task = if let Some(save) = state.pending.take() {
            Some(Task::Save(save))
        } else if let Some(name) = state.missing.pop() {
            Some(Task::Missing(name))
        } else {
            state.finish.take().map(Task::Finish)
        };
        state.is_busy = task.is_some();
        state.since = if state.is_busy { state.since.or(Some(Instant::now())) } else { None };
        drop(state);
        self.shared.changed.notify_all();
        task
    }

    async fn perform(&mut self, task: &Task) -> Result<Done, PushError> {
        let journal = |bytes: u64| journal::open(&self.folder).map(|file| (file, bytes));
        let work = match task {
            Task::Save(save) => {
                let mut items = save.items.clone();
                items.extend(small_items(&self.folder, &COMPANION_FILES));
                Work {
                    items,
                    journal: journal(save.journal_bytes),
                    retention: save.retention.map(|retention| (retention, save.global_step)),
                    close: false,
                }
            }
            Task::Missing(name) => {
                // Rotation may have removed it meanwhile.
                let file = File::open(self.folder.join(name)).ok().and_then(|file| item(name, file));
                Work { items: file.into_iter().collect(), ..Work::default() }
            }
            Task::Finish(finish) => {
                let mut items = small_items(&self.folder, &COMPANION_FILES);
                items.extend(small_items(&self.folder, &[STATUS_FILE]));
                let newest = self.writer.manifest().newest();
                Work {
                    items,
                    journal: journal(finish.journal_bytes),
                    retention: finish.retention.zip(newest),
                    close: true,
                }
            }
        };
        if matches!(task, Task::Missing(_)) && work.items.is_empty() {
            return Ok(Done::default());
        }
        let total = work.items.iter().map(|item| item.content.len()).sum();
        let mut meter = Meter::new(self.progress.clone(), RUN_JSON, total);
        self.writer.push(&work, &mut meter).await
    }

    fn succeeded(&self, task: &Task, done: Done, took: Duration) {
        let mut state = self.shared.state();
        let had_failed = std::mem::take(&mut state.failures) > 0;
        if let Some(patience) = &mut state.patience {
            patience.succeeded();
        }
        if state.pending.is_none() {
            state.since = None;
        }
        state.reports.extend(done.notes.into_iter().map(|text| PushReport::Note { text }));
        let global_step = match task {
            Task::Save(save) => save.global_step,
            Task::Missing(name) => Name::parse(name).map_or(0, |name| name.global_step),
            Task::Finish(_) => self.writer.manifest().newest().unwrap_or(0),
        };
        let files: Vec<String> = done.names.into_iter().filter(|name| name.ends_with(".pt")).collect();
        // The end of the journal is no news, unless it did not succeed before.
        if !files.is_empty() || had_failed || matches!(task, Task::Save(_)) {
            state.reports.push(PushReport::Pushed { files, global_step, bytes: done.bytes, took });
        }
        state.is_busy = false;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Reports a failure, puts the task back, and waits before the next attempt.
    async fn failed(&mut self, task: Task, failed: &Failed) {
        let pause = {
            let mut state = self.shared.state();
            state.failures += 1;
            if let Some(patience) = &mut state.patience {
                patience.failed();
            }
            // Each attempt is timed on its own.
            state.since = Some(Instant::now());
            let in_a_row = state.failures;
            let global_step = match &task {
                Task::Save(save) => save.global_step,
                Task::Missing(name) => Name::parse(name).map_or(0, |name| name.global_step),
                Task::Finish(_) => self.writer.manifest().newest().unwrap_or(0),
            };
            match task {
                Task::Save(save) => state.queue(save),
                Task::Missing(name) => state.missing.push(name),
                Task::Finish(finish) => state.finish = state.finish.take().or(Some(finish)),
            }
            let error = format!("{}: {}", self.writer.bucket().url, failed.what);
            state.reports.push(PushReport::Failed { global_step, error, in_a_row });
            state.is_pausing = true;
            let longest = if state.patience.is_some() { PAUSE * 2 } else { LONGEST_PAUSE };
            (PAUSE * 2_u32.pow(in_a_row.min(8) - 1)).min(longest)
        };
        self.shared.changed.notify_all();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.shared.hurry.notified() => {}
        }
        self.shared.state().is_pausing = false;
    }
}

/// Gives this thread the lowest priority. Where training uses all processors, transfers take 1.5 % of them at most.
#[cfg(target_os = "linux")]
pub(crate) fn lower_priority() {
    // On Linux this changes the priority of one thread. An error does not matter.
    let _ = rustix::process::nice(19);
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn lower_priority() {}
