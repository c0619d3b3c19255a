//! Checks that every engine for GPT-2 must pass: values against a float64 reference, golden bits, and the contract of
//! [`Engine`]. A check panics if an engine fails it.

use super::cases::{KEY, parameters, small, tokens};
use super::reference::reference;
use crate::engine::{Batch, DropoutKey, Engine, EngineError, EngineSpec, LossSum, OptimizerStep};
use crate::gpt2::{Gpt2Config, Gpt2Spec, initial_parameters};
use crate::train::adamw::{OptimizerConfig, ParamGroup};
use crate::train::leaf_losses::LeafLosses;
use crate::train::optimizer_update::OptimizerUpdate;
use crate::train::train_state::TrainState;
use keepstep_numerics::precision::Precision;
use keepstep_numerics::testing::{fingerprint, is_emulated};

/// Builds an engine that continues from a state.
pub type Build = dyn Fn(&EngineSpec<Gpt2Spec>, Vec<ParamGroup>, TrainState) -> Box<dyn Engine> + Sync;

/// The names of all checks. Each is a function of this module.
pub const CHECKS: [&str; 9] = [
    "gradients_match_the_reference",
    "float32_bits_are_golden",
    "bf16_bits_are_golden",
    "bf16_is_close_to_float32",
    "bf16_learns_as_float32_does",
    "shares_give_the_bits_of_the_whole",
    "snapshots_never_change",
    "a_loaded_snapshot_continues_with_the_same_bits",
    "refused_input_changes_nothing",
];

/// The engine under test.
#[derive(Clone, Copy)]
pub struct Conformance<'a> {
    build: &'a Build,
}

impl<'a> Conformance<'a> {
    /// Creates a suite for the engines that `build` makes.
    pub fn new(build: &'a Build) -> Conformance<'a> {
        Conformance { build }
    }

    fn engine(&self, spec: Gpt2Spec, parameters: &[f32]) -> Box<dyn Engine> {
        self.engine_with(&EngineSpec::new(spec), parameters)
    }

    fn engine_with(&self, spec: &EngineSpec<Gpt2Spec>, parameters: &[f32]) -> Box<dyn Engine> {
        let layout = spec.model.config.layout();
        let groups = ParamGroup::from_config(&OptimizerConfig::default(), &layout);
        (self.build)(spec, groups, TrainState::new(layout, parameters.to_vec()))
    }
}

/// A model that needs several blocks of rows. Its sizes are not multiples of a vector.
fn odd(dropout: f64) -> Gpt2Config {
    Gpt2Config { vocab_size: 301, block_size: 77, n_layer: 2, n_head: 3, n_embd: 51, ..small(dropout) }
}

fn spec(config: Gpt2Config, batch_size: usize, precision: Precision, recompute: bool) -> Gpt2Spec {
    Gpt2Spec { precision, recompute_activations: recompute, ..Gpt2Spec::new(config, batch_size) }
}

/// Computes the gradient of one micro-batch, without an update.
fn gradient(engine: &mut dyn Engine, tokens: &[u32], key: DropoutKey) -> (LossSum, Vec<f32>) {
    let loss = engine.accumulate(&Batch::new(tokens), key, 0).expect("a batch");
    let share = engine.take_share().expect("a share");
    let [subtree] = share.as_slice() else { panic!("{} subtrees of one leaf", share.len()) };
    (loss, subtree.sum().to_vec())
}

/// Losses and gradients match the float64 reference, for shapes at the edges of every block.
pub fn gradients_match_the_reference(suite: &Conformance<'_>) {
    let shapes = [
        (small(0.0), 1, false),
        (small(0.0), 3, false),
        (small(0.3), 3, false),
        (small(0.3), 2, true),
        // More than one block of queries, of keys and of rows, each with a ragged end.
        (Gpt2Config { block_size: 70, ..small(0.3) }, 2, false),
        (Gpt2Config { block_size: 131, n_head: 1, n_embd: 8, ..small(0.2) }, 1, true),
        (Gpt2Config { block_size: 66, n_head: 6, n_embd: 6, ..small(0.0) }, 1, false),
        // The widest head in use.
        (Gpt2Config { vocab_size: 7, n_head: 1, n_embd: 128, n_layer: 1, ..small(0.1) }, 1, false),
        // More than one block of rows at the head, and more than one block of the vocabulary.
        (small(0.1), 110, false),
        (Gpt2Config { vocab_size: 4099, n_layer: 1, ..small(0.0) }, 1, false),
    ];
    for (model, batch_size, recompute) in shapes {
        // Rounding adds up over rows; a missing or doubled term exceeds either bound.
        let bound = if batch_size * model.block_size > 20 { 5e-5 } else { 1e-5 };
        let values = parameters(&model);
        let tokens = tokens(&model, batch_size);
        let exact: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
        let (loss, expected) = reference(&model, KEY, &exact, &tokens);

        let mut engine = suite.engine(spec(model, batch_size, Precision::Float32, recompute), &values);
        let (sum, found) = gradient(engine.as_mut(), &tokens, KEY);

        assert_eq!(sum.num_tokens, (batch_size * model.block_size) as u64);
        assert!((sum.mean() - loss).abs() < 2e-6, "{} and {loss}", sum.mean());
        for tensor in engine.layout().tensors() {
            let (found, expected) = (&found[tensor.range()], &expected[tensor.range()]);
            let largest = expected.iter().fold(1e-3_f64, |largest, value| largest.max(value.abs()));
            for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
                let error = (f64::from(found) - expected).abs();
                let name = &tensor.name;
                assert!(
                    error < bound * largest.max(0.1),
                    "{name}[{index}]: {found} and {expected}, {model:?}"
                );
            }
        }
        if model.dropout == 0.0 {
            let evaluated = engine.evaluate(&Batch::new(&tokens)).expect("a batch");
            assert!((evaluated.mean() - loss).abs() < 2e-6);
        }
    }
}

/// Computes loss and gradient of a whole micro-batch on this many threads.
fn pass(
    suite: &Conformance<'_>,
    precision: Precision,
    key: DropoutKey,
    threads: usize,
    recompute: bool,
) -> (f64, Vec<f32>) {
    let model = odd(0.1);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    let mut engine = suite.engine(spec(model, 5, precision, recompute), &initial_parameters(&model, 3));
    let tokens = tokens(&model, 5);
    let (loss, gradient) = pool.install(|| gradient(engine.as_mut(), &tokens, key));
    (loss.sum, gradient)
}

fn check_golden(suite: &Conformance<'_>, precision: Precision, key: DropoutKey, golden: (u64, &str)) {
    let all = [(2, false), (1, false), (3, true), (4, false)];
    for &(threads, recompute) in if is_emulated() { &all[..1] } else { &all } {
        let (loss, gradient) = pass(suite, precision, key, threads, recompute);
        let hash = fingerprint(&gradient);
        assert_eq!((loss.to_bits(), hash.as_str()), golden, "{threads} threads");
    }
}

/// A micro-batch in float32 has the same bits on any number of threads. If the golden values change, the numerics have
/// changed: that needs a new numerics version and a line in the changelog.
pub fn float32_bits_are_golden(suite: &Conformance<'_>) {
    check_golden(suite, Precision::Float32, KEY, (4_657_063_423_572_974_642, "be5bed2cd1cd6784"));
}

const BF16_KEY: DropoutKey = DropoutKey { seed: 11, global_step: 3, micro_batch: 1 };

/// A micro-batch in bf16 has the same bits on any number of threads.
pub fn bf16_bits_are_golden(suite: &Conformance<'_>) {
    check_golden(suite, Precision::Bf16, BF16_KEY, (4_657_061_840_071_680_469, "ade1d090883930b9"));
}

/// Gradients in bf16 differ from float32 by the rounding of factors to eight bits: at most 2^-9 of each, less on
/// average.
pub fn bf16_is_close_to_float32(suite: &Conformance<'_>) {
    let (exact_loss, exact) = pass(suite, Precision::Float32, BF16_KEY, 2, false);
    let (loss, found) = pass(suite, Precision::Bf16, BF16_KEY, 2, false);
    assert!(loss != exact_loss && (loss / exact_loss - 1.0).abs() < 1e-4, "{loss} and {exact_loss}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    for tensor in odd(0.1).layout().tensors() {
        let (exact, found) = (&exact[tensor.range()], &found[tensor.range()]);
        let distance = norm(&mut exact.iter().zip(found).map(|(one, other)| f64::from(one - other)));
        let length = norm(&mut exact.iter().map(|value| f64::from(*value)));
        assert!(distance < 0.02 * length + 1e-7, "{}: {distance:e} of {length:e}", tensor.name);
    }
}

/// Gradient descent on one micro-batch has similar losses in both precisions.
pub fn bf16_learns_as_float32_does(suite: &Conformance<'_>) {
    let model = Gpt2Config { vocab_size: 50, block_size: 24, n_embd: 24, ..odd(0.0) };
    let tokens = tokens(&model, 4);
    let losses = |precision: Precision| {
        let mut values = initial_parameters(&model, 3);
        let mut engine = suite.engine(spec(model, 4, precision, false), &values);
        let mut losses = Vec::new();
        for _ in 0..90 {
            let (loss, gradient) = gradient(engine.as_mut(), &tokens, BF16_KEY);
            losses.push(loss.mean());
            values.iter_mut().zip(&gradient).for_each(|(value, gradient)| *value -= 0.1 * gradient);
            engine.load(TrainState::new(model.layout(), values.clone())).expect("a state of this model");
        }
        // An evaluation computes in the same precision. Without dropout it is the same pass.
        let trained = gradient(engine.as_mut(), &tokens, BF16_KEY).0.mean();
        let evaluated = engine.evaluate(&Batch::new(&tokens)).expect("a batch").mean();
        assert_eq!(evaluated.to_bits(), trained.to_bits());
        losses.push(trained);
        losses
    };
    let (exact, found) = (losses(Precision::Float32), losses(Precision::Bf16));
    assert!(found[90] < 0.5 * found[0], "{} to {}", found[0], found[90]);
    let exact_first = exact[0];
    for (step, (exact, found)) in exact.iter().zip(&found).enumerate() {
        // Relative to the decrease of the loss in float32.
        assert!((found - exact).abs() < 0.03 * exact_first, "{step}: {found} and {exact}");
    }
}

/// The micro-batches of an update, each with different tokens.
fn micro_batches(model: &Gpt2Config, count: usize) -> Vec<Vec<u32>> {
    let all = tokens(model, 2 * count);
    all.chunks(2 * (model.block_size + 1)).map(<[u32]>::to_vec).collect()
}

fn update(engine: &mut dyn Engine, batches: &[Vec<u32>], global_step: u64) -> (u64, u64) {
    let mut update = OptimizerUpdate::begin(engine, 7, global_step);
    for tokens in batches {
        update.accumulate(&Batch::new(tokens)).expect("a batch");
    }
    let outcome = update.finish(1.0, 1.0, |_, _| Ok::<(), EngineError>(())).expect("an update");
    (outcome.loss.sum.to_bits(), outcome.grad_norm.to_bits())
}

fn bits(state: &TrainState) -> (u64, [String; 3]) {
    let TrainState { parameters, exp_avg, exp_avg_sq, num_updates, .. } = state;
    (*num_updates, [parameters, exp_avg, exp_avg_sq].map(|values| fingerprint(values)))
}

fn snapshot(engine: &mut dyn Engine) -> TrainState {
    engine.snapshot().expect("a snapshot")
}

/// Any contiguous shares of an update, computed by different engines, give the bits of a single engine.
pub fn shares_give_the_bits_of_the_whole(suite: &Conformance<'_>) {
    let model = small(0.2);
    let engine = || suite.engine(Gpt2Spec::new(model, 2), &parameters(&model));
    for count in [1, 2, 5, 8] {
        let batches = micro_batches(&model, count);
        let mut whole = engine();
        let expected = update(whole.as_mut(), &batches, 3);
        for num_shares in 1..=count {
            let (mut workers, mut losses) = (Vec::new(), LeafLosses::default());
            for share in 0..num_shares {
                let mut worker = engine();
                let leaves = share * count / num_shares..(share + 1) * count / num_shares;
                for (leaf, tokens) in (leaves.start as u64..).zip(&batches[leaves]) {
                    let key = DropoutKey { seed: 7, global_step: 3, micro_batch: leaf };
                    let loss = worker.accumulate(&Batch::new(tokens), key, leaf);
                    losses.insert(leaf, loss.expect("a batch")).expect("a new leaf");
                }
                workers.push(worker);
            }
            // The last worker merges the shares in reverse order.
            let mut last = workers.pop().expect("a worker");
            for worker in workers.iter_mut().rev() {
                last.merge_share(worker.take_share().expect("a share")).expect("new leaves");
            }
            let norm = last.reduce().expect("all leaves");
            let loss = losses.total().expect("all leaves");
            assert_eq!((loss.sum.to_bits(), norm.to_bits()), expected, "{num_shares} shares of {count}");
            let clip = crate::train::gradient_tree::clip_coefficient(norm, 1.0);
            last.step(OptimizerStep::new(clip, 1.0));
            assert_eq!(bits(&snapshot(last.as_mut())), bits(&snapshot(whole.as_mut())));
        }
    }
}

/// A snapshot keeps its values after later updates, with and without a second state.
pub fn snapshots_never_change(suite: &Conformance<'_>) {
    let model = small(0.1);
    let batches = micro_batches(&model, 2);
    let mut plain = suite.engine(Gpt2Spec::new(model, 2), &parameters(&model));
    for has_spare in [true, false] {
        let spec = EngineSpec { has_spare, ..EngineSpec::new(Gpt2Spec::new(model, 2)) };
        let mut engine = suite.engine_with(&spec, &parameters(&model));
        plain.load(snapshot(engine.as_mut())).expect("a state of this model");
        for round in 0..3 {
            let held = snapshot(engine.as_mut());
            let before = bits(&held);
            for step in 0..3 {
                update(engine.as_mut(), &batches, 3 * round + step);
                update(plain.as_mut(), &batches, 3 * round + step);
                assert_eq!(bits(&held), before, "the snapshot has changed");
                assert_eq!(bits(&snapshot(engine.as_mut())), bits(&snapshot(plain.as_mut())));
            }
        }
    }
}

/// An engine that loads a snapshot of another engine continues with the same bits.
pub fn a_loaded_snapshot_continues_with_the_same_bits(suite: &Conformance<'_>) {
    let model = small(0.1);
    let batches = micro_batches(&model, 3);
    let mut one = suite.engine(Gpt2Spec::new(model, 2), &parameters(&model));
    update(one.as_mut(), &batches, 0);
    let mut other = suite.engine(Gpt2Spec::new(model, 2), &initial_parameters(&model, 8));
    // An unfinished update is not part of the state.
    other.accumulate(&Batch::new(&batches[1]), KEY, 0).expect("a batch");
    other.load(snapshot(one.as_mut())).expect("a state of this model");
    for step in 1..3 {
        assert_eq!(update(one.as_mut(), &batches, step), update(other.as_mut(), &batches, step));
        assert_eq!(bits(&snapshot(one.as_mut())), bits(&snapshot(other.as_mut())));
    }
}

/// Refused batches, leaves and states change nothing, and neither do discarded updates.
pub fn refused_input_changes_nothing(suite: &Conformance<'_>) {
    let model = small(0.1);
    let batches = micro_batches(&model, 2);
    let engine = || suite.engine(Gpt2Spec::new(model, 2), &parameters(&model));
    let (mut plain, mut tried) = (engine(), engine());
    let before = bits(&snapshot(tried.as_mut()));
    let good = Batch::new(&batches[0]);

    assert_eq!(tried.reduce(), Err(EngineError::Missing { leaf: 0 }));
    tried.accumulate(&good, KEY, 0).expect("a batch");
    for bad in [&batches[0][1..], &[], &tokens(&model, 3)] {
        let expected = EngineError::Batch { found: bad.len(), batch_size: 2, sequence_len: 6 };
        assert_eq!(tried.accumulate(&Batch::new(bad), KEY, 1), Err(expected.clone()));
        assert_eq!(tried.evaluate(&Batch::new(bad)), Err(expected));
    }
    let mut unknown = batches[0].clone();
    unknown[11] = 11;
    let expected = EngineError::Token { token: 11, vocab_size: 11 };
    assert_eq!(tried.accumulate(&Batch::new(&unknown), KEY, 1), Err(expected));
    assert_eq!(tried.accumulate(&good, KEY, 0), Err(EngineError::Repeated { leaf: 0 }));
    tried.accumulate(&good, KEY, 2).expect("a batch");
    assert_eq!(tried.reduce(), Err(EngineError::Missing { leaf: 1 }));
    let other = Gpt2Config { n_layer: 1, ..model };
    let state = TrainState::new(other.layout(), initial_parameters(&other, 1));
    assert!(matches!(tried.load(state), Err(EngineError::Layout { .. })));
    tried.discard();
    // The update is reduced and then discarded.
    tried.accumulate(&good, KEY, 0).expect("a batch");
    tried.reduce().expect("one leaf");
    tried.discard();
    tried.step(OptimizerStep::new(1.0, 1.0));

    assert_eq!(bits(&snapshot(tried.as_mut())), before);
    assert_eq!(update(tried.as_mut(), &batches, 0), update(plain.as_mut(), &batches, 0));
    assert_eq!(bits(&snapshot(tried.as_mut())), bits(&snapshot(plain.as_mut())));
}
