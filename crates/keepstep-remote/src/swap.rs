//! Writing `run.json` only if nobody else has written it meanwhile.

use crate::bucket::{Bucket, Condition, Expected, Version};
use crate::explain::{Failed, Reason};
use crate::manifest::RUN_JSON;
use bytes::Bytes;
use keepstep::store::make_folder;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::Duration;

/// The name of the file that is locked in a folder.
const LOCK: &str = ".run.lock";

/// Attempts at a lock that another process holds, and the time between them.
const ATTEMPTS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(25);

/// Writes `run.json` if what is there is what is expected.
///
/// # Errors
/// [`Reason::Condition`] if it is not. After any other error the write may have been carried out, or still be.
pub(crate) async fn put_run_json(
    bucket: &Bucket,
    bytes: Bytes,
    expected: &Expected,
) -> Result<Version, Failed> {
    match &bucket.condition {
        Condition::Store => bucket.put_if(RUN_JSON, bytes, expected).await,
        Condition::Trust => compare_and_put(bucket, bytes, expected).await,
        Condition::Lock(folder) => {
            let lock = lock(folder).await?;
            let result = compare_and_put(bucket, bytes, expected).await;
            drop(lock);
            result
        }
    }
}

async fn compare_and_put(bucket: &Bucket, bytes: Bytes, expected: &Expected) -> Result<Version, Failed> {
    let found = match bucket.get(RUN_JSON).await {
        Ok((_, version)) => Expected::Version(version),
        Err(Failed { reason: Reason::Missing, .. }) => Expected::Absent,
        Err(failed) => return Err(failed),
    };
    if found != *expected {
        return Err(Failed::new(Reason::Condition, "writing run.json: it has changed meanwhile"));
    }
    bucket.put(RUN_JSON, bytes).await?;
    // A put and a get may mark a version differently.
    let (_, version) = bucket.get(RUN_JSON).await?;
    Ok(version)
}

/// Locks a folder against other processes until the file is closed.
async fn lock(folder: &Path) -> Result<File, Failed> {
    let path = folder.join(LOCK);
    let failed = |error: std::io::Error| Failed::new(Reason::Usage, format!("{}: {error}", path.display()));
    make_folder(folder).map_err(failed)?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    for _ in 0..ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
            Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    Err(Failed::new(Reason::Unknown, format!("{}: another process holds the lock", path.display())))
}
