//! What a run does for its copy in another place.

use super::{Run, RunError, Save};
use crate::journal::{self, Event};
use crate::remote::{Mirror, PushReport, RemoteError, RemotePolicy, Snapshot};
use crate::store::Retention;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Failures in a row after which waiting for a copy ends, and after which a strict run ends.
const FAILURES: u32 = 3;

/// The copy of a run in another place.
#[derive(Debug)]
pub(super) struct Mirroring {
    mirror: Box<dyn Mirror>,
    policy: RemotePolicy,
    saved: Option<u64>,
    failures: u32,
    taken_over: Option<String>,
    status: RemoteStatus,
    retention: Option<Retention>,
    /// Reports that nobody has taken yet.
    reports: Vec<PushReport>,
}

/// The part of `status.json` about the copy in another place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RemoteStatus {
    /// The place.
    pub url: String,
    /// The last checkpoint that was copied and verified there.
    pub checkpoint: Option<String>,
    /// Its global step.
    pub global_step: Option<u64>,
    /// Why the last attempt failed. None if it succeeded.
    pub error: Option<String>,
    /// The digits that name the session there, once it has ended and pushes no more.
    pub ended_session: Option<String>,
}

impl Mirroring {
    pub(super) fn new(mirror: Box<dyn Mirror>, policy: RemotePolicy, pushed: Option<u64>) -> Mirroring {
        let url = policy.remote.url().to_owned();
        let status = RemoteStatus { url, global_step: pushed, ..RemoteStatus::default() };
        let (saved, reports) = (pushed, Vec::new());
        Mirroring { mirror, policy, saved, failures: 0, taken_over: None, status, retention: None, reports }
    }

    pub(super) fn status(&self) -> RemoteStatus {
        self.status.clone()
    }

    /// Whether the copy is further behind than the policy allows.
    fn lags(&self) -> bool {
        let behind = self.saved.unwrap_or(0).saturating_sub(self.status.global_step.unwrap_or(0));
        self.policy.max_lag.is_some_and(|most| behind > most)
            && self.failures < FAILURES
            && self.taken_over.is_none()
    }

    /// Takes one report into account, and gives the event for the journal.
    fn note(&mut self, report: &PushReport) -> Option<Event> {
        match report {
            PushReport::Pushed { files, global_step, bytes, took } => {
                self.failures = 0;
                self.status.error = None;
                self.status.global_step = self.status.global_step.max(Some(*global_step));
                if let Some(file) = files.iter().rev().find(|file| crate::name::Name::parse(file).is_some()) {
                    self.status.checkpoint = Some(file.clone());
                }
                let seconds = (took.as_secs_f64() * 1e3).round() / 1e3;
                let (files, global_step, bytes) = (files.clone(), *global_step, *bytes);
                Some(Event::Push(journal::Push { files, global_step, bytes, seconds }))
            }
            PushReport::Skipped { file, global_step } => {
                let (file, global_step) = (file.clone(), *global_step);
                Some(Event::PushSkipped(journal::PushSkipped { file, global_step }))
            }
            PushReport::Failed { global_step, error, in_a_row } => {
                self.failures = *in_a_row;
                self.status.error = Some(error.clone());
                let (global_step, error) = (*global_step, error.clone());
                Some(Event::PushFailed(journal::PushFailed { global_step, error }))
            }
            PushReport::TakenOver { error } => {
                self.taken_over = Some(error.clone());
                self.status.error = Some(error.clone());
                let global_step = self.saved.unwrap_or(0);
                Some(Event::PushFailed(journal::PushFailed { global_step, error: error.clone() }))
            }
            PushReport::Note { .. } => None,
        }
    }
}

impl Run {
    /// Returns what has become of saves in the other place since the last call. Empty without a remote.
    pub fn pushes(&mut self) -> Vec<PushReport> {
        self.take_push_reports();
        self.mirroring.as_mut().map(|mirroring| std::mem::take(&mut mirroring.reports)).unwrap_or_default()
    }

    /// Waits until every save is in the other place, several attempts in a row have failed, no answer has come for long, or
    /// `until`. Returns false if `until` ended the wait, and true if waiting longer would change nothing.
    pub fn wait_for_pushes(&mut self, until: Option<Instant>) -> bool {
        self.mirroring.as_mut().is_none_or(|mirroring| mirroring.mirror.wait(until))
    }

    /// Returns how long the copy in progress has taken so far, up to the last answer. None if nothing is under way.
    pub fn pushing_for(&self) -> Option<Duration> {
        self.mirroring.as_ref()?.mirror.pushing_for()
    }

    /// Reports whether everything that was saved is in the other place. Ok without a remote.
    ///
    /// # Errors
    /// The reason.
    pub fn is_pushed(&self) -> Result<(), RemoteError> {
        let Some(mirroring) = &self.mirroring else { return Ok(()) };
        let url = mirroring.status.url.clone();
        let behind = mirroring.saved > mirroring.status.global_step;
        match &mirroring.status.error {
            Some(what) => Err(RemoteError::Failed { url, what: what.clone() }),
            None if behind => Err(RemoteError::Failed { url, what: "there was no time to push".to_owned() }),
            None => Ok(()),
        }
    }

    /// Refuses to continue if another session has taken over the remote, or if it has failed several times in a row and
    /// the policy is strict.
    ///
    /// # Errors
    /// [`RunError::Remote`].
    pub fn check_remote(&self) -> Result<(), RunError> {
        let Some(mirroring) = &self.mirroring else { return Ok(()) };
        let url = mirroring.status.url.clone();
        let failed = |what: String| Err(RunError::Remote(RemoteError::Failed { url, what }));
        match (&mirroring.taken_over, &mirroring.status.error) {
            (Some(error), _) => failed(error.clone()),
            (None, Some(error)) if mirroring.policy.stop_on_error && mirroring.failures >= FAILURES => {
                failed(error.clone())
            }
            _ => Ok(()),
        }
    }

    /// Sets the time until which the end of the session may wait for the other place.
    pub fn push_until(&mut self, until: Option<Instant>) {
        self.push_until = until;
    }

    /// Notes that the session goes on after all.
    pub(super) fn resume_mirror(&mut self) {
        if let Some(mirroring) = &mut self.mirroring {
            mirroring.status.ended_session = None;
        }
    }

    /// Hands a save to the mirror. Its files are opened now: the next save may remove their names.
    pub(super) fn mirror(&mut self, save: &Save, retention: Retention) {
        let journal_bytes = self.journal.len_bytes();
        let Some(mirroring) = &mut self.mirroring else { return };
        let open =
            |path: &PathBuf| Some((path.file_name()?.to_string_lossy().into_owned(), File::open(path).ok()?));
        let files: Vec<(String, File)> = save.files.iter().filter_map(open).collect();
        if files.is_empty() {
            return;
        }
        mirroring.saved = mirroring.saved.max(Some(save.position.global_step));
        mirroring.retention = Some(retention);
        mirroring.mirror.submit(Snapshot::new(save.position, files, journal_bytes, Some(retention)));
        self.wait_for_lag();
    }

    /// Waits while the copy is too far behind.
    fn wait_for_lag(&mut self) {
        while let Some(mirroring) = &mut self.mirroring
            && mirroring.lags()
        {
            mirroring.mirror.wait(None);
            let reports = mirroring.mirror.reports();
            if reports.is_empty() {
                return;
            }
            self.note_pushes(reports);
        }
    }

    fn take_push_reports(&mut self) {
        if let Some(mirroring) = &mut self.mirroring {
            let reports = mirroring.mirror.reports();
            self.note_pushes(reports);
        }
    }

    fn note_pushes(&mut self, reports: Vec<PushReport>) {
        for report in reports {
            let Some(mirroring) = &mut self.mirroring else { return };
            let event = mirroring.note(&report);
            mirroring.reports.push(report);
            if let Some(event) = event {
                self.note(event);
                self.write_status();
            }
        }
    }

    /// Copies what is left, after the journal's last line.
    pub(super) fn finish_mirror(&mut self) {
        let (journal_bytes, until) = (self.journal.len_bytes(), self.push_until);
        if let Some(mirroring) = &mut self.mirroring {
            mirroring.mirror.finish(journal_bytes, mirroring.retention, until);
            mirroring.status.ended_session = Some(mirroring.mirror.session().to_owned());
            let reports = mirroring.mirror.reports();
            for report in reports {
                mirroring.note(&report);
                mirroring.reports.push(report);
            }
            self.write_status();
        }
    }
}
