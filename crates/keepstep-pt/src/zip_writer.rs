//! The archive around the entries: headers, padding, descriptors and directory as PyTorch's writer lays them out.

use crate::zip_reader::{
    ALIGNMENT, CENTRAL, DESCRIPTOR, END, FLAGS, HAS_DESCRIPTOR, LOCAL, LOCATOR, MAX32, ZIP64_END,
};

/// An entry with a known offset.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) size: u64,
    /// The offset of its local header.
    pub(crate) offset: u64,
}

impl Entry {
    fn is_large(&self) -> bool {
        self.size >= MAX32 || self.offset >= MAX32
    }

    fn zip64_extra(&self) -> Vec<u8> {
        let mut data = Vec::new();
        if self.size >= MAX32 {
            data.extend(self.size.to_le_bytes());
            data.extend(self.size.to_le_bytes());
        }
        if self.offset >= MAX32 {
            data.extend(self.offset.to_le_bytes());
        }
        let mut extra = vec![1, 0];
        extra.extend((data.len() as u16).to_le_bytes());
        extra.extend(data);
        extra
    }

    /// The local header with its name and extra fields; the payload that follows is aligned.
    pub(crate) fn local_header(&self) -> Vec<u8> {
        let mut extra = if self.is_large() { self.zip64_extra() } else { Vec::new() };
        let start = self.offset + 30 + self.name.len() as u64 + extra.len() as u64 + 4;
        let padding = start.next_multiple_of(ALIGNMENT) - start;
        extra.extend(b"FB");
        extra.extend((padding as u16).to_le_bytes());
        extra.resize(extra.len() + padding as usize, b'Z');
        let mut header = Vec::with_capacity(128);
        header.extend(LOCAL.to_le_bytes());
        header.extend(0_u16.to_le_bytes());
        header.extend(self.flags().to_le_bytes());
        // Method, time, date, CRC and sizes: the descriptor after the payload holds the real ones.
        header.extend([0; 18]);
        header.extend((self.name.len() as u16).to_le_bytes());
        header.extend((extra.len() as u16).to_le_bytes());
        header.extend(self.name.as_bytes());
        header.extend(extra);
        header
    }

    /// The flags of the entry. An empty entry has no descriptor and announces none.
    fn flags(&self) -> u16 {
        if self.size == 0 { FLAGS & !HAS_DESCRIPTOR } else { FLAGS }
    }

    pub(crate) fn descriptor(&self, crc: u32) -> Vec<u8> {
        if self.size == 0 {
            return Vec::new();
        }
        let mut descriptor = DESCRIPTOR.to_le_bytes().to_vec();
        descriptor.extend(crc.to_le_bytes());
        for _ in 0..2 {
            if self.size >= MAX32 {
                descriptor.extend(self.size.to_le_bytes());
            } else {
                descriptor.extend((self.size as u32).to_le_bytes());
            }
        }
        descriptor
    }

    /// Bytes from the local header to the end of the descriptor.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.local_header().len() as u64 + self.size + self.descriptor(0).len() as u64
    }

    fn central_header(&self, crc: u32) -> Vec<u8> {
        let extra = if self.is_large() { self.zip64_extra() } else { Vec::new() };
        let narrow = |value: u64| value.min(MAX32) as u32;
        let mut header = CENTRAL.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(self.flags().to_le_bytes());
        header.extend([0; 6]);
        header.extend(crc.to_le_bytes());
        header.extend(narrow(self.size).to_le_bytes());
        header.extend(narrow(self.size).to_le_bytes());
        header.extend((self.name.len() as u16).to_le_bytes());
        header.extend((extra.len() as u16).to_le_bytes());
        header.extend([0; 10]);
        header.extend(narrow(self.offset).to_le_bytes());
        header.extend(self.name.as_bytes());
        header.extend(extra);
        header
    }
}

/// Bytes of the directory and the end records.
pub(crate) fn directory_len(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.central_header(0).len() as u64).sum::<u64>() + 56 + 20 + 22
}

/// The directory and the end records, which begin at `start`.
pub(crate) fn directory(entries: &[Entry], crcs: &[u32], start: u64) -> Vec<u8> {
    let mut out: Vec<u8> =
        entries.iter().zip(crcs).flat_map(|(entry, &crc)| entry.central_header(crc)).collect();
    let (count, size) = (entries.len() as u64, out.len() as u64);
    let end = start + size;
    out.extend(ZIP64_END.to_le_bytes());
    out.extend(44_u64.to_le_bytes());
    out.extend(0x031e_u16.to_le_bytes());
    out.extend(45_u16.to_le_bytes());
    out.extend([0; 8]);
    for value in [count, count, size, start] {
        out.extend(value.to_le_bytes());
    }
    out.extend(LOCATOR.to_le_bytes());
    out.extend(0_u32.to_le_bytes());
    out.extend(end.to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    out.extend(END.to_le_bytes());
    out.extend([0; 4]);
    let count = count.min(0xffff) as u16;
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend((size.min(MAX32) as u32).to_le_bytes());
    out.extend((start.min(MAX32) as u32).to_le_bytes());
    out.extend([0; 2]);
    out
}
