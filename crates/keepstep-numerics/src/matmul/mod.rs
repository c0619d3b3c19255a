//! Matmuls whose every bit is defined.
//!
//! # The definition
//! The inner dimension is cut into slices of 512. Within a slice, an element of the result is a chain of fused
//! multiply-adds in ascending order that begins at +0. The slices' sums are then added in ascending order.
//!
//! The kernel, the number of threads and the width of vectors do not change an element. One kernel does the work,
//! compiled for AVX-512, for AVX2 with FMA, and for NEON. Other processors run plain loops.
//!
//! # Files
//! - `definition`: the length of a slice, and the definition word for word.
//! - `matrix`: views of matrices. `problem`: a matmul down to pointers.
//! - `triangle`: what need not be computed.
//! - `simd`: the traits of a set of vector instructions. `avx`, `neon`: the sets. `simd_impl`: what they share.
//! - `kernel`, `block`, `tile`, `pack`: a matmul's way from chunks down to registers, and the packing, generic over the
//!   sets. `loops`: the plain form.
//! - `packed`: a right side that is packed once and read many times.
//! - `streamed`: a few rows by a matrix that is read once, for decoding. `panels`: such a matrix in the order of its reads.
//! - `backend`: what this processor runs. `task`: who computes which part. `dispatch`: float32 or bfloat16.

mod aligned;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx;
mod backend;
mod block;
pub(crate) mod definition;
mod dispatch;
#[cfg(test)]
mod gemm;
pub(crate) mod kernel;
mod loops;
pub(crate) mod matrix;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod pack;
pub(crate) mod packed;
mod panels;
mod prefetch;
pub(crate) mod problem;
pub(crate) mod simd;
pub(crate) mod simd_impl;
mod streamed;
pub(crate) mod task;
#[cfg(test)]
mod tests;
pub(crate) mod tile;
mod triangle;

pub use aligned::AlignedBuffer;
pub use dispatch::MatmulKind;
pub use matrix::{Accumulate, Matrix, MatrixMut};
pub use packed::{PackTask, PackedMatrix, Packing};
pub use panels::{Panels, arrange_columns_in_panels, arrange_in_panels, panel_width};
pub use prefetch::{prefetch, prefetch_all};
pub use task::{MatmulTask, matmul, matmul_panels, serial_matmul, serial_matmul_of};
pub use triangle::Triangle;
