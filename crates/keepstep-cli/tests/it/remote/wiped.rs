//! Machines that vanish: each SIGKILL takes the disk with it, and the next machine continues from the copy.

use super::places::{Kind, Place};
use crate::support::{self, Lab, expect};
use keepstep::journal::Event;
use keepstep::journal::curve::Series;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Kills per place; the long form takes 30.
fn kills() -> u64 {
    std::env::var("KEEPSTEP_REMOTE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(4)
}

const RUN: [&str; 10] = [
    "--set",
    "epochs=8",
    "--set",
    "save_steps=25",
    "--set",
    "eval_steps=40",
    "--set",
    "max_checkpoints=3",
    "--set",
    "sample.at_evaluation=0",
];

/// What a journal has of each update: its position, and the bits of its numbers.
fn updates(folder: &Path) -> Vec<(u64, u64, u64, Option<String>, u64, u64)> {
    let mut series = Series::open(folder).expect("a journal");
    let points = std::iter::from_fn(|| series.next_point().expect("readable"));
    points
        .filter_map(|point| match point.event {
            Event::Update(update) => Some((
                update.epoch,
                update.step,
                update.global_step,
                update.loss_bits,
                update.grad_norm.map_or(0, f64::to_bits),
                update.learning_rate.map_or(0, f64::to_bits),
            )),
            _ => None,
        })
        .collect()
}

/// Kills the run and wipes its disk many times. In the strict form, training waits for each push. The copy then has exactly
/// the files of an uninterrupted run.
fn kill_and_wipe(kind: Kind, is_strict: bool, seed: u64) {
    let place = Place::start(kind);
    let lab = Lab::new();
    std::fs::write(lab.path("corpus.txt"), support::text(6_000)).expect("the corpus");
    expect(lab.train("straight").args(RUN), 0);
    // How long it takes with its copy, without a kill.
    let began = Instant::now();
    let mut copied = lab.train("copied");
    copied.args(RUN).args(["--set", &format!("remote={}", place.url("uninterrupted"))]);
    copied.args(["--set", "remote.max_lag=0"]);
    place.reach(&mut copied, place.port);
    expect(&mut copied, 0);
    let mut lasted = began.elapsed().as_millis() as u64;
    let (straight, expected) = (lab.checkpoints("straight"), updates(&lab.path("straight")));
    let mut random = seed;
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit.max(1)
    };
    let (mut killed, mut fetched) = (0, 0);
    for round in 0.. {
        let (run, url) = (format!("run{round}"), place.url(&format!("{kind:?}{round}").to_lowercase()));
        let train = |run: &str| {
            let mut train = lab.train(run);
            train.args(RUN).args(["--set", &format!("remote={url}")]);
            if is_strict {
                train.args(["--set", "remote.max_lag=0"]);
            }
            place.reach(&mut train, place.port);
            train
        };
        loop {
            let is_last = killed >= kills();
            let log = std::fs::File::create(lab.path("log")).expect("a log");
            let mut child = support::start(train(&run).stdout(Stdio::null()).stderr(log));
            let instant = Duration::from_millis(lasted / 4 + below(lasted * 3 / 2));
            let started = Instant::now();
            let mut is_ended = false;
            while !is_ended && (is_last || started.elapsed() < instant) {
                std::thread::sleep(Duration::from_millis(3));
                is_ended = child.try_wait().expect("a child").is_some();
            }
            if !is_ended {
                child.kill().expect("SIGKILL");
                killed += 1;
            }
            let status = child.wait().expect("it ends");
            let said = std::fs::read_to_string(lab.path("log")).unwrap_or_default();
            fetched += u64::from(said.contains("Fetched "));
            if status.success() {
                // The machine may be faster now: a kill must find something to kill.
                lasted = lasted.min(started.elapsed().as_millis() as u64);
                break;
            }
            assert!(status.code().is_none(), "{status}: {said}");
            // The machine is gone, and its disk with it.
            let _ = std::fs::remove_dir_all(lab.path(&run));
        }
        let pulled = format!("pulled{round}");
        let mut pull = support::program();
        pull.arg("pull").arg(&url).arg(lab.path(&pulled));
        place.reach(&mut pull, place.port);
        expect(&mut pull, 0);
        let copy = lab.checkpoints(&pulled);
        if is_strict {
            assert_eq!(copy, straight, "{url}");
        } else {
            let common = copy.iter().filter(|(name, _)| straight.contains_key(*name)).count();
            assert!(common >= 2, "{copy:?}");
            for (name, hash) in &copy {
                assert!(straight.get(name).is_none_or(|expected| expected == hash), "{url}: {name}");
            }
            for name in [
                "best_model.pt",
                support::newest(&lab.path("straight"))
                    .file_name()
                    .and_then(|name| name.to_str())
                    .expect("a name"),
            ] {
                assert_eq!(copy.get(name), straight.get(name), "{url}: {name}");
            }
        }
        assert_eq!(updates(&lab.path(&pulled)), expected, "{url}: the journal's updates");
        if killed >= kills() {
            break;
        }
    }
    println!("{kind:?}: {killed} kills with the disk, {fetched} fresh machines that continued");
    assert!(fetched > 0 || kills() < 4, "no session continued from the copy");
}

#[test]
fn a_folder_survives_the_machine() {
    kill_and_wipe(Kind::Folder, true, 0x2545_f491_4f6c_dd1d);
}

#[test]
fn training_that_never_waits_for_its_copy() {
    kill_and_wipe(Kind::Folder, false, 0x9e37_79b9_7f4a_7c15);
}

#[test]
#[ignore = "needs seaweedfs"]
fn seaweedfs_survives_the_machine() {
    kill_and_wipe(Kind::Seaweedfs, true, 0x1234_5678_9abc_def1);
}

/// The other servers, in the long form.
#[test]
#[ignore = "needs moto and azurite"]
fn the_other_servers_survive_the_machine() {
    if kills() > 4 {
        kill_and_wipe(Kind::Moto, true, 0x0fed_cba9_8765_4321);
        kill_and_wipe(Kind::Azurite, true, 0x0bad_cafe_dead_beef);
    }
}

/// `keepstep prove` itself kills and wipes.
#[test]
fn prove_wipes_the_disk_too() {
    let place = Place::start(Kind::Folder);
    let lab = Lab::new();
    let mut prove = support::program();
    prove.arg("prove").arg(lab.path("config.toml")).args(["--updates", "12", "--kills", "3"]);
    prove.arg("--remote").arg(place.url("proof"));
    let output = expect(&mut prove, 0);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("THE SAME") && text.contains("wiped"), "{text}");
}
