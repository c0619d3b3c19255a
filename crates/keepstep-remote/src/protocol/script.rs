//! What a session does, from opening to its end. A step that fails is tried again, as the thread that pushes does.

use super::store::{Wire, World};
use crate::bucket::{Bucket, Condition};
use crate::transfer::Meter;
use crate::upload::Content;
use crate::writer::{Item, Opening, PushError, Work, Writer};
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use keepstep::cadence::Cadence;
use keepstep::identity::Identity;
use keepstep::position::{Plan, Position};
use keepstep::remote::RemoteError;
use keepstep::store::Retention;
use keepstep::{Checkpoint, State, hex};
use keepstep_pt::{Archive, Dict, Tensor};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// Attempts at one step: more than the faults of any scenario.
const ATTEMPTS: u32 = 100;

/// One session.
#[derive(Debug, Clone, Default)]
pub(super) struct Script {
    pub(super) id: u64,
    /// The global steps that are saved. Multiples of 5 are scheduled and a new best.
    pub(super) saves: &'static [u64],
    pub(super) rewound_to: Option<u64>,
    /// Seconds before it begins.
    pub(super) delay: u64,
    /// Whether its checkpoints can be loaded. Otherwise they are bytes of the smallest sizes that take all ways.
    pub(super) is_loadable: bool,
}

/// A place in a store.
pub(crate) fn bucket(store: Arc<dyn ObjectStore>) -> Bucket {
    let mut bucket = Bucket::new(store, "run", "memory://run", Condition::Store);
    bucket.part_bytes = 1000;
    bucket
}

/// The content of a checkpoint: a function of its position, as every session computes it.
fn content(step: u64, is_loadable: bool) -> Content {
    if is_loadable {
        return Content::Bytes(loadable(step).into());
    }
    let mut bytes = step.to_le_bytes().to_vec();
    // Some go in one request, some in parts.
    bytes.resize(if step.is_multiple_of(10) { 2500 } else { 300 }, 7);
    Content::Bytes(bytes.into())
}

/// A checkpoint with one small tensor.
fn loadable(step: u64) -> Vec<u8> {
    let plan = Plan { steps_per_epoch: 1000, gradient_accumulation_steps: 1, total_steps: 1000 };
    let mut model = Dict::new();
    model.insert("weight", Tensor::from_slice(&[step as f32], vec![1]));
    let position = Position { epoch: 1, step, global_step: step };
    let checkpoint = Checkpoint::new(Identity::new(1), plan, position, State::new(model));
    let mut bytes = Vec::new();
    Archive::new(&checkpoint.to_value()).write_to(&mut bytes).expect("memory takes everything");
    bytes
}

/// The journal that a session has after a step.
fn journal(step: u64) -> (Arc<std::fs::File>, u64) {
    let text: String = (0..step).map(|line| format!("{{\"line\":{line}}}\n")).collect();
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(text.as_bytes()).expect("its lines");
    (Arc::new(file), text.len() as u64)
}

fn work(step: u64, is_loadable: bool) -> Work {
    let item = |name: String| Item { name, content: content(step, is_loadable), global_step: Some(step) };
    let mut items = vec![item(format!("checkpoint_epoch1_step{step}_global{step}.pt"))];
    if step.is_multiple_of(5) {
        items.push(item("best_model.pt".to_owned()));
    }
    let retention = Retention::new(2, Cadence::new(5, None), 1000);
    Work { items, journal: Some(journal(step)), retention: Some((retention, step)), close: false }
}

/// Runs a session. Gives whether another one has taken over.
pub(super) async fn run_script(world: &Arc<World>, script: &Script) -> bool {
    tokio::time::sleep(Duration::from_secs(script.delay)).await;
    let bucket = bucket(Arc::new(Wire::new(world, script.id)));
    let opening = Opening {
        run: "run".to_owned(),
        rewound_to: script.rewound_to,
        take_over: true,
        ..Opening::default()
    };
    let mut attempts = 0;
    let mut writer = loop {
        match Writer::open(bucket.clone(), &opening).await {
            Ok((writer, _)) => break writer,
            Err(error) if attempts == ATTEMPTS => {
                world.break_promise(format!("{}: it cannot be opened: {error}", script.id));
                return false;
            }
            // A probe whose answers are muddled by a fault may read as a careless store: the user starts again.
            Err(RemoteError::Failed { .. } | RemoteError::Unusable { .. }) => attempts += 1,
            Err(error) => {
                world.break_promise(format!("{}: {error}", script.id));
                return false;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    // The journal here begins with what is there.
    let newest = writer.manifest().newest().unwrap_or(0);
    let (file, _) = journal(script.saves.last().copied().unwrap_or(0));
    writer.shared_segments = crate::journal::shared(&writer.manifest().journal, &file);
    let from = script.rewound_to.unwrap_or(newest);
    let mut steps: Vec<Work> = script
        .saves
        .iter()
        .filter(|step| **step > from)
        .map(|step| work(*step, script.is_loadable))
        .collect();
    steps.push(Work { close: true, ..Work::default() });
    for work in &steps {
        let mut attempts = 0;
        loop {
            match writer.push(work, &mut Meter::none()).await {
                Ok(_) => break,
                Err(PushError::TakenOver(_)) => {
                    let before = world.deletes().len();
                    // It deletes nothing any more.
                    let again = writer.push(work, &mut Meter::none()).await;
                    let mine = |(id, _): &&(u64, String)| *id == script.id;
                    if !matches!(again, Err(PushError::TakenOver(_)))
                        || world.deletes()[before..].iter().any(|delete| mine(&delete))
                    {
                        world.break_promise(format!("{}: it went on after it was taken over", script.id));
                    }
                    return true;
                }
                Err(PushError::Failed(failed)) if attempts == ATTEMPTS => {
                    world.break_promise(format!("{}: a push never succeeds: {failed:?}", script.id));
                    return false;
                }
                Err(PushError::Failed(_)) => attempts += 1,
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        reported(world, script, work, &writer).await;
    }
    false
}

/// What was reported as pushed is named, unless another session has become the writer since.
async fn reported(world: &Arc<World>, script: &Script, work: &Work, writer: &Writer) {
    let Some(manifest) = world.manifest().await else {
        return world.break_promise(format!("{}: there is no manifest after a push", script.id));
    };
    if manifest.writer.session != writer.manifest().writer.session {
        return;
    }
    for item in &work.items {
        let Content::Bytes(bytes) = &item.content else { continue };
        let sha256 = hex(&Sha256::digest(bytes));
        if manifest.files.get(&item.name).is_none_or(|object| object.sha256 != sha256) {
            world.break_promise(format!(
                "{}: {} was reported as pushed and is not named",
                script.id, item.name
            ));
        }
    }
    let bytes: u64 = manifest.journal.iter().map(|segment| segment.size).sum();
    if work.journal.as_ref().is_some_and(|(_, len)| bytes < *len) {
        world.break_promise(format!("{}: the journal has {bytes} bytes", script.id));
    }
}

/// A store that ignores the conditions of writes.
#[derive(Debug)]
pub(super) struct Careless(pub(super) Wire);

impl std::fmt::Display for Careless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Careless")
    }
}

#[async_trait]
impl ObjectStore for Careless {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.0.put_opts(location, payload, PutOptions { mode: PutMode::Overwrite, ..opts }).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
