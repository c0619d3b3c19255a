//! Compiles a function three times: with AVX-512, with AVX2 and FMA, and with neither, for processors that lack them.
//!
//! Rust neither reorders nor fuses floating-point operations, and `mul_add` rounds once on every processor, so all
//! give the same bits.

/// Whether this processor has the instructions that the fast versions need.
#[inline]
pub fn is_fast() -> bool {
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

/// Whether this processor has the parts of AVX-512 that the fastest versions need: Intel's servers have them since 2017,
/// AMD's since 2022.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn is_fastest() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512vl")
}

/// Defines a function whose body is compiled for AVX-512, and for AVX2 and FMA, as well; the processor decides at run time.
#[macro_export]
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
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn fastest($($arg: $ty),*) $(-> $ret)? {
                    plain($($arg),*)
                }
                if $crate::vectorized::is_fastest() {
                    // SAFETY: the processor has these parts of AVX-512, which imply AVX2 and FMA.
                    return unsafe { fastest($($arg),*) };
                }
                if $crate::vectorized::is_fast() {
                    // SAFETY: the processor has AVX2 and FMA.
                    return unsafe { fast($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}
