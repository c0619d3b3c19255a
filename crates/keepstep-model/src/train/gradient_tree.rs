//! The gradient of an update: the mean over its micro-batches as a fixed tree, its norm, and clipping.

use crate::error::EngineError;
use crate::ops::add::add_to;
use rayon::prelude::*;

/// The number of elements whose squares are summed together.
const CHUNK: usize = 4096;

/// The sum of the gradients of `2^level` consecutive micro-batches. The index of the first is a multiple of `2^level`.
#[derive(Debug, Clone, PartialEq)]
pub struct Subtree {
    first_leaf: u64,
    level: u32,
    sum: Vec<f32>,
}

impl Subtree {
    /// Wraps a sum that was computed elsewhere. `first_leaf` is rounded down to a multiple of `2^level`.
    pub fn new(first_leaf: u64, level: u32, sum: Vec<f32>) -> Subtree {
        let level = level.min(u64::BITS - 1);
        Subtree { first_leaf: first_leaf >> level << level, level, sum }
    }

    /// Returns the index of the first micro-batch.
    pub fn first_leaf(&self) -> u64 {
        self.first_leaf
    }

    /// Returns the base-2 logarithm of the number of micro-batches.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Returns the sum of the gradients.
    pub fn sum(&self) -> &[f32] {
        &self.sum
    }

    /// Returns the index after the last micro-batch.
    fn end(&self) -> u64 {
        self.first_leaf.saturating_add(1 << self.level)
    }
}

/// The mean of an update's gradients. Each gradient is a leaf with an index.
///
/// The sum is defined as a tree. Neighbours are added in pairs, and an odd last one passes up, until one sum is left.
/// That sum is multiplied once by 1/n. The order in which leaves arrive does not matter, nor does the machine that adds
/// them. A contiguous share of `n` leaves is at most 2 log2(n) whole subtrees
/// ([`take_share`](GradientTree::take_share)). A tree that merges all shares ([`merge`](GradientTree::merge)) has the
/// bits of a tree that was given every leaf.
///
/// Leaves added in order take at most log2(n) + 1 buffers.
#[derive(Debug)]
pub struct GradientTree {
    len: usize,
    /// Whole subtrees in the order of their leaves. No two of them are the halves of a larger one.
    subtrees: Vec<Subtree>,
    free: Vec<Vec<f32>>,
}

impl GradientTree {
    /// Creates a tree for gradients of `len` elements.
    pub fn new(len: usize) -> GradientTree {
        GradientTree { len, subtrees: Vec::new(), free: Vec::new() }
    }

    /// Returns the largest number of buffers that a tree of `count` leaves holds if they are added in order.
    pub fn num_buffers(count: u64) -> u64 {
        u64::from(count.max(1).ilog2()) + 1
    }

    /// Adds a leaf. `write` must overwrite the whole gradient.
    ///
    /// # Errors
    /// Fails if the tree already has the leaf, or if `write` fails. The tree is then unchanged.
    pub fn add<T>(
        &mut self,
        leaf: u64,
        write: impl FnOnce(&mut [f32]) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let place = self.place(leaf, leaf.saturating_add(1))?;
        let mut sum = self.free.pop().unwrap_or_else(|| vec![0.0; self.len]);
        match write(&mut sum) {
            Ok(result) => {
                self.insert(place, Subtree { first_leaf: leaf, level: 0, sum });
                Ok(result)
            }
            Err(error) => {
                self.free.push(sum);
                Err(error)
            }
        }
    }

    /// Adds a whole subtree that was computed elsewhere.
    ///
    /// # Errors
    /// Fails if the tree already has one of its leaves, or if the sum has another length.
    pub fn merge(&mut self, subtree: Subtree) -> Result<(), EngineError> {
        if subtree.sum.len() != self.len {
            return Err(EngineError::Layout { expected: self.len, found: subtree.sum.len() });
        }
        let place = self.place(subtree.first_leaf, subtree.end())?;
        self.insert(place, subtree);
        Ok(())
    }

    /// Removes everything that was added, and returns it as the smallest number of whole subtrees.
    pub fn take_share(&mut self) -> Vec<Subtree> {
        std::mem::take(&mut self.subtrees)
    }

    /// Removes everything that was added, and returns the mean.
    ///
    /// # Errors
    /// Fails if the leaves are not `0..n`. The tree is then unchanged.
    pub fn mean(&mut self) -> Result<Vec<f32>, EngineError> {
        let mut count = 0;
        for subtree in &self.subtrees {
            if subtree.first_leaf != count {
                return Err(EngineError::Missing { leaf: count });
            }
            count = subtree.end();
        }
        let Some(Subtree { sum: mut total, .. }) = self.subtrees.pop() else {
            return Err(EngineError::Missing { leaf: 0 });
        };
        // At the ragged end of the tree the last sum passes up until it has a neighbour.
        while let Some(Subtree { sum: earlier, .. }) = self.subtrees.pop() {
            add_in_parallel(&mut total, &earlier);
            self.free.push(earlier);
        }
        if count > 1 {
            let factor = 1.0 / count as f32;
            total.par_chunks_mut(CHUNK).for_each(|chunk| chunk.iter_mut().for_each(|value| *value *= factor));
        }
        Ok(total)
    }

    /// Takes back the buffer of a mean, to reuse it.
    pub fn recycle(&mut self, mean: Vec<f32>) {
        if mean.len() == self.len {
            self.free.push(mean);
        }
    }

    /// Removes everything that was added.
    pub fn clear(&mut self) {
        let sums = self.subtrees.drain(..).map(|subtree| subtree.sum);
        self.free.extend(sums);
    }

    /// Returns the index at which a subtree with the leaves `first..end` belongs.
    fn place(&self, first: u64, end: u64) -> Result<usize, EngineError> {
        let place = self.subtrees.partition_point(|subtree| subtree.end() <= first);
        match self.subtrees.get(place) {
            Some(next) if next.first_leaf < end => {
                Err(EngineError::Repeated { leaf: first.max(next.first_leaf) })
            }
            _ => Ok(place),
        }
    }

    /// Inserts a subtree, and adds halves of the same subtree while there are any.
    fn insert(&mut self, place: usize, subtree: Subtree) {
        let (mut place, mut subtree) = (place, subtree);
        loop {
            let half = 1_u64 << subtree.level;
            let is_second = subtree.first_leaf & half != 0;
            let sibling = if is_second { place.checked_sub(1) } else { Some(place) };
            let expected = subtree.first_leaf ^ half;
            let found = sibling.filter(|&index| {
                let other = self.subtrees.get(index);
                other.is_some_and(|other| other.first_leaf == expected && other.level == subtree.level)
            });
            let Some(index) = found else { break };
            let other = self.subtrees.remove(index);
            // Addition is commutative: a + b has the bits of b + a, so the order of the halves does not matter.
            add_in_parallel(&mut subtree.sum, &other.sum);
            self.free.push(other.sum);
            subtree = Subtree {
                first_leaf: subtree.first_leaf & !half,
                level: subtree.level + 1,
                sum: subtree.sum,
            };
            place = index;
        }
        self.subtrees.insert(place, subtree);
    }
}

/// Computes `later = earlier + later`.
fn add_in_parallel(later: &mut [f32], earlier: &[f32]) {
    let chunks = later.par_chunks_mut(CHUNK).zip(earlier.par_chunks(CHUNK));
    chunks.for_each(|(later, earlier)| add_to(later, earlier));
}

/// Computes the Euclidean norm over all elements in float64. Chunks of fixed length are summed in order.
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

/// Computes the factor that clips a gradient of this norm, with the formula of `torch.nn.utils.clip_grad_norm_`:
/// max / (norm + 1e-6), at most 1.
pub fn clip_coefficient(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::LossSum;
    use crate::train::leaf_losses::LeafLosses;
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

    fn tree_of(gradients: &[f32]) -> GradientTree {
        let mut tree = GradientTree::new(1);
        for (leaf, &gradient) in (0..).zip(gradients) {
            tree.add(leaf, |buffer| {
                buffer[0] = gradient;
                Ok(())
            })
            .expect("a new leaf");
        }
        tree
    }

    proptest! {
        #[test]
        fn the_tree_is_the_defined_one(gradients in proptest::collection::vec(-1e3_f32..1e3, 1..40)) {
            let mut tree = tree_of(&gradients);
            // Two rounds: nothing of the first update may reach the second.
            for round in 0..2 {
                let mean = tree.mean().expect("all leaves");
                prop_assert_eq!(mean[0].to_bits(), defined(&gradients).to_bits());
                tree.recycle(mean);
                let held = tree.free.len() as u64;
                prop_assert!(held <= GradientTree::num_buffers(gradients.len() as u64), "{} buffers", held);
                for (leaf, &gradient) in (0..).zip(&gradients).filter(|_| round == 0) {
                    let write = |buffer: &mut [f32]| { buffer[0] = gradient; Ok(()) };
                    tree.add(leaf, write).expect("a new leaf");
                }
            }
        }

        /// Any division of an update into contiguous shares gives the same bits, from one share to one per leaf, merged
        /// in any order.
        #[test]
        fn shares_give_the_bits_of_the_whole(
            leaves in proptest::collection::vec((-1e3_f32..1e3, proptest::bool::ANY, 0_u64..1000), 1..70),
        ) {
            let gradients: Vec<f32> = leaves.iter().map(|leaf| leaf.0).collect();
            let losses: Vec<LossSum> = gradients.iter()
                .map(|&gradient| LossSum { sum: f64::from(gradient).sqrt().abs() * 0.1, num_tokens: 3 })
                .collect();
            let mut whole_loss = LossSum::default();
            losses.iter().for_each(|&loss| whole_loss.add(loss));
            // The second value decides where a share begins. The third decides the order of merging.
            let mut shares: Vec<(u64, Vec<u64>)> = Vec::new();
            for (leaf, &(_, begins, rank)) in (0..).zip(&leaves) {
                match shares.last_mut() {
                    Some((_, share)) if !begins => share.push(leaf),
                    _ => shares.push((rank, vec![leaf])),
                }
            }
            shares.sort_by_key(|share| share.0);
            let (mut tree, mut all_losses) = (GradientTree::new(1), LeafLosses::default());
            for (_, share) in &shares {
                let (mut part, mut part_losses) = (GradientTree::new(1), LeafLosses::default());
                // Within a share, the last leaf first.
                for &leaf in share.iter().rev() {
                    let write = |buffer: &mut [f32]| { buffer[0] = gradients[leaf as usize]; Ok(()) };
                    part.add(leaf, write).expect("a new leaf");
                    part_losses.insert(leaf, losses[leaf as usize]).expect("a new leaf");
                }
                let subtrees = part.take_share();
                prop_assert!(subtrees.len() as u32 <= 2 * (share.len() as u32).ilog2() + 1);
                for subtree in subtrees {
                    tree.merge(subtree).expect("new leaves");
                }
                all_losses.merge(part_losses).expect("new leaves");
            }
            let mean = tree.mean().expect("all leaves")[0];
            prop_assert_eq!(mean.to_bits(), defined(&gradients).to_bits());
            let loss = all_losses.total().expect("all leaves");
            prop_assert_eq!(loss.sum.to_bits(), whole_loss.sum.to_bits());
            prop_assert_eq!(loss.num_tokens, whole_loss.num_tokens);
        }
    }

    #[test]
    fn missing_and_repeated_leaves_are_refused() {
        let mut tree = tree_of(&[1.0, 2.0, 3.0]);
        assert_eq!(tree.add(1, |_| Ok(())), Err(EngineError::Repeated { leaf: 1 }));
        assert_eq!(tree.merge(Subtree::new(2, 1, vec![1.0])), Err(EngineError::Repeated { leaf: 2 }));
        assert_eq!(
            tree.merge(Subtree::new(4, 0, vec![1.0; 2])),
            Err(EngineError::Layout { expected: 1, found: 2 })
        );
        tree.merge(Subtree::new(4, 1, vec![4.0])).expect("new leaves");
        assert_eq!(tree.mean(), Err(EngineError::Missing { leaf: 3 }));
        let failed = tree.add(3, |_| Err::<(), _>(EngineError::Missing { leaf: 9 }));
        assert_eq!(failed, Err(EngineError::Missing { leaf: 9 }));
        tree.merge(Subtree::new(3, 0, vec![8.0])).expect("a new leaf");
        assert_eq!(tree.mean().expect("all leaves"), [(3.0 + 11.0 + 4.0) * (1.0 / 6.0_f32)]);
        assert_eq!(tree.mean(), Err(EngineError::Missing { leaf: 0 }));
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
