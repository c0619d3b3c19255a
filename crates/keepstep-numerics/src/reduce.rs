//! Sums and maxima in a fixed order, which depends on nothing but the count of the numbers.

/// The number of partial sums. Element `i` belongs to sum `i % LANES`.
pub const LANES: usize = 16;

/// The sum of `term(i)` for `i` in `0..len`: sixteen interleaved partial sums, then the upper half added to the lower
/// half until one sum is left.
#[inline(always)]
pub fn sum(len: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let whole = len / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    for (lane, sum) in lanes.iter_mut().enumerate().take(len - whole) {
        *sum += term(whole + lane);
    }
    halve(lanes)
}

/// The largest number. NaNs are ignored.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = if *value > *lane { *value } else { *lane };
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn halve(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima() {
        for len in [0, 1, 15, 16, 17, 100] {
            let values: Vec<f32> = (0..len).map(|index| (index * 7 % 13) as f32).collect();
            assert_eq!(sum(len, |index| values[index]), values.iter().sum::<f32>());
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
        assert_eq!(sum(40, |index| values[index]).to_bits(), lanes[0].to_bits());
    }
}
