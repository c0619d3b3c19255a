//! Memory in whole cache lines, as kernels read it best.

/// Numbers of a line.
const NUMBERS: usize = 16;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; NUMBERS]);

/// Numbers of four bytes each.
#[derive(Debug, Default)]
pub struct Lines(Vec<Line>);

impl Lines {
    /// No room yet.
    pub const fn new() -> Lines {
        Lines(Vec::new())
    }

    /// Makes room for this many, once.
    pub fn grow(&mut self, len: usize) {
        let lines = len.div_ceil(NUMBERS);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; NUMBERS]));
        }
    }

    /// How many numbers there is room for.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "it is a size, not a collection")]
    pub fn len(&self) -> usize {
        self.0.len() * NUMBERS
    }

    /// Where the first number lies, 64-byte aligned.
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }
}
