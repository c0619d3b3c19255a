//! The CPU engine, generic over the model.

use crate::engine::{Batch, DropoutKey, Engine, EngineError, EngineSpec, LossSum, OptimizerStep};
use crate::layout::Layout;
use crate::memory::Memory;
use crate::model::Model;
use crate::train::adamw::{AdamW, ParamGroup};
use crate::train::double_buffer::DoubleBuffer;
use crate::train::gradient_tree::{GradientTree, Subtree, global_norm};
use crate::train::train_state::TrainState;

/// A model, its training state and its optimizer, on all threads of the current rayon pool.
pub struct CpuEngine<M> {
    model: M,
    optimizer: AdamW,
    state: DoubleBuffer,
    tree: GradientTree,
    /// The mean gradient, between `reduce` and `step`.
    mean: Option<Vec<f32>>,
}

impl<M: Model> CpuEngine<M> {
    /// Creates an engine that continues from `state`. Together, `groups` must contain each tensor of the model once.
    ///
    /// # Errors
    /// Fails if the state belongs to another model.
    pub fn new(
        spec: &EngineSpec<M::Spec>,
        groups: Vec<ParamGroup>,
        state: TrainState,
    ) -> Result<CpuEngine<M>, EngineError> {
        let layout = M::layout(&spec.model);
        check_len(layout.num_parameters(), state.parameters.len())?;
        Ok(CpuEngine {
            model: M::new(&spec.model),
            optimizer: AdamW::new(groups),
            tree: GradientTree::new(layout.num_parameters()),
            state: DoubleBuffer::new(state, spec.has_spare),
            mean: None,
        })
    }
}

fn check_len(expected: usize, found: usize) -> Result<(), EngineError> {
    if found == expected { Ok(()) } else { Err(EngineError::Layout { expected, found }) }
}

impl<M: Model> Engine for CpuEngine<M> {
    type Spec = EngineSpec<M::Spec>;

    fn memory(spec: &EngineSpec<M::Spec>) -> Memory {
        let one = 4 * M::layout(&spec.model).num_parameters() as u64;
        Memory {
            weights_bytes: one,
            moments_bytes: 2 * one,
            gradients_bytes: one * GradientTree::num_buffers(spec.gradient_accumulation_steps),
            spare_bytes: if spec.has_spare { 3 * one } else { 0 },
            activations_bytes: M::activations_bytes(&spec.model),
        }
    }

    fn layout(&self) -> &Layout {
        &self.state.current().layout
    }

    fn accumulate(&mut self, batch: &Batch<'_>, key: DropoutKey, leaf: u64) -> Result<LossSum, EngineError> {
        let CpuEngine { model, state, tree, .. } = self;
        let parameters = &state.current().parameters;
        tree.add(leaf, |gradient| model.loss_and_gradient(parameters, batch, key, gradient))
    }

    fn reduce(&mut self) -> Result<f64, EngineError> {
        self.discard_mean();
        let mean = self.tree.mean()?;
        let norm = global_norm(&mean);
        self.mean = Some(mean);
        Ok(norm)
    }

    fn step(&mut self, step: OptimizerStep) {
        let CpuEngine { optimizer, state, mean, .. } = self;
        if let Some(gradient) = mean {
            let OptimizerStep { clip, factor } = step;
            state.update(|layout, from, into, count| match from {
                Some(from) => optimizer.step_from(layout, from, into, gradient, clip, factor, count),
                None => optimizer.step(layout, into, gradient, clip, factor, count),
            });
        }
        self.discard_mean();
    }

    fn discard(&mut self) {
        self.discard_mean();
        self.tree.clear();
    }

    fn take_share(&mut self) -> Result<Vec<Subtree>, EngineError> {
        Ok(self.tree.take_share())
    }

    fn merge_share(&mut self, share: Vec<Subtree>) -> Result<(), EngineError> {
        share.into_iter().try_for_each(|subtree| self.tree.merge(subtree))
    }

    fn evaluate(&mut self, batch: &Batch<'_>) -> Result<LossSum, EngineError> {
        self.model.loss(&self.state.current().parameters, batch)
    }

    fn load(&mut self, state: TrainState) -> Result<(), EngineError> {
        check_len(self.layout().num_parameters(), state.parameters.len())?;
        self.discard();
        self.state.load(state);
        Ok(())
    }

    fn snapshot(&mut self) -> Result<TrainState, EngineError> {
        Ok(self.state.current().clone())
    }

    fn can_step(&mut self) -> bool {
        self.state.can_update()
    }
}

impl<M> CpuEngine<M> {
    fn discard_mean(&mut self) {
        if let Some(mean) = self.mean.take() {
            self.tree.recycle(mean);
        }
    }
}

impl<M> std::fmt::Debug for CpuEngine<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CpuEngine").field("optimizer", &self.optimizer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::{Engine, EngineSpec};
    use crate::gpt2::{CpuEngine, Gpt2Spec};
    use crate::testing::conformance::{self, Conformance};
    use crate::train::adamw::ParamGroup;
    use crate::train::train_state::TrainState;
    use keepstep_numerics::testing::run_again_on;

    fn build(spec: &EngineSpec<Gpt2Spec>, groups: Vec<ParamGroup>, state: TrainState) -> Box<dyn Engine> {
        Box::new(CpuEngine::new(spec, groups, state).expect("an engine"))
    }

    macro_rules! conformance {
        ($($name:ident),*) => {
            $(
                #[test]
                fn $name() {
                    conformance::$name(&Conformance::new(&build));
                }
            )*
            /// A check that is in the suite but not in this list would never run.
            #[test]
            fn every_check_runs() {
                assert_eq!(conformance::CHECKS, [$(stringify!($name)),*]);
            }
        };
    }
    conformance!(
        gradients_match_the_reference,
        float32_bits_are_golden,
        bf16_bits_are_golden,
        bf16_is_close_to_float32,
        bf16_learns_as_float32_does,
        shares_give_the_bits_of_the_whole,
        snapshots_never_change,
        a_loaded_snapshot_continues_with_the_same_bits,
        refused_input_changes_nothing
    );

    /// The golden bits also hold on a processor without AVX-512.
    #[test]
    fn golden_bits_on_a_haswell_processor() {
        run_again_on("Haswell", &["bits_are_golden"]);
    }

    /// The golden bits also hold on a processor without AVX2 and FMA.
    #[test]
    fn golden_bits_on_a_nehalem_processor() {
        run_again_on("Nehalem", &["bits_are_golden"]);
    }
}
