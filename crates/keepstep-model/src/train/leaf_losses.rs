//! The losses of an update's micro-batches, by leaf.
//!
//! Gradients are summed as a tree; losses are not: they are added one after the other, in the order of the leaves. That
//! order is part of the numerics (journals and checkpoints contain the sum's bits), and an update has few losses, so
//! a share of an update hands over each loss by itself, and whoever has them all adds them in order.

use crate::engine::{EngineError, LossSum};
use std::collections::BTreeMap;

/// The losses of some of an update's micro-batches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LeafLosses(BTreeMap<u64, LossSum>);

impl LeafLosses {
    /// The number of micro-batches.
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a micro-batch's loss.
    ///
    /// # Errors
    /// The leaf has one already.
    pub fn insert(&mut self, leaf: u64, loss: LossSum) -> Result<(), EngineError> {
        match self.0.insert(leaf, loss) {
            None => Ok(()),
            Some(_) => Err(EngineError::Repeated { leaf }),
        }
    }

    /// Adds the losses of another share of the update.
    ///
    /// # Errors
    /// Both have a leaf.
    pub fn merge(&mut self, share: LeafLosses) -> Result<(), EngineError> {
        share.0.into_iter().try_for_each(|(leaf, loss)| self.insert(leaf, loss))
    }

    /// The sum over all micro-batches, added in the order of the leaves.
    ///
    /// # Errors
    /// The leaves are not `0..n`.
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
