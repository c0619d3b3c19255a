//! SIGKILL at random instants: nothing that was reported as saved is lost, and the end is the same.

use crate::support;

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::{Lab, expect, global_step};

const KILLS: u32 = 200;

/// The highest global step among the files that hold, read independently of the program's own choice. The best model,
/// which is made durable before the checkpoint next to it, counts only if there is no other file.
fn newest_valid(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let steps = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        let name = path.file_name()?.to_str()?.to_owned();
        let is_best = name == "best_model.pt";
        let stated = if is_best { None } else { Some(global_step(&name)?) };
        let file = keepstep_pt::File::open(&path).ok()?;
        file.verify().ok()?;
        let step = file.value().as_dict()?.get("global_step")?.as_int()?;
        assert!(stated.is_none_or(|stated| stated == step as u64), "{name} holds global step {step}");
        Some((!is_best, step as u64))
    });
    steps.max().map_or(0, |(_, step)| step)
}

/// The highest global step that a session reported as saved.
fn last_reported(log: &str) -> u64 {
    log.lines().filter_map(|line| global_step(line.strip_prefix("Saved ")?)).max().unwrap_or(0)
}

/// The global step from which a session reports that it continues.
fn resumed_at(log: &str) -> Option<u64> {
    log.lines().find_map(|line| line.trim().strip_prefix("Global step: ")?.parse().ok())
}

#[test]
fn killed_at_two_hundred_random_instants() {
    let lab = Lab::new();
    let every_update = ["--set", "save_steps=1", "--set", "epochs=12"];
    let began = Instant::now();
    expect(lab.train("straight").args(every_update), 0);
    // A slow machine needs longer to its first save.
    let latest = (began.elapsed().as_micros() as u64).clamp(150_000, 300_000);
    let straight = lab.checkpoints("straight");

    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut kills = 0;
    let mut kills_after_a_save = 0;
    let mut round = 0;
    while kills < KILLS {
        let run = format!("run{round}");
        round += 1;
        let mut saved = 0;
        loop {
            let log_path = lab.path("log");
            let log = File::create(&log_path).expect("a log");
            let mut child =
                support::start(lab.train(&run).args(every_update).stdout(Stdio::null()).stderr(log));
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            std::thread::sleep(Duration::from_micros(random % latest));
            let finished = child.try_wait().expect("its status");
            if finished.is_none() {
                child.kill().expect("SIGKILL");
                kills += 1;
            }
            let status = child.wait().expect("its status");
            let log = fs::read_to_string(&log_path).expect("the log");
            if let Some(step) = resumed_at(&log) {
                assert_eq!(step, saved, "the wrong checkpoint was picked:\n{log}");
            } else if log.contains("Saved ") {
                assert_eq!(saved, 0, "a run that had been saved began anew:\n{log}");
            }
            let valid = newest_valid(&lab.path(&run));
            assert!(valid >= saved.max(last_reported(&log)), "a saved checkpoint is lost:\n{log}");
            saved = valid;
            if status.code().is_some() {
                assert_eq!(status.code(), Some(0), "{log}");
                break;
            }
            kills_after_a_save += u32::from(saved > 0);
            if kills >= KILLS {
                expect(lab.train(&run).args(every_update), 0);
                break;
            }
        }
        assert_eq!(lab.checkpoints(&run), straight, "{run} ends in other bytes");
    }
    assert!(kills_after_a_save > KILLS / 4, "only {kills_after_a_save} kills came after a save");
}
