//! Elementary functions with the same bits everywhere. They use no system library, and every fused operation is
//! explicit.

/// e^x in float32, within 2 units in the last place over [-87, 88]. Arguments outside are clamped to that range.
///
/// Range reduction by ln 2 in two parts (Cody and Waite) and a polynomial of degree 6 (Taylor's coefficients with the
/// reduced argument at most ln 2 / 2).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    // Adding a large number shifts the fraction out of the significand, so its low bits hold the nearest integer.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0_f32] {
        p = f32::mul_add(p, r, coefficient);
    }
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// The natural logarithm in float64, within about 2 units in the last place. NaN unless `x` is positive, finite and
/// normal.
///
/// ln m = 2 artanh((m - 1) / (m + 1)) with m in [sqrt(1/2), sqrt(2)), by its power series.
#[inline]
pub fn ln(x: f64) -> f64 {
    const SQRT_HALF_BITS: u64 = 0x3FE6_A09E_667F_3BCD;
    if !(f64::MIN_POSITIVE..f64::INFINITY).contains(&x) {
        return f64::NAN;
    }
    // Exponent and significand, split at sqrt(1/2).
    let offset = x.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let exponent = (offset as i64) >> 52;
    let m = f64::from_bits((offset & 0x000F_FFFF_FFFF_FFFF).wrapping_add(SQRT_HALF_BITS));
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut series = 0.0;
    for denominator in (3..=23).rev().step_by(2) {
        series = f64::mul_add(series, square, 1.0 / f64::from(denominator));
    }
    // 2 s + 2 s^3 (1/3 + …), and the exponent's part in two pieces.
    let tail = 2.0 * s * (square * series);
    let e = exponent as f64;
    e.mul_add(0.693_147_180_369_123_8, 2.0 * s + e.mul_add(1.908_214_929_270_587_7e-10, tail))
}

/// cos(pi x) in float64 for |x| up to 2^52, within 1 unit in the last place.
#[inline]
pub fn cos_pi(x: f64) -> f64 {
    // Even, and of period 2.
    let x = x.abs() % 2.0;
    let (x, sign) = if x > 1.0 { (2.0 - x, 1.0) } else { (x, 1.0) };
    let (x, sign) = if x > 0.5 { (1.0 - x, -sign) } else { (x, sign) };
    // Near the zero at 1/2 the sine of the complement keeps every digit.
    let angle = |x: f64| {
        let high = x * std::f64::consts::PI;
        (high, f64::mul_add(x, std::f64::consts::PI, -high) + x * (2.0 * HALF_PI_LOW))
    };
    if x > 0.25 { sign * sin_kernel(angle(0.5 - x)) } else { sign * cos_kernel(angle(x)) }
}

/// cos(x) in float64 for |x| up to 2^20, within about 0.51 units in the last place. A good libm is as exact, so results
/// agree with Python's nearly always.
#[inline]
pub fn cos(x: f64) -> f64 {
    let quadrant = (x * std::f64::consts::FRAC_2_PI).round();
    // The product inside a fused operation is exact, and so is the difference of two close numbers.
    let rest = f64::mul_add(-quadrant, std::f64::consts::FRAC_PI_2, x);
    let high = f64::mul_add(-quadrant, HALF_PI_LOW, rest);
    let low = f64::mul_add(-quadrant, HALF_PI_LOW, rest - high);
    let angle = (high, low);
    match quadrant as i64 & 3 {
        0 => cos_kernel(angle),
        1 => -sin_kernel(angle),
        2 => -cos_kernel(angle),
        _ => sin_kernel(angle),
    }
}

/// The difference between pi / 2 and its float64.
const HALF_PI_LOW: f64 = 6.123_233_995_736_766e-17;

/// sin(high + low) for |high| up to about pi / 4. The first terms of the power series have twice the precision.
fn sin_kernel((high, low): (f64, f64)) -> f64 {
    const SIXTH: f64 = 1.0 / 6.0;
    const SIXTH_LOW: f64 = 9.251_858_538_542_97e-18;
    let square = high * high;
    let square_low = f64::mul_add(high, high, -square);
    let cube = square * high;
    let cube_low = f64::mul_add(square, high, -cube) + square_low * high;
    let term = cube * SIXTH;
    let term_low = f64::mul_add(cube, SIXTH, -term) + (cube_low * SIXTH + cube * SIXTH_LOW);
    let tail = cube * square * tail_series(square, 120.0, 5);
    let sum = high - term;
    let lost = (high - sum) - term;
    sum + (lost - term_low + (tail + low * (1.0 - 0.5 * square)))
}

/// cos(high + low) for |high| up to about pi / 4. The first terms of the power series have twice the precision.
fn cos_kernel((high, low): (f64, f64)) -> f64 {
    const PART: f64 = 1.0 / 24.0;
    const PART_LOW: f64 = 2.312_964_634_635_742_4e-18;
    let square = high * high;
    let square_low = f64::mul_add(high, high, -square);
    let fourth = square * square;
    let fourth_low = f64::mul_add(square, square, -fourth) + 2.0 * (square * square_low);
    let term = fourth * PART;
    let term_low = f64::mul_add(fourth, PART, -term) + (fourth_low * PART + fourth * PART_LOW);
    let tail = -(fourth * square) * tail_series(square, 720.0, 6);
    let first = 1.0 - 0.5 * square;
    let first_lost = (1.0 - first) - 0.5 * square;
    let sum = first + term;
    let lost = (first - sum) + term;
    sum + (lost + first_lost - 0.5 * square_low
        + term_low
        + (tail - high * low * (1.0 - square * (1.0 / 6.0))))
}

/// 1/first - x/(first (n+1)(n+2)) + …: a power series without its leading terms.
fn tail_series(x: f64, first: f64, n: u32) -> f64 {
    let mut series = 1.0;
    for n in (n + 2..=n + 14).rev().step_by(2) {
        series = f64::mul_add(-x / f64::from(n * (n - 1)), series, 1.0);
    }
    series / first
}

/// x^n by repeated squaring.
#[inline]
pub fn powi(mut x: f64, mut n: u64) -> f64 {
    let mut power = 1.0;
    while n > 0 {
        if n & 1 == 1 {
            power *= x;
        }
        x *= x;
        n >>= 1;
    }
    power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close() {
        let mut worst = 0.0_f64;
        for step in -870_000..880_000 {
            let x = step as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - exact) / exact).abs());
        }
        assert!(worst < 2.4e-7, "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 2e-38 && exp(-1000.0) >= 0.0);
    }

    #[test]
    fn ln_is_close() {
        for step in 1..400_000 {
            let x = f64::from(step) * 0.002_5;
            let error = (ln(x) - x.ln()).abs();
            assert!(error <= 4.0 * f64::EPSILON * x.ln().abs().max(0.25), "{x}: {error:e}");
        }
        assert_eq!(ln(1.0), 0.0);
        assert!([0.0, -1.0, f64::NAN, f64::INFINITY].iter().all(|&x| ln(x).is_nan()));
        assert!((ln(1e300) - 1e300_f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn cos_is_close() {
        let mut worst = 0.0_f64;
        for step in -40_000..40_000 {
            let x = f64::from(step) / 10_000.0;
            worst = worst.max((cos_pi(x) - (x * std::f64::consts::PI).cos()).abs());
        }
        // The reference rounds its argument, which alone may cost as much.
        assert!(worst < 2e-15, "{worst:e}");
        assert_eq!((cos_pi(0.0), cos_pi(0.5), cos_pi(1.0)), (1.0, 0.0, -1.0));
    }

    #[test]
    fn cos_of_an_angle_is_nearly_always_that_of_libm() {
        let mut differing = 0;
        for step in 0..100_000 {
            let x = f64::from(step) * 1e-4;
            let ulps = cos(x).to_bits().abs_diff(x.cos().to_bits());
            assert!(ulps <= 1, "{x}: {:e} and {:e}", cos(x), x.cos());
            differing += u32::from(ulps > 0);
        }
        assert!(differing < 200, "{differing} of 100000 differ");
        assert_eq!(cos(-1.0), cos(1.0));
    }

    #[test]
    fn powers() {
        assert_eq!(powi(2.0, 10), 1024.0);
        assert_eq!(powi(0.9, 0), 1.0);
        assert!((powi(0.999, 1000) / 0.999_f64.powf(1000.0) - 1.0).abs() < 1e-13);
    }
}
