//! The bf16 kernel for this processor, and the test that its instruction follows the definition.

use std::sync::OnceLock;

/// A kernel that computes the definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// The instruction VDPBF16PS of AVX512-BF16.
    Avx512,
    /// Fused multiply-adds in float32: the same bits on any processor, slower.
    Portable,
}

impl Kernel {
    /// Returns the fastest kernel of this processor.
    pub fn detect() -> Kernel {
        match Support::detect() {
            Support::Present => Kernel::Avx512,
            Support::Missing | Support::Differs => Kernel::Portable,
        }
    }
}

/// This processor's support for AVX512-BF16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// The processor has the instruction, and it follows the definition.
    Present,
    /// The processor does not have the instruction.
    Missing,
    /// The processor has the instruction, but it rounds differently from the definition.
    Differs,
}

impl Support {
    /// Tests this processor, once per process, with about two thousand multiply-adds.
    pub fn detect() -> Support {
        static SUPPORT: OnceLock<Support> = OnceLock::new();
        *SUPPORT.get_or_init(test_processor)
    }

    /// Returns the reason why this processor cannot compute in bf16, as part of a sentence.
    pub fn lack(self) -> &'static str {
        match self {
            Support::Differs => {
                "this processor's AVX512-BF16 instructions round differently from the definition"
            }
            Support::Missing | Support::Present => {
                "this processor does not have the instructions for it (AVX512-BF16)"
            }
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn test_processor() -> Support {
    Support::Missing
}

#[cfg(target_arch = "x86_64")]
fn test_processor() -> Support {
    use super::avx512::{is_present, pair};
    use super::trials::{Trial, defined_pair, trials};
    if !is_present() {
        return Support::Missing;
    }
    let agrees = trials().into_iter().all(|Trial { sum, left, right }| {
        let found = pair(sum, left, right);
        let expected = defined_pair(sum, left, right);
        found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan())
    });
    if agrees { Support::Present } else { Support::Differs }
}
