//! The command that continues a stopped run.

use crate::format::quoted;

/// This process's command line without the flags that would start anew, rewind again or stop again.
pub(crate) fn command() -> String {
    of(crate::invocation::command_line().into_iter())
}

/// This process's command line without a checkpoint to resume from: the command of a new run.
pub(crate) fn command_without_resume() -> String {
    let mut drop_value = false;
    let arguments = std::env::args().filter(|argument| {
        let drop = std::mem::take(&mut drop_value);
        drop_value = argument == "--resume";
        !drop && argument != "--resume" && argument != "--dry-run" && !argument.starts_with("--resume=")
    });
    of(arguments)
}

fn of(arguments: impl Iterator<Item = String>) -> String {
    let mut arguments = arguments.enumerate().peekable();
    let mut kept: Vec<String> = Vec::new();
    while let Some((index, argument)) = arguments.next() {
        let (flag, value) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let drop = match flag {
            "--rewind" => Some(0),
            "--stop-after" | "--stop-at" => Some(1),
            "--resume" => {
                let value = value.clone().or_else(|| arguments.peek().map(|(_, value)| value.clone()));
                (value.as_deref() == Some("never")).then_some(1)
            }
            _ => None,
        };
        match drop {
            Some(1) if value.is_none() => drop_next(&mut arguments),
            Some(_) => {}
            // The program's name without its folder, as people type it.
            None if index == 0 => kept.push(quoted(argument.rsplit('/').next().unwrap_or(&argument))),
            None => kept.push(quoted(&argument)),
        }
    }
    kept.join(" ")
}

fn drop_next(arguments: &mut impl Iterator) {
    arguments.next();
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn what_would_stop_or_go_back_again_is_left_out() {
        let go_on = |line: &str| of(line.split('|').map(str::to_owned));
        assert_eq!(
            go_on("/usr/bin/keepstep|train|my config.toml|--set|epochs=3"),
            "keepstep train 'my config.toml' --set epochs=3"
        );
        assert_eq!(
            go_on("keepstep|train|--stop-after|3|c.toml|--stop-at=9|--resume|never"),
            "keepstep train c.toml"
        );
        assert_eq!(
            go_on("keepstep|train|c.toml|--resume|old.pt|--rewind|--time-limit|1h"),
            "keepstep train c.toml --resume old.pt --time-limit 1h"
        );
        assert_eq!(
            go_on("keepstep|train|c.toml|--resume=never|--json-progress"),
            "keepstep train c.toml --json-progress"
        );
    }
}
