//! URLs of runs.

use keepstep::remote::RemoteError;

/// The kind of store that a URL names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage.
    Azure,
    /// A folder.
    File,
    /// A web server, for reading.
    Web,
}

/// A URL in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub(crate) kind: Kind,
    /// The bucket or container. For a web server, its address.
    pub(crate) bucket: String,
    /// The path in the bucket, without slashes at its ends. For a folder, its whole path.
    pub(crate) prefix: String,
    pub(crate) url: String,
}

impl Location {
    /// Reports whether a text is a URL of a store, not a path.
    pub fn is_url(text: &str) -> bool {
        text.split_once("://")
            .is_some_and(|(scheme, _)| matches!(scheme, "s3" | "gs" | "az" | "file" | "http" | "https"))
    }

    /// Takes a URL apart.
    ///
    /// # Errors
    /// [`RemoteError::Unusable`]: the scheme is unknown, the bucket is missing, or the URL holds a secret.
    pub fn parse(url: &str) -> Result<Location, RemoteError> {
        let unusable =
            |url: &str, what: &str| RemoteError::Unusable { url: url.to_owned(), what: what.to_owned() };
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(unusable(
                url,
                "expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER",
            ));
        };
        if let Some(at) = rest.find(['?', '#', '@']) {
            // What follows, or stands before the `@`, may be a secret: it is not repeated.
            let shown = if rest[at..].starts_with('@') {
                format!("{scheme}://…")
            } else {
                format!("{scheme}://{}", &rest[..at])
            };
            return Err(unusable(
                &shown,
                "the URL must be a place alone; credentials come from the environment",
            ));
        }
        let kind = match scheme {
            "s3" => Kind::S3,
            "gs" => Kind::Google,
            "az" => Kind::Azure,
            "file" => Kind::File,
            "http" | "https" => Kind::Web,
            _ => return Err(unusable(url, "the scheme is unknown; use s3://, gs://, az:// or file://")),
        };
        let url = url.trim_end_matches('/').to_owned();
        if kind == Kind::File {
            if !rest.starts_with('/') || rest.trim_matches('/').is_empty() {
                return Err(unusable(&url, "a folder is named by its whole path: file:///FOLDER"));
            }
            let prefix = format!("/{}", rest.trim_matches('/'));
            return Ok(Location { kind, bucket: String::new(), prefix, url });
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(unusable(&url, "the bucket is missing"));
        }
        let prefix = prefix.trim_matches('/').to_owned();
        let bucket = if kind == Kind::Web { format!("{scheme}://{bucket}") } else { bucket.to_owned() };
        Ok(Location { kind, bucket, prefix, url })
    }

    /// The URL, without a slash at its end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Splits the URL of a checkpoint into that of its run and its name. None for the URL of a run.
    pub fn split_checkpoint(url: &str) -> Option<(&str, &str)> {
        let (run, name) = url.rsplit_once('/')?;
        name.ends_with(".pt").then_some((run, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, kind, bucket, prefix) in [
            ("s3://b/runs/x/", Kind::S3, "b", "runs/x"),
            ("gs://b", Kind::Google, "b", ""),
            ("az://c/p", Kind::Azure, "c", "p"),
            ("file:///mnt/runs/x", Kind::File, "", "/mnt/runs/x"),
            ("https://host/a/b", Kind::Web, "https://host", "a/b"),
        ] {
            let location = Location::parse(url).expect("a location");
            assert_eq!(
                (location.kind, &*location.bucket, &*location.prefix),
                (kind, bucket, prefix),
                "{url}"
            );
        }
        for url in
            ["runs/x", "s3://", "s3:///x", "ftp://h/x", "file://x", "file:///", "s3://b/x?X-Amz-Signature=1"]
        {
            assert!(Location::parse(url).is_err(), "{url}");
        }
        let error = Location::parse("s3://key:SECRET@b/x").expect_err("a secret").to_string();
        assert!(!error.contains("SECRET"), "{error}");
        let error = Location::parse("az://c/x?sig=SECRET").expect_err("a secret").to_string();
        assert!(!error.contains("SECRET"), "{error}");
        assert_eq!(Location::split_checkpoint("s3://b/x/best_model.pt"), Some(("s3://b/x", "best_model.pt")));
        assert_eq!(Location::split_checkpoint("s3://b/x"), None);
    }
}
