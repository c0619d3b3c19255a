//! The losses of an update's micro-batches, by leaf.
//!
//! Gradients are summed as a tree, and losses are not: they are added one after the other, in the order of the leaves.
//! That order is part of the numerics, because journals and checkpoints contain the bits of the sum. An update has few
//! losses, so a share of an update passes on each loss separately, and the engine that has them all adds them in order.

use crate::engine::{EngineError, LossSum};
use std::collections::BTreeMap;

/// The losses of some of an update's micro-batches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LeafLosses(BTreeMap<u64, LossSum>);

impl LeafLosses {
    /// Returns the number of micro-batches.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Reports whether there are no micro-batches.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a micro-batch's loss.
    ///
    /// # Errors
    /// Fails if the leaf already has a loss.
    pub fn insert(&mut self, leaf: u64, loss: LossSum) -> Result<(), EngineError> {
        match self.0.insert(leaf, loss) {
            None => Ok(()),
            Some(_) => Err(EngineError::Repeated { leaf }),
        }
    }

    /// Adds the losses of another share of the update.
    ///
    /// # Errors
    /// Fails if both shares have a loss for the same leaf.
    pub fn merge(&mut self, share: LeafLosses) -> Result<(), EngineError> {
        share.0.into_iter().try_for_each(|(leaf, loss)| self.insert(leaf, loss))
    }

    /// Computes the sum over all micro-batches, added in the order of the leaves.
    ///
    /// # Errors
    /// Fails if the leaves are not `0..n`.
    pub fn total(&self) -> Result<LossSum, EngineError> {
        let mut total = LossSum::default();
        for (expected, (&leaf, &loss)) in (0..).zip(&self.0) {
            if leaf != expected {
                return Err(EngineError::Missing { leaf: expected });
            }
            total.add(loss);
        }
        Ok(total)
    }
}
