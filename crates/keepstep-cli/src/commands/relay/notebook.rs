//! The folder that `kaggle kernels push` takes: `kernel-metadata.json` and the notebook or script that it names.

use crate::failure::Failure;
use serde_json::{Value, json};
use std::path::{Component, Path, PathBuf};
use tempfile::TempDir;

const METADATA: &str = "kernel-metadata.json";

#[derive(Debug)]
pub(super) struct Notebook {
    folder: PathBuf,
    /// OWNER/SLUG.
    pub(super) id: String,
    code_file: PathBuf,
    metadata: Value,
}

impl Notebook {
    pub(super) fn read(folder: &Path) -> Result<Notebook, Failure> {
        let path = folder.join(METADATA);
        let wrong = |what: String| Failure::new(2, format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|error| {
            wrong(format!(
                "{error}; give the folder of a notebook with its {METADATA} (`kaggle kernels init` or `kaggle kernels pull -m` writes one)"
            ))
        })?;
        let metadata: Value =
            serde_json::from_str(&text).map_err(|error| wrong(format!("it is not JSON: {error}")))?;
        let text = |key: &str| metadata[key].as_str().map(str::to_owned);
        let id = text("id").filter(|id| is_id(id));
        let id = id.ok_or_else(|| wrong("`id` is not OWNER/SLUG".to_owned()))?;
        let code_file = text("code_file").map(PathBuf::from).filter(|path| {
            !path.as_os_str().is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)))
        });
        let code_file =
            code_file.ok_or_else(|| wrong("`code_file` is not a file of this folder".to_owned()))?;
        if !folder.join(&code_file).is_file() {
            return Err(wrong(format!("`code_file` names {}, which does not exist", code_file.display())));
        }
        Ok(Notebook { folder: folder.to_path_buf(), id, code_file, metadata })
    }

    /// Makes a folder to push, with `source`, an output of this notebook, among its inputs. The user's files stay as they
    /// are.
    pub(super) fn stage(&self, source: Option<&str>) -> Result<TempDir, Failure> {
        let staged = tempfile::tempdir().map_err(|error| Failure::at(&std::env::temp_dir(), &error))?;
        let failed = |path: &Path, error: std::io::Error| Failure::at(path, &error);
        let code = staged.path().join(&self.code_file);
        if let Some(parent) = code.parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        }
        std::fs::copy(self.folder.join(&self.code_file), &code).map_err(|error| failed(&code, error))?;
        let path = staged.path().join(METADATA);
        let text = format!("{:#}\n", with_source(&self.metadata, &self.id, source));
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
        Ok(staged)
    }
}

fn is_id(id: &str) -> bool {
    let parts: Vec<&str> = id.split('/').collect();
    parts.len() == 2 && parts.iter().all(|part| !part.is_empty())
}

/// The metadata with `source` in place of any other output of the notebook itself. `kaggle kernels pull` writes
/// `code/OWNER/SLUG`, which `kaggle kernels push` does not understand.
fn with_source(metadata: &Value, id: &str, source: Option<&str>) -> Value {
    let mut sources: Vec<String> = metadata["kernel_sources"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|source| source.strip_prefix("code/").unwrap_or(source).to_owned())
        .collect();
    if let Some(source) = source {
        sources
            .retain(|other| other != id && !other.strip_prefix(id).is_some_and(|rest| rest.starts_with('/')));
        sources.push(source.to_owned());
    }
    let mut metadata = metadata.clone();
    metadata["kernel_sources"] = json!(sources);
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notebook_becomes_its_own_source_once() {
        let sources = |given: Value, source| {
            with_source(&json!({ "kernel_sources": given, "title": "x" }), "ann/gpt", source)["kernel_sources"]
                .clone()
        };
        assert_eq!(sources(json!(["bob/words"]), Some("ann/gpt")), json!(["bob/words", "ann/gpt"]));
        assert_eq!(sources(json!(["code/ann/gpt"]), Some("ann/gpt")), json!(["ann/gpt"]));
        assert_eq!(
            sources(json!(["ann/gpt/3", "ann/gpt2"]), Some("ann/gpt/5")),
            json!(["ann/gpt2", "ann/gpt/5"])
        );
        assert_eq!(sources(json!(["code/ann/gpt"]), None), json!(["ann/gpt"]));
        assert_eq!(sources(Value::Null, None), json!([]));
    }

    #[test]
    fn metadata_that_cannot_work_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |text: &str| {
            std::fs::write(folder.path().join(METADATA), text).expect("metadata");
            Notebook::read(folder.path()).map_err(|failure| failure.to_string())
        };
        std::fs::write(folder.path().join("train.ipynb"), "{}").expect("a notebook");
        assert!(read(r#"{"id": "ann/gpt", "code_file": "train.ipynb"}"#).is_ok());
        for (text, part) in [
            ("{", "not JSON"),
            (r#"{"code_file": "train.ipynb"}"#, "`id`"),
            (r#"{"id": "ann/gpt/3", "code_file": "train.ipynb"}"#, "`id`"),
            (r#"{"id": "ann/gpt", "code_file": "../train.ipynb"}"#, "`code_file`"),
            (r#"{"id": "ann/gpt", "code_file": "other.ipynb"}"#, "does not exist"),
        ] {
            assert!(read(text).is_err_and(|message| message.contains(part)), "{text}");
        }
    }
}
