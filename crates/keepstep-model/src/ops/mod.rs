//! The operations that models are made of, forward and backward. They take sizes, not a model's settings.

pub(crate) mod add;
pub mod affine;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
pub mod rectangle;
pub mod rows;
pub mod softmax;
pub mod spin_pool;
