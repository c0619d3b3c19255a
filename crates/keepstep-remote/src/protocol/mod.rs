//! The promises of the protocol, whatever request fails in whatever way, and whoever else writes.

mod ending;
mod fetching;
mod reading;
mod script;
mod store;

pub(crate) use script::bucket;
pub(crate) use store::{Plan, Wire, World};

use script::{Script, run_script};
use store::{FATES, Random};

/// A runtime whose clock jumps to the next event: nothing waits in vain.
fn paused<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(work)
}

/// What several scenarios have counted.
#[derive(Debug, Default)]
struct Tally {
    scenarios: u64,
    requests: u64,
    faults: u64,
    checks: u64,
    deletes: u64,
}

impl Tally {
    fn add(&mut self, world: &World, name: &str) {
        let broken = world.broken();
        assert!(broken.is_empty(), "{name}: {broken:#?}");
        self.scenarios += 1;
        self.requests += world.requests();
        self.faults += world.fates();
        self.checks += world.checks();
        self.deletes += world.deletes().len() as u64;
    }

    fn say(&self, what: &str) {
        println!(
            "{what}: {} scenarios with {} requests, {} of which failed; {} deletes; the manifest was compared with \
             the store {} times",
            self.scenarios, self.requests, self.faults, self.deletes, self.checks
        );
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A whole session (open, saves, rotation, best, close) and the next one that resumes.
async fn sessions(world: &std::sync::Arc<World>) {
    let first = Script { id: 1, saves: &[5, 10, 15, 17, 20], ..Script::default() };
    run_script(world, &first).await;
    let second = Script { id: 2, saves: &[22, 25, 30], ..Script::default() };
    run_script(world, &second).await;
    // Whatever was on its way arrives.
    tokio::time::sleep(std::time::Duration::from_secs(1000)).await;
    let manifest = world.manifest().await.expect("a manifest");
    let names: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
    let expected =
        ["best_model.pt", "checkpoint_epoch1_step25_global25.pt", "checkpoint_epoch1_step30_global30.pt"];
    if names.iter().filter(|name| !name.ends_with(".json")).ne(expected.iter()) {
        world.break_promise(format!("at the end the manifest names {names:?}"));
    }
}

#[test]
fn every_request_fails_once_in_every_way() {
    let mut tally = Tally::default();
    let world = World::new(Plan::At(Vec::new()));
    paused(sessions(&world));
    let requests = world.requests();
    tally.add(&world, "without a fault");
    for fate in FATES {
        for at in 0..requests {
            let world = World::new(Plan::At(vec![(at, fate)]));
            paused(sessions(&world));
            tally.add(&world, &format!("request {at}: {fate:?}"));
        }
    }
    tally.say(&format!("every one of {requests} requests in each of {} ways", FATES.len()));
}

#[test]
fn several_requests_of_a_session_fail() {
    let (mut tally, mut random) = (Tally::default(), Random(number("KEEPSTEP_REMOTE_SEED", 1)));
    for _ in 0..number("KEEPSTEP_REMOTE_ROUNDS", 1000) {
        let faults: Vec<_> = (0..2 + random.below(6))
            .map(|_| (random.below(140), FATES[random.below(FATES.len() as u64) as usize]))
            .collect();
        let world = World::new(Plan::At(faults.clone()));
        paused(sessions(&world));
        tally.add(&world, &format!("{faults:?}"));
    }
    tally.say("several faults in one session");
}

#[test]
fn two_writers_in_sampled_interleavings() {
    let (mut tally, seed) = (Tally::default(), number("KEEPSTEP_REMOTE_SEED", 1));
    let mut taken_over = 0;
    for round in 0..number("KEEPSTEP_REMOTE_ROUNDS", 1000) {
        let mut random = Random(seed.wrapping_mul(1 << 32) + round);
        let one_in = [1_000_000, 40, 15][random.below(3) as usize];
        let delay = random.below(1200);
        // Half of the second writers go back to an earlier checkpoint, and make the later ones again.
        let rewound_to = (random.below(2) == 0).then_some(5);
        let world = World::new(Plan::Sampled { random, one_in });
        taken_over += paused(async {
            let first = Script { id: 1, saves: &[5, 10, 15, 17, 20, 22, 25, 30], ..Script::default() };
            let second = Script {
                id: 2,
                saves: &[10, 15, 17, 20, 22, 25, 30, 35],
                rewound_to,
                delay,
                is_loadable: false,
            };
            let (lost, also_lost) =
                futures_util::join!(run_script(&world, &first), run_script(&world, &second));
            if also_lost && lost {
                world.break_promise("both sessions were taken over".to_owned());
            }
            tokio::time::sleep(std::time::Duration::from_secs(2000)).await;
            u64::from(lost || also_lost)
        });
        tally.add(&world, &format!("seed {seed}, round {round}"));
    }
    tally.say(&format!("two writers; one was taken over in {taken_over} rounds"));
    assert!(taken_over * 5 > tally.scenarios, "{taken_over} of {} rounds", tally.scenarios);
}

/// A store that ignores conditions is told apart, and asked about.
#[test]
fn a_store_that_ignores_conditions_is_refused() {
    let world = World::new(Plan::At(Vec::new()));
    let store = script::Careless(Wire::new(&world, 1));
    paused(async {
        let opening = crate::writer::Opening { run: "run".to_owned(), take_over: true, ..Default::default() };
        let mut bucket = bucket(std::sync::Arc::new(store));
        let error = crate::writer::Writer::open(bucket.clone(), &opening).await.expect_err("it is careless");
        assert!(error.is_usage() && error.to_string().contains("remote.single_writer = true"), "{error}");
        bucket.condition = crate::bucket::Condition::Trust;
        crate::writer::Writer::open(bucket, &opening).await.expect("the user vouches for it");
    });
}

/// Without `run.json`, or with a damaged one, the newest whole checkpoint is found by its name.
#[test]
fn a_manifest_that_is_lost_is_made_again() {
    for damage in [None, Some("{\"format\": 1, \"run\": "), Some("")] {
        let world = World::new(Plan::At(Vec::new()));
        paused(async {
            let first = Script { id: 1, saves: &[5, 10, 15], ..Script::default() };
            run_script(&world, &first).await;
            let before = world.manifest().await.expect("a manifest");
            let wire = Wire::new(&world, 3);
            let bucket = bucket(std::sync::Arc::new(wire));
            // A newer file that is not whole must not win.
            bucket
                .put("checkpoint_epoch1_step99_global99-0123456789ab.pt", "torn".into())
                .await
                .expect("a file");
            match damage {
                None => bucket.delete("run.json").await.expect("it goes"),
                Some(text) => bucket.put("run.json", text.into()).await.expect("damage"),
            }
            let found = crate::discover::discover(&bucket).await.expect("a listing");
            assert!(found.warning.is_some());
            let manifest = found.manifest.expect("a manifest");
            assert_eq!(manifest.newest(), Some(15));
            assert_eq!(manifest.journal, before.journal);
            let second = Script { id: 2, saves: &[20], ..Script::default() };
            run_script(&world, &second).await;
            assert_eq!(world.manifest().await.expect("a manifest").newest(), Some(20));
        });
        // The damage was this test's own.
        let others = |text: &String| !text.contains("run.json is damaged");
        let broken: Vec<String> = world.broken().into_iter().filter(others).collect();
        assert!(broken.is_empty(), "{broken:?}");
    }
}
