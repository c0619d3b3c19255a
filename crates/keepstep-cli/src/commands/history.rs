//! `keepstep history`: the sessions of a run as a timeline.

use crate::failure::Failure;
use crate::format;
use crate::output;
use crate::table::Table;
use keepstep::journal::sessions::{Session, sessions};
use keepstep::position::Position;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

pub(crate) fn run(folder: &Path, json: bool) -> Result<(), Failure> {
    let sessions = sessions(folder).map_err(|error| {
        Failure::new(1, format!("{}: the journal cannot be read: {error}", folder.display()))
    })?;
    if json {
        let list: Vec<_> = sessions.iter().map(to_json).collect();
        return output::print_json(&list.into());
    }
    if sessions.is_empty() {
        return Err(Failure::new(
            1,
            format!("{}: the journal has no session yet; train the run first", folder.display()),
        ));
    }
    output::print(&table(&sessions).render(output::terminal_width()))
}

fn table(sessions: &[Session]) -> Table {
    let mut table = Table::new(&[
        ("SESSION", false),
        ("BEGAN (UTC)", false),
        ("LASTED", true),
        ("EPOCH", false),
        ("STEP", false),
        ("GLOBAL STEP", false),
        ("UPDATES", true),
        ("REPLAYED", true),
        ("LOST", true),
        ("TOKENS/S", true),
        ("ENDED BY", false),
        ("RESUMED FROM", false),
        ("HOST", false),
    ]);
    for (index, session) in sessions.iter().enumerate() {
        let lasted = Duration::try_from_secs_f64(session.ended - session.started).unwrap_or_default();
        let rate = session.tokens_per_second().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
        let source =
            session.resumed_from.as_deref().map_or("-", |path| path.rsplit('/').next().unwrap_or(path));
        let (from, to) = (session.from, session.to);
        let span = |from: u64, to: u64| if from == to { to.to_string() } else { format!("{from} → {to}") };
        table.row(vec![
            (index + 1).to_string(),
            format::utc(session.started),
            format::clock(lasted),
            span(from.epoch, to.epoch),
            format!("{} → {}", from.step, to.step),
            format!("{} → {}", from.global_step, to.global_step),
            session.updates.to_string(),
            session.replayed.to_string(),
            session.lost.to_string(),
            rate,
            ended_by(session).to_owned(),
            source.to_owned(),
            session.host.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

/// Why a session ended. Without a last line in the journal, it was killed or is still running.
fn ended_by(session: &Session) -> &str {
    match &session.reason {
        Some(reason) => reason,
        None if session.is_running() => "(running)",
        None => "kill",
    }
}

fn to_json(session: &Session) -> serde_json::Value {
    let position = |place: Position| json!({ "epoch": place.epoch, "step": place.step, "global_step": place.global_step });
    json!({
        "started": session.started, "ended": session.ended, "resumed_from": session.resumed_from,
        "from": position(session.from), "to": position(session.to), "updates": session.updates,
        "replayed": session.replayed, "lost": session.lost, "num_tokens": session.num_tokens,
        "tokens_per_second": session.tokens_per_second(), "reason": session.reason, "host": session.host,
        "version": session.version, "running": session.is_running(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline() {
        let at = |epoch, step, global_step| Position { epoch, step, global_step };
        let session = Session {
            started: 1_700_000_000.0,
            ended: 1_700_003_600.0,
            host: Some("spot-7".to_owned()),
            pid: Some(7),
            version: Some("0.1.0".to_owned()),
            resumed_from: None,
            from: at(1, 0, 0),
            to: at(1, 900, 900),
            updates: 900,
            replayed: 0,
            lost: 100,
            num_tokens: 3_600_000,
            reason: None,
        };
        let resumed = Session {
            resumed_from: Some("runs/x/checkpoint_epoch1_step800_global800.pt".to_owned()),
            from: at(1, 800, 800),
            to: at(2, 10, 1_010),
            updates: 210,
            replayed: 100,
            lost: 0,
            reason: Some("SIGTERM".to_owned()),
            ..session.clone()
        };
        let table = table(&[session, resumed]);
        let wide = "\
SESSION  BEGAN (UTC)           LASTED  EPOCH  STEP      GLOBAL STEP  UPDATES  REPLAYED  LOST  TOKENS/S  ENDED BY  RESUMED FROM                          HOST
1        2023-11-14 22:13:20  1:00:00  1      0 → 900   0 → 900          900         0   100      1000  kill      -                                     spot-7
2        2023-11-14 22:13:20  1:00:00  1 → 2  800 → 10  800 → 1010       210       100     0      1000  SIGTERM   checkpoint_epoch1_step800_global800.pt  spot-7
";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&table.render(None)), squeeze(wide));
        let narrow = table.render(Some(80));
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
        assert!(narrow.contains("\n  replayed     100\n"), "{narrow}");
    }
}
