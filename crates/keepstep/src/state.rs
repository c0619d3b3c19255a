//! What a training loop keeps of itself: named state dicts, in order.

use keepstep_pt::Value;
use thiserror::Error;

/// The parts that a checkpoint of format version 1 has, in this order.
pub(crate) const VERSION_1: [&str; 3] = ["model", "optimizer", "scheduler"];

/// Names that no part can have: they are keys of a checkpoint.
const RESERVED: [&str; 9] = [
    "keepstep",
    "config",
    "epoch",
    "step",
    "global_step",
    "train_loss",
    "val_loss",
    "best_val_loss",
    "state_dict",
];

/// The state of a training loop as named parts. Each part becomes `{name}_state_dict` at the root of a checkpoint, in
/// the order in which the parts were added.
///
/// ```
/// use keepstep::State;
/// use keepstep_pt::{Dict, Value};
///
/// let mut state = State::new(Dict::new());
/// state.insert("ema", Dict::new())?;
/// assert_eq!(state.names().collect::<Vec<_>>(), ["model", "ema"]);
/// assert!(state.insert("keepstep", Value::None).is_err(), "a reserved name");
/// # Ok::<(), keepstep::state::PartError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct State {
    parts: Vec<(String, Value)>,
}

/// A part that a state cannot have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PartError {
    /// The name belongs to keepstep, or is not a name.
    #[error(
        "`{name}` cannot name a part of the state: it is reserved, empty, or more than letters, digits and `_`"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// There are two parts of this name.
    #[error("there are two parts of the state named `{name}`")]
    Twice {
        /// The name.
        name: String,
    },
}

impl State {
    /// A state that consists of the model's state dict. Add other parts with [`State::insert`].
    pub fn new(model: impl Into<Value>) -> State {
        State { parts: vec![("model".to_owned(), model.into())] }
    }

    /// The state dicts of a model, its optimizer and its learning-rate scheduler.
    pub fn of_training(
        model: impl Into<Value>,
        optimizer: impl Into<Value>,
        scheduler: impl Into<Value>,
    ) -> State {
        let values = [model.into(), optimizer.into(), scheduler.into()];
        State { parts: VERSION_1.map(str::to_owned).into_iter().zip(values).collect() }
    }

    /// A state with these parts in this order.
    ///
    /// # Errors
    /// See [`State::insert`].
    pub fn from_parts<N: Into<String>>(
        parts: impl IntoIterator<Item = (N, Value)>,
    ) -> Result<State, PartError> {
        let mut state = State::default();
        for (name, value) in parts {
            state.insert(name, value)?;
        }
        Ok(state)
    }

    /// Adds a part at the end.
    ///
    /// # Errors
    /// The name is reserved, is not an identifier, or is taken.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<Value>) -> Result<(), PartError> {
        let name = name.into();
        check_name(&name)?;
        if self.get(&name).is_some() {
            return Err(PartError::Twice { name });
        }
        self.parts.push((name, value.into()));
        Ok(())
    }

    /// The part of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.parts.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// The part of this name, or `None` of Python where there is none.
    pub fn part(&self, name: &str) -> &Value {
        const NONE: &Value = &Value::None;
        self.get(name).unwrap_or(NONE)
    }

    /// The names of the parts, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.parts.iter().map(|(name, _)| name.as_str())
    }

    /// The parts, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.parts.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether a checkpoint of format version 1 can hold it.
    pub(crate) fn is_version_1(&self) -> bool {
        self.names().eq(VERSION_1)
    }
}

/// Checks that a part of the state can have this name.
///
/// # Errors
/// The name is reserved or is not an identifier.
pub fn check_name(name: &str) -> Result<(), PartError> {
    let is_identifier = !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|char| char == '_' || char.is_alphanumeric());
    if is_identifier && !RESERVED.contains(&name) {
        Ok(())
    } else {
        Err(PartError::Name { name: name.to_owned() })
    }
}

/// The key of a part at the root of a checkpoint.
pub(crate) fn key(name: &str) -> String {
    format!("{name}_state_dict")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_reserved_taken_or_none_are_refused() {
        for name in ["", "keepstep", "config", "global_step", "a.b", "a b", "1st", "state_dict"] {
            let error = State::default().insert(name, Value::None).expect_err(name);
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
        let parts = [("ema", Value::None), ("ema", Value::None)];
        assert_eq!(State::from_parts(parts).err(), Some(PartError::Twice { name: "ema".to_owned() }));
        assert!(State::of_training(Value::None, Value::None, Value::None).is_version_1());
        assert!(!State::new(Value::None).is_version_1());
    }
}
