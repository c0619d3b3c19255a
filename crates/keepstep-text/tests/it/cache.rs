//! The files of the cache.

use keepstep_text::corpus::{Corpus, DataConfig, Sequences, Vocabulary, collect, train_tokenizer};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// A cache that two users share: each must be able to read what the other has put there.
#[test]
fn permissions_follow_the_umask() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("a.txt");
    fs::write(&text, "the run goes on and on\n".repeat(50)).expect("a file");
    let mode = |path: &std::path::Path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    let expected = mode(&text);
    // Younger files are read again each time, and no index is kept of them.
    std::thread::sleep(std::time::Duration::from_millis(3_100));
    let cache = folder.path().join("cache");
    let data = DataConfig {
        paths: vec![text.display().to_string()],
        cache_dir: Some(cache.display().to_string()),
        ..DataConfig::default()
    };
    let files = collect(&data, &mut |_, _, _| true, &mut |_| ()).expect("files");
    let tokenizer =
        train_tokenizer(&files, Vocabulary::Bpe(260), &data, &mut |_, _, _| true).expect("a tokenizer");
    let sequences = Sequences { block_size: 8, batch_size: 1 };
    Corpus::new(&files, &tokenizer, &data, sequences, &mut |_, _, _| true, &mut |_| ()).expect("a corpus");
    let mut kinds: Vec<String> = Vec::new();
    for entry in fs::read_dir(&cache).expect("the cache") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path), expected, "{}", path.display());
        kinds.push(path.extension().unwrap_or_default().to_string_lossy().into_owned());
    }
    kinds.sort();
    assert_eq!(kinds, ["blocks", "files", "tokenizer"]);
}
