//! The definition on any processor, as tiles of packed panels. The method is that of BLIS: Van Zee and van de Geijn,
//! "BLIS: A Framework for Rapidly Instantiating BLAS Functionality" (2015).

mod fused;
mod pack;
mod panel;
mod plain;
mod tile;

use super::definition::SLICE;
use crate::matmul::matrix::Accumulate;
use crate::matmul::problem::Problem;
use panel::{COLS, LhsLayout, Panel, ROWS, Tile};
use std::cell::RefCell;

/// Columns that are packed at a time.
const COLS_AT_A_TIME: usize = 4096;

/// A thread's packed panels, with the smallest magnitude in each.
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
    fn pack_lhs(&mut self, slice: &Problem<'_>, layout: LhsLayout) {
        let (height, len) = (layout.panel_rows(), slice.lhs.cols);
        let panels = slice.rows.div_ceil(height);
        grow(&mut self.lhs, panels * height * SLICE);
        self.lhs_least.resize(panels, 0);
        let panels = self.lhs.chunks_exact_mut(height * SLICE).zip(&mut self.lhs_least);
        for (index, (panel, least)) in panels.enumerate() {
            let row = index * height;
            *least = pack::pack_lhs(panel, layout, &slice.lhs, row, height.min(slice.rows - row), len);
        }
    }

    /// Packs some columns of a slice.
    fn pack_rhs(&mut self, slice: &Problem<'_>, first: usize, cols: usize) {
        let panels = cols.div_ceil(COLS);
        grow(&mut self.rhs, panels * COLS * SLICE);
        self.rhs_least.resize(panels, 0);
        let panels = self.rhs.chunks_exact_mut(COLS * SLICE).zip(&mut self.rhs_least);
        for (index, (panel, least)) in panels.enumerate() {
            let col = index * COLS;
            *least = pack::pack_rhs(panel, &slice.rhs, first + col, COLS.min(cols - col), slice.rhs.rows);
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

/// Computes one slice of the inner dimension.
///
/// # Safety
/// Nothing else accesses the result during the call.
pub(super) unsafe fn run(slice: &Problem<'_>, accumulate: Accumulate<'_>) {
    let layout = LhsLayout::from_problem(slice);
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
                        // SAFETY: the caller guarantees that nothing else accesses the result.
                        let out = unsafe { slice.out_row(row + index) };
                        accumulate.at_col(col).store(&mut out[col..col + width], sums);
                    }
                }
            }
        }
    });
}
