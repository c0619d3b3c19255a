//! The instructions that this processor has.

/// Instructions that some kernels need.
#[derive(Clone, Copy)]
pub(crate) enum Instructions {
    /// Vectors of 512 bits.
    Avx512,
    /// Products of bfloat16 factors.
    Avx512Bf16,
}

impl Instructions {
    pub(crate) const ALL: [Instructions; 2] = [Instructions::Avx512, Instructions::Avx512Bf16];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Instructions::Avx512 => "AVX-512",
            Instructions::Avx512Bf16 => "AVX512-BF16",
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn are_here(self) -> bool {
        match self {
            Instructions::Avx512 => std::arch::is_x86_feature_detected!("avx512f"),
            Instructions::Avx512Bf16 => std::arch::is_x86_feature_detected!("avx512bf16"),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn are_here(self) -> bool {
        false
    }
}
