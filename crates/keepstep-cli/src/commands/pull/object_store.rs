//! `keepstep pull` from an object store.

use crate::arguments::PullArguments;
use crate::failure::Failure;

pub(super) fn pull(arguments: &PullArguments) -> Result<(), Failure> {
    Err(Failure::new(1, format!("{}: pulling is not built yet", arguments.url)))
}
