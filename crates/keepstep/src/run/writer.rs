//! The thread that saves while training goes on.

use super::saver::{Job, Saver};
use super::saves::Save;
use std::io;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// One thread, which owns the store; at most one save is under way. Dropping it waits for that save.
///
/// A panic of the thread goes on in whoever looks next.
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
            step_back();
            for job in to_do {
                // A receiver that is gone is a run that is gone: the rest is saved all the same.
                let _ = done.send(saver.save(job));
            }
        };
        let thread = Builder::new().name("keepstep-writer".to_owned()).spawn(work)?;
        Ok(Writer { jobs: Some(jobs), ended, thread: Some(thread), began: None })
    }

    /// Hands over a job; one that is under way must have been waited for.
    pub(super) fn submit(&mut self, job: Job) {
        debug_assert!(self.began.is_none(), "one save at a time");
        self.began = Some(Instant::now());
        if self.jobs.as_ref().is_none_or(|jobs| jobs.send(job).is_err()) {
            self.fail();
        }
    }

    /// How long the save under way has been going on.
    pub(super) fn under_way(&self) -> Option<Duration> {
        self.began.map(|began| began.elapsed())
    }

    /// The save under way, if it has ended.
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

    /// The save under way, once it has ended.
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

    /// The thread has ended before its time.
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

/// Lets the threads that train go first.
#[cfg(target_os = "linux")]
fn step_back() {
    // A thread's own priority, on Linux. Where it stays as it is, saving is no less safe.
    let _ = rustix::process::nice(10);
}

#[cfg(not(target_os = "linux"))]
fn step_back() {}
