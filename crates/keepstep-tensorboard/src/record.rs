//! TFRecords: how event files frame their messages.
//!
//! A record is the length as a little-endian u64, the masked CRC-32C of those 8 bytes, the message, and its masked
//! CRC-32C (TensorFlow, `tensorflow/core/lib/io/record_writer.h`).

/// Bytes before the message.
pub(super) const HEADER_BYTES: usize = 12;

/// Bytes after the message.
pub(super) const FOOTER_BYTES: usize = 4;

/// Castagnoli's polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The record of a message.
pub(super) fn record(message: &[u8]) -> Vec<u8> {
    let len = (message.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(HEADER_BYTES + message.len() + FOOTER_BYTES);
    record.extend_from_slice(&len);
    record.extend_from_slice(&masked(&len).to_le_bytes());
    record.extend_from_slice(message);
    record.extend_from_slice(&masked(message).to_le_bytes());
    record
}

/// The length of the message that a record's first [`HEADER_BYTES`] announce; None where they are no header.
pub(super) fn message_len(header: &[u8; HEADER_BYTES]) -> Option<usize> {
    let (len, crc) = header.split_at(8);
    if masked(len).to_le_bytes() != crc {
        return None;
    }
    usize::try_from(u64::from_le_bytes(len.try_into().ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4.
    #[test]
    fn the_checksum_is_castagnoli_s() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn headers_are_checked() {
        let record = record(b"message");
        let mut header: [u8; HEADER_BYTES] = record[..HEADER_BYTES].try_into().expect("a header");
        assert_eq!(message_len(&header), Some(7));
        header[0] ^= 1;
        assert_eq!(message_len(&header), None);
    }
}
