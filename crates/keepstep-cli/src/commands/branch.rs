//! `keepstep branch`: a new run that starts from a checkpoint, with changed keys.

use super::{Failure, train::failure};
use crate::arguments::BranchArguments;
use keepstep_lm::trainer::branch;

pub(crate) fn run(arguments: &BranchArguments) -> Result<(), Failure> {
    let path =
        branch(&arguments.checkpoint, &arguments.set, &arguments.out).map_err(|error| failure(&error))?;
    let set: Vec<String> = arguments
        .set
        .iter()
        .map(|(key, value)| format!(" --set {}", quoted(&format!("{key}={value}"))))
        .collect();
    let out = quoted(&format!("output_dir={}", arguments.out.display()));
    super::print(&format!(
        "Made {}\nGo on with the config of the old run:\n  keepstep train CONFIG.toml --set {out}{}\n",
        path.display(),
        set.concat()
    ))
}

/// As a shell takes it for one word.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=./_-,:+@%".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("optimizer.learning_rate=1e-4"), "optimizer.learning_rate=1e-4");
        assert_eq!(quoted("a=[1, 2]"), "'a=[1, 2]'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
    }
}
