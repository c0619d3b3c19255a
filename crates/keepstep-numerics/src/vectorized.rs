//! Functions that are compiled once for each set of vector instructions.
//!
//! Rust neither reorders nor fuses floating-point operations, and `mul_add` rounds once on every processor. All
//! versions give the same bits.

/// Whether this processor has AVX2 and FMA. Intel's and AMD's have them since 2013 and 2015.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn has_avx2_fma() -> bool {
    std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
}

/// Whether this processor has the parts of AVX-512 that compiled loops need. Intel's server processors have them since
/// 2017, AMD's since 2022.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn has_avx512() -> bool {
    #[cfg(feature = "testing")]
    if crate::testing::is_avx512_left_out() {
        return false;
    }
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512vl")
}

/// Defines a function that exists in a version for each set of vector instructions.
///
/// On x86-64 the versions are AVX-512, AVX2 with FMA, and neither; the processor decides at run time. On 64-bit ARM
/// there is one version, with NEON, because every processor has it.
///
/// ```
/// keepstep_numerics::vectorized! {
///     /// Adds `factor * x` to `y`.
///     fn add_scaled(y: &mut [f32], factor: f32, x: &[f32]) {
///         for (y, x) in y.iter_mut().zip(x) {
///             *y = factor.mul_add(*x, *y);
///         }
///     }
/// }
/// let mut y = [1.0, 2.0];
/// add_scaled(&mut y, 0.5, &[4.0, 8.0]);
/// assert_eq!(y, [3.0, 6.0]);
/// ```
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
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    plain($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    plain($($arg),*)
                }
                if $crate::vectorized::has_avx512() {
                    // SAFETY: the processor has these parts of AVX-512, which include AVX2 and FMA.
                    return unsafe { avx512($($arg),*) };
                }
                if $crate::vectorized::has_avx2_fma() {
                    // SAFETY: the processor has AVX2 and FMA.
                    return unsafe { avx2($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}
