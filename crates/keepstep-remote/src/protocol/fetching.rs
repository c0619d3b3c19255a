//! Fetching from a run that a session writes meanwhile.

use super::script::{Script, bucket, run_script};
use super::store::{Plan, Random, Wire, World};
use super::{number, paused};
use crate::bucket::Bucket;
use crate::fetch::{self, Brought};
use crate::manifest::{Manifest, Object};
use crate::{check, discover};
use keepstep::name::Name;
use std::sync::Arc;
use std::time::Duration;

/// What a session saves. Every second save lets checkpoints go.
const SAVES: [u64; 16] = [5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37, 40, 45];

/// What the readers have met.
#[derive(Debug, Default)]
struct Met {
    fetches: u64,
    /// Fetches during which the session let something go.
    overtaken: u64,
}

/// Whoever fetches while a session writes gets a checkpoint that was the newest then, or a later one. An object that the
/// session lets go meanwhile has a successor, and is no damage.
#[test]
fn a_fetch_while_a_session_writes_brings_its_newest() {
    let (seed, mut met) = (number("KEEPSTEP_REMOTE_SEED", 1), Met::default());
    for round in 0..(number("KEEPSTEP_REMOTE_ROUNDS", 1000) / 10).min(1000) {
        let random = Random(seed.wrapping_mul(1 << 32) + round);
        let world = World::new(Plan::Sampled { random, one_in: u64::MAX });
        paused(async {
            let script = Script { id: 1, saves: &SAVES, is_loadable: true, ..Script::default() };
            futures_util::join!(run_script(&world, &script), read(&world, round, &mut met));
        });
        let broken = world.broken();
        assert!(broken.is_empty(), "seed {seed}, round {round}: {broken:#?}");
    }
    let Met { fetches, overtaken } = met;
    println!("{fetches} fetches while a session writes; in {overtaken} of them it let something go");
    assert!(overtaken * 10 > fetches && fetches > 0, "{overtaken} of {fetches}");
}

/// Fetches four times, the newest and everything in turn.
async fn read(world: &Arc<World>, round: u64, met: &mut Met) {
    for nth in 0..4 {
        tokio::time::sleep(Duration::from_secs(Random(round * 4 + nth).below(300))).await;
        let Some(before) = world.manifest().await.filter(|manifest| manifest.newest().is_some()) else {
            continue;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let reader = bucket(Arc::new(Wire::new(world, 2)));
        let brought = match nth % 2 {
            0 => fetch::newest(&reader, folder.path(), None, None, None).await,
            _ => fetch::all(&reader, folder.path(), None).await,
        };
        let checked = verify(&reader).await;
        let after = world.manifest().await.expect("a manifest");
        let is_gone = |object: &Object| after.find(object.size, &object.sha256).is_none();
        met.fetches += 1;
        met.overtaken += u64::from(before.files.values().any(is_gone));
        if let Err(broken) = compare(&before, brought.map_err(|failed| failed.what)).and(checked) {
            world.break_promise(format!("round {round}, fetch {nth}: {broken}"));
        }
    }
}

/// Reads everything. An object that the session lets go meanwhile is not reported.
async fn verify(reader: &Bucket) -> Result<(), String> {
    let (mut names, mut wrong) = (Vec::new(), Vec::new());
    let Ok(discover::Found { manifest: Some(manifest), .. }) = discover::discover(reader).await else {
        return Ok(());
    };
    let verified = check::run(reader, manifest, None, None, |name, result| {
        names.push(name.to_owned());
        wrong.extend(result.err().map(|failed| failed.what).filter(|what| !is_slow(what)));
    });
    match verified.await.map_err(|failed| failed.what) {
        Err(failed) if !is_slow(&failed) => Err(failed),
        _ if wrong.is_empty() => Ok(()),
        _ => Err(format!("of {names:?}: {wrong:?}")),
    }
}

/// Some requests wait for longer than the client does.
fn is_slow(text: &str) -> bool {
    text.contains("no answer within")
}

fn compare(before: &Manifest, brought: Result<Brought, String>) -> Result<(), String> {
    let brought = match brought {
        Err(failed) if is_slow(&failed) => return Ok(()),
        brought => brought?,
    };
    if brought.notes.iter().any(|note| is_slow(note)) {
        return Ok(());
    }
    let steps =
        brought.files.iter().filter_map(|path| Some(Name::parse(path.file_name()?.to_str()?)?.global_step));
    if steps.max() >= before.newest() && brought.notes.is_empty() {
        return Ok(());
    }
    Err(format!("at global step {:?} came {brought:?}", before.newest()))
}
