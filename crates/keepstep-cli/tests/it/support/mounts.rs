//! Commands in a namespace of their own, where they may mount.

use std::path::Path;
use std::process::Command;

/// The command, run by a shell after `before` in such a namespace. Its environment and folder come along.
pub fn mounting(before: &str, command: &Command) -> Command {
    // Where the system lets no user make a namespace, root still may mount in one.
    let works = |flags: &&[&str]| {
        let tried = Command::new("unshare").args(*flags).arg("true").output();
        tried.is_ok_and(|output| output.status.success())
    };
    let ways: [&[&str]; 2] = [&["--user", "--map-root-user", "--mount"], &["--mount"]];
    let namespace = ways.iter().find(|flags| works(flags)).expect("a namespace to mount in");
    let mut whole = Command::new("unshare");
    whole.args(*namespace).args(["sh", "-c", before, "sh"]);
    whole.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => whole.env(name, value),
            None => whole.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        whole.current_dir(folder);
    }
    whole
}

/// The command, for which `folder` is read-only, as Kaggle's inputs are. That binds root as well.
pub fn read_only(folder: &Path, command: &Command) -> Command {
    let folder = folder.display();
    let before = format!(
        "mount --bind {folder} {folder} && mount -o remount,bind,ro {folder} || exit 99
         if touch {folder}/file 2> /dev/null; then exit 98; fi
         exec \"$@\""
    );
    mounting(&before, command)
}
