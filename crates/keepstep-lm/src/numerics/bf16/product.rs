//! A product as tiles of packed panels (the way of BLIS: Van Zee and van de Geijn, "BLIS: A Framework for Rapidly
//! Instantiating BLAS Functionality", 2015). Tasks share out tiles, never a sum.

use super::SLICE;
use super::kernel::{Kernel, LhsLayout, MAX_COLS, MAX_ROWS, Tile, panel_len};
use crate::numerics::product::{Into, Matrix};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Fewer multiply-adds than this are not worth a second thread.
const SERIAL: usize = 1 << 16;
/// Columns that are packed at a time.
const COLS_AT_A_TIME: usize = 4096;
/// What the panels of one round may take, in elements: several slices are packed together where they fit.
const ROUND: usize = 1 << 21;
/// Rows of one task, roughly: what their panels take stays in a core's own cache while the columns' panels pass.
const TASK_ROWS: usize = 96;

/// See [`super::product`].
///
/// # Safety
/// The target has the product's rows and columns, and nothing else touches them meanwhile.
pub(super) unsafe fn product<K: Kernel>(
    threads: usize,
    target: &Target,
    into: Into<'_>,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    let (rows, cols) = (lhs.rows, rhs.cols);
    if rows == 0 || cols == 0 {
        return;
    }
    if lhs.cols == 0 {
        for row in 0..rows {
            // SAFETY: a row of the target.
            let out =
                unsafe { std::slice::from_raw_parts_mut(target.out.add(row * target.row_stride), cols) };
            match into {
                Into::Replace => out.fill(0.0),
                Into::Add => {}
                Into::Bias(bias) => out.copy_from_slice(&bias[..cols]),
            }
        }
        return;
    }
    let layout = match lhs.col_stride {
        _ if rows <= K::ROWS / 3 => LhsLayout::Single,
        1 => LhsLayout::Rows,
        _ => LhsLayout::Columns,
    };
    let threads = if rows * cols * lhs.cols < SERIAL { 1 } else { threads };
    let slices = lhs.cols.div_ceil(SLICE);
    for first_col in (0..cols).step_by(COLS_AT_A_TIME) {
        let cols = COLS_AT_A_TIME.min(cols - first_col);
        let mut part =
            Part { layout, lhs: &lhs, rhs: &rhs, first_col, cols, first_slice: 0, slices: 1, threads };
        let at_a_time = (ROUND / part.slice_len::<K>()).clamp(1, slices);
        for first_slice in (0..slices).step_by(at_a_time) {
            part.first_slice = first_slice;
            part.slices = at_a_time.min(slices - first_slice);
            SCRATCH.with(|scratch| {
                // A thread that waits may take up another product meanwhile: that one finds the place empty.
                let mut taken = scratch.take();
                let panels = part.pack::<K>(&mut taken);
                // SAFETY: handed on.
                unsafe { part.multiply::<K>(&panels, target, into) };
                scratch.replace(taken);
            });
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch { elements: Vec::new(), least: Vec::new() }) };
}

/// Memory for panels, kept between products.
#[derive(Default)]
struct Scratch {
    /// Of any kernel's elements; aligned for pairs of them.
    elements: Vec<u32>,
    least: Vec<u32>,
}

/// Packed panels, slice by slice, and what the kernel wants to know of each.
struct Panels<'a, E> {
    lhs: &'a [E],
    lhs_least: &'a [u32],
    rhs: &'a [E],
    rhs_least: &'a [u32],
}

/// Where results go.
pub(super) struct Target {
    pub(super) out: *mut f32,
    pub(super) row_stride: usize,
}

// SAFETY: tasks that run at the same time write to disjoint tiles.
unsafe impl Sync for Target {}

/// A product, or some columns and some slices of it.
struct Part<'a> {
    layout: LhsLayout,
    lhs: &'a Matrix<'a>,
    rhs: &'a Matrix<'a>,
    first_col: usize,
    cols: usize,
    first_slice: usize,
    slices: usize,
    threads: usize,
}

impl Part<'_> {
    fn panel_rows<K: Kernel>(&self) -> usize {
        if self.layout == LhsLayout::Single { 1 } else { K::ROWS }
    }

    fn row_panels<K: Kernel>(&self) -> usize {
        self.lhs.rows.div_ceil(self.panel_rows::<K>())
    }

    fn col_panels<K: Kernel>(&self) -> usize {
        self.cols.div_ceil(K::COLS)
    }

    /// Elements of one slice's panels.
    fn slice_len<K: Kernel>(&self) -> usize {
        self.row_panels::<K>() * panel_len(self.panel_rows::<K>())
            + self.col_panels::<K>() * panel_len(K::COLS)
    }

    /// The first number of the inner dimension in one of the part's slices, and how many there are.
    fn slice(&self, index: usize) -> (usize, usize) {
        let start = (self.first_slice + index) * SLICE;
        (start, SLICE.min(self.lhs.cols - start))
    }

    fn pack<'a, K: Kernel>(&self, scratch: &'a mut Scratch) -> Panels<'a, K::Element> {
        let (panel_rows, row_panels, col_panels) =
            (self.panel_rows::<K>(), self.row_panels::<K>(), self.col_panels::<K>());
        let bytes = self.slices * self.slice_len::<K>() * size_of::<K::Element>();
        let words = bytes.div_ceil(size_of::<u32>());
        if scratch.elements.len() < words {
            scratch.elements = vec![0; words];
        }
        scratch.least.resize(self.slices * (row_panels + col_panels), 0);
        let elements: &mut [K::Element] = bytemuck::cast_slice_mut(&mut scratch.elements);
        let (lhs, rest) = elements.split_at_mut(self.slices * row_panels * panel_len(panel_rows));
        let rhs = &mut rest[..self.slices * col_panels * panel_len(K::COLS)];
        let (lhs_least, rhs_least) = scratch.least.split_at_mut(self.slices * row_panels);

        let pack_lhs = |(index, (panel, least)): (usize, (&mut [K::Element], &mut u32))| {
            let (start, len) = self.slice(index / row_panels);
            let row = index % row_panels * panel_rows;
            let rows = panel_rows.min(self.lhs.rows - row);
            *least = K::pack_lhs(panel, self.layout, self.lhs, row, rows, start, len);
        };
        let pack_rhs = |(index, (panel, least)): (usize, (&mut [K::Element], &mut u32))| {
            let (start, len) = self.slice(index / col_panels);
            let col = index % col_panels * K::COLS;
            let cols = K::COLS.min(self.cols - col);
            *least = K::pack_rhs(panel, self.rhs, self.first_col + col, cols, start, len);
        };
        if self.threads == 1 {
            lhs.chunks_mut(panel_len(panel_rows)).zip(&mut *lhs_least).enumerate().for_each(pack_lhs);
            rhs.chunks_mut(panel_len(K::COLS)).zip(&mut *rhs_least).enumerate().for_each(pack_rhs);
        } else {
            let lhs = lhs.par_chunks_mut(panel_len(panel_rows)).zip(&mut *lhs_least);
            let rhs = rhs.par_chunks_mut(panel_len(K::COLS)).zip(&mut *rhs_least);
            rayon::join(|| lhs.enumerate().for_each(pack_lhs), || rhs.enumerate().for_each(pack_rhs));
        }
        Panels { lhs, lhs_least, rhs, rhs_least }
    }

    /// Adds the panels' products to the target, or replaces what is there by them.
    ///
    /// # Safety
    /// The target has the product's rows and columns, and nothing else touches them meanwhile.
    unsafe fn multiply<K: Kernel>(&self, panels: &Panels<'_, K::Element>, target: &Target, into: Into<'_>) {
        let (row_panels, col_panels) = (self.row_panels::<K>(), self.col_panels::<K>());
        let rows_each = (TASK_ROWS / self.panel_rows::<K>()).min(row_panels);
        let row_tasks = row_panels.div_ceil(rows_each);
        // Columns are shared out as well where rows alone would leave a thread idle.
        let wanted = if self.threads == 1 { 1 } else { (4 * self.threads).div_ceil(row_tasks) };
        let cols_each = col_panels.div_ceil(wanted.min(col_panels));
        let col_tasks = col_panels.div_ceil(cols_each);
        let task = |index: usize| {
            let (row, col) = (index / col_tasks * rows_each, index % col_tasks * cols_each);
            let rows = row..row_panels.min(row + rows_each);
            let cols = col..col_panels.min(col + cols_each);
            // SAFETY: handed on; no other task has these tiles.
            unsafe { self.task::<K>(panels, target, into, rows, cols) };
        };
        if self.threads == 1 {
            (0..row_tasks * col_tasks).for_each(task);
        } else {
            (0..row_tasks * col_tasks).into_par_iter().for_each(task);
        }
    }

    /// The tiles of some panels, slice by slice.
    ///
    /// # Safety
    /// As [`Part::multiply`].
    unsafe fn task<K: Kernel>(
        &self,
        panels: &Panels<'_, K::Element>,
        target: &Target,
        into: Into<'_>,
        row_panels: Range<usize>,
        col_panels: Range<usize>,
    ) {
        let panel_rows = self.panel_rows::<K>();
        let (lhs_len, rhs_len) = (panel_len(panel_rows), panel_len(K::COLS));
        let mut tile: Tile = [[0.0; MAX_COLS]; MAX_ROWS];
        for slice in 0..self.slices {
            let pairs = self.slice(slice).1.div_ceil(2);
            let into = if self.first_slice + slice > 0 { Into::Add } else { into };
            for col_panel in col_panels.clone() {
                let index = slice * self.col_panels::<K>() + col_panel;
                let rhs = (&panels.rhs[index * rhs_len..][..rhs_len], panels.rhs_least[index]);
                let col = col_panel * K::COLS;
                let cols = K::COLS.min(self.cols - col);
                for row_panel in row_panels.clone() {
                    let index = slice * self.row_panels::<K>() + row_panel;
                    let lhs = (&panels.lhs[index * lhs_len..][..lhs_len], panels.lhs_least[index]);
                    K::tile(&mut tile, self.layout, pairs, lhs, rhs);
                    let row = row_panel * panel_rows;
                    for (index, sums) in tile.iter().take(panel_rows.min(self.lhs.rows - row)).enumerate() {
                        let start = (row + index) * target.row_stride + self.first_col + col;
                        // SAFETY: a part of one row of the target.
                        let out = unsafe { std::slice::from_raw_parts_mut(target.out.add(start), cols) };
                        store(out, into, &sums[..cols], self.first_col + col);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn store(out: &mut [f32], into: Into<'_>, sums: &[f32], first_col: usize) {
    match into {
        Into::Replace => out.copy_from_slice(sums),
        Into::Add => out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum),
        Into::Bias(bias) => {
            for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&bias[first_col..]) {
                *out = bias + sum;
            }
        }
    }
}
