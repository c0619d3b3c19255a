//! The journal of a run that continues in another folder.

use super::JOURNAL;
use crate::store::write_whole;
use std::io;
use std::path::Path;

/// Copies the journal next to the source of a resume into the run's own folder. If the folder has a journal already, only
/// the lines that are missing there are added at its end.
///
/// # Durability
/// The new journal replaces the old one in one step, so that a crash leaves the one or the other.
///
/// # Errors
/// A journal cannot be read or written; nothing has changed.
pub fn carry(source: &Path, folder: &Path) -> io::Result<()> {
    let (from, to) = (source.join(JOURNAL), folder.join(JOURNAL));
    let same = |one: &Path, other: &Path| matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other);
    if !from.exists() || same(&from, &to) {
        return Ok(());
    }
    let whole = |path: &Path| -> io::Result<Vec<u8>> {
        let mut bytes = std::fs::read(path)?;
        bytes.truncate(bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1));
        Ok(bytes)
    };
    let theirs = whole(&from)?;
    let ours = if to.exists() { whole(&to)? } else { Vec::new() };
    let lines = |bytes: &[u8]| bytes.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    let (our_lines, their_lines): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (lines(&ours), lines(&theirs));
    let shared = our_lines.iter().zip(&their_lines).take_while(|(ours, theirs)| ours == theirs).count();
    let new = &their_lines[shared..];
    // What was put behind ours once is not put there again.
    if new.is_empty() || our_lines.windows(new.len()).any(|lines| lines == new) {
        return Ok(());
    }
    write_whole(&to, &[ours, new.concat()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_carried_over_and_never_twice() {
        let (input, working) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let write =
            |folder: &Path, text: &str| std::fs::write(folder.join(JOURNAL), text).expect("a journal");
        let read = || std::fs::read_to_string(working.path().join(JOURNAL)).expect("a journal");
        carry(input.path(), working.path()).expect("there is none");
        assert!(!working.path().join(JOURNAL).exists());
        write(input.path(), "1\n2\ntorn");
        for _ in 0..2 {
            carry(input.path(), working.path()).expect("carried over");
            assert_eq!(read(), "1\n2\n");
        }
        // Ours went on: the source knows nothing new.
        write(working.path(), "1\n2\n3\n");
        carry(input.path(), working.path()).expect("nothing to do");
        assert_eq!(read(), "1\n2\n3\n");
        // The source went on elsewhere.
        write(input.path(), "1\n2\n4\n5\n");
        for _ in 0..2 {
            carry(input.path(), working.path()).expect("carried over");
            assert_eq!(read(), "1\n2\n3\n4\n5\n");
        }
        carry(working.path(), working.path()).expect("itself");
        assert_eq!(read(), "1\n2\n3\n4\n5\n");
    }
}
