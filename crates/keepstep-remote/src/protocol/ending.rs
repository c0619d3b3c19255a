//! The end of a session whose remote fails, or does not answer: it is bounded, and a slow remote is waited for.

use super::script::bucket;
use super::store::{Fate, Plan, Wire, World};
use crate::mirror::ObjectMirror;
use crate::writer::{Opening, Writer};
use keepstep::position::Position;
use keepstep::remote::{Mirror, PushReport, Snapshot};
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What no end takes, on a busy machine either. A pause after many failures is longer.
const LONG: Duration = Duration::from_secs(30);

struct Session {
    world: Arc<World>,
    mirror: ObjectMirror,
    folder: TempDir,
}

impl Session {
    /// A session that has opened its remote, to which `plan` happens then.
    fn new(plan: Plan) -> Session {
        Session::with_parts(plan, 1000)
    }

    /// Its transfers have parts of this size.
    fn with_parts(plan: Plan, part_bytes: u64) -> Session {
        let world = World::new(Plan::At(Vec::new()));
        let mut bucket = bucket(Arc::new(Wire::new(&world, 1)));
        bucket.part_bytes = part_bytes;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = Arc::new(runtime.expect("a runtime"));
        let opening = Opening { run: "run".to_owned(), take_over: true, ..Opening::default() };
        let (writer, _) = runtime.block_on(Writer::open(bucket, &opening)).expect("a writer");
        let folder = tempfile::tempdir().expect("a folder");
        let mirror = ObjectMirror::start(runtime, writer, folder.path(), Vec::new(), Vec::new(), None);
        world.set_plan(plan);
        Session { world, mirror: mirror.expect("a thread"), folder }
    }

    fn save(&mut self, len: usize) {
        let name = "checkpoint_epoch1_step5_global5.pt".to_owned();
        let path = self.folder.path().join(&name);
        std::fs::write(&path, vec![7; len]).expect("a file");
        let position = Position { epoch: 1, step: 5, global_step: 5 };
        let files = vec![(name, File::open(&path).expect("a file"))];
        self.mirror.submit(Snapshot::new(position, files, 0, None));
    }

    /// Waits for so many failures.
    fn failures(&mut self, count: usize) {
        let mut met = 0;
        while met < count {
            met += self.mirror.reports().len();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the session. Gives the failures that are reported meanwhile, and how long it takes.
    fn end(&mut self) -> (Vec<String>, Duration) {
        let began = Instant::now();
        assert!(self.mirror.wait(None), "it is not for a time that this waits");
        self.mirror.finish(0, None, None);
        let failed = |report: PushReport| match report {
            PushReport::Failed { error, .. } => Some(error),
            _ => None,
        };
        (self.mirror.reports().into_iter().filter_map(failed).collect(), began.elapsed())
    }
}

#[test]
fn a_remote_that_refuses_is_tried_four_times() {
    let mut session = Session::new(Plan::All(Fate::Before));
    session.save(100);
    let (failures, took) = session.end();
    assert!(failures.len() == 4 && took < LONG, "{failures:?} in {took:?}");
    assert!(failures[3].contains("connection reset"), "{failures:?}");
    // Of three failures before the end, no more than two attempts are left.
    let mut session = Session::new(Plan::All(Fate::Before));
    session.save(100);
    session.failures(3);
    let (failures, took) = session.end();
    assert!(failures.len() == 2 && took < LONG, "{failures:?} in {took:?}");
}

#[test]
fn a_remote_that_was_dead_for_long_is_tried_at_once() {
    let mut session = Session::new(Plan::All(Fate::Before));
    session.save(100);
    session.failures(1);
    session.mirror.pretend_failures(8);
    // After this one the pause is a minute.
    session.failures(1);
    let (failures, took) = session.end();
    assert!(failures.len() == 2 && took < LONG, "{failures:?} in {took:?}");
    // One that is back is found so.
    let mut session = Session::new(Plan::All(Fate::Before));
    session.save(100);
    session.failures(1);
    session.mirror.pretend_failures(8);
    session.failures(1);
    session.world.set_plan(Plan::At(Vec::new()));
    let (failures, took) = session.end();
    assert!(failures.is_empty() && took < LONG, "{failures:?} in {took:?}");
}

#[test]
fn a_remote_that_does_not_answer_is_given_up() {
    let mut session = Session::new(Plan::All(Fate::Hang));
    session.save(100);
    let soon = Instant::now() + Duration::from_millis(50);
    assert!(!session.mirror.wait(Some(soon)) && Instant::now() >= soon);
    session.mirror.silence = Duration::from_millis(300);
    let (failures, took) = session.end();
    assert!(took < LONG, "{took:?}");
    assert!(failures.len() == 1 && failures[0].contains("it has not answered"), "{failures:?}");
    // A time limit keeps no room for it.
    assert_eq!(session.mirror.pushing_for(), Some(Duration::ZERO));
    // The process ends at once.
    let began = Instant::now();
    drop(session);
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
}

#[test]
fn a_remote_that_is_slow_is_waited_for() {
    let mut session = Session::new(Plan::Slow(Duration::from_millis(100)));
    session.mirror.silence = Duration::from_millis(900);
    session.save(30_000);
    let (failures, took) = session.end();
    assert!(failures.is_empty() && took > session.mirror.silence, "{failures:?} in {took:?}");
}

/// Large parts are sent at the same time: on a slow connection the first of them arrives late.
#[test]
fn a_slow_connection_is_no_silence() {
    let mut session = Session::with_parts(Plan::SlowParts(Duration::from_millis(1500)), 1 << 20);
    session.mirror.silence = Duration::from_secs(1);
    session.save(1 << 20);
    let (failures, took) = session.end();
    assert!(failures.is_empty() && took > session.mirror.silence, "{failures:?} in {took:?}");
}
