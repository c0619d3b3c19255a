//! Sums and maxima in a fixed order, which depends on nothing but the count of the numbers.
//!
//! The loops count places: compilers do not always inline iterators' functions into code for other instructions, and then
//! use no vectors.
#![allow(clippy::needless_range_loop, reason = "see above")]

/// The number of partial sums. Element `i` belongs to sum `i % LANES`.
pub const LANES: usize = 16;

/// The sum of `term(values[0][i], values[1][i], …)` for all `i`: sixteen interleaved partial sums, then the upper half
/// added to the lower half until one sum is left.
///
/// # Panics
/// If one of the slices is shorter than the first.
#[inline(always)]
pub fn sum<const N: usize>(values: [&[f32]; N], term: impl Fn([f32; N]) -> f32) -> f32 {
    let len = values[0].len();
    let whole = len / LANES * LANES;
    let mut lanes = [0.0_f32; LANES];
    let mut start = 0;
    while start < whole {
        // One check of bounds for all lanes: with one for each, compilers use no vectors.
        let mut chunk = [&values[0][..0]; N];
        for n in 0..N {
            chunk[n] = &values[n][start..start + LANES];
        }
        for lane in 0..LANES {
            let mut operands = [0.0; N];
            for n in 0..N {
                operands[n] = chunk[n][lane];
            }
            lanes[lane] += term(operands);
        }
        start += LANES;
    }
    for lane in 0..len - whole {
        let mut operands = [0.0; N];
        for n in 0..N {
            operands[n] = values[n][whole + lane];
        }
        lanes[lane] += term(operands);
    }
    halve(lanes, |one, other| one + other)
}

/// The largest number. NaNs are ignored.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let len = values.len();
    let whole = len / LANES * LANES;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut start = 0;
    while start < whole {
        let chunk = &values[start..start + LANES];
        for lane in 0..LANES {
            lanes[lane] = larger(chunk[lane], lanes[lane]);
        }
        start += LANES;
    }
    for lane in 0..len - whole {
        lanes[lane] = larger(values[whole + lane], lanes[lane]);
    }
    halve(lanes, larger)
}

/// The first number if it is larger, and the second otherwise: one instruction.
#[inline(always)]
fn larger(one: f32, other: f32) -> f32 {
    if one > other { one } else { other }
}

/// Joins the upper half to the lower half until one is left. Arrays of each length become registers.
#[inline(always)]
fn halve(lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let (mut eight, mut four, mut two) = ([0.0; 8], [0.0; 4], [0.0; 2]);
    for lane in 0..8 {
        eight[lane] = join(lanes[lane], lanes[lane + 8]);
    }
    for lane in 0..4 {
        four[lane] = join(eight[lane], eight[lane + 4]);
    }
    for lane in 0..2 {
        two[lane] = join(four[lane], four[lane + 2]);
    }
    join(two[0], two[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima() {
        for len in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..len).map(|index| (index * 7 % 13) as f32).collect();
            assert_eq!(sum([&values], |[value]| value), values.iter().sum::<f32>());
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn the_order_is_that_of_the_lanes() {
        let values: Vec<f32> = (0..40).map(|index| 1.0 / (index as f32 + 1.0)).collect();
        let lane =
            |lane: usize| values.iter().skip(lane).step_by(LANES).fold(0.0_f32, |sum, value| sum + value);
        let mut lanes: Vec<f32> = (0..LANES).map(lane).collect();
        while lanes.len() > 1 {
            let half = lanes.len() / 2;
            lanes = (0..half).map(|index| lanes[index] + lanes[index + half]).collect();
        }
        assert_eq!(sum([&values], |[value]| value).to_bits(), lanes[0].to_bits());
    }
}
