//! One session of a proof: this program training in another process, and its reports so far.

use crate::failure::Failure;
use keepstep::name::Name;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A process that trains, and the threads that listen to it.
pub(super) struct Session {
    child: Child,
    report: Arc<Mutex<SessionReport>>,
    listener: Option<JoinHandle<()>>,
    errors: Option<JoinHandle<String>>,
}

/// The reports of a session so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SessionReport {
    /// Updates of the whole run.
    pub(super) total_steps: Option<u64>,
    /// The global step that it continued from.
    pub(super) resumed_at: Option<u64>,
    /// The global step that it has reached.
    pub(super) reached: Option<u64>,
    /// The last global step that it reported as saved.
    pub(super) saved: Option<u64>,
    /// The last global step that it reported as pushed.
    pub(super) pushed: Option<u64>,
}

impl Session {
    /// Starts to train `config` into the folder `run`, up to the global step `stop_at`, with a copy at `remote`.
    pub(super) fn start(
        config: &Path,
        run: &Path,
        stop_at: u64,
        remote: Option<&str>,
    ) -> Result<Session, Failure> {
        let mut command = crate::invocation::program().map_err(|error| {
            Failure::new(1, format!("the path of the keepstep program cannot be found: {error}"))
        })?;
        command.arg("train").arg(config).arg("--set").arg(format!("output_dir={}", run.display()));
        command.args(["--json-progress", "--stop-at", &stop_at.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(url) = remote {
            command.arg("--set").arg(format!("remote.url={url}"));
        }
        // Only this process handles Ctrl-C.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|error| {
            Failure::new(1, format!("{} does not start: {error}", command.get_program().display()))
        })?;
        let report = Arc::new(Mutex::new(SessionReport::default()));
        let listener = child.stdout.take().map(|output| {
            let report = Arc::clone(&report);
            std::thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    if let Ok(line) = serde_json::from_slice(&line) {
                        report.lock().unwrap_or_else(PoisonError::into_inner).update(&line);
                    }
                }
            })
        });
        let errors = child.stderr.take().map(|mut errors| {
            std::thread::spawn(move || {
                let mut text = String::new();
                let _ = errors.read_to_string(&mut text);
                text
            })
        });
        Ok(Session { child, report, listener, errors })
    }

    /// The reports so far.
    pub(super) fn report(&self) -> SessionReport {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exit status, if the process has ended.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills the process by SIGKILL. Gives its reports up to the last complete line.
    pub(super) fn kill(mut self) -> SessionReport {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.listen_to_the_end();
        self.report()
    }

    /// Waits until the process ends: at the wanted update, or with the run.
    pub(super) fn finish(mut self) -> Result<SessionReport, Failure> {
        self.listen_to_the_end();
        let status = self.child.wait().map_err(|error| Failure::new(1, error.to_string()))?;
        let said = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        match status.code() {
            Some(0 | 75) => Ok(self.report()),
            code => {
                let last = said.lines().last().unwrap_or_default().trim_start_matches("keepstep: ");
                let last = if last.is_empty() { format!("it ended with {status}") } else { last.to_owned() };
                Err(Failure::new(if code == Some(2) { 2 } else { 1 }, last))
            }
        }
    }

    fn listen_to_the_end(&mut self) {
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl SessionReport {
    fn update(&mut self, line: &Value) {
        let step = || line["global_step"].as_u64();
        match line["event"].as_str() {
            Some("plan") => self.total_steps = line["total_steps"].as_u64(),
            Some("resumed") => {
                self.resumed_at = step();
                self.reached = step();
            }
            Some("update") => self.reached = step(),
            Some("saved") => {
                let name =
                    line["path"].as_str().and_then(|path| path.rsplit('/').next()).and_then(Name::parse);
                self.saved = name.map(|name| name.global_step).max(self.saved);
            }
            Some("pushed") => self.pushed = step().max(self.pushed),
            _ => {}
        }
    }
}
