//! The sessions of a run, read from its journal.

use super::{Event, JOURNAL, events};
use crate::position::Position;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

/// From one start of the program to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// When it began, in seconds since 1970 (UTC).
    pub started: f64,
    /// When it wrote its last line.
    pub ended: f64,
    /// The machine that it ran on.
    pub host: Option<String>,
    /// The number of its process there.
    pub pid: Option<u64>,
    /// The version of keepstep.
    pub version: Option<String>,
    /// The checkpoint that it continued from.
    pub resumed_from: Option<String>,
    /// Where it began.
    pub from: Position,
    /// Where it came to.
    pub to: Position,
    /// Updates that it made.
    pub updates: u64,
    /// How many of them an earlier session had made before.
    pub replayed: u64,
    /// Updates that no later session continued from: made after the checkpoint that the next one began with.
    pub lost: u64,
    /// Tokens of its updates.
    pub num_tokens: u64,
    /// Why it ended; None where it was killed (or still runs: see [`Session::is_running`]).
    pub reason: Option<String>,
}

impl Session {
    /// Whether its process is there still, as far as this machine can tell.
    pub fn is_running(&self) -> bool {
        self.reason.is_none()
            && self.host.as_deref() == Some(&super::host())
            && self.pid.is_some_and(super::process_exists)
    }

    /// Tokens per second between its first and its last line.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.ended - self.started;
        (seconds > 0.0 && self.num_tokens > 0).then(|| self.num_tokens as f64 / seconds)
    }
}

/// Reads the journal of a run's folder. Lines that are not whole are skipped.
///
/// # Errors
/// There is no journal, or it cannot be read.
pub fn sessions(folder: &Path) -> io::Result<Vec<Session>> {
    let mut sessions: Vec<Session> = Vec::new();
    // The furthest update of each function that the folder has seen: what comes again is a replay.
    let (mut run, mut furthest) = (None, 0);
    for line in events(File::open(folder.join(JOURNAL))?) {
        if let Event::Start(start) = line.event {
            let from = start.position();
            if run != start.run {
                (run, furthest) = (start.run, from.global_step);
            }
            if let Some(last) = sessions.last_mut() {
                last.lost = last.to.global_step.saturating_sub(from.global_step);
            }
            sessions.push(Session {
                started: line.time,
                ended: line.time,
                host: start.host,
                pid: start.pid,
                version: start.version,
                resumed_from: start.resumed_from,
                from,
                to: from,
                updates: 0,
                replayed: 0,
                lost: 0,
                num_tokens: 0,
                reason: None,
            });
            continue;
        }
        let Some(session) = sessions.last_mut() else { continue };
        session.ended = session.ended.max(line.time);
        match line.event {
            Event::Update(update) => {
                session.to = update.position();
                session.updates += 1;
                session.replayed += u64::from(update.replay || update.global_step <= furthest);
                furthest = furthest.max(update.global_step);
                session.num_tokens = session.num_tokens.saturating_add(update.num_tokens);
            }
            Event::Stop(stop) => session.reason = Some(stop.reason),
            Event::NotFinite(_) if session.reason.is_none() => session.reason = Some("not finite".to_owned()),
            _ => {}
        }
    }
    Ok(sessions)
}

/// The files that the journal of a folder has seen saved, and whether they were on schedule when they last were. Empty
/// where there is no journal.
pub fn saves(folder: &Path) -> BTreeMap<String, bool> {
    let mut saves = BTreeMap::new();
    let Ok(file) = File::open(folder.join(JOURNAL)) else { return saves };
    for line in events(file) {
        if let Event::Save(save) = line.event
            && let Some(scheduled) = save.scheduled
        {
            saves.insert(save.file, scheduled);
        }
    }
    saves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_losses_and_replays_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = r#"
{"event":"start","time":10.0,"epoch":1,"step":0,"global_step":0,"resumed_from":null}
{"event":"update","time":11.0,"epoch":1,"step":1,"global_step":1,"num_tokens":50,"replay":false}
{"event":"update","time":12.0,"epoch":1,"step":2,"global_step":2,"num_tokens":50,"replay":false}
{"event":"upd
{"event":"start","time":20.0,"epoch":1,"step":1,"global_step":1,"resumed_from":"x.pt","host":"h","pid":7}
{"event":"update","time":21.0,"epoch":1,"step":2,"global_step":2,"num_tokens":50,"replay":true}
{"event":"stop","time":22.0,"reason":"signal","global_step":2}
"#;
        std::fs::write(folder.path().join(JOURNAL), text).expect("a journal");
        let sessions = sessions(folder.path()).expect("sessions");
        assert_eq!(sessions.len(), 2);
        assert_eq!((sessions[0].updates, sessions[0].lost, sessions[0].reason.clone()), (2, 1, None));
        assert_eq!((sessions[1].replayed, sessions[1].lost), (1, 0));
        assert_eq!(sessions[1].reason.as_deref(), Some("signal"));
        assert_eq!(sessions[0].tokens_per_second(), Some(50.0));
        assert_eq!((sessions[1].host.as_deref(), sessions[1].pid), (Some("h"), Some(7)));
        assert!(!sessions[0].is_running());
    }

    #[test]
    fn a_session_whose_process_is_there_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let (host, pid) = (crate::journal::host(), std::process::id());
        let start = format!(r#"{{"event":"start","time":10.0,"host":"{host}","pid":{pid}}}"#);
        let running = |lines: &[&str]| {
            std::fs::write(folder.path().join(JOURNAL), lines.join("\n")).expect("a journal");
            sessions(folder.path()).expect("sessions")[0].is_running()
        };
        assert!(running(&[&start]));
        assert!(!running(&[&start, r#"{"event":"stop","time":11.0,"reason":"finished"}"#]));
        assert!(!running(&[&start.replace(&pid.to_string(), "4194305")]));
        assert!(!running(&[&start.replace(&host, "another host")]));
    }
}
