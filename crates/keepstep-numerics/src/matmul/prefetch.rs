//! Asks the processor to load memory before it is needed.

use super::aligned::LINE;

/// Asks for the cache line at this address. The address may be invalid: nothing is read, and nothing can fail.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: PREFETCHT0 is a hint. It is part of every x86-64 and does not fault at any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: PRFM is a hint. It is part of every ARMv8 and does not fault at any address.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

/// Asks for numbers that are read soon.
#[inline(always)]
pub fn prefetch_all(numbers: &[f32]) {
    for line in numbers.chunks(LINE) {
        prefetch(line.as_ptr());
    }
}
