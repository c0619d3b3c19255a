//! `keepstep relay`: a training of days in one short session after another, on Kaggle.
//!
//! Each session is a version of one notebook. Its output is the next one's input. Everything that relay knows is in one
//! small file, written whole after each step: it can be killed and started again.

mod kaggle_program;
mod notebook;
mod session;
mod state;

use crate::arguments::RelayArguments;
use crate::failure::{Failure, status};
use crate::output;
use kaggle_program::KaggleProgram;
use keepstep::run::RunState;
use notebook::Notebook;
use serde_json::json;
use session::{Phase, Verdict, judge};
use state::{Relay, State};
use std::path::PathBuf;
use std::time::Duration;

/// How often an end is not believed if the session was never seen running.
const MAX_DOUBTS: u32 = 3;

/// How often in a row a question may fail before relay gives up.
const MAX_FAILURES: u32 = 30;

pub(crate) fn run(arguments: &RelayArguments) -> Result<u8, Failure> {
    let notebook = Notebook::read(&arguments.folder)?;
    let mut relay = Relay::open(&arguments.folder, &notebook.id)?;
    let mut sessions = Sessions {
        program: KaggleProgram::find(arguments.kaggle.as_deref()),
        notebook,
        arguments,
        newest_has_output: true,
    };
    let done = sessions.run(&mut relay)?;
    report(arguments, &relay.state, &sessions.notebook.id, done)
}

fn report(arguments: &RelayArguments, state: &State, id: &str, done: bool) -> Result<u8, Failure> {
    let (step, total) = (state.global_step, state.total_steps);
    if arguments.json {
        output::print_json(&json!({
            "notebook": id, "finished": done, "sessions": state.sessions, "version": state.version,
            "run": state.run, "global_step": step, "total_steps": total,
        }))?;
    } else if done {
        output::print(&format!(
            "The run is complete at global step {step}, after {} sessions. To fetch it: keepstep pull kaggle://notebooks/{id} DIR\n",
            state.sessions
        ))?;
    } else {
        output::print(&format!(
            "Stopped by --max-sessions {} at global step {step} of {total}. To go on, use the same command with a higher --max-sessions\n",
            arguments.max_sessions
        ))?;
    }
    Ok(if done { status::DONE } else { status::RESUMABLE })
}

struct Sessions<'a> {
    program: KaggleProgram,
    notebook: Notebook,
    arguments: &'a RelayArguments,
    /// Whether the newest version has an output that can be attached.
    newest_has_output: bool,
}

impl Sessions<'_> {
    /// Runs sessions until the run is complete (true) or their number is used up (false).
    fn run(&mut self, relay: &mut Relay) -> Result<bool, Failure> {
        if !relay.state.in_flight && self.take_stock(relay)? {
            return Ok(true);
        }
        loop {
            let is_new = !relay.state.in_flight;
            if is_new {
                if relay.state.sessions >= self.arguments.max_sessions {
                    return Ok(false);
                }
                self.start(relay)?;
            }
            let phase = self.wait(&relay.state, is_new)?;
            let verdict = self.end(relay, &phase)?;
            relay.state.in_flight = false;
            relay.save()?;
            if let Verdict::Failed(reason) = verdict {
                return Err(self.failure(&relay.state, &reason));
            }
            self.newest_has_output = true;
            if matches!(verdict, Verdict::Finished) {
                return Ok(true);
            }
        }
    }

    /// Looks at what the notebook has before the first session of this process. True if the run is complete.
    fn take_stock(&mut self, relay: &mut Relay) -> Result<bool, Failure> {
        self.newest_has_output = false;
        let Some(phase) = self.ask()? else { return Ok(false) };
        if phase.is_running() {
            // Someone started it, or an earlier relay was killed before it could write that down.
            output::say(&format!("{}: a session is running already: waiting for it", self.notebook.id));
            relay.state.sessions += 1;
            relay.state.version = None;
            relay.state.in_flight = true;
            relay.save()?;
            return Ok(false);
        }
        if phase != Phase::Complete {
            return Ok(false);
        }
        let found = self.program.output(&self.notebook.id, self.arguments.run.as_deref())?;
        let Some(there) = found.status else {
            if found.is_absent {
                return Ok(false);
            }
            // A guess would begin at step 0.
            let reason = found.missing.unwrap_or_default();
            return Err(Failure::new(1, format!("{}: the newest version: {reason}", self.notebook.id)));
        };
        let is_same_run = relay.state.run.as_ref().is_none_or(|run| *run == there.id);
        if is_same_run && there.global_step >= relay.state.global_step {
            self.newest_has_output = true;
            relay.state.adopt(&there);
            relay.save()?;
            return Ok(there.state == RunState::Finished);
        }
        Ok(false)
    }

    fn start(&self, relay: &mut Relay) -> Result<(), Failure> {
        let source = self.source(&relay.state)?;
        let staged = self.notebook.stage(source.as_deref())?;
        let time_limit = self.arguments.session_limit.map(|limit| limit.0.as_secs());
        let pushed = self.program.push(staged.path(), time_limit, &self.notebook.id)?;
        relay.state.sessions += 1;
        relay.state.version = pushed.version;
        relay.state.in_flight = true;
        relay.save()?;
        let number = relay.state.sessions;
        if source.is_none() && !self.arguments.no_attach {
            output::say(&format!("Session {number} begins without the output of an earlier one"));
        }
        let version =
            pushed.version.map_or("a new version".to_owned(), |version| format!("version {version}"));
        output::say(&format!("Session {number}: started {version}. {}", pushed.url));
        match pushed.refused.as_slice() {
            [] => Ok(()),
            refused => Err(Failure::new(
                1,
                format!(
                    "{}: Kaggle did not attach {}. The session that was started runs without it: cancel it at {} and run relay again",
                    self.notebook.id,
                    refused.join(", "),
                    pushed.url
                ),
            )),
        }
    }

    /// The input with the run so far: the newest version's output, or that of the last version that made progress.
    fn source(&self, state: &State) -> Result<Option<String>, Failure> {
        let id = &self.notebook.id;
        match state.good_version {
            _ if self.arguments.no_attach => Ok(None),
            _ if self.newest_has_output => Ok(Some(id.clone())),
            Some(version) => Ok(Some(format!("{id}/{version}"))),
            None if state.global_step == 0 => Ok(None),
            None => Err(Failure::new(
                1,
                format!(
                    "{id}: earlier sessions reached global step {}, and the newest version has no output to continue from; remove .keepstep-relay to begin anew",
                    state.global_step
                ),
            )),
        }
    }

    /// Waits until the session has ended.
    fn wait(&self, state: &State, is_new: bool) -> Result<Phase, Failure> {
        // Right after a start, Kaggle may still answer for the version before.
        let mut doubts = if is_new { MAX_DOUBTS } else { 0 };
        let mut last = None;
        loop {
            let Some(phase) = self.ask()? else {
                let message = format!("{}: Kaggle does not know this notebook", self.notebook.id);
                return Err(Failure::new(1, message));
            };
            if phase.is_running() {
                doubts = 0;
            } else if doubts > 0 {
                doubts -= 1;
                self.sleep();
                continue;
            } else {
                return Ok(phase);
            }
            if last.as_ref() != Some(&phase) {
                output::say(&format!("Session {}: {phase}", state.sessions));
                last = Some(phase);
            }
            self.sleep();
        }
    }

    /// Asks where the newest version is, again and again while the question fails. None if Kaggle does not know the
    /// notebook.
    fn ask(&self) -> Result<Option<Phase>, Failure> {
        let mut failures = 0;
        loop {
            match self.program.status(&self.notebook.id) {
                Err(failure) if failure.status() == 2 || failures >= MAX_FAILURES => return Err(failure),
                Err(failure) => {
                    if failures == 0 {
                        output::say(&format!("{failure}; asking again"));
                    }
                    failures += 1;
                    self.sleep();
                }
                found => return found,
            }
        }
    }

    fn sleep(&self) {
        std::thread::sleep(self.arguments.poll.map_or(Duration::from_secs(120), |poll| poll.0));
    }

    /// Fetches the session's status and log, and decides what is next.
    fn end(&self, relay: &mut Relay, phase: &Phase) -> Result<Verdict, Failure> {
        let found = self.program.output(&self.notebook.id, self.arguments.run.as_deref())?;
        if let Some(log) = &found.log {
            relay.save_log(log)?;
        }
        let verdict = judge(phase, &found, &relay.state);
        if let Some(there) = &found.status
            && !matches!(verdict, Verdict::Failed(_))
        {
            let before = relay.state.global_step;
            output::say(&format!(
                "Session {}: global step {} of {} (+{}), {}",
                relay.state.sessions,
                there.global_step,
                there.total_steps,
                there.global_step.saturating_sub(before),
                there.reason.as_deref().unwrap_or("without a reason")
            ));
            relay.state.adopt(there);
            relay.state.good_version = relay.state.version;
        }
        Ok(verdict)
    }

    fn failure(&self, state: &State, reason: &str) -> Failure {
        let log = state.log.as_ref().map(PathBuf::from);
        let log = log.map(|log| format!("; its log: {}", log.display())).unwrap_or_default();
        let text = format!("{}: session {} {reason}{log}", self.notebook.id, state.sessions);
        Failure::new(1, text).with("nothing was started after it; run relay again when this is repaired")
    }
}
