//! The kinds of places that a run can be pushed to and pulled from, told apart by the URL's scheme.

use crate::failure::Failure;

/// A kind of place outside this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    /// `s3://`, `gs://`, `az://`, `https://` and `file://`: a store of objects.
    ObjectStore,
    /// `kaggle://`: a dataset, or a notebook's output.
    Kaggle,
    /// `hf://`: a model repository.
    HuggingFace,
}

/// The schemes, for messages.
const KNOWN: &str = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, file:///FOLDER or kaggle://datasets/OWNER/SLUG";

impl Destination {
    /// The kind of place that a URL names.
    pub(super) fn parse(url: &str) -> Result<Destination, Failure> {
        let scheme = url.split_once("://").map(|(scheme, _)| scheme);
        match scheme {
            Some("kaggle") => Ok(Destination::Kaggle),
            Some("hf") => Ok(Destination::HuggingFace),
            Some("s3" | "gs" | "az" | "file" | "https" | "http") => Ok(Destination::ObjectStore),
            _ => {
                Err(Failure::new(2, format!("{url}: this is no place to push to or pull from; use {KNOWN}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_decides() {
        for url in ["s3://b/p", "gs://b", "az://c/p/q", "file:///tmp/x"] {
            assert_eq!(Destination::parse(url).expect("a place"), Destination::ObjectStore);
        }
        for url in ["runs/rust", "ftp://x", "://", ""] {
            assert!(Destination::parse(url).is_err(), "{url}");
        }
    }
}
