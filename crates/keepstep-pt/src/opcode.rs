//! The opcodes of pickle protocol 2 (Python's `pickletools`), and those that only older or newer writers use.

use crate::bytes::Bytes;
use crate::error::Flaw;

pub(crate) const MARK: u8 = b'(';
pub(crate) const STOP: u8 = b'.';
pub(crate) const POP: u8 = b'0';
pub(crate) const POP_MARK: u8 = b'1';
pub(crate) const DUP: u8 = b'2';
pub(crate) const BINFLOAT: u8 = b'G';
pub(crate) const BININT: u8 = b'J';
pub(crate) const BININT1: u8 = b'K';
pub(crate) const BININT2: u8 = b'M';
pub(crate) const NONE: u8 = b'N';
pub(crate) const BINPERSID: u8 = b'Q';
pub(crate) const REDUCE: u8 = b'R';
pub(crate) const BINUNICODE: u8 = b'X';
pub(crate) const APPEND: u8 = b'a';
pub(crate) const BUILD: u8 = b'b';
pub(crate) const GLOBAL: u8 = b'c';
pub(crate) const APPENDS: u8 = b'e';
pub(crate) const BINGET: u8 = b'h';
pub(crate) const LONG_BINGET: u8 = b'j';
pub(crate) const LIST: u8 = b'l';
pub(crate) const EMPTY_LIST: u8 = b']';
pub(crate) const DICT: u8 = b'd';
pub(crate) const BINPUT: u8 = b'q';
pub(crate) const LONG_BINPUT: u8 = b'r';
pub(crate) const SETITEM: u8 = b's';
pub(crate) const TUPLE: u8 = b't';
pub(crate) const EMPTY_TUPLE: u8 = b')';
pub(crate) const SETITEMS: u8 = b'u';
pub(crate) const EMPTY_DICT: u8 = b'}';
pub(crate) const PROTO: u8 = 0x80;
pub(crate) const NEWOBJ: u8 = 0x81;
pub(crate) const TUPLE1: u8 = 0x85;
pub(crate) const TUPLE2: u8 = 0x86;
pub(crate) const TUPLE3: u8 = 0x87;
pub(crate) const NEWTRUE: u8 = 0x88;
pub(crate) const NEWFALSE: u8 = 0x89;
pub(crate) const LONG1: u8 = 0x8a;
pub(crate) const SHORT_BINSTRING: u8 = b'U';
pub(crate) const BINSTRING: u8 = b'T';

/// Where the pickle that begins at `start` ends. Only the opcodes' lengths are looked at, and little is kept in memory:
/// the parser judges whether the opcodes make sense. An opcode that it refuses counts as the end.
pub(crate) fn end_of_pickle(bytes: &Bytes, start: u64) -> Result<u64, Flaw> {
    let mut walk = Walk { bytes, at: start, window: Vec::new(), window_start: start };
    loop {
        match walk.next()? {
            PROTO | BININT1 | BINPUT | BINGET => walk.skip(1),
            BININT2 => walk.skip(2),
            BININT | LONG_BINPUT | LONG_BINGET => walk.skip(4),
            BINFLOAT => walk.skip(8),
            LONG1 | SHORT_BINSTRING => {
                let len = walk.next()?;
                walk.skip(len.into());
            }
            BINUNICODE => {
                let len = [walk.next()?, walk.next()?, walk.next()?, walk.next()?];
                walk.skip(u32::from_le_bytes(len).into());
            }
            GLOBAL => {
                for _ in 0..2 {
                    while walk.next()? != b'\n' {}
                }
            }
            NONE | NEWTRUE | NEWFALSE | MARK | REDUCE | BUILD | BINPERSID => {}
            EMPTY_LIST | EMPTY_TUPLE | EMPTY_DICT | TUPLE | TUPLE1 | TUPLE2 | TUPLE3 => {}
            APPEND | APPENDS | SETITEM | SETITEMS => {}
            // STOP among them.
            _ => return Ok(walk.at),
        }
    }
}

/// Bytes one after the other, read in larger parts.
struct Walk<'a> {
    bytes: &'a Bytes,
    at: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl Walk<'_> {
    const WINDOW: u64 = 1 << 16;

    fn next(&mut self) -> Result<u8, Flaw> {
        let inside = (self.at - self.window_start) as usize;
        let byte = match self.window.get(inside) {
            Some(&byte) => byte,
            None => {
                let len = self.bytes.len.saturating_sub(self.at).clamp(1, Walk::WINDOW);
                self.window.resize(len as usize, 0);
                self.bytes.read_exact_at(&mut self.window, self.at)?;
                self.window_start = self.at;
                self.window[0]
            }
        };
        self.at += 1;
        Ok(byte)
    }

    /// What lies beyond the end is noticed by the next `next`.
    fn skip(&mut self, len: u64) {
        self.at += len;
    }
}
