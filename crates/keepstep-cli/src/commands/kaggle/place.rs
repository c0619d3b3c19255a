//! `kaggle://` URLs.

use crate::failure::Failure;
use std::fmt;

/// A dataset or the output of a notebook on Kaggle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::commands) struct Place {
    pub(in crate::commands) kind: Kind,
    pub(in crate::commands) owner: String,
    pub(in crate::commands) slug: String,
    pub(in crate::commands) version: Option<u64>,
    /// The folder inside, where it has several runs.
    pub(in crate::commands) folder: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) enum Kind {
    Dataset,
    Notebook,
}

const EXPECTED: &str =
    "kaggle://datasets/OWNER/SLUG or kaggle://notebooks/OWNER/SLUG, with /versions/N and #FOLDER if you like";

impl Place {
    /// Takes a URL apart.
    pub(in crate::commands) fn parse(url: &str) -> Result<Place, Failure> {
        let wrong = || Failure::new(2, format!("{url}: expected {EXPECTED}"));
        let rest = url.strip_prefix("kaggle://").ok_or_else(wrong)?;
        let (rest, folder) = match rest.split_once('#') {
            Some((rest, folder)) => (rest, Some(folder.to_owned()).filter(|folder| !folder.is_empty())),
            None => (rest, None),
        };
        let parts: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
        let (kind, owner, slug, version) = match parts.as_slice() {
            [kind, owner, slug] => (*kind, *owner, *slug, None),
            [kind, owner, slug, "versions", version] => {
                let version = version.parse().ok().filter(|&version| version > 0).ok_or_else(wrong)?;
                (*kind, *owner, *slug, Some(version))
            }
            _ => return Err(wrong()),
        };
        let kind = match kind {
            "datasets" => Kind::Dataset,
            "notebooks" | "code" => Kind::Notebook,
            _ => return Err(wrong()),
        };
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !is_word(owner) || !is_word(slug) {
            return Err(wrong());
        }
        Ok(Place { kind, owner: owner.to_owned(), slug: slug.to_owned(), version, folder })
    }

    /// The same place at this version.
    pub(in crate::commands) fn at(&self, version: u64) -> Place {
        Place { version: Some(version), ..self.clone() }
    }

    /// The handle that kagglehub takes.
    pub(in crate::commands) fn handle(&self) -> String {
        let version = self.version.map(|version| format!("/versions/{version}")).unwrap_or_default();
        format!("{}/{}{version}", self.owner, self.slug)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Dataset => "datasets",
            Kind::Notebook => "notebooks",
        };
        write!(f, "kaggle://{kind}/{}", self.handle())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let place = Place::parse("kaggle://datasets/ann/gpt-run").expect("a dataset");
        assert_eq!((place.kind, place.handle().as_str()), (Kind::Dataset, "ann/gpt-run"));
        let place = Place::parse("kaggle://notebooks/ann/gpt/versions/12#run/a").expect("a notebook");
        assert_eq!(
            (place.kind, place.version, place.folder.as_deref()),
            (Kind::Notebook, Some(12), Some("run/a"))
        );
        assert_eq!(place.to_string(), "kaggle://notebooks/ann/gpt/versions/12");
        for url in [
            "kaggle://",
            "kaggle://datasets/ann",
            "kaggle://models/ann/gpt",
            "kaggle://datasets/ann/../x",
            "kaggle://datasets/ann/..",
            "kaggle://datasets/ann/gpt/versions/0",
            "kaggle://datasets/ann/gpt/3",
            "kaggle://datasets//gpt",
        ] {
            assert!(Place::parse(url).is_err(), "{url}");
        }
    }
}
