//! `keepstep push`: copy a run to a place that outlives this machine. One file for each kind of place.

mod hugging_face;
mod kaggle;
#[cfg(feature = "remote")]
mod object_store;

use super::destination::Destination;
use crate::arguments::PushArguments;
use crate::failure::Failure;

pub(crate) fn run(arguments: &PushArguments) -> Result<(), Failure> {
    match Destination::parse(&arguments.url)? {
        Destination::Kaggle => kaggle::push(arguments),
        Destination::HuggingFace => hugging_face::push(arguments),
        #[cfg(feature = "remote")]
        Destination::ObjectStore => object_store::push(arguments),
        #[cfg(not(feature = "remote"))]
        Destination::ObjectStore => Err(crate::remote::not_built(&arguments.url)),
    }
}
