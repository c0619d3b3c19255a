//! The definition on any processor, as tiles of packed panels (the way of BLIS: Van Zee and van de Geijn, "BLIS: A Framework
//! for Rapidly Instantiating BLAS Functionality", 2015).

#[cfg(target_arch = "x86_64")]
mod avx2;
mod pack;
mod tile;

use super::SLICE;
use crate::matmul::{Into, Task};
use std::cell::RefCell;
use tile::{COLS, Panel, ROWS, Tile};

/// Columns that are packed at a time.
const COLS_AT_A_TIME: usize = 4096;

/// How the left matrix's panels are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LhsLayout {
    /// Rows of a whole slice each, one after the other.
    Rows,
    /// The rows' members side by side.
    Columns,
    /// A panel is a single row.
    Single,
}

impl LhsLayout {
    fn of(task: &Task<'_>) -> LhsLayout {
        match task.lhs.col_stride {
            _ if task.rows <= ROWS / 3 => LhsLayout::Single,
            1 => LhsLayout::Rows,
            _ => LhsLayout::Columns,
        }
    }

    fn panel_rows(self) -> usize {
        if self == LhsLayout::Single { 1 } else { ROWS }
    }
}

/// A thread's packed panels, and the smallest magnitudes in each.
struct Scratch {
    lhs: Vec<f32>,
    lhs_least: Vec<u32>,
    rhs: Vec<f32>,
    rhs_least: Vec<u32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch { lhs: Vec::new(), lhs_least: Vec::new(), rhs: Vec::new(), rhs_least: Vec::new() })
    };
}

impl Scratch {
    /// Packs a slice's rows.
    fn pack_lhs(&mut self, slice: &Task<'_>, layout: LhsLayout) {
        let (height, len) = (layout.panel_rows(), slice.lhs.cols);
        let panels = slice.rows.div_ceil(height);
        grow(&mut self.lhs, panels * height * SLICE);
        self.lhs_least.resize(panels, 0);
        let panels = self.lhs.chunks_exact_mut(height * SLICE).zip(&mut self.lhs_least);
        for (index, (panel, least)) in panels.enumerate() {
            let row = index * height;
            *least = tile::pack_lhs(panel, layout, &slice.lhs, row, height.min(slice.rows - row), len);
        }
    }

    /// Packs some columns of a slice.
    fn pack_rhs(&mut self, slice: &Task<'_>, first: usize, cols: usize) {
        let panels = cols.div_ceil(COLS);
        grow(&mut self.rhs, panels * COLS * SLICE);
        self.rhs_least.resize(panels, 0);
        let panels = self.rhs.chunks_exact_mut(COLS * SLICE).zip(&mut self.rhs_least);
        for (index, (panel, least)) in panels.enumerate() {
            let col = index * COLS;
            *least = tile::pack_rhs(panel, &slice.rhs, first + col, COLS.min(cols - col), slice.rhs.rows);
        }
    }

    fn lhs(&self, layout: LhsLayout, index: usize) -> Panel<'_> {
        let len = layout.panel_rows() * SLICE;
        Panel { factors: &self.lhs[index * len..][..len], least: self.lhs_least[index] }
    }

    fn rhs(&self, index: usize) -> Panel<'_> {
        Panel { factors: &self.rhs[index * COLS * SLICE..][..COLS * SLICE], least: self.rhs_least[index] }
    }
}

fn grow(panels: &mut Vec<f32>, len: usize) {
    if panels.len() < len {
        panels.resize(len, 0.0);
    }
}

/// One slice of the inner dimension.
///
/// # Safety
/// Nothing else touches the result's elements meanwhile.
pub(super) unsafe fn run(slice: &Task<'_>, into: Into<'_>) {
    let layout = LhsLayout::of(slice);
    let height = layout.panel_rows();
    let pairs = slice.lhs.cols.div_ceil(2);
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.pack_lhs(slice, layout);
        for first in (0..slice.cols).step_by(COLS_AT_A_TIME) {
            let cols = COLS_AT_A_TIME.min(slice.cols - first);
            scratch.pack_rhs(slice, first, cols);
            for (rhs, col) in (first..first + cols).step_by(COLS).enumerate() {
                let width = COLS.min(first + cols - col);
                for (lhs, row) in (0..slice.rows).step_by(height).enumerate() {
                    let mut sums: Tile = [[0.0; COLS]; ROWS];
                    tile::sums(&mut sums, layout, pairs, scratch.lhs(layout, lhs), scratch.rhs(rhs));
                    for (index, sums) in sums.iter().take(height.min(slice.rows - row)).enumerate() {
                        let start = (row + index) * slice.out_stride + col;
                        // SAFETY: a part of one row of the result.
                        let out = unsafe { std::slice::from_raw_parts_mut(slice.out.add(start), width) };
                        into.from(col).store(out, sums);
                    }
                }
            }
        }
    });
}
