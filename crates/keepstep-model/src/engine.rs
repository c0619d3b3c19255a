//! The interface between training and computation: an engine owns one training state and updates it.

pub use crate::error::EngineError;
use crate::layout::Layout;
use crate::memory::Memory;
pub use crate::ops::dropout::DropoutKey;
use crate::train::gradient_tree::Subtree;
use crate::train::train_state::TrainState;

/// One training state on one device, and the operations that update it.
///
/// The engine owns parameters, optimizer moments and the gradients of the current update. State enters with
/// [`load`](Engine::load) and leaves with [`snapshot`](Engine::snapshot) only.
///
/// An update is a number of [`accumulate`](Engine::accumulate) calls, one [`reduce`](Engine::reduce), and either
/// [`step`](Engine::step) or [`discard`](Engine::discard);
/// [`OptimizerUpdate`](crate::train::optimizer_update::OptimizerUpdate) makes these calls. Several engines can share an
/// update: each accumulates some of the leaves, and [`take_share`](Engine::take_share) and
/// [`merge_share`](Engine::merge_share) bring the sums together with the same bits.
pub trait Engine: Send {
    /// The description from which an engine of this kind is built.
    type Spec
    where
        Self: Sized;

    /// Computes the memory that an engine of this spec will take.
    fn memory(spec: &Self::Spec) -> Memory
    where
        Self: Sized;

    /// Returns the names, shapes and offsets of the model's tensors.
    fn layout(&self) -> &Layout;

    /// Adds the gradient of a micro-batch's mean loss to the update, and returns the sum of its losses. `leaf` is the
    /// micro-batch's index in the update.
    ///
    /// # Errors
    /// Fails if the batch does not fit the model or the engine, or if the update already has this leaf.
    fn accumulate(&mut self, batch: &Batch<'_>, key: DropoutKey, leaf: u64) -> Result<LossSum, EngineError>;

    /// Computes the mean of the accumulated gradients and returns its norm. Parameters and moments do not change.
    ///
    /// # Errors
    /// Fails if the leaves are not `0..n`.
    fn reduce(&mut self) -> Result<f64, EngineError>;

    /// Updates parameters and moments with the mean gradient of the last [`reduce`](Engine::reduce). Without one it
    /// does nothing.
    fn step(&mut self, step: OptimizerStep);

    /// Drops the gradients of the current update.
    fn discard(&mut self);

    /// Removes the gradients of the current update and returns them as sums of whole subtrees.
    ///
    /// # Errors
    /// Fails if the device fails.
    fn take_share(&mut self) -> Result<Vec<Subtree>, EngineError>;

    /// Adds gradients that another engine computed for this update.
    ///
    /// # Errors
    /// Fails if the share belongs to another model, or if the update already has one of its leaves.
    fn merge_share(&mut self, share: Vec<Subtree>) -> Result<(), EngineError>;

    /// Computes the sum of a micro-batch's losses, without dropout.
    ///
    /// # Errors
    /// Fails if the batch does not fit the model or the engine.
    fn evaluate(&mut self, batch: &Batch<'_>) -> Result<LossSum, EngineError>;

    /// Replaces the training state, and drops the gradients of the current update.
    ///
    /// # Errors
    /// Fails if the state has another layout.
    fn load(&mut self, state: TrainState) -> Result<(), EngineError>;

    /// Returns the current training state. Later updates never change a snapshot.
    ///
    /// # Errors
    /// Fails if the device fails.
    fn snapshot(&mut self) -> Result<TrainState, EngineError>;

    /// Reports whether [`step`](Engine::step) can run immediately: without a copy, and without waiting for snapshots
    /// that are still in use.
    fn can_step(&mut self) -> bool;
}

/// The description of an engine for models with the spec `S`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineSpec<S> {
    /// Sizes, precision and limits of the model.
    pub model: S,
    /// The largest number of micro-batches in an update.
    pub gradient_accumulation_steps: u64,
    /// Whether the engine holds a second state. With it, updates continue while a snapshot is being saved.
    pub has_spare: bool,
}

impl<S> EngineSpec<S> {
    /// Describes an engine for updates of one micro-batch, without a second state.
    pub fn new(model: S) -> EngineSpec<S> {
        EngineSpec { model, gradient_accumulation_steps: 1, has_spare: false }
    }
}

/// The tokens of one micro-batch.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    tokens: &'a [u32],
}

impl<'a> Batch<'a> {
    /// Wraps `[batch_size, block_size + 1]` tokens. The last `block_size` columns are the targets of the first
    /// `block_size`.
    pub fn new(tokens: &'a [u32]) -> Batch<'a> {
        Batch { tokens }
    }

    /// Returns all tokens, row by row.
    pub fn tokens(&self) -> &'a [u32] {
        self.tokens
    }
}

/// How the optimizer uses the mean gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct OptimizerStep {
    /// The factor that clips the gradient. It is 1 where nothing is clipped.
    pub clip: f64,
    /// The schedule's factor, which multiplies the learning rate of every group.
    pub factor: f64,
}

impl OptimizerStep {
    /// Creates an optimizer step with these factors.
    pub fn new(clip: f64, factor: f64) -> OptimizerStep {
        OptimizerStep { clip, factor }
    }
}

/// The summed loss of a number of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSum {
    /// The sum of the losses, in nats.
    pub sum: f64,
    /// The number of tokens.
    pub num_tokens: u64,
}

impl LossSum {
    /// Adds another sum to this one.
    pub fn add(&mut self, other: LossSum) {
        self.sum += other.sum;
        self.num_tokens += other.num_tokens;
    }

    /// Computes the mean loss per token.
    pub fn mean(&self) -> f64 {
        self.sum / self.num_tokens.max(1) as f64
    }
}
