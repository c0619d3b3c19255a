//! Order and random numbers as functions of the position.

use keepstep::rng::{Purpose, Stream};
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;

/// The most samples that an order can have.
const MOST_SAMPLES: u64 = 1 << 62;

/// The order in which one epoch visits its samples: a keyed bijection of `range(num_samples)`, computed per place.
#[pyclass(frozen, module = "keepstep._core")]
pub(crate) struct Order(keepstep::order::Order);

/// The order of epoch `epoch` (from 1) of the run with this seed over `num_samples` samples.
#[pyfunction]
pub(crate) fn order(seed: u64, epoch: u64, num_samples: u64) -> PyResult<Order> {
    if num_samples > MOST_SAMPLES {
        return Err(PyValueError::new_err(format!("num_samples is {num_samples}; it can be at most 2**62")));
    }
    Ok(Order(keepstep::order::Order::new(seed, epoch, num_samples)))
}

#[pymethods]
impl Order {
    fn __len__(&self) -> usize {
        self.0.num_samples() as usize
    }

    /// The sample at a place of the epoch.
    fn sample(&self, place: u64) -> PyResult<u64> {
        self.check(place)?;
        Ok(self.0.sample(place))
    }

    /// The place of a sample in the epoch: the inverse of `sample`.
    fn place(&self, sample: u64) -> PyResult<u64> {
        self.check(sample)?;
        Ok(self.0.place(sample))
    }

    /// The samples at the places from `start` on, before `stop`.
    fn samples(&self, start: u64, stop: u64) -> PyResult<Vec<u64>> {
        if stop > self.0.num_samples() {
            return Err(PyIndexError::new_err(format!(
                "place {stop} is beyond the epoch's {} samples",
                self.0.num_samples()
            )));
        }
        Ok((start..stop).map(|place| self.0.sample(place)).collect())
    }

    fn __repr__(&self) -> String {
        format!("Order(num_samples={})", self.0.num_samples())
    }
}

impl Order {
    fn check(&self, number: u64) -> PyResult<()> {
        if number < self.0.num_samples() {
            return Ok(());
        }
        Err(PyIndexError::new_err(format!(
            "{number} is not below the epoch's {} samples",
            self.0.num_samples()
        )))
    }
}

/// The key of a place as an int of 64 bits: a hash of the seed, the purpose and the coordinates, such as
/// `key(seed, "batch", epoch, micro_batch)`.
#[pyfunction]
#[pyo3(signature = (seed, purpose, *coordinates))]
pub(crate) fn key(seed: u64, purpose: &str, coordinates: Vec<u64>) -> u64 {
    key_of(&stream(seed, purpose, &coordinates))
}

/// The keys of the places from `start` on, before `stop`, of an epoch: `key(seed, purpose, epoch, place)` of each.
#[pyfunction]
pub(crate) fn keys(seed: u64, purpose: &str, epoch: u64, start: u64, stop: u64) -> Vec<u64> {
    let mut coordinates = all_coordinates(purpose, &[epoch, start]);
    let last = coordinates.len() - 1;
    let mut key = |place| {
        coordinates[last] = place;
        key_of(&Stream::new(seed, Purpose::Custom, &coordinates))
    };
    (start..stop).map(&mut key).collect()
}

/// The first two words of a stream, the low one first.
fn key_of(stream: &Stream) -> u64 {
    let [low, high, ..] = stream.block(0);
    u64::from(high) << 32 | u64::from(low)
}

/// `num_words` words of 32 bits of the stream of a place; `key` is made of the first two.
#[pyfunction]
#[pyo3(signature = (num_words, seed, purpose, *coordinates))]
pub(crate) fn words(num_words: u64, seed: u64, purpose: &str, coordinates: Vec<u64>) -> Vec<u32> {
    let stream = stream(seed, purpose, &coordinates);
    (0..num_words).map(|index| stream.word(index)).collect()
}

fn stream(seed: u64, purpose: &str, coordinates: &[u64]) -> Stream {
    Stream::new(seed, Purpose::Custom, &all_coordinates(purpose, coordinates))
}

/// The purpose's text comes first, eight bytes to a number, after its length.
fn all_coordinates(purpose: &str, coordinates: &[u64]) -> Vec<u64> {
    let mut all = vec![purpose.len() as u64];
    all.extend(purpose.as_bytes().chunks(8).map(|part| {
        let mut bytes = [0; 8];
        bytes[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(bytes)
    }));
    all.extend(coordinates);
    all
}
