//! A matmul, or a part of one for a thread to compute.

use super::backend::Backend;
use super::definition::SLICE;
use super::matrix::{Accumulate, Matrix, MatrixMut};
use super::packed::{PackedMatrix, WIDEST_TILE};
use super::panels::Panels;
use super::problem::Problem;
use super::triangle::Triangle;
use rayon::prelude::*;

/// A matmul with fewer multiply-adds than this runs on one thread.
const SERIAL: usize = 1 << 16;

/// Parts are multiples of this many rows: whole tiles of any kernel.
const PART_ROWS: usize = 12;
/// Parts are multiples of this many columns: whole tiles of any kernel.
const PART_COLS: usize = WIDEST_TILE;
/// The most rows or columns of a part. With longer parts, threads would wait for the last one.
const LONGEST_PART: usize = 768;

/// A matmul, or a part of one, to compute on any thread. Tasks of the same matmul write to disjoint parts of its
/// result.
#[derive(Debug)]
pub struct MatmulTask<'a> {
    problem: Problem<'a>,
    accumulate: Accumulate<'a>,
}

impl<'a> MatmulTask<'a> {
    /// Creates one task for a whole matmul.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub fn new(
        out: MatrixMut<'a>,
        accumulate: Accumulate<'a>,
        lhs: Matrix<'a>,
        rhs: Matrix<'a>,
    ) -> MatmulTask<'a> {
        MatmulTask { problem: Problem::new(out, lhs, rhs), accumulate }
    }

    /// Splits a matmul into a few tasks for each thread of the current pool. Each element of the result belongs to one
    /// task.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub fn split(
        out: MatrixMut<'a>,
        accumulate: Accumulate<'a>,
        lhs: Matrix<'a>,
        rhs: Matrix<'a>,
    ) -> Vec<MatmulTask<'a>> {
        MatmulTask::split_in(rayon::current_num_threads(), out, accumulate, lhs, rhs)
    }

    /// Splits a matmul into this many tasks, or more if they would take long. Each packs for itself what it reads.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub fn split_in(
        num_tasks: usize,
        out: MatrixMut<'a>,
        accumulate: Accumulate<'a>,
        lhs: Matrix<'a>,
        rhs: Matrix<'a>,
    ) -> Vec<MatmulTask<'a>> {
        let problem = Problem::new(out, lhs, rhs);
        if problem.rows <= problem.cols {
            return columns(problem, accumulate, part_len(problem.cols, PART_COLS, num_tasks));
        }
        let part = part_len(problem.rows, PART_ROWS, num_tasks);
        let starts = (0..problem.rows).step_by(part);
        let task = |start: usize| MatmulTask {
            problem: problem.row_range(start, problem.rows.min(start + part)),
            accumulate,
        };
        starts.map(task).collect()
    }

    /// Splits a matmul into tasks of `part` columns, the last of them perhaps fewer.
    ///
    /// # Panics
    /// If the shapes do not match, or `part` is 0.
    pub fn split_columns(
        out: MatrixMut<'a>,
        accumulate: Accumulate<'a>,
        lhs: Matrix<'a>,
        rhs: Matrix<'a>,
        part: usize,
    ) -> Vec<MatmulTask<'a>> {
        columns(Problem::new(out, lhs, rhs), accumulate, part)
    }

    /// Splits a matmul by a matrix in panels into one task for each panel, in order.
    ///
    /// # Panics
    /// If the shapes do not match.
    pub fn split_panels(
        out: MatrixMut<'a>,
        accumulate: Accumulate<'a>,
        lhs: Matrix<'a>,
        rhs: Panels<'a>,
    ) -> Vec<MatmulTask<'a>> {
        let problems = Problem::by_panels(out, lhs, rhs);
        problems
            .map(|(start, problem)| MatmulTask { problem, accumulate: accumulate.at_col(start) })
            .collect()
    }

    /// Gives the task its right side in packed form.
    ///
    /// # Panics
    /// If the packed matrix is not this task's right side, or not all its pack tasks are finished.
    #[must_use]
    pub fn with_packed(mut self, rhs: Option<&'a PackedMatrix<'_>>) -> MatmulTask<'a> {
        self.problem.packed = rhs.map(|rhs| rhs.panels_of(&self.problem.rhs));
        self
    }

    /// Names the triangle among the matrices of a whole matmul.
    #[must_use]
    pub(super) fn with_triangle(mut self, triangle: Triangle) -> MatmulTask<'a> {
        self.problem.triangle = triangle;
        self
    }

    /// Returns the problem, for a kernel of another precision. Its result belongs to this task alone.
    pub(crate) fn into_problem(self) -> (Problem<'a>, Accumulate<'a>) {
        (self.problem, self.accumulate)
    }

    /// Computes the task in float32, on this thread.
    pub fn run(self) {
        self.run_with(Backend::detect());
    }

    /// Computes the task in float32, on this thread, and reads the right side once, in place. That is fastest for a few
    /// rows by a matrix that lies in no cache.
    pub fn run_streamed(self) {
        self.run_streamed_with(Backend::detect());
    }

    /// Computes the same as [`run_streamed`](MatmulTask::run_streamed) with this backend.
    pub(super) fn run_streamed_with(self, backend: Backend) {
        // SAFETY: the result was borrowed mutably when the first task was made, and tasks of a matmul are disjoint.
        unsafe { backend.run_streamed(&self.problem, self.accumulate) };
    }

    /// Computes the task in float32 with this backend, on this thread.
    pub(super) fn run_with(self, backend: Backend) {
        // SAFETY: the result was borrowed mutably when the first task was made, and tasks of a matmul are disjoint.
        unsafe {
            self.problem.for_each_slice(SLICE, self.accumulate, |slice, accumulate| {
                backend.run(slice, accumulate);
            });
        }
    }
}

/// Splits a problem into tasks of `part` columns.
fn columns<'a>(problem: Problem<'a>, accumulate: Accumulate<'a>, part: usize) -> Vec<MatmulTask<'a>> {
    let starts = (0..problem.cols).step_by(part);
    let task = |start: usize| MatmulTask {
        problem: problem.col_range(start, problem.cols.min(start + part)),
        accumulate: accumulate.at_col(start),
    };
    starts.map(task).collect()
}

/// Computes `out = lhs · rhs`, `out += lhs · rhs` or `out = bias + lhs · rhs` in float32, on all threads of the current
/// pool.
///
/// # Panics
/// If the shapes do not match.
pub fn matmul(out: MatrixMut<'_>, accumulate: Accumulate<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    run_parallel(out, accumulate, lhs, rhs, MatmulTask::run);
}

/// Computes the same as [`matmul`] with a right side in panels.
///
/// # Panics
/// If the shapes do not match.
pub fn matmul_panels(out: MatrixMut<'_>, accumulate: Accumulate<'_>, lhs: Matrix<'_>, rhs: Panels<'_>) {
    let is_serial = rayon::current_num_threads() == 1 || lhs.rows * lhs.cols * rhs.cols() < SERIAL;
    let tasks = MatmulTask::split_panels(out, accumulate, lhs, rhs);
    if is_serial {
        return tasks.into_iter().for_each(MatmulTask::run);
    }
    tasks.into_par_iter().with_max_len(1).for_each(MatmulTask::run);
}

/// Computes the same as [`matmul`], on this thread alone.
///
/// # Panics
/// If the shapes do not match.
pub fn serial_matmul(out: MatrixMut<'_>, accumulate: Accumulate<'_>, lhs: Matrix<'_>, rhs: Matrix<'_>) {
    serial_matmul_of(Triangle::None, out, accumulate, lhs, rhs);
}

/// Computes the same as [`serial_matmul`], and less of it where one of the matrices is a triangle.
///
/// # Panics
/// If the shapes do not match.
pub fn serial_matmul_of(
    triangle: Triangle,
    out: MatrixMut<'_>,
    accumulate: Accumulate<'_>,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
) {
    MatmulTask::new(out, accumulate, lhs, rhs).with_triangle(triangle).run();
}

/// Splits a matmul and calls `run` with its tasks on all threads of the current pool.
///
/// # Panics
/// If the shapes do not match.
pub(crate) fn run_parallel<'a>(
    out: MatrixMut<'a>,
    accumulate: Accumulate<'a>,
    lhs: Matrix<'a>,
    rhs: Matrix<'a>,
    run: impl Fn(MatmulTask<'a>) + Sync + Send,
) {
    if rayon::current_num_threads() == 1 || lhs.rows * lhs.cols * rhs.cols < SERIAL {
        return run(MatmulTask::new(out, accumulate, lhs, rhs));
    }
    MatmulTask::split(out, accumulate, lhs, rhs).into_par_iter().with_max_len(1).for_each(run);
}

/// The length of a part of `len`, in whole units: all parts have the same length, and each thread gets as many.
fn part_len(len: usize, unit: usize, threads: usize) -> usize {
    let len = len.max(1);
    if threads == 1 {
        return len;
    }
    let rounds = len.div_ceil(threads * LONGEST_PART);
    len.div_ceil(rounds * threads).next_multiple_of(unit)
}
