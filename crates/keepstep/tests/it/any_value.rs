//! A save that was reported can be resumed from, whatever the values that it holds; and what cannot be stored is refused
//! before anything is written.

use keepstep::identity::Identity;
use keepstep::metrics::{Evaluation, Objective};
use keepstep::position::Position;
use keepstep::run::{Policy, RunBuilder, RunError, Sizes, UpdateStats};
use keepstep::{Checkpoint, Plan, Run, State};
use keepstep_pt::{Dict, Tensor, Value};
use proptest::prelude::*;

/// Small counts, and those around the limits of 32, 63 and 64 bits.
fn count() -> impl Strategy<Value = u64> {
    prop_oneof![0..9_u64, any::<u64>(), Just(1 << 31), Just(1 << 63), Just((1 << 63) - 1), Just(u64::MAX)]
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![any::<u64>().prop_map(f64::from_bits), Just(0.1)]
}

/// Any value that a config can hold.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        count().prop_map(Value::from),
        float().prop_map(Value::Float),
        ".*".prop_map(Value::Str),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let items = prop::collection::vec(inner.clone(), 0..4);
        let entries = prop::collection::vec(("[a-z.]{0,3}", inner), 0..4);
        let dict = entries.prop_map(|entries| {
            let mut dict = Dict::new();
            entries.into_iter().for_each(|(key, value)| dict.insert(key, value));
            Value::Dict(dict)
        });
        prop_oneof![items.clone().prop_map(Value::List), items.prop_map(Value::Tuple), dict]
    })
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_saved_is_resumed(
        seed in count(),
        numerics in count(),
        config in prop::collection::vec(("[a-z]{1,3}", value()), 0..4),
        input in ".*",
        (loss, tokens) in (float(), count()),
        (metric, other) in (float(), float()),
        (stop, part) in (any::<bool>(), value()),
    ) {
        let folder = scratch();
        let identity = || {
            let config = config.iter().cloned();
            let identity = config.fold(Identity::new(seed), |identity, (key, value)| identity.with(&key, value));
            identity.with_numerics(numerics).with_input("train_set", input.clone())
        };
        let policy = || Policy { objective: Objective::max("accuracy"), eval_steps: Some(1), ..Policy::default() };
        let sizes = Sizes::new(7, u64::MAX);
        let mut run = Run::open(folder.path(), identity(), sizes, policy()).expect("a run");
        let update = run.next_update().expect("an update");
        run.record_update(&update, UpdateStats::new(loss, tokens));
        run.record_evaluation(Evaluation::default().with("accuracy", metric).with("f1", other)).expect("the metric");
        if stop {
            run.stop("no improvement");
        }
        let mut state = State::new(Tensor::from_slice(&[1.0_f32], vec![1]));
        state.insert("extra", part.clone()).expect("a name");
        let saved = run.save_now(|| state).expect("a save").expect("a file");
        let written = keepstep::store::load(&saved).expect("a checkpoint");
        drop(run);

        let mut run = Run::open(folder.path(), identity(), sizes, policy()).expect("it resumes");
        let (path, checkpoint) = run.resumed().expect("a checkpoint");
        prop_assert_eq!(path, saved.as_path());
        prop_assert!(checkpoint.identity == identity());
        prop_assert_eq!(format!("{:?}", checkpoint.state.part("extra")), format!("{:?}", part));
        prop_assert_eq!(format!("{:?}", &checkpoint.metrics), format!("{:?}", &written.metrics));
        prop_assert_eq!(checkpoint.metrics.others["accuracy"].to_bits(), metric.to_bits());
        prop_assert_eq!(checkpoint.metrics.num_tokens, tokens);
        prop_assert_eq!(run.stopped().is_some(), stop);
        prop_assert_eq!(run.next_update().is_none(), stop);
        run.continue_stopped();
        prop_assert!(run.next_update().is_some());
    }

    /// Positions, plans and ancestors that no run comes to in a test.
    #[test]
    fn any_count_is_read_back(counts in proptest::array::uniform4(count()), accumulation in 1..9_u64) {
        let [seed, total_steps, num_updates, ancestor] = counts;
        let plan = Plan { steps_per_epoch: 1, gradient_accumulation_steps: accumulation, total_steps };
        let position = Position { epoch: num_updates.max(1), step: 1, global_step: num_updates.max(1) };
        let mut checkpoint = Checkpoint::new(Identity::new(seed), plan, position, State::default());
        let parent = keepstep::checkpoint::Ancestor::new(position, Dict::new(), ancestor);
        checkpoint.lineage.push(parent);
        let read = Checkpoint::from_value(&checkpoint.to_value()).expect("it is read back");
        prop_assert_eq!(read.to_value(), checkpoint.to_value());
        prop_assert_eq!((read.identity.seed, read.plan, read.lineage[0].seed), (seed, plan, ancestor));
    }
}

#[test]
fn what_cannot_be_stored_is_refused_by_its_path() {
    let folder = scratch();
    let open = |identity| Run::open(folder.path(), identity, Sizes::new(4, 1), Policy::default());
    let run = folder.path().join("run");
    let builder = RunBuilder::open(&run, Policy::default()).expect("a builder");
    let bytes = Value::List(vec![Value::Bytes(vec![1])]);
    let error =
        builder.start(Identity::new(1).with("blob", bytes.clone()), Sizes::new(4, 1)).expect_err("bytes");
    assert!(matches!(&error, RunError::Identity { source } if source.path == "blob.0"), "{error}");
    assert!(!run.exists(), "nothing is written");

    let mut run = open(Identity::new(1)).expect("a run");
    let update = run.next_update().expect("an update");
    run.record_update(&update, UpdateStats::default());
    let mut state = State::new(Dict::new());
    state.insert("scaler", bytes).expect("a name");
    let error = run.save_now(|| state).expect_err("bytes");
    assert!(keepstep::store::chain(&error).contains("`scaler_state_dict.0`"), "{error}");
    let path = run.save_now(|| State::new(Dict::new())).expect("a save").expect("a file");
    keepstep::store::load(&path).expect("a checkpoint");
}

/// Everything that differs only in the order of its keys is one run, and its bytes keep the first order.
#[test]
fn another_order_of_keys_changes_no_byte() {
    let folders = [scratch(), scratch()];
    let identity = |reversed: bool| {
        let keys = if reversed { ["b", "a"] } else { ["a", "b"] };
        keys.iter().fold(Identity::new(1), |identity, key| identity.with(key, 1.0).with_input(*key, "x"))
    };
    let mut bytes = Vec::new();
    for (folder, reversed) in folders.iter().zip([false, true]) {
        for (session, until) in [(false, 2), (reversed, 4)] {
            let sizes = Sizes::new(4, 1);
            let mut run =
                Run::open(folder.path(), identity(session), sizes, Policy::default()).expect("a run");
            while run.position().global_step < until {
                let update = run.next_update().expect("an update");
                run.record_update(&update, UpdateStats::new(1.0, 1));
            }
            run.save_now(|| State::new(Dict::new())).expect("a save");
        }
        bytes.push(std::fs::read(folder.path().join("checkpoint_epoch1_final_global4.pt")).expect("the end"));
    }
    assert!(bytes[0] == bytes[1]);
}
