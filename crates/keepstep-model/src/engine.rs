//! The seam between training and what computes it: an engine owns one training state and makes updates of it.

pub use crate::error::EngineError;
use crate::layout::Layout;
use crate::memory::Memory;
pub use crate::ops::dropout::DropoutKey;
use crate::train::gradient_tree::Subtree;
use crate::train::train_state::TrainState;

/// One training state on one device, and the updates that it can make.
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
    /// What an engine of this kind is built from.
    type Spec
    where
        Self: Sized;

    /// The memory that an engine of this spec will take.
    fn memory(spec: &Self::Spec) -> Memory
    where
        Self: Sized;

    /// The tensors of the model.
    fn layout(&self) -> &Layout;

    /// Adds the gradient of a micro-batch's mean loss to the update, and returns the sum of its losses. `leaf` is the
    /// micro-batch's index in the update.
    ///
    /// # Errors
    /// A batch that does not fit the model or the engine, or a leaf that the update already has.
    fn accumulate(&mut self, batch: &Batch<'_>, key: DropoutKey, leaf: u64) -> Result<LossSum, EngineError>;

    /// Computes the mean of the accumulated gradients and returns its norm. Parameters and moments do not change.
    ///
    /// # Errors
    /// The leaves are not `0..n`.
    fn reduce(&mut self) -> Result<f64, EngineError>;

    /// Updates parameters and moments with the mean gradient of the last [`reduce`](Engine::reduce). Without one it does
    /// nothing.
    fn step(&mut self, step: OptimizerStep);

    /// Drops the gradients of the current update.
    fn discard(&mut self);

    /// Removes the gradients of the current update and returns them as sums of whole subtrees.
    ///
    /// # Errors
    /// The device fails.
    fn take_share(&mut self) -> Result<Vec<Subtree>, EngineError>;

    /// Adds gradients that another engine computed for this update.
    ///
    /// # Errors
    /// They are of another model, or the update already has some of their leaves.
    fn merge_share(&mut self, share: Vec<Subtree>) -> Result<(), EngineError>;

    /// The sum of a micro-batch's losses, without dropout.
    ///
    /// # Errors
    /// A batch that does not fit the model or the engine.
    fn evaluate(&mut self, batch: &Batch<'_>) -> Result<LossSum, EngineError>;

    /// Replaces the training state, and drops the gradients of the current update.
    ///
    /// # Errors
    /// The state is of another layout.
    fn load(&mut self, state: TrainState) -> Result<(), EngineError>;

    /// The training state as it is now. Later updates never change a snapshot.
    ///
    /// # Errors
    /// The device fails.
    fn snapshot(&mut self) -> Result<TrainState, EngineError>;

    /// Whether [`step`](Engine::step) can go on at once: without a copy, and without waiting for snapshots that are still
    /// in use.
    fn can_step(&mut self) -> bool;
}

/// What engines of models with the spec `S` are built from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineSpec<S> {
    /// Sizes, precision and limits of the model.
    pub model: S,
    /// The most micro-batches of an update.
    pub gradient_accumulation_steps: u64,
    /// Whether the engine holds a second state, which lets updates continue while a snapshot is being saved.
    pub has_spare: bool,
}

impl<S> EngineSpec<S> {
    /// An engine for updates of one micro-batch, without a second state.
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
    /// A batch of `[batch_size, block_size + 1]` tokens. The last `block_size` columns are the targets of the first
    /// `block_size`.
    pub fn new(tokens: &'a [u32]) -> Batch<'a> {
        Batch { tokens }
    }

    /// All tokens, row by row.
    pub fn tokens(&self) -> &'a [u32] {
        self.tokens
    }
}

/// How the optimizer uses the mean gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct OptimizerStep {
    /// The factor of the gradient: below 1 where it is clipped.
    pub clip: f64,
    /// The factor of every group's learning rate, from the schedule.
    pub factor: f64,
}

impl OptimizerStep {
    /// A step with these factors.
    pub fn new(clip: f64, factor: f64) -> OptimizerStep {
        OptimizerStep { clip, factor }
    }
}

/// The losses of some tokens.
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

    /// The mean loss per token.
    pub fn mean(&self) -> f64 {
        self.sum / self.num_tokens.max(1) as f64
    }
}
