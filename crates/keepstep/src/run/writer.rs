//! The thread that saves while training continues.

use super::saver::{Job, Saver};
use super::saves::Save;
use std::io;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// A thread that owns the store, with at most one save in progress. Dropping it waits for that save.
///
/// If the thread panics, the next call panics with the same payload.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<Sender<Job>>,
    ended: Receiver<Save>,
    thread: Option<JoinHandle<()>>,
    began: Option<Instant>,
}

impl Writer {
    pub(super) fn start(mut saver: Saver) -> io::Result<Writer> {
        let (jobs, to_do) = channel();
        let (done, ended) = channel();
        let work = move || {
            lower_priority();
            for job in to_do {
                // Without a receiver the run is gone. Save the remaining jobs anyway.
                let _ = done.send(saver.save(job));
            }
        };
        let thread = Builder::new().name("keepstep-writer".to_owned()).spawn(work)?;
        Ok(Writer { jobs: Some(jobs), ended, thread: Some(thread), began: None })
    }

    /// Starts a job. The caller must have waited for the previous one.
    pub(super) fn submit(&mut self, job: Job) {
        debug_assert!(self.began.is_none(), "one save at a time");
        self.began = Some(Instant::now());
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            self.fail();
        }
    }

    /// Returns how long the save in progress has taken so far.
    pub(super) fn under_way(&self) -> Option<Duration> {
        self.began.map(|began| began.elapsed())
    }

    /// Takes the result of the save if it has ended.
    pub(super) fn poll(&mut self) -> Option<Save> {
        self.began?;
        match self.ended.try_recv() {
            Ok(save) => {
                self.began = None;
                Some(save)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => self.fail(),
        }
    }

    /// Waits for the save in progress, and takes its result.
    pub(super) fn wait(&mut self) -> Option<Save> {
        self.began?;
        match self.ended.recv() {
            Ok(save) => {
                self.began = None;
                Some(save)
            }
            Err(_) => self.fail(),
        }
    }

    /// Panics because the thread has ended too early, with its own panic if it has one.
    fn fail(&mut self) -> ! {
        self.began = None;
        self.jobs = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => resume_unwind(panic),
            _ => panic!("the thread that saves is gone"),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

/// Lowers this thread's priority, in favour of the threads that train.
#[cfg(target_os = "linux")]
fn lower_priority() {
    // On Linux this changes the priority of one thread. An error does not matter: saving is safe at any priority.
    let _ = rustix::process::nice(10);
}

#[cfg(not(target_os = "linux"))]
fn lower_priority() {}
