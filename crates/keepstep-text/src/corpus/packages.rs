//! The Rust sources of crates that cargo has fetched.

use super::CorpusError;
use std::path::{Path, PathBuf};

/// Lists every `.rs` file of the crates, which are given as name-version. Crates come in the order of the list, and
/// files sorted bytewise by their path in the crate. If two registries contain a crate, it is taken once.
pub(super) fn sources(packages: &[String]) -> Result<Vec<PathBuf>, CorpusError> {
    if packages.is_empty() {
        return Ok(Vec::new());
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("CARGO_HOME").or_else(|| Some(variable("HOME")?.join(".cargo"))).unwrap_or_default();
    sources_in(packages, &home.join("registry").join("src"))
}

fn sources_in(packages: &[String], folder: &Path) -> Result<Vec<PathBuf>, CorpusError> {
    let mut registries = list(folder).unwrap_or_default();
    registries.sort();
    let mut files = Vec::new();
    for package in packages {
        // A name with a slash would point to another folder.
        let is_name = Path::new(package).components().count() == 1 && !package.starts_with('.');
        let found =
            registries.iter().map(|registry| registry.join(package)).find(|path| is_name && path.is_dir());
        let missing = || CorpusError::Package { package: package.clone(), folder: folder.to_path_buf() };
        let found = found.ok_or_else(missing)?;
        let first = files.len();
        walk(&found, &mut files)?;
        files[first..].sort_by_cached_key(|path| {
            path.strip_prefix(&found).unwrap_or(path).as_os_str().as_encoded_bytes().to_vec()
        });
    }
    Ok(files)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), CorpusError> {
    let unreadable = |source| CorpusError::Unreadable { path: folder.to_path_buf(), source };
    for path in list(folder).map_err(unreadable)? {
        let kind = path.symlink_metadata().map_err(unreadable)?.file_type();
        if kind.is_dir() {
            walk(&path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn list(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn each_crate_once_and_a_missing_one_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        for name in [
            "index-b/one-1.0.0/src/lib.rs",
            "index-a/one-1.0.0/src/lib.rs",
            "index-a/one-1.0.0/a.rs",
            "index-b/two-2.0.0/build.rs",
            "index-b/two-2.0.0/README.md",
        ] {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, "x").expect("a file");
        }
        let list = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            sources_in(&names, folder)
        };
        let found = list(&["two-2.0.0", "one-1.0.0"]).expect("files");
        let found: Vec<_> = found
            .iter()
            .map(|path| path.strip_prefix(folder).expect("below").display().to_string())
            .collect();
        assert_eq!(
            found,
            ["index-b/two-2.0.0/build.rs", "index-a/one-1.0.0/a.rs", "index-a/one-1.0.0/src/lib.rs"]
        );
        for name in ["one-1.0.1", "../src", "."] {
            let error = list(&[name]).expect_err(name).to_string();
            assert!(error.contains("data.cargo_packages") && error.contains(name), "{error}");
        }
    }
}
