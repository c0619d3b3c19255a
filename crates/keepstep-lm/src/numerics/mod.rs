//! Arithmetic with the same bits on every processor and any number of threads.

pub(crate) mod math;
pub mod product;
pub(crate) mod reduce;
pub(crate) mod vectorized;

/// The version of everything that decides the bits of a run. Raise it with any change of them, and say so in the
/// changelog.
pub const NUMERICS_VERSION: u64 = 1;

/// A hash of the bits, for tests that compare with golden ones.
#[cfg(test)]
pub(crate) fn fingerprint(values: &[f32]) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytemuck::cast_slice::<f32, u8>(values));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
