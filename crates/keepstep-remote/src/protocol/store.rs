//! A store in memory whose requests fail, hang, or take effect late, and whose writers take turns. After every change it
//! is compared with the promises.

use crate::manifest::{Manifest, RUN_JSON};
use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use keepstep::hex;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use sha2::{Digest, Sha256};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It fails, and nothing has happened.
    Before,
    /// It takes effect, and its answer is lost.
    AnswerLost,
    /// 409: "already exists", although nothing has happened.
    Conflict,
    /// 412: "precondition failed", although nothing has happened.
    Precondition,
    /// 500, and nothing has happened.
    Internal,
    /// 503, and nothing has happened.
    Unavailable,
    /// No answer ever comes, and nothing has happened.
    Hang,
    /// It takes effect, and no answer ever comes.
    HangAfter,
    /// The client gives up, and it takes effect long after.
    Late,
}

pub(super) const FATES: [Fate; 9] = [
    Fate::Before,
    Fate::AnswerLost,
    Fate::Conflict,
    Fate::Precondition,
    Fate::Internal,
    Fate::Unavailable,
    Fate::Hang,
    Fate::HangAfter,
    Fate::Late,
];

/// A generator for samples.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

/// How requests are treated.
#[derive(Debug)]
pub(crate) enum Plan {
    /// These requests, counted from 0, have a fate.
    At(Vec<(u64, Fate)>),
    /// Each request waits for random turns, and one in so many has a fate.
    Sampled { random: Random, one_in: u64 },
    /// All requests have this fate.
    All(Fate),
    /// Each request takes this long.
    Slow(Duration),
    /// Writing a checkpoint's object takes this long.
    SlowParts(Duration),
}

/// The store itself, which all writers share.
#[derive(Debug)]
pub(crate) struct World {
    inner: InMemory,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    requests: u64,
    /// Who deleted which key, in order.
    deletes: Vec<(u64, String)>,
    /// Broken promises.
    broken: Vec<String>,
    checks: u64,
    fates: u64,
    /// Bytes of objects that were sent to readers.
    bytes_read: u64,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Arc<World> {
        let (deletes, broken) = (Vec::new(), Vec::new());
        let state = State { plan, requests: 0, deletes, broken, checks: 0, fates: 0, bytes_read: 0 };
        Arc::new(World { inner: InMemory::new(), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_plan(&self, plan: Plan) {
        self.state().plan = plan;
    }

    pub(crate) fn requests(&self) -> u64 {
        self.state().requests
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.state().bytes_read
    }

    pub(super) fn checks(&self) -> u64 {
        self.state().checks
    }

    pub(super) fn fates(&self) -> u64 {
        self.state().fates
    }

    pub(super) fn deletes(&self) -> Vec<(u64, String)> {
        self.state().deletes.clone()
    }

    pub(super) fn broken(&self) -> Vec<String> {
        self.state().broken.clone()
    }

    pub(super) fn break_promise(&self, text: String) {
        self.state().broken.push(text);
    }

    /// The manifest, without a request that counts.
    pub(super) async fn manifest(&self) -> Option<Manifest> {
        let found = self.inner.get(&Path::from("run").join(RUN_JSON)).await.ok()?;
        Manifest::parse(&found.bytes().await.ok()?).ok()
    }

    /// Compares every object that the manifest names with what the manifest says of it.
    async fn check(&self, after: &str) {
        self.state().checks += 1;
        let Ok(found) = self.inner.get(&Path::from("run").join(RUN_JSON)).await else { return };
        let bytes = found.bytes().await.expect("memory");
        let manifest = match Manifest::parse(&bytes) {
            Ok(manifest) => manifest,
            Err(error) => return self.break_promise(format!("after {after}: {error}")),
        };
        let files = manifest.files.values().map(|object| (&object.key, object.size, &object.sha256));
        let segments = manifest.journal.iter().map(|segment| (&segment.key, segment.size, &segment.sha256));
        for (key, size, sha256) in files.chain(segments) {
            let path = Path::from("run").join(key.as_str());
            let there = match self.inner.get(&path).await {
                Ok(found) => found.bytes().await.expect("memory"),
                Err(_) => {
                    self.break_promise(format!(
                        "after {after}: the manifest names {key}, which is not there"
                    ));
                    continue;
                }
            };
            if there.len() as u64 != size || hex(&Sha256::digest(&there)) != *sha256 {
                self.break_promise(format!("after {after}: {key} is not what the manifest says"));
            }
        }
    }
}

/// One writer's connection.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    world: Arc<World>,
    /// Which writer it is.
    id: u64,
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.id)
    }
}

fn generic(text: &str) -> Error {
    Error::Generic { store: "test", source: text.to_owned().into() }
}

impl Wire {
    pub(crate) fn new(world: &Arc<World>, id: u64) -> Wire {
        Wire { world: Arc::clone(world), id }
    }

    /// Makes a request, or lets it have its fate.
    async fn request<T, F>(&self, what: String, is_change: bool, effect: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (fate, turns, pause) = {
            let mut state = self.world.state();
            let nth = state.requests;
            state.requests += 1;
            let drawn = match &mut state.plan {
                Plan::At(fates) => {
                    (fates.iter().find(|(at, _)| *at == nth).map(|(_, fate)| *fate), 0, Duration::ZERO)
                }
                Plan::All(fate) => (Some(*fate), 0, Duration::ZERO),
                Plan::Slow(pause) => (None, 0, *pause),
                Plan::SlowParts(pause) => {
                    let is_slow = what.starts_with("put") && what.contains("checkpoint");
                    (None, 0, if is_slow { *pause } else { Duration::ZERO })
                }
                Plan::Sampled { random, one_in } => {
                    let fate = (random.below(*one_in) == 0)
                        .then(|| FATES[random.below(FATES.len() as u64) as usize]);
                    // Most requests wait some turns; a few wait for long, as on a machine that sleeps.
                    let pause = if random.below(12) == 0 { random.below(400) } else { 0 };
                    (fate, random.below(6), Duration::from_secs(pause))
                }
            };
            state.fates += u64::from(drawn.0.is_some());
            drawn
        };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        if !pause.is_zero() {
            // The client may give up meanwhile, and the request arrives all the same.
            let (world, note) = (Arc::clone(&self.world), what.clone());
            let late = tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                let result = effect.await;
                if is_change {
                    world.check(&note).await;
                }
                result
            });
            return match late.await {
                Ok(result) => result,
                Err(error) => Err(generic(&error.to_string())),
            };
        }
        let path = what.clone();
        match fate {
            None => {
                let result = effect.await;
                if is_change {
                    self.world.check(&what).await;
                }
                result
            }
            Some(Fate::Before) => Err(generic("connection reset before it was sent")),
            Some(Fate::Internal) => Err(generic("500 Internal Server Error")),
            Some(Fate::Unavailable) => Err(generic("503 Slow Down")),
            Some(Fate::Conflict) => Err(Error::AlreadyExists { path, source: "409".into() }),
            Some(Fate::Precondition) => Err(Error::Precondition { path, source: "412".into() }),
            Some(Fate::Hang) => std::future::pending().await,
            Some(Fate::AnswerLost) => {
                let _ = effect.await;
                self.world.check(&what).await;
                Err(generic("connection reset before the answer came"))
            }
            Some(Fate::HangAfter) => {
                let _ = effect.await;
                self.world.check(&what).await;
                std::future::pending().await
            }
            Some(Fate::Late) => {
                let world = Arc::clone(&self.world);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(200)).await;
                    let _ = effect.await;
                    world.check(&what).await;
                });
                Err(generic("connection reset while it was sent"))
            }
        }
    }
}

#[async_trait]
impl ObjectStore for Wire {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (world, at) = (Arc::clone(&self.world), location.clone());
        let effect = async move { world.inner.put_opts(&at, payload, opts).await };
        self.request(format!("put {location} by {}", self.id), true, effect).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (world, at) = (Arc::clone(&self.world), location.clone());
        let effect = async move { world.inner.put_multipart_opts(&at, opts).await };
        let inner = self.request(format!("multipart {location} by {}", self.id), false, effect).await?;
        let inner = Arc::new(tokio::sync::Mutex::new(inner));
        Ok(Box::new(Parts { wire: self.clone(), at: location.clone(), inner }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (world, at) = (Arc::clone(&self.world), location.clone());
        let effect = async move {
            let found = world.inner.get_opts(&at, options).await?;
            world.state().bytes_read += found.range.end - found.range.start;
            Ok(found)
        };
        self.request(format!("get {location} by {}", self.id), false, effect).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let wire = self.clone();
        locations
            .then(move |location| {
                let wire = wire.clone();
                async move {
                    let location = location?;
                    let (world, at, id) = (Arc::clone(&wire.world), location.clone(), wire.id);
                    let effect = async move {
                        world.state().deletes.push((id, at.filename().unwrap_or_default().to_owned()));
                        world.inner.delete(&at).await
                    };
                    wire.request(format!("delete {location} by {}", wire.id), true, effect).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (wire, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let world = Arc::clone(&wire.world);
            let effect = async move {
                let found: Vec<Result<ObjectMeta>> = world.inner.list(prefix.as_ref()).collect().await;
                Ok(found)
            };
            match wire.request(format!("list by {}", wire.id), false, effect).await {
                Ok(found) => stream::iter(found).boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.world.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.world.inner.copy_opts(from, to, options).await
    }
}

/// An upload in parts.
#[derive(Debug)]
struct Parts {
    wire: Wire,
    at: Path,
    inner: Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>,
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (wire, what) = (self.wire.clone(), format!("part of {}", self.at));
        // The order of the parts is that of the calls.
        let part = self.inner.try_lock().map(|mut inner| inner.put_part(data));
        Box::pin(async move {
            let part = part.map_err(|_| generic("the upload is over"))?;
            wire.request(what, false, part).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let inner = Arc::clone(&self.inner);
        let effect = async move { inner.lock().await.complete().await };
        self.wire.request(format!("complete {}", self.at), true, effect).await
    }

    async fn abort(&mut self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        let effect = async move { inner.lock().await.abort().await };
        self.wire.request(format!("abort {}", self.at), false, effect).await
    }
}
