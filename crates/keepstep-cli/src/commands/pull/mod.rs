//! `keepstep pull`: copy a run from a place outside this machine. One file for each kind of place.

mod kaggle;
#[cfg(feature = "remote")]
mod object_store;

use super::destination::Destination;
use crate::arguments::PullArguments;
use crate::failure::Failure;

pub(crate) fn run(arguments: &PullArguments) -> Result<(), Failure> {
    match Destination::parse(&arguments.url)? {
        Destination::Kaggle => kaggle::pull(arguments),
        Destination::HuggingFace => Err(Failure::new(
            2,
            format!("{}: a repository holds a model, not a run; `hf download` fetches it", arguments.url),
        )),
        #[cfg(feature = "remote")]
        Destination::ObjectStore => object_store::pull(arguments),
        #[cfg(not(feature = "remote"))]
        Destination::ObjectStore => Err(crate::remote::not_built(&arguments.url)),
    }
}
