//! Threads, workers' settings and the processor change the speed of a run, never a byte of it.

use crate::support;

use std::process::Command;
use support::{Lab, expect};

#[test]
fn any_number_of_threads() {
    let lab = Lab::new();
    let straight = lab.straight("straight");
    for threads in [1, 2, 3, 4, 16] {
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

/// The program built for 64-bit ARM, under emulation: whole runs in both precisions, and a run that changes processors
/// halfway.
#[test]
#[ignore = "needs the program built for ARM"]
fn a_64_bit_arm_processor() {
    let program = std::env::var_os("KEEPSTEP_ARM_PROGRAM").expect("set by cargo xtask test");
    let on_arm = |native: &Command| {
        let mut emulated = Command::new("qemu-aarch64");
        emulated.args(["-L", "/usr/aarch64-linux-gnu"]).arg(&program).args(native.get_args());
        emulated
    };
    let lab = Lab::new();
    let straight = lab.straight("straight");
    expect(&mut on_arm(&lab.train("arm")), 0);
    assert_eq!(lab.checkpoints("arm"), straight);

    expect(lab.train("moved").args(["--stop-after", "5"]), 75);
    expect(&mut on_arm(&lab.train("moved")), 0);
    assert_eq!(lab.checkpoints("moved"), straight);

    const BF16: [&str; 4] = ["--set", "precision=bf16", "--set", "emulate_bf16=true"];
    expect(lab.train("bf16").args(BF16), 0);
    expect(&mut on_arm(lab.train("bf16 arm").args(BF16)), 0);
    let bf16 = lab.checkpoints("bf16");
    assert_eq!(lab.checkpoints("bf16 arm"), bf16);
    assert!(straight.iter().all(|(name, hash)| bf16.get(name).is_none_or(|other| other != hash)));

    let mut generate = support::program();
    generate.arg("generate").arg(support::newest(&lab.path("arm"))).args(["--prompt", "the run"]);
    let native = expect(&mut generate, 0);
    let emulated = expect(&mut on_arm(&generate), 0);
    assert!(native.stdout.len() > 20 && native.stdout == emulated.stdout);
}

/// Every runtime key of the config. A new one without a change here fails the test.
#[test]
fn every_runtime_key_changed_in_mid_run() {
    let lab = Lab::new();
    let straight = lab.straight("straight");
    std::fs::create_dir(lab.path("elsewhere")).expect("a folder");
    std::fs::copy(lab.path("corpus.txt"), lab.path("elsewhere/again.txt")).expect("a copy");
    // A program without the feature refuses a remote, and the key alone changes nothing.
    let remote_url = if cfg!(feature = "remote") {
        format!("file://{}", lab.path("copy").display())
    } else {
        String::new()
    };
    let changes = [
        ("output_dir", String::new()),
        ("save_steps", "3".to_owned()),
        ("save_every", "1s".to_owned()),
        ("max_checkpoints", "50".to_owned()),
        ("resume_from_checkpoint", lab.path("source").display().to_string()),
        ("num_threads", "1".to_owned()),
        ("emulate_bf16", "true".to_owned()),
        ("session_time_limit", "10h".to_owned()),
        ("recompute_activations", "true".to_owned()),
        ("background_saving", "false".to_owned()),
        ("on_save_error", "continue".to_owned()),
        ("on_divergence", "stop".to_owned()),
        ("allow_other_numerics", "true".to_owned()),
        ("tensorboard", "false".to_owned()),
        ("data.paths", format!("[\"{}/*.txt\"]", lab.path("elsewhere").display())),
        ("data.skip_unreadable", "true".to_owned()),
        // The corpus would be another one: its content is part of the function, its place is not.
        ("data.cargo_packages", "[]".to_owned()),
        ("data.cache_dir", lab.path("another cache").display().to_string()),
        ("remote.url", remote_url),
        ("remote.endpoint", "http://localhost:1".to_owned()),
        ("remote.region", "nowhere".to_owned()),
        ("remote.single_writer", "true".to_owned()),
        ("remote.on_error", "stop".to_owned()),
        ("remote.max_lag", "0".to_owned()),
        ("sample.prompt", "the".to_owned()),
        ("sample.at_evaluation", "16".to_owned()),
        ("sample.max_new_tokens", "3".to_owned()),
        ("sample.temperature", "0.0".to_owned()),
        ("sample.top_k", "1".to_owned()),
        ("sample.seed", "9".to_owned()),
    ];
    let marked: Vec<String> = keepstep_lm::config::keys()
        .into_iter()
        .filter(|(_, mark)| *mark == keepstep_lm::config::Mark::Runtime)
        .map(|(key, _)| key)
        .collect();
    assert_eq!(changes.iter().map(|(key, _)| (*key).to_owned()).collect::<Vec<_>>(), marked);
    expect(lab.train("source").args(["--stop-after", "6"]), 75);
    for (key, value) in changes {
        let mut run = format!("changed {key}");
        expect(lab.train(&run).args(["--stop-after", "5"]), 75);
        if key == "output_dir" {
            let moved = format!("{run} and moved");
            std::fs::rename(lab.path(&run), lab.path(&moved)).expect("a moved folder");
            run = moved;
            expect(&mut lab.train(&run), 0);
        } else {
            expect(lab.train(&run).args(["--set", &format!("{key}={value}")]), 0);
        }
        let mut compared = 0;
        for (name, hash) in lab.checkpoints(&run) {
            // Other save_steps publish other files; where both have one it is the same.
            if let Some(expected) = straight.get(&name) {
                assert_eq!(&hash, expected, "{key}: {name}");
                compared += 1;
            }
        }
        assert!(compared >= 4, "{key}: {compared} files are in both");
        assert!(lab.path(&run).join("checkpoint_epoch3_final_global12.pt").exists(), "{key}");
        assert!(lab.path(&run).join("best_model.pt").exists(), "{key}");
    }
}

#[test]
fn the_folder_s_name_and_the_corpus_s_place_do_not_matter() {
    let (one, other) = (Lab::new(), Lab::new());
    assert_eq!(one.straight("a"), other.straight("a much longer name"));
}

/// In twenty new processes each, on 1, 2 and 4 threads.
#[test]
fn bpe_is_the_same_tokenizer_every_time() {
    let lab = Lab::new();
    std::fs::write(lab.path("corpus.txt"), support::text(60_000)).expect("the corpus");
    let mut first: Option<Vec<u8>> = None;
    for round in 0..20 {
        for threads in [1, 2, 4] {
            let run = format!("bpe {round} {threads}");
            let mut train = lab.train(&run);
            train.args(["--set", "data.tokenizer={ bpe = 300 }", "--stop-after", "1"]);
            train.args(["--set", &format!("num_threads={threads}")]);
            // A cache that is not there yet: it is trained each time.
            train.args(["--set", &format!("data.cache_dir={}", lab.path(&run).join("cache").display())]);
            expect(&mut train, 75);
            let json = std::fs::read(lab.path(&run).join("tokenizer.json")).expect("the tokenizer");
            assert!(json.len() > 3_000);
            assert!(*first.get_or_insert_with(|| json.clone()) == json, "round {round}, {threads} threads");
            std::fs::remove_dir_all(lab.path(&run)).expect("a folder to remove");
        }
    }
}
