//! A prefix in a store: every request has a time limit, and every error is a sentence.

use crate::explain::{Failed, Reason, explain};
use crate::patience::Pulse;
use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The time limit of one request, with the client's own repetitions.
const REQUEST: Duration = Duration::from_secs(180);

/// The size of a part of a transfer.
const PART: u64 = 8 << 20;

/// How a write makes sure that nobody else has written meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The store compares.
    Store,
    /// A lock on a file, for folders.
    Lock(PathBuf),
    /// The user guarantees that there is one writer.
    Trust,
}

/// A prefix in a store.
#[derive(Clone)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    /// The same store, for objects that are read back and compared: what is sent need not be signed as well.
    pub(crate) unsigned: Option<Arc<dyn ObjectStore>>,
    prefix: Path,
    pub(crate) url: String,
    pub(crate) condition: Condition,
    /// Whether the server checks the hash of what it is sent. Otherwise uploads are read back.
    pub(crate) server_checks: bool,
    /// The size of the parts of a transfer, unless the file would have too many.
    pub(crate) part_bytes: u64,
    /// When the store last answered.
    pub(crate) pulse: Arc<Pulse>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.url)
    }
}

/// The version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version(UpdateVersion);

impl Version {
    pub(crate) fn new(e_tag: Option<String>, version: Option<String>) -> Version {
        Version(UpdateVersion { e_tag, version })
    }

    pub(crate) fn etag(&self) -> Option<&str> {
        self.0.e_tag.as_deref()
    }
}

/// What is expected to be there when a write arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Nothing.
    Absent,
    /// This version.
    Version(Version),
}

impl Bucket {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: &str, url: &str, condition: Condition) -> Bucket {
        Bucket {
            store,
            unsigned: None,
            prefix: Path::from(prefix),
            url: url.to_owned(),
            condition,
            server_checks: false,
            part_bytes: PART,
            pulse: Arc::new(Pulse::new()),
        }
    }

    fn path(&self, key: &str) -> Path {
        let mut path = self.prefix.clone();
        for part in key.split('/') {
            path = path.join(part);
        }
        path
    }

    /// Makes a request within the time limit.
    async fn request<T>(
        &self,
        doing: impl FnOnce() -> String,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failed> {
        match tokio::time::timeout(REQUEST, request).await {
            Ok(Ok(value)) => {
                self.pulse.beat();
                Ok(value)
            }
            Ok(Err(error)) => Err(explain(&doing(), &error)),
            Err(_) => Err(Failed::new(
                Reason::Unknown,
                format!("{}: no answer within {} s", doing(), REQUEST.as_secs()),
            )),
        }
    }

    /// Reads a small object.
    pub(crate) async fn get(&self, key: &str) -> Result<(Bytes, Version), Failed> {
        let path = self.path(key);
        let read = async {
            let found = self.store.get_opts(&path, GetOptions::default()).await?;
            let version = Version::new(found.meta.e_tag.clone(), found.meta.version.clone());
            Ok((found.bytes().await?, version))
        };
        self.request(|| format!("reading {key}"), read).await
    }

    /// Reads a range.
    pub(crate) async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Failed> {
        let path = self.path(key);
        let wanted = range.end - range.start;
        let under_way = self.pulse.under_way(wanted);
        let bytes = self.request(|| format!("reading {key}"), self.store.get_range(&path, range)).await?;
        drop(under_way);
        if bytes.len() as u64 == wanted {
            Ok(bytes)
        } else {
            Err(Failed::new(
                Reason::Unknown,
                format!("reading {key}: {} of {wanted} bytes came", bytes.len()),
            ))
        }
    }

    /// The size of an object.
    pub(crate) async fn size(&self, key: &str) -> Result<u64, Failed> {
        let path = self.path(key);
        Ok(self.request(|| format!("looking at {key}"), self.store.head(&path)).await?.size)
    }

    /// Writes an object, whatever is there.
    pub(crate) async fn put(&self, key: &str, bytes: Bytes) -> Result<(), Failed> {
        let path = self.path(key);
        let put = self.store.put(&path, PutPayload::from_bytes(bytes));
        self.request(|| format!("writing {key}"), put).await.map(drop)
    }

    /// Where objects are sent that are read back and compared.
    fn compared(&self) -> &dyn ObjectStore {
        self.unsigned.as_deref().unwrap_or(&*self.store)
    }

    /// Writes an object that is read back and compared. Gives the store's mark of the version.
    pub(crate) async fn put_compared(&self, key: &str, bytes: Bytes) -> Result<Option<String>, Failed> {
        let path = self.path(key);
        let _under_way = self.pulse.under_way(bytes.len() as u64);
        let put = self.compared().put(&path, PutPayload::from_bytes(bytes));
        Ok(self.request(|| format!("writing {key}"), put).await?.e_tag)
    }

    /// Writes an object if what is there is what is expected, and the store compares.
    pub(crate) async fn put_if(
        &self,
        key: &str,
        bytes: Bytes,
        expected: &Expected,
    ) -> Result<Version, Failed> {
        let path = self.path(key);
        let mode = match expected {
            Expected::Absent => PutMode::Create,
            Expected::Version(Version(version)) => PutMode::Update(version.clone()),
        };
        let put = self.store.put_opts(&path, PutPayload::from_bytes(bytes), mode.into());
        let result = self.request(|| format!("writing {key}"), put).await?;
        Ok(Version::new(result.e_tag, result.version))
    }

    /// Begins an upload in parts, which is read back and compared.
    pub(crate) async fn multipart(
        &self,
        key: &str,
    ) -> Result<Box<dyn object_store::MultipartUpload>, Failed> {
        let path = self.path(key);
        self.request(|| format!("writing {key}"), self.compared().put_multipart(&path)).await
    }

    /// Waits for a part of an upload with so many bytes, or its end.
    pub(crate) async fn part<T>(
        &self,
        key: &str,
        bytes: u64,
        part: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Failed> {
        let _under_way = self.pulse.under_way(bytes);
        self.request(|| format!("writing {key}"), part).await
    }

    /// Deletes an object. One that is not there is deleted.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), Failed> {
        let path = self.path(key);
        match self.request(|| format!("deleting {key}"), self.store.delete(&path)).await {
            Err(Failed { reason: Reason::Missing, .. }) => Ok(()),
            result => result,
        }
    }

    /// The keys below the prefix, with sizes.
    pub(crate) async fn list(&self) -> Result<Vec<(String, u64)>, Failed> {
        let list = async {
            let mut found = Vec::new();
            let mut objects = self.store.list(Some(&self.prefix));
            while let Some(object) = objects.next().await {
                let object = object?;
                if let Some(parts) = object.location.prefix_match(&self.prefix) {
                    let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
                    found.push((parts.join("/"), object.size));
                }
            }
            Ok(found)
        };
        match self.request(|| "listing".to_owned(), list).await {
            Err(Failed { reason: Reason::Missing, .. }) => Ok(Vec::new()),
            result => result,
        }
    }
}
