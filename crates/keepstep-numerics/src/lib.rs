//! Arithmetic with the same bits on every processor and any number of threads.

pub mod bf16;
pub mod math;
pub mod matmul;
pub mod precision;
pub mod reduce;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vectorized;

/// The version of everything that decides the bits of a run. Raise it with any change of them, and say so in the
/// changelog.
pub const NUMERICS_VERSION: u64 = 2;

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use crate::testing::run_again_on;

    const TESTS: [&str; 2] = ["matmul::", "bf16::tests"];

    /// A processor without AVX-512: the same products, the same golden bits.
    #[test]
    fn on_a_haswell_processor() {
        run_again_on("Haswell", &TESTS);
    }

    /// A processor without AVX2 and FMA: slow, but the same.
    #[test]
    fn on_a_nehalem_processor() {
        run_again_on("Nehalem", &TESTS);
    }
}
