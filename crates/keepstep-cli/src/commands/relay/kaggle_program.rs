//! The user's `kaggle` program (2.x): its commands, and what they print.

use super::session::{Phase, SessionOutput};
use crate::commands::kaggle::CREDENTIALS;
use crate::failure::Failure;
use crate::invocation;
use keepstep::run::{STATUS_FILE, Status};
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(super) struct KaggleProgram {
    words: Vec<OsString>,
}

/// A version of the notebook that was started.
pub(super) struct Pushed {
    pub(super) version: Option<u64>,
    pub(super) url: String,
    /// Inputs that Kaggle did not attach.
    pub(super) refused: Vec<String>,
}

impl KaggleProgram {
    /// Takes the one that was asked for, the one on the PATH, or the one of the Python that runs this program.
    pub(super) fn find(given: Option<&Path>) -> KaggleProgram {
        if let Some(path) = given {
            return KaggleProgram { words: vec![path.as_os_str().to_owned()] };
        }
        let works = Command::new("kaggle").arg("--version").output().is_ok();
        match invocation::python() {
            Some(python) if !works => KaggleProgram { words: vec![python, "-m".into(), "kaggle".into()] },
            _ => KaggleProgram { words: vec!["kaggle".into()] },
        }
    }

    /// Runs a command of the program. Gives what it printed. Err has its last words.
    fn call(&self, words: &[&str]) -> Result<Result<String, String>, Failure> {
        let Some((program, first)) = self.words.split_first() else {
            return Err(Failure::new(2, "kaggle: no program".to_owned()));
        };
        let name = program.to_string_lossy();
        let Output { status, stdout, stderr } =
            Command::new(program).args(first).args(words).output().map_err(|error| match error.kind() {
                ErrorKind::NotFound => Failure::new(
                    2,
                    format!("{name}: this program does not exist; install it with `pip install kaggle`, or give its path with --kaggle"),
                ),
                _ => Failure::new(2, format!("{name}: {error}")),
            })?;
        let (out, err) = (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr));
        if out.contains("Authentication required") {
            return Err(Failure::new(
                2,
                format!("{name} found no credentials, or they were not accepted; {CREDENTIALS}"),
            ));
        }
        if out.is_empty() && err.contains("No module named") {
            return Err(Failure::new(
                2,
                format!("{name} cannot be used ({}); `pip install kaggle` installs it", last_line(&err)),
            ));
        }
        Ok(if status.success() { Ok(out) } else { Err(last_line(&format!("{out}\n{err}"))) })
    }

    /// Saves a new version and starts it.
    pub(super) fn push(&self, folder: &Path, time_limit: Option<u64>, id: &str) -> Result<Pushed, Failure> {
        let folder = folder.display().to_string();
        let seconds = time_limit.map(|seconds| seconds.to_string());
        let mut words = vec!["kernels", "push", "-p", &folder];
        if let Some(seconds) = &seconds {
            words.extend(["-t", seconds]);
        }
        let failed = |reason: &str| Failure::new(1, format!("{id}: the notebook was not started: {reason}"));
        let out = self.call(&words)?.map_err(|reason| failed(&reason))?;
        // The program ends with 0 in either case.
        parse_push(&out).map_err(|reason| failed(&reason))
    }

    /// Where the newest version is. None if Kaggle does not know the notebook.
    pub(super) fn status(&self, id: &str) -> Result<Option<Phase>, Failure> {
        match self.call(&["kernels", "status", id])? {
            Ok(out) => match parse_status(&out) {
                Some(phase) => Ok(Some(phase)),
                None => Err(Failure::new(
                    1,
                    format!("{id}: `kaggle kernels status` printed `{}`", last_line(&out)),
                )),
            },
            // Kaggle answers 403 for what does not exist.
            Err(reason)
                if reason.contains("Permission 'kernels.get' was denied") || reason.contains("404") =>
            {
                Ok(None)
            }
            Err(reason) => Err(Failure::new(1, format!("{id}: `kaggle kernels status` failed: {reason}"))),
        }
    }

    /// Fetches `status.json` and the log of the newest version. `run` is the folder in the output, where it has several.
    pub(super) fn output(&self, id: &str, run: Option<&str>) -> Result<SessionOutput, Failure> {
        let folder = tempfile::tempdir().map_err(|error| Failure::at(&std::env::temp_dir(), &error))?;
        let target = folder.path().display().to_string();
        let pattern = r"(^|/)status\.json$";
        let words = ["kernels", "output", id, "-p", &target, "--file-pattern", pattern, "-o", "-q"];
        if let Err(reason) = self.call(&words)? {
            let missing = Some(format!("its output cannot be fetched: {reason}"));
            return Ok(SessionOutput { missing, ..SessionOutput::default() });
        }
        let slug = id.rsplit('/').next().unwrap_or(id);
        let log = std::fs::read_to_string(folder.path().join(format!("{slug}.log"))).ok();
        let mut found = Vec::new();
        search(folder.path(), 8, &mut found);
        let relative =
            |path: &PathBuf| path.strip_prefix(folder.path()).unwrap_or(path).display().to_string();
        if let Some(run) = run {
            found.retain(|path| relative(path) == run.trim_matches('/'));
        }
        let none = |missing: String| SessionOutput {
            missing: Some(missing),
            is_absent: found.is_empty(),
            log: log.clone(),
            ..SessionOutput::default()
        };
        Ok(match found.as_slice() {
            [] => none(format!(
                "its output has no {STATUS_FILE}; the run's output_dir must be below /kaggle/working"
            )),
            [one] => match Status::read(one) {
                Ok(status) => SessionOutput { status: Some(status), log, ..SessionOutput::default() },
                Err(error) => none(format!("its {STATUS_FILE} cannot be read: {error}")),
            },
            several => {
                let list: Vec<String> = several.iter().map(relative).collect();
                none(format!("its output has more than one run ({}); choose one with --run", list.join(", ")))
            }
        })
    }
}

/// Finds the folders with a `status.json`.
fn search(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 0 => folders.push(entry.path()),
            Ok(kind) if kind.is_file() && entry.file_name() == STATUS_FILE => {
                found.push(folder.to_path_buf())
            }
            _ => {}
        }
    }
    folders.sort();
    folders.iter().for_each(|inner| search(inner, depth - 1, found));
}

fn last_line(text: &str) -> String {
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it printed nothing").to_owned()
}

/// `ann/gpt has status "KernelWorkerStatus.RUNNING"`, and `Failure message: "..."` in a second line.
fn parse_status(out: &str) -> Option<Phase> {
    let (_, rest) = out.split_once(" has status \"")?;
    let (word, rest) = rest.split_once('"')?;
    let word = word.rsplit('.').next().unwrap_or(word).to_ascii_uppercase();
    let message =
        rest.split_once("Failure message: \"").map(|(_, message)| message.trim_end().trim_end_matches('"'));
    Some(match word.as_str() {
        "QUEUED" | "NEW_SCRIPT" => Phase::Queued,
        "RUNNING" | "CANCEL_REQUESTED" => Phase::Running,
        "COMPLETE" => Phase::Complete,
        _ => Phase::Failed { word, message: message.map(str::to_owned) },
    })
}

/// `Kernel version 3 successfully pushed.  Please check progress at URL`, after lines about inputs that are not valid.
fn parse_push(out: &str) -> Result<Pushed, String> {
    if let Some((_, reason)) = out.split_once("Kernel push error: ") {
        return Err(last_line(reason));
    }
    let line = out.lines().find(|line| line.contains("successfully pushed")).ok_or_else(|| last_line(out))?;
    let version = line.split_whitespace().nth(2).and_then(|word| word.parse().ok());
    let url = line.split_whitespace().last().unwrap_or_default().to_owned();
    let refused = out
        .lines()
        .filter(|line| line.starts_with("The following are not valid") && line.contains("sources"))
        .filter_map(|line| {
            line.rsplit_once(": ").map(|(_, list)| list.trim_matches(['[', ']']).replace('\'', ""))
        })
        .collect();
    Ok(Pushed { version, url, refused })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kaggle_2_2_prints_is_understood() {
        let status =
            |word: &str| parse_status(&format!("ann/gpt has status \"KernelWorkerStatus.{word}\"\n"));
        assert_eq!(status("QUEUED"), Some(Phase::Queued));
        assert_eq!(status("RUNNING"), Some(Phase::Running));
        assert_eq!(status("COMPLETE"), Some(Phase::Complete));
        // Older versions print the word alone.
        assert_eq!(parse_status("ann/gpt has status \"complete\""), Some(Phase::Complete));
        let failed =
            "ann/gpt has status \"KernelWorkerStatus.ERROR\"\nFailure message: \"Out of \"memory\"\"\n";
        let message = Some("Out of \"memory".to_owned());
        assert_eq!(parse_status(failed), Some(Phase::Failed { word: "ERROR".to_owned(), message }));
        assert_eq!(parse_status("Usage: kaggle"), None);

        let pushed = parse_push(
            "The following are not valid kernel sources and could not be added to the kernel: ['ann/gpt']\n\
             Kernel version 3 successfully pushed.  Please check progress at https://www.kaggle.com/code/ann/gpt\n",
        );
        let pushed = pushed.unwrap_or_else(|reason| panic!("{reason}"));
        assert_eq!((pushed.version, pushed.refused), (Some(3), vec!["ann/gpt".to_owned()]));
        assert_eq!(pushed.url, "https://www.kaggle.com/code/ann/gpt");
        let quota = parse_push("Kernel push error: Maximum weekly GPU quota of 30.00 hours reached.\n");
        assert!(quota.is_err_and(|reason| reason.starts_with("Maximum weekly GPU quota")));
    }
}
