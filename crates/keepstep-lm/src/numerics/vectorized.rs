//! Compiles a function twice: with AVX2 and FMA, and without, for processors that lack them.
//!
//! Rust neither reorders nor fuses floating-point operations, and `mul_add` rounds once on every processor, so both
//! give the same bits.

/// Whether this processor has the instructions that the fast versions need.
#[inline]
pub(crate) fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        // Elsewhere the plain version is the only one.
        false
    }
}

/// Defines a function whose body is compiled for AVX2 and FMA as well; the processor decides at run time.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn plain($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn fast($($arg: $ty),*) $(-> $ret)? {
                    plain($($arg),*)
                }
                if $crate::numerics::vectorized::is_fast() {
                    // SAFETY: the processor has AVX2 and FMA.
                    return unsafe { fast($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}

pub(crate) use vectorized;
