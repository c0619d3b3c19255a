//! Arithmetic with the same bits on every processor and any number of threads.

pub mod bf16;
pub(crate) mod math;
pub mod product;
pub(crate) mod products;
pub(crate) mod reduce;
pub(crate) mod row_product;
pub(crate) mod vectorized;

/// The version of everything that decides the bits of a run. Raise it with any change of them, and say so in the
/// changelog.
pub const NUMERICS_VERSION: u64 = 2;

/// A hash of the bits, for tests that compare with golden ones.
#[cfg(test)]
pub(crate) fn fingerprint(values: &[f32]) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytemuck::cast_slice::<f32, u8>(values));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether these tests run on an emulated processor, which is slow.
#[cfg(test)]
pub(crate) fn is_emulated() -> bool {
    std::env::var_os("KEEPSTEP_EMULATED").is_some()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    /// This binary again, on a processor without AVX-512: the same products, the same golden bits.
    #[test]
    fn on_a_haswell_processor() {
        on("Haswell");
    }

    /// And on one without AVX2 and FMA: slow, but the same.
    #[test]
    fn on_a_nehalem_processor() {
        on("Nehalem");
    }

    fn on(processor: &str) {
        if super::is_emulated() {
            return;
        }
        let output = Command::new("qemu-x86_64")
            .args(["-cpu", processor])
            .arg(std::env::current_exe().expect("this binary"))
            .args(["numerics::product::", "numerics::bf16::tests", "bits_are_golden"])
            .env("KEEPSTEP_EMULATED", "1")
            .output()
            .expect("qemu-x86_64, of Debian's package qemu-user");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("9 passed"), "{said}");
    }
}
