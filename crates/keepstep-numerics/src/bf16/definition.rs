//! The constants of the definition, and one multiply-add with the rounding of the instruction.

/// The length of a slice of the inner dimension. Each slice is summed separately. Part of the definition.
pub(super) const SLICE: usize = 256;

/// `sum + left · right`, rounded once to nearest even; a result that is tiny after rounding becomes a zero of its sign.
/// `left` and `right` are bfloat16 numbers. None of the three arguments is denormal.
///
/// A float32 below the smallest normal number is tiny. At the smallest normal number itself, rounding with and without
/// a limit on exponents differ: an exact result that lies more than half an *unlimited* unit below it is tiny, although
/// float32 rounds it up. The same sum scaled up shows this, because no limit cuts its rounding short. (Scaling is
/// exact: so small a sum has small terms, and a nonzero sum is at least 2^-24 of its larger term.)
#[inline(always)]
pub(super) fn multiply_add(sum: f32, left: f32, right: f32) -> f32 {
    const SCALE: f32 = (1_u64 << 32) as f32;
    let result = left.mul_add(right, sum);
    let scaled = (left * SCALE).mul_add(right, sum * SCALE);
    let magnitude = result.abs();
    let is_tiny = magnitude < f32::MIN_POSITIVE
        || (magnitude == f32::MIN_POSITIVE && scaled.abs() < f32::MIN_POSITIVE * SCALE);
    if is_tiny { f32::from_bits(result.to_bits() & 0x8000_0000) } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A power of two that is a normal float32.
    fn power(exponent: i32) -> f32 {
        f32::from_bits(((exponent + 127) as u32) << 23)
    }

    #[test]
    fn tiny_results_are_zeros_of_their_sign() {
        let least = f32::MIN_POSITIVE;
        let bits = |value: f32| value.to_bits();
        // Far below the smallest normal number, and one unit of float32 below it.
        assert_eq!(bits(multiply_add(0.0, power(-100), power(-50))), bits(0.0));
        assert_eq!(bits(multiply_add(0.0, -power(-100), power(-50))), bits(-0.0));
        assert_eq!(bits(multiply_add(least, -power(-126), power(-23))), bits(0.0));
        assert_eq!(bits(multiply_add(0.0, power(-100), power(-26))), bits(least));
        // 2^-126 - 2^-150: float32 rounds a tie up to the normal number; unlimited rounding is exact, so the result is tiny.
        assert_eq!((-power(-75)).mul_add(power(-75), least), least);
        assert_eq!(bits(multiply_add(least, -power(-75), power(-75))), bits(0.0));
        assert_eq!(bits(multiply_add(-least, power(-75), power(-75))), bits(-0.0));
        // At half that distance both round a tie up to the normal number; beyond half, they do not.
        assert_eq!(bits(multiply_add(least, -power(-76), power(-75))), bits(least));
        let more = power(-76) * (1.0 + power(-7));
        assert_eq!(bits(multiply_add(least, -more, power(-75))), bits(0.0));
        // Other results stay as they are.
        assert_eq!(multiply_add(least, 0.0, f32::MAX), least);
        assert_eq!(multiply_add(1.0, power(100), power(-100)), 2.0);
        assert_eq!(multiply_add(f32::MAX, power(127), 2.0), f32::INFINITY);
        assert!(multiply_add(0.0, f32::INFINITY, 0.0).is_nan());
        assert!(multiply_add(f32::NAN, 1.0, 1.0).is_nan());
        assert_eq!(bits(multiply_add(1.0, -1.0, 1.0)), bits(0.0));
    }

    /// Compares with exact integer arithmetic, for sums around the smallest normal number, in units of 2^-168.
    #[test]
    fn around_the_smallest_normal_number() {
        let mut state = 9_u32;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        let mut zeros = 0;
        for _ in 0..200_000 {
            // A sum within a few units of 2^-126, and a product of 2^-154 to 2^-104.
            let (units, negative) = (0x80_0000 + next() % 3, next() % 2);
            let sum = f32::from_bits((0x80_0000 + units % 3) | negative << 31);
            let (left, right) = (128 + next() % 128, 128 + next() % 128);
            let (left_exponent, right_exponent) = (60 + next() % 30, 40 + next() % 20);
            let subtracts = next() % 2 == 1;
            // The significand has eight bits; the highest one is implicit.
            let member =
                |significand: u32, exponent: u32| f32::from_bits(exponent << 23 | (significand & 0x7F) << 16);
            let product = i128::from(left * right) << (left_exponent + right_exponent - 100);
            let before = i128::from(0x80_0000 + units % 3) << 19;
            let before = if negative == 1 { -before } else { before };
            let expected = round(if subtracts { before - product } else { before + product });
            let sign = if subtracts { -1.0 } else { 1.0 };
            let found = multiply_add(sum, member(left, left_exponent), sign * member(right, right_exponent));
            assert_eq!(found.to_bits(), expected.to_bits(), "{before} {product} {subtracts}");
            zeros += u32::from(found == 0.0);
        }
        assert!((10_000..190_000).contains(&zeros), "{zeros}");
    }

    /// Rounds units of 2^-168 to 24 significant bits, to nearest even. Tiny results become zero.
    fn round(exact: i128) -> f32 {
        let magnitude = exact.unsigned_abs();
        let drop = (128 - magnitude.leading_zeros()).saturating_sub(24);
        let (rest, mut kept) = (magnitude & ((1_u128 << drop) - 1), magnitude >> drop);
        let half = (1_u128 << drop) / 2;
        if drop > 0 && (rest > half || (rest == half && kept % 2 == 1)) {
            kept += 1;
        }
        let value = kept as f64 * 2.0_f64.powi(drop as i32 - 168);
        let value = if value < f64::from(f32::MIN_POSITIVE) { 0.0 } else { value as f32 };
        if exact < 0 { -value } else { value }
    }
}
