//! Which files a pattern finds, and in which order.

use keepstep_text::corpus::{CorpusError, DataConfig, Stage, collect};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

/// A folder with files, each of which holds its own name.
struct Lab(tempfile::TempDir);

impl Lab {
    fn new(names: &[&str]) -> Lab {
        let lab = Lab(tempfile::tempdir().expect("a folder"));
        fs::create_dir_all(lab.root()).expect("a folder");
        names.iter().for_each(|name| lab.file(name));
        lab
    }

    /// So deep that `..` in a pattern leads to nothing but folders of the lab.
    fn root(&self) -> PathBuf {
        self.0.path().join("1/2/3/4/5")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    fn file(&self, name: &str) {
        fs::create_dir_all(self.path(name).parent().expect("a parent")).expect("a folder");
        fs::write(self.path(name), name).expect("a file");
    }

    fn link(&self, name: &str, target: &str) {
        fs::create_dir_all(self.path(name).parent().expect("a parent")).expect("a folder");
        symlink(target, self.path(name)).expect("a link");
    }

    fn data(&self, pattern: &str) -> DataConfig {
        let paths = vec![format!("{}/{pattern}", self.root().display())];
        DataConfig { paths, cache_dir: Some(String::new()), ..DataConfig::default() }
    }

    /// The files, and the notes.
    fn collect(&self, data: &DataConfig) -> Result<(Vec<String>, Vec<String>), CorpusError> {
        let mut notes = Vec::new();
        let files = collect(data, &mut |_, _, _| true, &mut |note| notes.push(note))?;
        let name =
            |path: &Path| path.strip_prefix(self.root()).expect("below").to_string_lossy().into_owned();
        Ok((files.iter().map(|file| name(file.path())).collect(), notes))
    }

    fn find(&self, pattern: &str) -> Result<Vec<String>, CorpusError> {
        self.collect(&self.data(pattern)).map(|(files, _)| files)
    }
}

/// The files as they were found with the `glob` crate, and the order that they had. None where it failed.
fn with_glob_crate(lab: &Lab, pattern: &str) -> Option<Vec<String>> {
    let pattern = format!("{}/{pattern}", lab.root().display());
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let is_fixed = |part: &Component<'_>| {
        !part.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
    };
    let prefix: PathBuf = Path::new(&pattern).components().take_while(is_fixed).collect();
    let mut found = Vec::new();
    for entry in glob::glob_with(&pattern, options).ok()? {
        found.extend(entry.ok().filter(|path| path.is_file()));
    }
    let below = |path: &PathBuf| path.strip_prefix(&prefix).unwrap_or(path).as_os_str().as_bytes().to_vec();
    found.sort_by_cached_key(below);
    let mut seen = BTreeSet::new();
    found.retain(|path| seen.insert(path.canonicalize().expect("a path")));
    let name = |path: &PathBuf| path.strip_prefix(lab.root()).expect("below").display().to_string();
    (!found.is_empty()).then(|| found.iter().map(name).collect())
}

/// Compared by the files themselves: one file may be reached by several paths.
fn check(lab: &Lab, pattern: &str) {
    let real = |names: Vec<String>| -> Vec<PathBuf> {
        names.iter().map(|name| lab.path(name).canonicalize().expect("a path")).collect()
    };
    assert_eq!(lab.find(pattern).ok().map(real), with_glob_crate(lab, pattern).map(real), "{pattern}");
}

#[test]
fn the_same_files_in_the_same_order_as_the_glob_crate() {
    let lab = Lab::new(&[
        "a/1.txt",
        "a/2.md",
        "a/b/1.txt",
        "a/b/c/1.txt",
        "a/.git/1.txt",
        "a/b/.hidden.txt",
        "b/1.txt",
        "b/10.txt",
        "b/2.txt",
        "B/é.txt",
        "b/c/1.txt",
        "1.txt",
        "a.txt/b.txt",
        "[x]/1.txt",
        "{a,b}/1.txt",
        "x y/1.txt",
        "^/1.txt",
        ".cfg/1.txt",
    ]);
    lab.link("b/link.txt", "../a/1.txt");
    lab.link("c", "a/b");
    lab.link("b/to-c", "../c");
    // Circles, which the crate follows forty times.
    lab.link("a/b/up", "..");
    for pattern in [
        "*.txt",
        "*/*.txt",
        "**/*.txt",
        "a/**/*.txt",
        "**/b/*.txt",
        "**/c/**/*.txt",
        "*/b/**/1.txt",
        "?/1.txt",
        "[ab]/?.txt",
        "[!a]/*.txt",
        "b/1*.txt",
        "*/.git/*.txt",
        ".cfg/*.txt",
        ".*/*.txt",
        "**/.git/*.txt",
        "[[]x]/*.txt",
        "{a,b}/*.txt",
        "[^]/*.txt",
        "a*/**/**/*.txt",
        "*/./1.txt",
        "*/../1.txt",
        "a//b/*.txt",
        "*/b.txt",
        "**",
        "*/",
        "**/",
        "***",
        "a**/x",
        "[a",
        "nothing*",
        "*/nothing",
        "*",
        "**/*",
        "a/b/*/*.txt",
        "?.txt/b.txt",
        "b/?/*.txt",
        "*/?.txt",
        "./*.txt",
        "**/up/*.txt",
    ] {
        check(&lab, pattern);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn of_any_tree_and_pattern(
        files in prop::collection::vec("([ab]|\\.a|é){1,1}(/([abc]|\\.b)){0,3}", 1..10),
        links in prop::collection::vec(("([ab]/){0,2}[xy]", "\\.\\./[ab]|[ab](/[ab])?"), 0..3),
        patterns in prop::collection::vec("([ab?*]|\\*\\*|\\[!a\\]|\\.a|[ax]\\*)(/([abxy?*]|\\*\\*|\\.b|\\.\\*)){0,3}", 1..6),
    ) {
        let lab = Lab::new(&[]);
        for name in &files {
            let path = lab.path(name);
            if fs::create_dir_all(path.parent().expect("a parent")).is_ok() && !path.exists() {
                let _ = fs::write(path, name);
            }
        }
        for (name, target) in &links {
            let path = lab.path(name);
            let parent = path.parent().expect("a parent");
            // Only links that lead somewhere, and not in circles.
            let leads = parent.join(target).canonicalize().ok().is_some_and(|target| {
                parent.canonicalize().is_ok_and(|parent| !parent.starts_with(&target))
            });
            if leads {
                let _ = symlink(target, path);
            }
        }
        for pattern in &patterns {
            check(&lab, pattern);
        }
    }
}

#[test]
fn a_link_to_nothing_is_refused_by_name_or_left_out_with_a_note() {
    let lab = Lab::new(&["corpus/1.txt", "corpus/3.txt"]);
    lab.link("corpus/2.txt", "/nowhere/2.txt");
    let error = lab.find("corpus/*.txt").expect_err("a link to nothing").to_string();
    assert!(
        error.contains("corpus/2.txt: this cannot be read, and a pattern of `data.paths` needs it"),
        "{error}"
    );
    let data = DataConfig { skip_unreadable: true, ..lab.data("corpus/*.txt") };
    let (files, notes) = lab.collect(&data).expect("the others");
    assert_eq!(files, ["corpus/1.txt", "corpus/3.txt"]);
    assert!(matches!(&notes[..], [note] if note.contains("corpus/2.txt")), "{notes:?}");
    // What the pattern has nothing to do with is nobody's concern.
    assert_eq!(lab.find("corpus/[13].txt").expect("files"), ["corpus/1.txt", "corpus/3.txt"]);
    // A folder could be behind a link: a disk that is not mounted.
    fs::rename(lab.path("corpus/2.txt"), lab.path("corpus/more")).expect("another name");
    assert_eq!(lab.find("corpus/*.txt").expect("files").len(), 2);
    let error = lab.find("corpus/**/*.txt").expect_err("a link to nothing").to_string();
    assert!(error.contains("corpus/more"), "{error}");
    // A file that is named itself is never left out.
    let data = DataConfig { skip_unreadable: true, ..lab.data("corpus/more") };
    assert!(matches!(lab.collect(&data), Err(CorpusError::Missing { .. })));
}

#[test]
fn a_circle_of_one_link_is_refused_by_name() {
    let lab = Lab::new(&["corpus/1.txt"]);
    lab.link("corpus/self.txt", "self.txt");
    let error = lab.find("corpus/*.txt").expect_err("a link to itself").to_string();
    assert!(error.contains("self.txt"), "{error}");
}

/// Root may enter every folder, so this one needs another user: names that are too long fail for anyone.
#[test]
fn a_folder_that_cannot_be_entered_is_refused_by_name() {
    let lab = Lab::new(&["corpus/a/1.txt", "corpus/b/1.txt"]);
    let long = "n".repeat(300);
    let error = lab.find(&format!("corpus/*/{long}")).expect_err("a name that is too long").to_string();
    assert!(
        error.contains("corpus/")
            && error.contains("this cannot be read, and a pattern of `data.paths` needs it"),
        "{error}"
    );
}

#[test]
fn names_that_are_not_utf8_are_names() {
    let lab = Lab::new(&["corpus/a/1.txt"]);
    let name = |bytes: &[u8]| lab.path("corpus").join(OsStr::from_bytes(bytes));
    fs::write(name(b"caf\xe9.pdf"), b"\xff").expect("a file");
    assert_eq!(lab.find("corpus/**/*.txt").expect("files"), ["corpus/a/1.txt"]);
    fs::write(name(b"caf\xe9.txt"), "text").expect("a file");
    fs::create_dir(name(b"\xb0")).expect("a folder");
    fs::write(name(b"\xb0/2.txt"), "more").expect("a file");
    assert_eq!(
        lab.find("corpus/**/*.txt").expect("files"),
        ["corpus/a/1.txt", "corpus/caf\u{fffd}.txt", "corpus/\u{fffd}/2.txt"]
    );
    assert_eq!(lab.find("corpus/caf?.txt").expect("files"), ["corpus/caf\u{fffd}.txt"]);
}

/// Two links back make 2^40 paths.
#[test]
fn circles_end() {
    let lab = Lab::new(&["corpus/a/1.txt", "corpus/b/2.txt"]);
    lab.link("corpus/a/up", "..");
    lab.link("corpus/b/up", "..");
    assert_eq!(lab.find("corpus/**/1.txt").expect("files"), ["corpus/a/1.txt"]);
    assert_eq!(lab.find("corpus/**/*.txt").expect("files").len(), 2);
    // Beyond a link, a fixed part of a pattern may match what it does not match elsewhere.
    assert_eq!(lab.find("corpus/**/up/b/*.txt").expect("files"), ["corpus/a/up/b/2.txt"]);
}

/// A folder that two links lead to is no circle.
#[test]
fn links_to_one_folder_are_both_followed() {
    let lab = Lab::new(&["store/1.txt", "store/2.md"]);
    lab.link("corpus/a", "../store");
    lab.link("corpus/b", "../store");
    assert_eq!(lab.find("corpus/**/*.txt").expect("files"), ["corpus/a/1.txt"]);
    assert_eq!(lab.find("corpus/b/*").expect("files").len(), 2);
}

#[test]
fn a_stop_is_heard_while_files_are_looked_for() {
    let names: Vec<String> = (0..50).map(|index| format!("corpus/{index}/a.txt")).collect();
    let lab = Lab::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut calls = 0;
    let mut stop = |stage, done, _| {
        assert_eq!(stage, Stage::Listing);
        calls += 1;
        done < 10
    };
    let stopped = collect(&lab.data("corpus/**/*.txt"), &mut stop, &mut |_| ()).expect_err("a stop");
    assert!(matches!(stopped, CorpusError::Stopped), "{stopped}");
    assert!((10..20).contains(&calls), "{calls}");
}

/// As docs/config.md says.
#[test]
fn characters_that_mean_something_can_be_written() {
    let lab = Lab::new(&["[x]/1.txt", "a*b/1.txt", "what?/1.txt", "$HOME/1.txt", "${A}/1.txt", "a]/1.txt"]);
    for (pattern, file) in [
        ("[x]/1.txt", "[x]/1.txt"),
        ("[[]x]/*.txt", "[x]/1.txt"),
        ("a[*]b/*.txt", "a*b/1.txt"),
        ("what[?]/*.txt", "what?/1.txt"),
        ("[$]HOME/1.txt", "$HOME/1.txt"),
        ("[$]{A}/*.txt", "${A}/1.txt"),
        ("${NONE_OF_THIS_NAME:-$}HOME/1.txt", "$HOME/1.txt"),
        ("a[]]/*.txt", "a]/1.txt"),
    ] {
        assert_eq!(lab.find(pattern).expect(pattern), [file], "{pattern}");
    }
    for pattern in ["[x/*.txt", "a**/1.txt", "x/**", "*/"] {
        let error = lab.find(pattern).expect_err(pattern);
        assert!(matches!(error, CorpusError::Pattern { .. }), "{error}");
    }
}
