//! Inputs that reveal whether an instruction rounds according to the definition.

use super::definition::multiply_add;

/// A sum and a pair of products to add to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    pub(super) sum: f32,
    pub(super) left: [u16; 2],
    pub(super) right: [u16; 2],
}

/// Adds a pair according to the definition: the second member's product first, then the first member's.
pub(super) fn defined_pair(sum: f32, left: [u16; 2], right: [u16; 2]) -> f32 {
    let value = |bits: u16| f32::from_bits(u32::from(bits) << 16);
    let sum = multiply_add(sum, value(left[1]), value(right[1]));
    multiply_add(sum, value(left[0]), value(right[0]))
}

/// Inputs that distinguish the definition from other ways to round: the order of the members, one or two roundings,
/// ties, cancellation, overflow, tiny results of both signs, and the boundary between tiny and not.
pub(super) fn trials() -> Vec<Trial> {
    // 0, 1, the neighbours of 1, 2^-12, 2^-24, 2^-63, 2^-75, 2^-76, 2^-126, the largest, infinity, NaN.
    const MEMBERS: [u16; 14] = [
        0x0000, 0x3F80, 0x3F81, 0x3F7F, 0xBF80, 0x3980, 0x3380, 0x2000, 0x1A00, 0x9980, 0x0080, 0x7F7F,
        0xFF80, 0x7FC0,
    ];
    const SUMS: [u32; 9] = [
        0x0000_0000,
        0x3F80_0000,
        0xBF80_0001,
        0x3F80_0001,
        0x0080_0000,
        0x8080_0000,
        0x0080_0001,
        0x7F7F_FFFF,
        0x4B80_0000,
    ];
    let mut trials = Vec::new();
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 16
    };
    for sum in SUMS {
        for first in MEMBERS {
            for second in MEMBERS {
                let member = |random: u32| MEMBERS[random as usize % MEMBERS.len()];
                let right = [member(next()), member(next())];
                trials.push(Trial { sum: f32::from_bits(sum), left: [first, second], right });
            }
        }
    }
    // Ordinary numbers: now and then, one rounding and two give different results.
    for _ in 0..512 {
        let mut member = || (0x3E00 + next() % 0x0200 + (next() & 1) * 0x8000) as u16;
        let (left, right) = ([member(), member()], [member(), member()]);
        trials.push(Trial { sum: f32::from_bits(0x3F00_0000 | next() << 7), left, right });
    }
    trials
}
