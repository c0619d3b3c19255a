//! Parts of ranges that were announced: several are fetched at a time, a little ahead of the reader.

use crate::upload::AT_ONCE;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;

/// Announced ranges, and the parts of them that are here.
#[derive(Debug)]
pub(crate) struct Ahead {
    part_bytes: u64,
    announced: Vec<Announced>,
    /// Parts by their offsets.
    parts: BTreeMap<u64, Bytes>,
}

#[derive(Debug)]
struct Announced {
    range: Range<u64>,
    /// Where the parts that were fetched last end.
    next: u64,
}

impl Ahead {
    pub(crate) fn new(part_bytes: u64) -> Ahead {
        Ahead { part_bytes, announced: Vec::new(), parts: BTreeMap::new() }
    }

    pub(crate) fn announce(&mut self, range: Range<u64>) {
        self.announced.push(Announced { next: range.start, range });
    }

    /// Copies what is here of the bytes from `offset` on. Gives their number.
    pub(crate) fn copy(&self, out: &mut [u8], offset: u64) -> usize {
        let Some((start, part)) = self.parts.range(..=offset).next_back() else { return 0 };
        let part = part.get((offset - start) as usize..).unwrap_or_default();
        let len = part.len().min(out.len());
        out[..len].copy_from_slice(&part[..len]);
        len
    }

    /// The parts to fetch for a reader of `len` bytes at `offset`. None if they were not announced, or if the reader only
    /// takes a look at a place further on.
    pub(crate) fn wanted(&mut self, offset: u64, len: u64, look: u64) -> Option<Vec<Range<u64>>> {
        let part_bytes = self.part_bytes;
        let found = self.announced.iter_mut().find(|announced| announced.range.contains(&offset))?;
        let is_next = (found.next..found.next.saturating_add(part_bytes)).contains(&offset);
        if len < look && !is_next {
            return None;
        }
        let Range { start, end } = found.range;
        let first = start + (offset - start) / part_bytes * part_bytes;
        let starts = (0..AT_ONCE as u64).map(|nth| first + nth * part_bytes).filter(|start| *start < end);
        let wanted: Vec<Range<u64>> = starts.map(|start| start..end.min(start + part_bytes)).collect();
        found.next = wanted.last().map_or(end, |last| last.end);
        Some(wanted)
    }

    #[cfg(test)]
    pub(crate) fn len_bytes(&self) -> u64 {
        self.parts.values().map(|part| part.len() as u64).sum()
    }

    /// Takes parts that were fetched. Of the others, only the one before them is kept: another thread may still read it.
    pub(crate) fn insert(&mut self, parts: impl IntoIterator<Item = (u64, Bytes)>) {
        let parts: BTreeMap<u64, Bytes> = parts.into_iter().collect();
        let first = parts.keys().next().copied().unwrap_or(0);
        let part_bytes = self.part_bytes;
        self.parts.retain(|start, _| *start < first && start + part_bytes >= first);
        self.parts.extend(parts);
    }
}
