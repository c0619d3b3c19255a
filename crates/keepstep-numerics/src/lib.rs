//! Arithmetic whose every bit is defined: the same result on every processor, with any vector width and any number of
//! threads.
//!
//! A definition fixes each rounding and each order of additions. Code may choose where an element is computed, never
//! how.
//!
//! - [`matmul`]: matmuls in float32, and matrix-vector products.
//! - [`bf16`]: matmuls of bfloat16 numbers with float32 sums.
//! - [`reduce`]: sums and maxima in a fixed order.
//! - [`math`]: `exp`, `ln`, `cos` and powers without a system library.
//! - [`vectorized!`]: compiles a loop once for each set of vector instructions.
//!
//! # Example
//! Parts of a matmul may run on any threads, in any order. The result has the same bits.
//!
//! ```
//! use keepstep_numerics::matmul::{Accumulate, MatmulTask, Matrix, MatrixMut, matmul};
//!
//! // 40 x 600 numbers times 600 x 30.
//! let a: Vec<f32> = (0..40 * 600).map(|i| (i % 97) as f32 / 97.0).collect();
//! let b: Vec<f32> = (0..600 * 30).map(|i| (i % 89) as f32 / 89.0).collect();
//! let (lhs, rhs) = (Matrix::new(&a, 40, 600), Matrix::new(&b, 600, 30));
//!
//! let mut whole = vec![0.0; 40 * 30];
//! matmul(MatrixMut::new(&mut whole, 40, 30), Accumulate::Replace, lhs, rhs);
//!
//! let mut parts = vec![0.0; 40 * 30];
//! let tasks = MatmulTask::split(MatrixMut::new(&mut parts, 40, 30), Accumulate::Replace, lhs, rhs);
//! for task in tasks.into_iter().rev() {
//!     task.run();
//! }
//! assert!(whole.iter().zip(&parts).all(|(one, other)| one.to_bits() == other.to_bits()));
//! ```

pub mod bf16;
pub mod math;
pub mod matmul;
pub mod precision;
pub mod reduce;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vectorized;

/// The version of all definitions that decide the bits of a run. A change of any of them raises it and is written in
/// the changelog.
pub const NUMERICS_VERSION: u64 = 2;

/// The README's example runs too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use crate::testing::run_again_on;

    const TESTS: [&str; 2] = ["matmul::", "bf16::tests"];

    /// A processor without AVX-512: the same matmuls, the same golden bits.
    #[test]
    fn on_a_haswell_processor() {
        run_again_on("Haswell", &TESTS);
    }

    /// A processor without AVX2 and FMA: slow, but the same bits.
    #[test]
    fn on_a_nehalem_processor() {
        run_again_on("Nehalem", &TESTS);
    }
}
