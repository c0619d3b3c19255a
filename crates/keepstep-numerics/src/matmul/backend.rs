//! Selects the code that computes float32 matmuls on this processor.

#[cfg(target_arch = "x86_64")]
use super::avx::{Avx2, Avx512};
#[cfg(test)]
use super::gemm;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::kernel;
use super::loops;
use super::matrix::Accumulate;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::packed::Packing;
use super::problem::Problem;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::simd::Simd;

/// Code that computes matmuls. A value exists only where the processor has the instructions, except in tests of other
/// backends, which check that first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    /// Plain loops, for any processor.
    Loops,
    /// The kernel with AVX-512.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The kernel with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The kernel with NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// The `gemm` crate, to compare with.
    #[cfg(test)]
    Gemm,
}

impl Backend {
    /// Returns the fastest backend of this processor.
    #[inline]
    pub(super) fn detect() -> Backend {
        #[cfg(target_arch = "x86_64")]
        if crate::vectorized::has_avx512() {
            return Backend::Avx512;
        } else if crate::vectorized::has_avx2_fma() {
            return Backend::Avx2;
        }
        // NEON is part of the architecture.
        #[cfg(target_arch = "aarch64")]
        return Backend::Neon;
        #[cfg(not(target_arch = "aarch64"))]
        Backend::Loops
    }

    /// The numbers in a register.
    pub(super) fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => Avx512::LANES,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => Avx2::LANES,
            #[cfg(target_arch = "aarch64")]
            Backend::Neon => Neon::LANES,
            _ => 16,
        }
    }

    /// Returns the backend's packing of right sides, or `None` if it reads them in place.
    pub(super) fn packing(self) -> Option<Packing> {
        match self {
            // SAFETY: the backend exists, so the processor has AVX-512.
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512 => Some(unsafe { Packing::from_simd::<Avx512>() }),
            // SAFETY: the backend exists, so the processor has AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Backend::Avx2 => Some(unsafe { Packing::from_simd::<Avx2>() }),
            // SAFETY: every 64-bit ARM processor has NEON.
            #[cfg(target_arch = "aarch64")]
            Backend::Neon => Some(unsafe { Packing::from_simd::<Neon>() }),
            _ => None,
        }
    }

    /// Computes one slice of the inner dimension.
    ///
    /// # Safety
    /// Nothing else accesses the result during the call.
    pub(super) unsafe fn run(self, slice: &Problem<'_>, accumulate: Accumulate<'_>) {
        let backend = if slice.rows == 1 { Backend::Loops } else { self };
        // SAFETY: the backend exists, so the processor has its instructions. The caller guarantees that nothing else
        // accesses the result.
        unsafe {
            match backend {
                Backend::Loops => loops::run(slice, accumulate),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx512 => kernel::run::<Avx512>(slice, accumulate),
                #[cfg(target_arch = "x86_64")]
                Backend::Avx2 => kernel::run::<Avx2>(slice, accumulate),
                #[cfg(target_arch = "aarch64")]
                Backend::Neon => kernel::run::<Neon>(slice, accumulate),
                #[cfg(test)]
                Backend::Gemm if gemm::sums_otherwise(slice) => loops::run(slice, accumulate),
                #[cfg(test)]
                Backend::Gemm => gemm::run(slice, accumulate),
            }
        }
    }
}
