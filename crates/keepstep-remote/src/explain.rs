//! Errors of stores in one sentence, without secrets.

use keepstep::remote::RemoteError;
use object_store::Error;
use std::error::Error as _;

/// What is known of a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There is no such object.
    Missing,
    /// The condition of a write does not hold.
    Condition,
    /// Another attempt needs other settings.
    Usage,
    /// Anything else: the request may or may not have been carried out.
    Unknown,
}

/// A request that has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) reason: Reason,
    /// The sentence.
    pub(crate) what: String,
}

impl Failed {
    pub(crate) fn new(reason: Reason, what: impl Into<String>) -> Failed {
        Failed { reason, what: what.into() }
    }

    pub(crate) fn at(self, url: &str) -> RemoteError {
        let (url, what) = (url.to_owned(), self.what);
        match self.reason {
            Reason::Usage => RemoteError::Unusable { url, what },
            _ => RemoteError::Failed { url, what },
        }
    }
}

/// Explains the error of a request, for example "writing run.json".
pub(crate) fn explain(doing: &str, error: &Error) -> Failed {
    let text = chain(error);
    let usage = |what: &str| Failed::new(Reason::Usage, what);
    let known = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if known(&["RequestTimeTooSkewed", "too old", "Date header", "time skew"]) {
        return usage("the store refuses this machine's clock; set the clock (for example with NTP)");
    }
    if known(&["NoSuchBucket", "ContainerNotFound", "specified bucket does not exist"]) {
        return usage("there is no such bucket; check its name, the region and the endpoint");
    }
    if known(&[
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AuthenticationFailed",
        "InvalidAuthenticationInfo",
    ]) {
        return usage(
            "the store does not accept the credentials; check the environment's keys, and the region",
        );
    }
    if known(&["ExpiredToken", "token has expired"]) {
        return usage("the credentials have expired; renew them");
    }
    if known(&["169.254.169.254", "metadata.google.internal", "IMDS", "instance metadata"]) {
        return usage(
            "there are no credentials: set the cloud's environment variables, or use its own login",
        );
    }
    if known(&["PermanentRedirect", "AuthorizationHeaderMalformed", "301 Moved"]) {
        return usage("the bucket is in another region; set remote.region");
    }
    match error {
        Error::NotFound { .. } => Failed::new(Reason::Missing, format!("{doing}: there is no such object")),
        Error::AlreadyExists { .. } => Failed::new(Reason::Condition, format!("{doing}: it exists already")),
        Error::Precondition { .. } | Error::NotModified { .. } => {
            Failed::new(Reason::Condition, format!("{doing}: it has changed meanwhile"))
        }
        Error::PermissionDenied { .. } => {
            usage(&format!("{doing}: these credentials do not have the permission"))
        }
        Error::Unauthenticated { .. } => {
            usage(&format!("{doing}: the store asks for credentials; set the cloud's environment variables"))
        }
        _ => Failed::new(Reason::Unknown, format!("{doing}: {}", shorten(&text))),
    }
}

/// An error and its causes, each once, without what a URL holds after its path: that may be a signature.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    without_queries(&text)
}

/// Removes the query of every URL in a text.
fn without_queries(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let end = rest[at..]
            .find(|byte: char| byte.is_whitespace() || matches!(byte, ')' | '"' | '\'' | '>' | ','))
            .map_or(rest.len(), |len| at + len);
        let url = &rest[..end];
        out.push_str(url.split_once('?').map_or(url, |(before, _)| before));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// The first line of an error that may hold a whole page.
fn shorten(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > 300 {
        format!("{}…", line.chars().take(300).collect::<String>())
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn usual_faults_have_a_sentence() {
        for (text, words) in [
            ("<Code>RequestTimeTooSkewed</Code>", "clock"),
            ("<Code>NoSuchBucket</Code>", "no such bucket"),
            ("<Code>InvalidAccessKeyId</Code>", "credentials"),
            ("error sending request for url (http://169.254.169.254/latest)", "no credentials"),
            ("Received redirect: <Code>PermanentRedirect</Code>", "region"),
        ] {
            let failed = explain("writing run.json", &generic(text));
            assert!(failed.reason == Reason::Usage && failed.what.contains(words), "{text}: {failed:?}");
        }
        assert_eq!(explain("writing run.json", &generic("500")).reason, Reason::Unknown);
    }

    #[test]
    fn signatures_are_left_out() {
        let error = generic(
            "error sending request for url (https://a.blob.core.windows.net/c/x?sig=SECRET&se=1): reset",
        );
        let failed = explain("reading run.json", &error);
        assert!(!failed.what.contains("SECRET") && failed.what.contains("reset"), "{failed:?}");
    }
}
