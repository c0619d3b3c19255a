//! `keepstep history`: the sessions of a run as a timeline.

use super::Failure;
use crate::progress::clock;
use keepstep::history::{Session, sessions};
use keepstep::position::Position;
use serde_json::json;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

pub(crate) fn run(folder: &Path, json: bool) -> Result<(), Failure> {
    let sessions = sessions(folder).map_err(|error| {
        Failure::new(1, format!("{}: the journal cannot be read: {error}", folder.display()))
    })?;
    if json {
        let list: Vec<_> = sessions.iter().map(to_json).collect();
        return super::print(&format!("{:#}\n", serde_json::Value::from(list)));
    }
    let mut text = format!(
        "{:<3} {:<20} {:>8}  {:<26} {:<26} {:>7} {:>8} {:>6} {:>9}  {:<11} {}\n",
        "#",
        "BEGAN (UTC)",
        "LASTED",
        "FROM",
        "TO",
        "UPDATES",
        "REPLAYED",
        "LOST",
        "TOKENS/S",
        "ENDED BY",
        "RESUMED FROM"
    );
    for (index, session) in sessions.iter().enumerate() {
        let lasted = Duration::try_from_secs_f64(session.ended - session.started).unwrap_or_default();
        let rate = session.tokens_per_second().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
        let source =
            session.resumed_from.as_deref().map_or("-", |path| path.rsplit('/').next().unwrap_or(path));
        let _ = writeln!(
            text,
            "{:<3} {:<20} {:>8}  {:<26} {:<26} {:>7} {:>8} {:>6} {rate:>9}  {:<11} {source}",
            index + 1,
            utc(session.started),
            clock(lasted),
            place(session.from),
            place(session.to),
            session.updates,
            session.replayed,
            session.lost,
            session.reason.as_deref().unwrap_or("kill"),
        );
    }
    super::print(&text)
}

fn place(position: Position) -> String {
    format!("e{} s{} g{}", position.epoch, position.step, position.global_step)
}

fn to_json(session: &Session) -> serde_json::Value {
    let position = |place: Position| json!({ "epoch": place.epoch, "step": place.step, "global_step": place.global_step });
    json!({
        "started": session.started, "ended": session.ended, "resumed_from": session.resumed_from,
        "from": position(session.from), "to": position(session.to), "updates": session.updates,
        "replayed": session.replayed, "lost": session.lost, "num_tokens": session.num_tokens,
        "tokens_per_second": session.tokens_per_second(), "reason": session.reason,
    })
}

/// `2026-01-31 12:34:56`, by Hinnant's algorithm for civil dates.
fn utc(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates() {
        assert_eq!(utc(0.0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400.0), "2000-02-29 00:00:00");
        assert_eq!(utc(1_700_000_000.5), "2023-11-14 22:13:20");
    }
}
