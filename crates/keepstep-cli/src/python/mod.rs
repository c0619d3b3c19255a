//! The user's own Python, asked to call packages that are installed there.

use crate::failure::Failure;
use crate::invocation;
use crate::output;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A Python interpreter.
#[derive(Debug)]
pub(crate) struct Python {
    program: OsString,
}

/// A script and what it calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script {
    /// Begins with `answer.py`: it reads a request as JSON from standard input, and writes the answer as JSON to standard output.
    pub(crate) text: &'static str,
    /// The package that it imports.
    pub(crate) package: &'static str,
    /// What people can do where there are no credentials.
    pub(crate) credentials: &'static str,
}

impl Python {
    /// Takes the one that was asked for, the one that runs this program, or the `python3` on the PATH.
    pub(crate) fn find(given: Option<&Path>) -> Python {
        let given = given.map(|path| path.as_os_str().to_owned());
        Python { program: given.or_else(invocation::python).unwrap_or_else(|| "python3".into()) }
    }

    /// Runs a script with a request and returns its answer. `place` is the URL that messages name. Progress bars of the
    /// packages appear on a terminal, unless `quiet`.
    pub(crate) fn call(
        &self,
        script: Script,
        request: &Value,
        place: &str,
        quiet: bool,
    ) -> Result<Value, Failure> {
        let name = self.program.to_string_lossy();
        let failed = |what: &str| Failure::new(1, format!("{place}: {name} {what}"));
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(script.text).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(if quiet || !output::is_terminal() { Stdio::null() } else { Stdio::inherit() });
        let mut child = command
            .spawn()
            .map_err(|error| failed(&format!("cannot be started ({error}); give a Python with --python")))?;
        if let Some(mut input) = child.stdin.take() {
            // A script that does not read it has failed, which its answer shows.
            let _ = input.write_all(request.to_string().as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| failed(&format!("cannot be read: {error}")))?;
        let answer: Value = serde_json::from_slice(&output.stdout)
            .map_err(|_| failed(&format!("ended without an answer ({})", output.status)))?;
        match answer.get("error") {
            None => Ok(answer),
            Some(error) => Err(Failure::new(1, format!("{place}: {}", self.explain(script, error)))),
        }
    }

    /// An error of a script as a sentence.
    fn explain(&self, script: Script, error: &Value) -> String {
        let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (package, name) = (script.package, self.program.to_string_lossy());
        let status = error.get("status").and_then(Value::as_u64);
        match (text("kind").as_str(), status) {
            ("missing", _) => {
                format!("{name} has no {package}; install it with `{name} -m pip install {package}`")
            }
            ("credentials", _) => format!("{package} found no credentials; {}", script.credentials),
            ("http", Some(401)) => format!("the credentials were not accepted (401); {}", script.credentials),
            ("http", Some(403)) => format!(
                "access was denied (403): it belongs to someone else, or does not exist; check the URL and whose credentials are used. {}",
                text("text")
            ),
            ("http", Some(404)) => format!("it does not exist (404); check the URL. {}", text("text")),
            ("http", Some(status)) => format!("the server answered {status}: {}", text("text")),
            ("network", _) => format!("the network failed: {}", text("text")),
            _ => format!("{package} failed: {}", text("text")),
        }
        .trim_end()
        .to_owned()
    }
}

/// Adds an action to a request.
pub(crate) fn request(action: &str, mut rest: Value) -> Value {
    rest["action"] = json!(action);
    rest
}
