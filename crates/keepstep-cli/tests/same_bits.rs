//! Threads, workers' settings and the processor change the speed of a run, never a byte of it.

mod support;

use std::process::Command;
use support::{Lab, expect};

#[test]
fn any_number_of_threads() {
    let lab = Lab::new();
    let straight = lab.straight("straight");
    for threads in [1, 2, 3, 4] {
        let run = format!("threads{threads}");
        expect(lab.train(&run).args(["--set", &format!("num_threads={threads}")]), 0);
        assert_eq!(lab.checkpoints(&run), straight, "{threads} threads");
    }
}

/// The same binary on a processor without AVX-512. (On a machine without it, this compares two AVX2 runs, and the
/// golden hashes of the engine's own tests carry the comparison across machines.)
#[test]
fn a_haswell_processor() {
    let lab = Lab::new();
    let straight = lab.straight("straight");
    let mut native = lab.train("haswell");
    let mut emulated = Command::new("qemu-x86_64");
    emulated.args(["-cpu", "Haswell"]).arg(native.get_program()).args(native.get_args());
    expect(&mut emulated, 0);
    assert_eq!(lab.checkpoints("haswell"), straight);
    native.args(["--resume", "auto"]);
    expect(&mut native, 0);
}

#[test]
fn every_operational_key_changed_in_mid_run() {
    let lab = Lab::new();
    let straight = lab.straight("straight");
    let cache = format!("data.cache_dir={}", lab.path("another cache").display());
    for key in [
        "save_steps=3",
        "save_every=1s",
        "max_checkpoints=50",
        "num_threads=1",
        "session_time_limit=10h",
        "recompute_activations=true",
        "on_save_error=continue",
        "sample.max_new_tokens=3",
        &cache,
    ] {
        let run = format!("changed {key}").replace('/', "_");
        expect(lab.train(&run).args(["--stop-after", "5"]), 75);
        expect(lab.train(&run).args(["--set", key]), 0);
        for (name, hash) in lab.checkpoints(&run) {
            // Other save_steps publish other files; where both have one it is the same.
            if let Some(expected) = straight.get(&name) {
                assert_eq!(&hash, expected, "{key}: {name}");
            }
        }
        assert!(lab.path(&run).join("checkpoint_epoch3_final_global12.pt").exists(), "{key}");
        assert!(lab.path(&run).join("best_model.pt").exists(), "{key}");
    }
}

#[test]
fn the_folder_s_name_and_the_corpus_s_place_do_not_matter() {
    let (one, other) = (Lab::new(), Lab::new());
    assert_eq!(one.straight("a"), other.straight("a much longer name"));
}
