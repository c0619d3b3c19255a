//! Helpers for tests of arithmetic.

use std::sync::atomic::{AtomicBool, Ordering};

static WITHOUT_AVX512: AtomicBool = AtomicBool::new(false);

/// From now on, this process computes as if the processor had no AVX-512. The bits stay the same.
pub fn without_avx512() {
    WITHOUT_AVX512.store(true, Ordering::Relaxed);
}

/// Whether [`without_avx512`] was called.
#[inline]
pub fn is_avx512_left_out() -> bool {
    WITHOUT_AVX512.load(Ordering::Relaxed)
}

/// A hash of the bits, for tests that compare with golden ones.
pub fn fingerprint(values: &[f32]) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytemuck::cast_slice::<f32, u8>(values));
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether these tests run on an emulated processor, which is slow.
pub fn is_emulated() -> bool {
    std::env::var_os("KEEPSTEP_EMULATED").is_some()
}

/// Runs tests of the calling test binary again on an emulated x86-64 processor. `filters` are names that the test
/// harness takes.
///
/// # Panics
/// If one of them fails, or if the filters name none.
pub fn run_again_on(processor: &str, filters: &[&str]) {
    if is_emulated() {
        return;
    }
    let binary = std::env::current_exe().unwrap_or_else(|error| panic!("this binary: {error}"));
    let output = std::process::Command::new("qemu-x86_64")
        .args(["-cpu", processor])
        .arg(binary)
        .args(filters)
        .env("KEEPSTEP_EMULATED", "1")
        .output()
        .unwrap_or_else(|error| panic!("qemu-x86_64, of Debian's package qemu-user: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("running 0 tests"), "{said}");
}
