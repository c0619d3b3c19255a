//! Rounds float32 to bfloat16 as VCVTNEPS2BF16 does: to nearest even, denormal numbers to zero, NaNs to quiet NaNs.

/// The bits of a float32 without its sign.
pub(super) const MAGNITUDE: u32 = 0x7FFF_FFFF;

/// Rounds to the nearest bfloat16 and returns it as a float32 of the same value.
#[inline(always)]
pub(super) fn rounded(value: f32) -> f32 {
    f32::from_bits(rounded_bits(value))
}

/// Rounds to the nearest bfloat16 and returns its bits.
#[cfg(test)]
#[inline(always)]
pub(super) fn to_bf16(value: f32) -> u16 {
    (rounded_bits(value) >> 16) as u16
}

#[inline(always)]
fn rounded_bits(value: f32) -> u32 {
    const INFINITY: u32 = 0x7F80_0000;
    let bits = value.to_bits();
    // Adds half a unit, or one less where the kept bits are even. A carry raises the exponent, which is right.
    let nearest = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1));
    let quiet = bits | 0x0040_0000;
    let normal = if bits & MAGNITUDE > INFINITY { quiet } else { nearest };
    let kept = if bits & INFINITY == 0 { bits & !MAGNITUDE } else { normal };
    kept & 0xFFFF_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_nearest_even() {
        for (from, to) in [
            (1.0_f32, 0x3F80),
            (-2.5, 0xC020),
            (f32::from_bits(0x3F80_8000), 0x3F80),
            (f32::from_bits(0x3F80_8001), 0x3F81),
            (f32::from_bits(0x3F81_8000), 0x3F82),
            (f32::from_bits(0x3F81_7FFF), 0x3F81),
            (f32::MAX, 0x7F80),
            (f32::from_bits(0x7F7F_7FFF), 0x7F7F),
            (f32::INFINITY, 0x7F80),
            (f32::NEG_INFINITY, 0xFF80),
            (0.0, 0x0000),
            (-0.0, 0x8000),
            (f32::MIN_POSITIVE, 0x0080),
            // Denormal numbers become zeros, even the one that would round up to a normal number.
            (f32::from_bits(0x007F_FFFF), 0x0000),
            (f32::from_bits(0x807F_FFFF), 0x8000),
            (f32::from_bits(1), 0x0000),
            // A signalling NaN stays a NaN, even if all its payload is in the dropped bits.
            (f32::from_bits(0x7F80_0001), 0x7FC0),
            (f32::from_bits(0xFFFF_FFFF), 0xFFFF),
        ] {
            assert_eq!(to_bf16(from), to, "{:08x}", from.to_bits());
            assert_eq!(rounded(from).to_bits() >> 16, u32::from(to));
        }
    }

    /// Compares with float64, in which the distances to both neighbours are exact.
    #[test]
    fn every_exponent_and_every_kind_of_tie() {
        for high in 0x0080..0x7F7F_u32 {
            for low in [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF] {
                let value = f32::from_bits(high << 16 | low);
                let (below, above) = (f32::from_bits(high << 16), f32::from_bits((high + 1) << 16));
                let distance = |other: f32| (f64::from(value) - f64::from(other)).abs();
                let to_below = distance(below) < distance(above)
                    || (distance(below) == distance(above) && high % 2 == 0);
                assert_eq!(rounded(value), if to_below { below } else { above }, "{:08x}", value.to_bits());
                assert_eq!(rounded(-value), -rounded(value));
            }
        }
    }
}
