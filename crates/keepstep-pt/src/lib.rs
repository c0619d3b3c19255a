//! PyTorch's `.pt` files: a strict reader and a streaming writer whose bytes are those of `torch.save`.
//!
//! A file is a zip archive of stored entries: a pickle of the values (`data.pkl`) and one entry for each storage.
//!
//! - [`Archive`] writes a [`Value`] in one pass, without copying a tensor.
//! - [`File`] opens a file, reads tensors on request and checks every checksum, which PyTorch itself does not. Reading a
//!   tensor that is the whole of its storage compares the checksum on the way; [`File::verify_rest`] checks what is left.
//! - [`LegacyFile`] opens a file of PyTorch before 1.6, for weights only: it has no checksums.
//! - [`Value`], [`Dict`], [`Tensor`] and [`Storage`] are the contents.
//! - [`ReadAt`] is the source: a file, memory, or a type of your own.
//!
//! The reader never runs or imports anything that a file names.
//!
//! # Example
//!
//! ```
//! use keepstep_pt::{Archive, Checksums, Dict, File, Tensor, Value};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("weights.pt");
//! let mut dict = Dict::new();
//! dict.insert("epoch", 3_i64);
//! dict.insert("weight", Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], vec![2, 2]));
//! Archive::new(&Value::OrderedDict(dict)).write_to(&mut std::fs::File::create(&path)?)?;
//!
//! let file = File::open(&path)?;
//! assert_eq!(file.verify()?, Checksums::Verified);
//! let weight = file.value().as_dict().and_then(|dict| dict.get("weight")?.as_tensor()).ok_or("no weight")?;
//! assert_eq!(weight.to_vec::<f32>()?, [1.0, 2.0, 3.0, 4.0]);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("keepstep-pt reads and writes little-endian files on little-endian machines only");

mod archive;
mod budget;
mod bytes;
mod dict;
mod dtype;
mod entry_bytes;
mod error;
mod file;
mod legacy;
mod opcode;
mod pickle_reader;
mod pickle_writer;
mod read_at;
mod rebuild;
mod share;
mod storable;
mod storage;
mod tensor;
mod value;
mod zip_reader;
mod zip_writer;

pub use archive::Archive;
pub use dict::Dict;
pub use dtype::{Dtype, Element};
pub use error::ReadError;
pub use file::{Checksums, File};
pub use legacy::LegacyFile;
pub use read_at::{ReadAt, open_regular};
pub use storable::NotStorable;
pub use storage::Storage;
pub use tensor::{Tensor, ViewError};
pub use value::Value;

/// The README's example runs too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
