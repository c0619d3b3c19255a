//! The journal in segments: objects that never change, merged so that their number stays small.

use crate::bucket::Bucket;
use crate::download;
use crate::explain::{Failed, Reason};
use crate::manifest::Segment;
use crate::upload::Content;
use keepstep::journal::{JOURNAL, carry};
use keepstep_pt::ReadAt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// What must be uploaded: how many segments stay, and the range of the file that follows them. Equal sizes are merged, as
/// a binary counter does: each byte is sent a few times, and the number of segments grows with the logarithm.
pub(crate) fn plan(segments: &[Segment], journal_bytes: u64) -> Option<(usize, u64)> {
    let mut start: u64 = segments.iter().map(|segment| segment.size).sum();
    if journal_bytes <= start {
        return None;
    }
    let mut kept = segments.len();
    while kept > 0 && segments[kept - 1].size <= journal_bytes - start {
        kept -= 1;
        start -= segments[kept].size;
    }
    Some((kept, start))
}

/// Opens the journal of a folder. None if there is none.
pub(crate) fn open(folder: &Path) -> Option<Arc<File>> {
    File::open(folder.join(JOURNAL)).ok().map(Arc::new)
}

/// How many segments the file begins with.
pub(crate) fn shared(segments: &[Segment], file: &Arc<File>) -> usize {
    let len = file.len_bytes().unwrap_or(0);
    let mut start = 0;
    for (nth, segment) in segments.iter().enumerate() {
        let content = Content::File { file: Arc::clone(file), start, len: segment.size };
        let is_same =
            start + segment.size <= len && content.sha256().is_ok_and(|hash| hash == segment.sha256);
        if !is_same {
            return nth;
        }
        start += segment.size;
    }
    segments.len()
}

/// The whole journal.
pub(crate) async fn read(bucket: &Bucket, segments: &[Segment]) -> Result<Vec<u8>, Failed> {
    let mut whole = Vec::new();
    for segment in segments {
        whole.extend(download::bytes(bucket, &segment.key, segment.size, &segment.sha256).await?);
    }
    Ok(whole)
}

/// Adds lines to the folder's journal that are in the remote's alone. Does nothing if it begins with the remote's.
pub(crate) async fn bring(bucket: &Bucket, segments: &[Segment], folder: &Path) -> Result<(), Failed> {
    if open(folder).is_some_and(|file| shared(segments, &file) == segments.len()) || segments.is_empty() {
        return Ok(());
    }
    let whole = read(bucket, segments).await?;
    let failed = |error: std::io::Error| {
        Failed::new(Reason::Usage, format!("{}: {error}", folder.join(JOURNAL).display()))
    };
    let temporary = folder.join(".remote-journal.tmp");
    std::fs::create_dir_all(&temporary).map_err(failed)?;
    let result = std::fs::write(temporary.join(JOURNAL), whole).and_then(|()| carry(&temporary, folder));
    let _ = std::fs::remove_dir_all(&temporary);
    result.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_segments_and_few_bytes_sent_twice() {
        let (mut segments, mut len, mut sent, mut most): (Vec<Segment>, u64, u64, usize) =
            (Vec::new(), 0, 0, 0);
        for round in 0..10_000 {
            len += 500 + round % 37;
            let (kept, start) = plan(&segments, len).expect("something new");
            segments.truncate(kept);
            sent += len - start;
            segments.push(Segment { size: len - start, ..Segment::default() });
            most = most.max(segments.len());
            assert_eq!(segments.iter().map(|segment| segment.size).sum::<u64>(), len);
        }
        assert!(most <= 16 && sent < 16 * len, "{most} segments, {sent} bytes sent of {len}");
        assert_eq!(plan(&segments, len), None);
    }
}
