//! Gradients of an update: the mean over its micro-batches as a fixed tree, its norm, and clipping.

use rayon::prelude::*;

/// Elements whose squares are summed by themselves.
const CHUNK: usize = 4096;

/// The mean of up to A gradients: neighbours are added in pairs, an odd last passes up, repeated to one sum, which is
/// multiplied once by 1/n.
///
/// At no time are more than log2(A) + 2 buffers held.
#[derive(Debug)]
pub struct GradientTree {
    len: usize,
    /// The sum of 2^level gradients each; none where that bit of `count` is 0.
    levels: Vec<Option<Vec<f32>>>,
    free: Vec<Vec<f32>>,
    count: u64,
}

impl GradientTree {
    /// A tree for gradients of `len` elements.
    pub fn new(len: usize) -> GradientTree {
        GradientTree { len, levels: Vec::new(), free: Vec::new(), count: 0 }
    }

    /// The buffers that a tree of `count` gradients holds at most.
    pub fn num_buffers(count: u64) -> u64 {
        u64::from(count.max(1).ilog2()) + 1
    }

    /// Adds the next micro-batch's gradient, which `write` fills in whole.
    pub fn add<T>(&mut self, write: impl FnOnce(&mut [f32]) -> T) -> T {
        let mut gradient = self.free.pop().unwrap_or_else(|| vec![0.0; self.len]);
        let result = write(&mut gradient);
        self.count += 1;
        for level in &mut self.levels {
            match level.take() {
                None => {
                    *level = Some(gradient);
                    return result;
                }
                Some(earlier) => {
                    add_to(&mut gradient, &earlier);
                    self.free.push(earlier);
                }
            }
        }
        self.levels.push(Some(gradient));
        result
    }

    /// The mean of what was added since the last one, in the buffer that `with` is given.
    pub fn mean<T>(&mut self, with: impl FnOnce(&mut [f32]) -> T) -> T {
        let mut sums = self.levels.iter_mut().filter_map(Option::take);
        let mut total = sums.next().unwrap_or_else(|| vec![0.0; self.len]);
        for earlier in sums {
            add_to(&mut total, &earlier);
            self.free.push(earlier);
        }
        if self.count > 1 {
            let factor = 1.0 / self.count as f32;
            total.par_chunks_mut(CHUNK).for_each(|chunk| chunk.iter_mut().for_each(|value| *value *= factor));
        }
        self.count = 0;
        let result = with(&mut total);
        self.free.push(total);
        result
    }
}

/// `later = earlier + later`
fn add_to(later: &mut [f32], earlier: &[f32]) {
    later.par_chunks_mut(CHUNK).zip(earlier.par_chunks(CHUNK)).for_each(|(later, earlier)| {
        for (later, earlier) in later.iter_mut().zip(earlier) {
            *later += earlier;
        }
    });
}

/// The Euclidean norm over all elements, in float64; chunks of fixed length are summed in order.
pub fn global_norm(gradient: &[f32]) -> f64 {
    let squares: Vec<f64> = gradient
        .par_chunks(CHUNK)
        .map(|chunk| {
            let mut lanes = [0.0_f64; 8];
            for values in chunk.chunks(8) {
                for (lane, &value) in lanes.iter_mut().zip(values) {
                    *lane += f64::from(value) * f64::from(value);
                }
            }
            lanes.iter().sum()
        })
        .collect();
    squares.iter().sum::<f64>().sqrt()
}

/// What a gradient of this norm is multiplied by, as `torch.nn.utils.clip_grad_norm_` has it: max / (norm + 1e-6), at
/// most 1.
pub fn clip_coefficient(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, word for word.
    fn defined(gradients: &[f32]) -> f32 {
        let mut sums = gradients.to_vec();
        while sums.len() > 1 {
            sums = sums
                .chunks(2)
                .map(|pair| if pair.len() == 2 { pair[0] + pair[1] } else { pair[0] })
                .collect();
        }
        if gradients.len() > 1 { sums[0] * (1.0 / gradients.len() as f32) } else { sums[0] }
    }

    proptest! {
        #[test]
        fn the_tree_is_the_defined_one(gradients in proptest::collection::vec(-1e3_f32..1e3, 1..40)) {
            let mut tree = GradientTree::new(1);
            // Twice: nothing of one update reaches the next.
            for _ in 0..2 {
                for &gradient in &gradients {
                    tree.add(|buffer| buffer[0] = gradient);
                }
                let mean = tree.mean(|mean| mean[0]);
                prop_assert_eq!(mean.to_bits(), defined(&gradients).to_bits());
            }
            let held = tree.free.len();
            prop_assert_eq!(held as u64, GradientTree::num_buffers(gradients.len() as u64));
            prop_assert!(held <= gradients.len().ilog2() as usize + 2, "{} buffers", held);
        }
    }

    #[test]
    fn norm_and_clipping() {
        let gradient = vec![0.5_f32; 10_000];
        assert!((global_norm(&gradient) - 50.0).abs() < 1e-9);
        assert!(global_norm(&[f32::NAN, 1.0]).is_nan());
        assert_eq!(clip_coefficient(0.5, 1.0), 1.0);
        assert!((clip_coefficient(4.0, 1.0) - 0.25).abs() < 1e-6);
    }
}
