//! Does a store honour the conditions of writes? Many do not.

use crate::bucket::{Bucket, Condition, Expected};
use crate::explain::{Failed, Reason};
use bytes::Bytes;

/// Creates an object twice, and writes over it with a stale version. Both must be refused.
///
/// # Errors
/// [`Reason::Usage`] if the store accepts either. Otherwise a request has failed.
pub(crate) async fn probe(bucket: &Bucket, session: &str) -> Result<(), Failed> {
    if bucket.condition != Condition::Store {
        return Ok(());
    }
    let key = format!("probe-{session}.txt");
    let result = conditions(bucket, &key).await;
    let removed = bucket.delete(&key).await;
    let fault = result?;
    removed?;
    match fault {
        None => Ok(()),
        Some(fault) => Err(Failed::new(
            Reason::Usage,
            format!(
                "this store {fault}, so it cannot keep two sessions apart; make sure that only one session at a time writes there and set remote.single_writer = true"
            ),
        )),
    }
}

async fn conditions(bucket: &Bucket, key: &str) -> Result<Option<&'static str>, Failed> {
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    // A create whose answer is lost counts as a failure: the next opening probes again.
    let first = bucket.put_if(key, text("1"), &Expected::Absent).await?;
    match bucket.put_if(key, text("2"), &Expected::Absent).await {
        Ok(_) => return Ok(Some("creates an object that is there already")),
        Err(Failed { reason: Reason::Condition, .. }) => {}
        Err(failed) => return Err(failed),
    }
    if first.etag().is_none() {
        return Ok(Some("gives no ETags"));
    }
    let stale = Expected::Version(first);
    bucket.put_if(key, text("3"), &stale).await?;
    match bucket.put_if(key, text("4"), &stale).await {
        Ok(_) => Ok(Some("accepts a write with a stale ETag")),
        // Some answer a stale version of a conditional write with 404.
        Err(Failed { reason: Reason::Condition | Reason::Missing, .. }) => Ok(None),
        Err(failed) => Err(failed),
    }
}
