//! Clients of the stores.

use crate::bucket::{Bucket, Condition};
use crate::location::{Kind, Location};
use crate::settings::Settings;
use keepstep::remote::RemoteError;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use std::path::PathBuf;
use std::sync::Arc;

/// Connects to the store of a location. Nothing is requested yet.
///
/// # Errors
/// The settings or the environment cannot be used.
pub(crate) fn connect(location: &Location, settings: &Settings) -> Result<Bucket, RemoteError> {
    let condition = if settings.single_writer { Condition::Trust } else { Condition::Store };
    match location.kind {
        Kind::File => folder(location),
        #[cfg(feature = "network")]
        _ => {
            let store = network::store(location, settings)?;
            let prefix = location.prefix.as_str();
            let mut bucket = Bucket::new(store, prefix, location.url(), condition);
            if location.kind == Kind::S3 {
                // Amazon compares the signed hash of every part with what arrives. Others may not.
                bucket.server_checks = network::is_amazon(settings) && !network::is_signing_set();
                bucket.unsigned = network::unsigned(location, settings)?;
            }
            Ok(bucket)
        }
        #[cfg(not(feature = "network"))]
        _ => Err(not_built(location)),
    }
}

fn folder(location: &Location) -> Result<Bucket, RemoteError> {
    let path = PathBuf::from(&location.prefix);
    let unusable = |what: String| RemoteError::Unusable { url: location.url().to_owned(), what };
    // The folder above it must be there: a mount that is missing must not become a folder on this machine's own disk.
    let parent = path.parent().unwrap_or(&path);
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if !path.exists() && !parent.is_dir() {
        return Err(unusable(format!("{} does not exist (is it mounted?)", parent.display())));
    }
    // The first write makes the folder itself, unless a key would change its name.
    if !path.exists() && object_store::path::Path::from(&*name).as_ref() != name {
        keepstep::store::make_folder(&path).map_err(|error| unusable(error.to_string()))?;
    }
    let (from, prefix) = if path.exists() { (&*path, "") } else { (parent, &*name) };
    let store = LocalFileSystem::new_with_prefix(from).map_err(|error| unusable(error.to_string()))?;
    let store: Arc<dyn ObjectStore> = Arc::new(store.with_fsync(true));
    Ok(Bucket::new(store, prefix, location.url(), Condition::Lock(path.clone())))
}

#[cfg(any(
    not(feature = "network"),
    not(all(feature = "aws", feature = "azure", feature = "gcp", feature = "http"))
))]
fn not_built(location: &Location) -> RemoteError {
    RemoteError::Unusable {
        url: location.url().to_owned(),
        what: "this keepstep was built without this kind of store".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::Reason;

    /// Whether a folder is there before the connection or not, its objects have the same names.
    #[test]
    fn a_folder_is_made_by_the_first_write_alone() {
        let root = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let plain = ["run", "a run", "run-1.2_x"].map(|name| (name, false));
        for (name, is_special) in
            plain.into_iter().chain(["100%", "a%20b", "köln", "x#1", "[1]*"].map(|name| (name, true)))
        {
            let path = root.path().join(name);
            let location = Location {
                kind: Kind::File,
                bucket: String::new(),
                prefix: path.display().to_string(),
                url: format!("file://{}", path.display()),
            };
            let connect = || connect(&location, &Settings::default()).expect("a bucket");
            runtime.block_on(async {
                let bucket = connect();
                assert!(bucket.get("run.json").await.is_err_and(|failed| failed.reason == Reason::Missing));
                assert_eq!(bucket.list().await, Ok(Vec::new()));
                assert!(!path.exists() || is_special, "{name}: it was only looked at");
                bucket.put("run.json", "one".into()).await.expect("it is written");
                assert_eq!(std::fs::read(path.join("run.json")).ok().as_deref(), Some(&b"one"[..]), "{name}");
                for bucket in [&bucket, &connect()] {
                    assert_eq!(bucket.get("run.json").await.expect("it is there").0, "one");
                    assert_eq!(bucket.list().await, Ok(vec![("run.json".to_owned(), 3)]), "{name}");
                }
            });
        }
        let location = Location::parse("file:///nowhere/at/all").expect("a location");
        let error = connect(&location, &Settings::default()).expect_err("no mount").to_string();
        assert!(error.contains("is it mounted?"), "{error}");
    }
}

#[cfg(feature = "network")]
mod network {
    use super::*;
    use object_store::{BackoffConfig, ClientOptions, RetryConfig};
    use std::time::Duration;

    /// The time limit of one attempt, which may send a part of 8 MiB.
    const ATTEMPT: Duration = Duration::from_secs(60);
    const CONNECT: Duration = Duration::from_secs(10);

    fn retry() -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: 5,
            retry_timeout: Duration::from_secs(90),
        }
    }

    fn options(endpoint: Option<&str>) -> ClientOptions {
        let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        ClientOptions::new().with_timeout(ATTEMPT).with_connect_timeout(CONNECT).with_allow_http(is_plain)
    }

    /// Reports whether the server is Amazon's own.
    pub(super) fn is_amazon(settings: &Settings) -> bool {
        s3_endpoint(settings).is_none()
    }

    /// Reports whether the environment decides if what is sent is signed.
    pub(super) fn is_signing_set() -> bool {
        std::env::var_os("AWS_UNSIGNED_PAYLOAD").is_some()
    }

    /// A client that does not sign what it sends, which takes a hash of it. None where the server's own check of that hash
    /// counts, where the network does not protect what is sent, or where the environment decides.
    pub(super) fn unsigned(
        location: &Location,
        settings: &Settings,
    ) -> Result<Option<Arc<dyn ObjectStore>>, RemoteError> {
        let endpoint = s3_endpoint(settings).filter(|endpoint| is_protected(endpoint));
        if endpoint.is_none() || is_signing_set() {
            return Ok(None);
        }
        #[cfg(feature = "aws")]
        return aws(location, settings, true).map(Some);
        #[cfg(not(feature = "aws"))]
        return Err(not_built(location));
    }

    /// Whether nobody on the way to a server can change what is sent: by TLS, or as it does not leave this machine.
    fn is_protected(endpoint: &str) -> bool {
        let rest = match endpoint.split_once("://") {
            Some(("https", _)) => return true,
            Some(("http", rest)) => rest,
            _ => return false,
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// The endpoint of an S3 server that is not Amazon's.
    fn s3_endpoint(settings: &Settings) -> Option<String> {
        endpoint(settings, &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
    }

    /// The endpoint of the settings, or of the environment.
    fn endpoint(settings: &Settings, variables: &[&str]) -> Option<String> {
        let variable = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
        settings.endpoint.clone().or_else(|| variables.iter().find_map(variable))
    }

    pub(super) fn store(
        location: &Location,
        settings: &Settings,
    ) -> Result<Arc<dyn ObjectStore>, RemoteError> {
        // A second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let unusable =
            |error: object_store::Error| crate::explain::explain("connecting", &error).at(location.url());
        match location.kind {
            #[cfg(feature = "aws")]
            Kind::S3 => aws(location, settings, false),
            #[cfg(feature = "gcp")]
            Kind::Google => {
                let builder = object_store::gcp::GoogleCloudStorageBuilder::from_env();
                let builder = builder.with_bucket_name(&location.bucket).with_retry(retry());
                let endpoint = endpoint(settings, &["STORAGE_EMULATOR_HOST"]);
                let builder = match &endpoint {
                    Some(endpoint) => builder.with_base_url(endpoint),
                    None => builder,
                };
                let store =
                    builder.with_client_options(options(endpoint.as_deref())).build().map_err(unusable)?;
                Ok(Arc::new(store))
            }
            #[cfg(feature = "azure")]
            Kind::Azure => {
                let builder = object_store::azure::MicrosoftAzureBuilder::from_env();
                let builder = builder.with_container_name(&location.bucket).with_retry(retry());
                let endpoint = endpoint(settings, &["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]);
                let builder = match &endpoint {
                    Some(endpoint) => builder.with_endpoint(endpoint.clone()),
                    None => builder,
                };
                let store =
                    builder.with_client_options(options(endpoint.as_deref())).build().map_err(unusable)?;
                Ok(Arc::new(store))
            }
            #[cfg(feature = "http")]
            Kind::Web => {
                let builder =
                    object_store::http::HttpBuilder::new().with_url(&location.bucket).with_retry(retry());
                let store =
                    builder.with_client_options(options(Some(&location.bucket))).build().map_err(unusable)?;
                Ok(Arc::new(store))
            }
            #[allow(unreachable_patterns, reason = "with every feature each kind has an arm")]
            _ => {
                let _ = (&unusable, settings);
                Err(RemoteError::Unusable {
                    url: location.url().to_owned(),
                    what: "this keepstep was built without this kind of store".to_owned(),
                })
            }
        }
    }

    #[cfg(feature = "aws")]
    fn aws(
        location: &Location,
        settings: &Settings,
        is_unsigned: bool,
    ) -> Result<Arc<dyn ObjectStore>, RemoteError> {
        use crate::credentials;
        let mut builder = object_store::aws::AmazonS3Builder::from_env()
            .with_bucket_name(&location.bucket)
            .with_retry(retry())
            // Not every server can delete several objects at once.
            .with_disable_bulk_delete(true);
        let profile = credentials::profile();
        if !credentials::in_environment() {
            match (profile.get("aws_access_key_id"), profile.get("aws_secret_access_key")) {
                (Some(id), Some(secret)) => {
                    builder = builder.with_access_key_id(id).with_secret_access_key(secret);
                    if let Some(token) = profile.get("aws_session_token") {
                        builder = builder.with_token(token);
                    }
                }
                _ if credentials::is_on_instance() => {}
                _ => {
                    return Err(RemoteError::Unusable {
                        url: location.url().to_owned(),
                        what: "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with a profile of ~/.aws/credentials"
                            .to_owned(),
                    });
                }
            }
        }
        let in_environment =
            || std::env::var("AWS_REGION").or_else(|_| std::env::var("AWS_DEFAULT_REGION")).ok();
        if let Some(region) = settings
            .region
            .clone()
            .or_else(in_environment)
            .or_else(|| profile.get("region").map(str::to_owned))
        {
            builder = builder.with_region(region);
        }
        if is_unsigned {
            builder = builder.with_unsigned_payload(true);
        }
        let endpoint = s3_endpoint(settings);
        if let Some(endpoint) = &endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let store = builder.with_client_options(options(endpoint.as_deref())).build();
        let store =
            store.map_err(|error| crate::explain::explain("connecting", &error).at(location.url()))?;
        Ok(Arc::new(store))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_is_not_signed_cannot_be_changed_on_the_way() {
            for (endpoint, expected) in [
                ("https://account.r2.cloudflarestorage.com", true),
                ("http://127.0.0.1:9000", true),
                ("http://localhost", true),
                ("http://localhost:9000/path", true),
                ("http://[::1]:9000", true),
                ("http://localhost.example.com", false),
                ("http://127.0.0.1.example.com:9000", false),
                ("http://10.0.0.7:9000", false),
                ("http://minio:9000", false),
                ("minio", false),
            ] {
                assert_eq!(is_protected(endpoint), expected, "{endpoint}");
            }
        }
    }
}
