//! A loop that learns four numbers, with momentum, accumulation and evaluations.

use keepstep::identity::{CORPUS_FINGERPRINT, Identity, TOKENIZER};
use keepstep::run::{Policy, Run, Sizes, UpdateStats};
use keepstep::{Checkpoint, State};
use keepstep_pt::{Dict, Tensor, Value};

/// The identity of the committed fixtures.
pub(crate) fn identity(learning_rate: f64) -> Identity {
    let mut model = Dict::new();
    model.insert("n_layer", 1_i64);
    model.insert("betas", Value::List(vec![Value::Float(0.9), Value::Float(0.95)]));
    Identity::new(1337)
        .with("learning_rate", learning_rate)
        .with("model", model)
        .with("eval_steps", 3_i64)
        .with("nothing", Value::None)
        .with_numerics(3)
        .with_input(CORPUS_FINGERPRINT, "0123456789abcdef")
        .with_input(TOKENIZER, "{\"version\":\"1.0\"}")
}

pub(crate) fn sizes() -> Sizes {
    Sizes::new(5, 3).with_gradient_accumulation(2)
}

pub(crate) fn policy() -> Policy {
    Policy { save_steps: 4, eval_steps: Some(3), max_checkpoints: 9, ..Policy::default() }
}

#[derive(Default)]
pub(crate) struct Model {
    weights: [f32; 4],
    momentum: [f32; 4],
}

impl Model {
    /// The model as a checkpoint has it.
    pub(crate) fn load(checkpoint: Option<&Checkpoint>) -> Model {
        let mut model = Model::default();
        if let Some(checkpoint) = checkpoint {
            let dict = |value: &Value| value.as_dict().cloned().expect("a dict");
            let weight = dict(checkpoint.state.part("model")).get("weight").cloned();
            read(weight.as_ref(), &mut model.weights);
            let state = dict(checkpoint.state.part("optimizer")).get("state").map(dict).expect("the state");
            let first = state.get_key(&Value::Int(0)).map(dict).expect("the first parameter");
            read(first.get("exp_avg"), &mut model.momentum);
        }
        model
    }

    pub(crate) fn state(&self, num_updates: u64) -> State {
        let mut model = Dict::new();
        model.insert("weight", Tensor::from_slice(&self.weights, vec![2, 2]));
        let mut parameter = Dict::new();
        parameter.insert("step", Tensor::from_slice(&[num_updates as f32], vec![]));
        parameter.insert("exp_avg", Tensor::from_slice(&self.momentum, vec![2, 2]));
        let mut state = Dict::new();
        state.insert(0_i64, parameter);
        let mut group = Dict::new();
        group.insert("lr", 0.1);
        group.insert("params", Value::List(vec![Value::Int(0)]));
        let mut optimizer = Dict::new();
        optimizer.insert("state", state);
        optimizer.insert("param_groups", Value::List(vec![Value::Dict(group)]));
        let mut scheduler = Dict::new();
        scheduler.insert("last_epoch", num_updates as i64);
        State::of_training(Value::OrderedDict(model), optimizer, scheduler)
    }

    /// One update with plain SGD and momentum.
    pub(crate) fn update(&mut self, run: &mut Run, learning_rate: f64) -> bool {
        let Some(update) = run.next_update() else { return false };
        let order = run.order(update.epoch, 5);
        let (mut loss_sum, mut norm) = (0.0, 0.0_f32);
        for place in update.micro_batches.clone() {
            let sample = order.sample(place) as f32;
            for (index, (weight, momentum)) in self.weights.iter_mut().zip(&mut self.momentum).enumerate() {
                let error = *weight - sample * (index as f32 + 1.0) * 0.5;
                *momentum = 0.9 * *momentum + 0.1 * error;
                *weight -= learning_rate as f32 * *momentum;
                loss_sum += f64::from(error * error);
                norm += error * error;
            }
        }
        let num_tokens = 4 * (update.micro_batches.end - update.micro_batches.start);
        let stats = UpdateStats::new(loss_sum, num_tokens).with_learning_rate(learning_rate);
        run.record_update(&update, stats.with_grad_norm(f64::from(norm.sqrt())));
        true
    }

    pub(crate) fn val_loss(&self) -> f64 {
        f64::from(self.weights.iter().map(|weight| (weight - 2.0) * (weight - 2.0)).sum::<f32>())
    }
}

fn read(value: Option<&Value>, into: &mut [f32]) {
    value.and_then(Value::as_tensor).expect("a tensor").read_into(into).expect("its values");
}
