//! Divides the rows of a micro-batch among threads, and lends threads their buffers.

use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Mutex, PoisonError};

/// The number of rows whose column sums are made separately before they are added to the rest. Part of the numerics.
/// Tasks take whole blocks.
pub(crate) const BLOCK: usize = 64;

/// A buffer with `cols` elements for each row of a micro-batch, or for each block of rows.
#[derive(Debug)]
pub(crate) struct RowBuffer<T> {
    values: Vec<T>,
    cols: usize,
    /// The number of rows that share `cols` elements.
    height: usize,
}

impl<T: Clone> RowBuffer<T> {
    /// Creates a buffer with `cols` elements a row.
    pub(crate) fn new(rows: usize, cols: usize, value: T) -> RowBuffer<T> {
        RowBuffer { values: vec![value; rows * cols], cols, height: 1 }
    }

    /// Creates a buffer with `cols` elements for each [`BLOCK`] of rows.
    pub(crate) fn by_block(rows: usize, cols: usize, value: T) -> RowBuffer<T> {
        RowBuffer { values: vec![value; rows.div_ceil(BLOCK) * cols], cols, height: BLOCK }
    }
}

impl<T> RowBuffer<T> {
    /// Returns the elements of some rows.
    pub(crate) fn rows(&self, rows: &Range<usize>) -> &[T] {
        &self.values[rows.start / self.height * self.cols..rows.end.div_ceil(self.height) * self.cols]
    }

    /// Returns the elements of the first rows.
    pub(crate) fn first(&self, rows: usize) -> &[T] {
        self.rows(&(0..rows))
    }

    /// Returns the elements of the first rows, to write.
    pub(crate) fn first_mut(&mut self, rows: usize) -> &mut [T] {
        &mut self.values[..rows.div_ceil(self.height) * self.cols]
    }

    /// Returns all rows, to divide among tasks.
    pub(crate) fn all_mut(&mut self) -> RowsMut<'_, T> {
        RowsMut { values: &mut self.values, cols: self.cols, height: self.height }
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        size_of_val(&self.values[..])
    }
}

/// Rows to write: a slice of their elements that can be divided between two rows.
#[derive(Debug)]
pub(crate) struct RowsMut<'a, T> {
    values: &'a mut [T],
    cols: usize,
    /// The number of rows that share `cols` elements.
    height: usize,
}

impl<'a, T> RowsMut<'a, T> {
    /// Wraps a slice with `cols` elements a row.
    pub(crate) fn new(values: &'a mut [T], cols: usize) -> RowsMut<'a, T> {
        RowsMut { values, cols, height: 1 }
    }
}

impl<T> Deref for RowsMut<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.values
    }
}

impl<T> DerefMut for RowsMut<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.values
    }
}

/// What tasks are handed: something that can be divided between two rows.
pub(crate) trait SplitRows: Sized {
    /// The number of rows that cannot be divided: ranges begin at multiples of it.
    fn unit(&self) -> usize;

    /// Splits into the rows before `row` and the others. `row` is a multiple of the unit, or the number of all rows.
    fn split_rows(self, row: usize) -> (Self, Self);
}

impl<T> SplitRows for RowsMut<'_, T> {
    fn unit(&self) -> usize {
        self.height
    }

    fn split_rows(self, row: usize) -> (Self, Self) {
        let RowsMut { values, cols, height } = self;
        let (before, after) = values.split_at_mut(row.div_ceil(height) * cols);
        (RowsMut { values: before, cols, height }, RowsMut { values: after, cols, height })
    }
}

macro_rules! split_rows_of_tuple {
    ($($part:ident)*) => {
        impl<$($part: SplitRows),*> SplitRows for ($($part,)*) {
            #[expect(non_snake_case, reason = "a value has the name of its type")]
            fn unit(&self) -> usize {
                let ($($part,)*) = self;
                [$($part.unit()),*].into_iter().fold(1, usize::max)
            }

            #[expect(non_snake_case, reason = "a value has the name of its type")]
            fn split_rows(self, row: usize) -> (Self, Self) {
                let ($($part,)*) = self;
                $(let $part = $part.split_rows(row);)*
                (($($part.0,)*), ($($part.1,)*))
            }
        }
    };
}

split_rows_of_tuple! { A B }
split_rows_of_tuple! { A B C D E }

/// Declares buffers that are divided together: the struct that owns them, and the rows of them that a task is handed.
macro_rules! row_buffers {
    ($(#[$doc:meta])* $owner:ident, $part:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        pub(crate) struct $owner {
            $($(#[$field_doc])* pub(crate) $field: $crate::ops::rows::RowBuffer<$type>,)*
        }

        #[doc = concat!("Rows of [`", stringify!($owner), "`], to write.")]
        pub(crate) struct $part<'a> {
            $($(#[$field_doc])* pub(crate) $field: $crate::ops::rows::RowsMut<'a, $type>,)*
        }

        impl $owner {
            /// Returns all rows, to divide among tasks.
            pub(crate) fn all_mut(&mut self) -> $part<'_> {
                $part { $($field: self.$field.all_mut(),)* }
            }

            #[cfg(test)]
            pub(crate) fn held(&self) -> usize {
                [$(self.$field.held()),*].iter().sum()
            }
        }

        impl $crate::ops::rows::SplitRows for $part<'_> {
            fn unit(&self) -> usize {
                [$(self.$field.unit()),*].into_iter().fold(1, usize::max)
            }

            fn split_rows(self, row: usize) -> (Self, Self) {
                $(let $field = self.$field.split_rows(row);)*
                ($part { $($field: $field.0,)* }, $part { $($field: $field.1,)* })
            }
        }
    };
}
pub(crate) use row_buffers;

/// Divides the first `rows` rows of `all` into ranges that begin at multiples of their unit, and calls `task` with each
/// range and its rows on all threads.
///
/// # Panics
/// If `all` has fewer rows.
pub(crate) fn for_each_part<P: SplitRows + Send>(rows: usize, all: P, task: impl Fn(Range<usize>, P) + Sync) {
    let len = task_rows(rows, rayon::current_num_threads(), all.unit());
    let mut parts = Vec::with_capacity(rows.div_ceil(len));
    let mut rest = all;
    for start in (0..rows).step_by(len) {
        let end = rows.min(start + len);
        let (part, later) = rest.split_rows(end - start);
        parts.push((start..end, part));
        rest = later;
    }
    if parts.len() == 1 {
        parts.into_iter().for_each(|(range, part)| task(range, part));
    } else {
        parts.into_par_iter().with_max_len(1).for_each(|(range, part)| task(range, part));
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
pub(crate) fn task_rows(rows: usize, threads: usize, unit: usize) -> usize {
    const ROWS: usize = 4 * BLOCK;
    /// Whole tiles of most matmul kernels.
    const SHORT: usize = 24;
    let rounds = (rows + threads * ROWS / 2) / (threads * ROWS);
    let len = rows.div_ceil(threads * rounds.max(1));
    // Few rows for many threads: in whole blocks, some threads would have none.
    len.next_multiple_of(if len < ROWS { SHORT.next_multiple_of(unit) } else { BLOCK })
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
    fn every_thread_has_rows_if_there_are_enough() {
        for threads in [1, 2, 4, 8, 16] {
            for rows in [768, 4096_usize] {
                assert!(
                    rows.div_ceil(task_rows(rows, threads, 1)).is_multiple_of(threads),
                    "{rows}, {threads}"
                );
            }
        }
        assert_eq!(task_rows(768, 16, BLOCK), BLOCK);
        assert_eq!(task_rows(1, 2, 1), 24);
    }

    #[test]
    fn each_task_has_its_rows_and_their_block() {
        for (rows, threads) in [(1, 1), (64, 2), (65, 2), (768, 2), (768, 16), (4096, 2), (5000, 3)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let room = rows + 100;
            let mut numbers = RowBuffer::new(room, 2, 0);
            let mut blocks = RowBuffer::by_block(room, 1, 0);
            pool.install(|| {
                for_each_part(
                    rows,
                    (numbers.all_mut(), blocks.all_mut()),
                    |range, (mut numbers, mut blocks)| {
                        assert!(range.start.is_multiple_of(BLOCK) && !range.is_empty());
                        assert_eq!(numbers.len(), 2 * range.len());
                        for (row, numbers) in range.clone().zip(numbers.chunks_mut(2)) {
                            numbers[0] += row;
                            numbers[1] += 1;
                        }
                        for (index, block) in blocks.iter_mut().enumerate() {
                            *block += range.start / BLOCK + index + 1;
                        }
                    },
                );
            });
            let expected = |row: usize| if row < rows { [row, 1] } else { [0, 0] };
            let same = numbers.first(room).chunks(2).enumerate().all(|(row, found)| found == expected(row));
            assert!(same, "{rows} rows, {threads} threads");
            let expected = |block: usize| if block * BLOCK < rows { block + 1 } else { 0 };
            let same = blocks.first(room).iter().enumerate().all(|(block, &found)| found == expected(block));
            assert!(same, "blocks of {rows} rows, {threads} threads");
        }
    }
}
