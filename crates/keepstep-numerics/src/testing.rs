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

/// Computes multiply-adds in registers only, `steps` in each of twelve chains, which are enough to hide their latency. Returns
/// the number of operations: a multiply-add of each lane counts as two. None where the processor has no such instructions.
#[cfg(target_arch = "x86_64")]
pub fn multiply_adds(steps: usize) -> Option<usize> {
    use crate::vectorized::{has_avx2_fma, has_avx512};
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm512_fmadd_ps, _mm512_set1_ps};
    const CHAINS: usize = 12;

    macro_rules! chains {
        ($name:ident, $features:literal, $set:ident, $multiply_add:ident) => {
            #[target_feature(enable = $features)]
            fn $name(steps: usize) {
                let (factor, mut sums) = ($set(0.999), [$set(1.0); CHAINS]);
                for _ in 0..steps {
                    for sum in &mut sums {
                        *sum = $multiply_add(*sum, factor, factor);
                    }
                }
                std::hint::black_box(sums);
            }
        };
    }
    chains!(with_avx512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps);
    chains!(with_avx2, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps);

    let lanes = if has_avx512() {
        // SAFETY: the processor has AVX-512.
        unsafe { with_avx512(steps) };
        16
    } else if has_avx2_fma() {
        // SAFETY: the processor has AVX2 and FMA.
        unsafe { with_avx2(steps) };
        8
    } else {
        return None;
    };
    Some(2 * steps * CHAINS * lanes)
}

/// Not measured on this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub fn multiply_adds(_: usize) -> Option<usize> {
    None
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
