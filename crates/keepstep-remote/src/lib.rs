//! Checkpoints that outlive the machine: a run's folder kept in an object store.
//!
//! An [`ObjectRemote`] is a place such as `s3://bucket/run`. Every file of a run is an object that never changes: its key
//! is its name with the first twelve digits of its SHA-256. Only `run.json`, the [`Manifest`], changes: it maps today's
//! names to keys and is the only truth. It is swapped by a conditional write, after what it names has been uploaded and
//! verified, and before anything that it no longer names is deleted. So the manifest never names what is not there.
//!
//! Two sessions cannot both write: opening for writing raises the writer's epoch in the manifest, and the other session's
//! next swap fails.
//!
//! ```no_run
//! use keepstep::remote::{Remote, RemotePolicy};
//! use keepstep::run::Policy;
//! use keepstep_remote::{ObjectRemote, Settings};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let remote = ObjectRemote::open(&Settings::new("s3://bucket/run"))?;
//! println!("{:?}", remote.newest()?);
//! let policy = Policy { remote: Some(RemotePolicy::new(Arc::new(remote))), ..Policy::default() };
//! # Ok(())
//! # }
//! ```

mod ahead;
mod bucket;
mod check;
mod connect;
mod credentials;
mod discover;
mod download;
mod explain;
mod fetch;
mod journal;
mod key;
mod location;
mod manifest;
mod mirror;
mod patience;
mod probe;
#[cfg(test)]
mod protocol;
mod reader;
mod reading;
mod remote;
mod settings;
mod swap;
mod transfer;
mod upload;
mod writer;

pub use location::Location;
pub use manifest::{FORMAT, Manifest, ManifestError, Object, RUN_JSON, Segment, WriterInfo};
pub use reading::Listed;
pub use remote::{ObjectRemote, Pulled, Pushed};
pub use settings::Settings;
pub use transfer::{Progress, Transfer};
