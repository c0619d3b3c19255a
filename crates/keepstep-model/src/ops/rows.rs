//! Divides the rows of a micro-batch among threads, and lends threads their buffers.

use rayon::prelude::*;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The number of rows whose column sums are made separately before they are added to the rest. Part of the numerics.
/// Tasks take whole blocks.
pub(crate) const BLOCK: usize = 64;

/// A mutable buffer of rows that several tasks use at once. Invariant: while a task has a mutable slice, no other task
/// has any element of that slice.
#[derive(Debug)]
pub(crate) struct DisjointRows<'a, T> {
    data: *mut T,
    len: usize,
    cols: usize,
    borrow: PhantomData<&'a mut [T]>,
}

impl<T> Clone for DisjointRows<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DisjointRows<'_, T> {}

// SAFETY: the buffer only gives out slices. By the contracts of its methods, no element is in two tasks while one of
// them may change it. Moving such slices between threads needs only `T: Send`.
unsafe impl<T: Send> Send for DisjointRows<'_, T> {}
// SAFETY: a shared reference gives out the same slices as an owned value, under the same contracts.
unsafe impl<T: Send> Sync for DisjointRows<'_, T> {}

impl<'a, T> DisjointRows<'a, T> {
    pub(crate) fn new(data: &'a mut [T], cols: usize) -> DisjointRows<'a, T> {
        DisjointRows { data: data.as_mut_ptr(), len: data.len(), cols, borrow: PhantomData }
    }

    /// Returns mutable rows.
    ///
    /// # Safety
    /// No other task uses any of these rows while the slice lives.
    ///
    /// # Panics
    /// If the buffer has fewer rows.
    pub(crate) unsafe fn rows(&self, rows: Range<usize>) -> &'a mut [T] {
        // SAFETY: by this method's contract, no other task uses these rows.
        unsafe { self.elements(rows.start * self.cols..rows.end * self.cols) }
    }

    /// Returns rows to read.
    ///
    /// # Safety
    /// No task changes any of these rows while the slice lives.
    ///
    /// # Panics
    /// If the buffer has fewer rows.
    pub(crate) unsafe fn read(&self, rows: Range<usize>) -> &'a [T] {
        let range = rows.start * self.cols..rows.end * self.cols;
        assert!(range.start <= range.end && range.end <= self.len, "rows of the buffer");
        // SAFETY: the range lies within the buffer, which is borrowed for `'a`. By this method's contract, no task
        // changes these rows.
        unsafe { std::slice::from_raw_parts(self.data.add(range.start), range.len()) }
    }

    /// Returns mutable columns of one row.
    ///
    /// # Safety
    /// No other task uses any of these elements while the slice lives.
    ///
    /// # Panics
    /// If the buffer has fewer rows or fewer columns.
    pub(crate) unsafe fn part(&self, row: usize, cols: Range<usize>) -> &'a mut [T] {
        assert!(cols.end <= self.cols, "a part of the row");
        // SAFETY: by this method's contract, no other task uses these elements.
        unsafe { self.elements(row * self.cols + cols.start..row * self.cols + cols.end) }
    }

    /// # Safety
    /// No other task uses any of these elements while the slice lives.
    unsafe fn elements(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "rows of the buffer");
        // SAFETY: the range lies within the buffer, which is borrowed for `'a`. By this method's contract, no other
        // task uses these elements.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

/// Calls `task` on all threads with disjoint ranges that cover `0..rows`. Each begins at a multiple of [`BLOCK`].
pub(crate) fn for_each_range(rows: usize, task: impl Fn(Range<usize>) + Sync) {
    let len = task_rows(rows, rayon::current_num_threads());
    let tasks = rows.div_ceil(len);
    let run = |index: usize| task(index * len..rows.min((index + 1) * len));
    if tasks == 1 {
        run(0);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(run);
    }
}

/// Calls `work` with each of `jobs` on all threads. The threads take jobs in this order.
pub(crate) fn for_each_in_order<T: Send>(jobs: Vec<T>, work: impl Fn(T) + Sync) {
    let workers = rayon::current_num_threads().min(jobs.len());
    let jobs = Mutex::new(jobs.into_iter());
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    (0..workers).into_par_iter().with_max_len(1).for_each(|_| {
        while let Some(job) = next() {
            work(job);
        }
    });
}

/// The number of rows in a task: few enough to stay in the caches, enough to make reading the packed weights
/// negligible, and chosen to give every thread the same number of tasks.
pub(crate) fn task_rows(rows: usize, threads: usize) -> usize {
    const ROWS: usize = 4 * BLOCK;
    let rounds = (rows + threads * ROWS / 2) / (threads * ROWS);
    rows.div_ceil(threads * rounds.max(1)).next_multiple_of(BLOCK)
}

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Lends one of the thread's buffers, of `len` elements with arbitrary values.
pub(crate) fn with_buffer<R>(len: usize, with: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    let result = with(&mut buffer[..len]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_cover_all_rows_once() {
        for (rows, threads) in [(1, 1), (64, 2), (65, 2), (768, 2), (768, 16), (4096, 2), (5000, 3)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let mut counts = vec![0_u32; rows];
            let shared = DisjointRows::new(&mut counts, 1);
            pool.install(|| {
                for_each_range(rows, |range| {
                    assert!(range.start.is_multiple_of(BLOCK) && !range.is_empty());
                    // SAFETY: `for_each_range` promises disjoint ranges, which the assertion below confirms.
                    unsafe { shared.rows(range) }.iter_mut().for_each(|count| *count += 1);
                });
            });
            assert!(counts.iter().all(|&count| count == 1), "{rows} rows, {threads} threads");
        }
    }
}
