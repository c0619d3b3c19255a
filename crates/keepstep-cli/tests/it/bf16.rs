//! `precision = "bf16"`: as exact as float32, on every processor that may compute it, and refused where it may not.

use crate::support;

use std::process::Command;
use support::{Lab, UPDATES, expect, newest, said};

const BF16: [&str; 2] = ["--set", "precision=bf16"];
const EMULATED: [&str; 4] = ["--set", "precision=bf16", "--set", "emulate_bf16=true"];
const EITHER: [&str; 2] = ["--set", "precision=[\"bf16\", \"float32\"]"];

/// Runs the same command on an emulated processor without the instructions.
fn on_a_haswell(native: &Command) -> Command {
    let mut emulated = Command::new("qemu-x86_64");
    emulated.args(["-cpu", "Haswell"]).arg(native.get_program()).args(native.get_args());
    emulated
}

#[test]
fn a_stopped_run_ends_in_the_same_bytes() {
    let lab = Lab::new();
    let output = expect(lab.train("straight").args(EMULATED), 0);
    assert!(said(&output).contains("bf16"), "{}", said(&output));
    let straight = lab.checkpoints("straight");
    let float32 = lab.straight("float32");
    assert!(float32.iter().all(|(name, hash)| straight.get(name).is_none_or(|other| other != hash)));
    for updates in 1..UPDATES {
        let run = format!("stopped{updates}");
        expect(lab.train(&run).args(EMULATED).args(["--stop-after", &updates.to_string()]), 75);
        // Going on, the config may allow more than the run has taken.
        expect(lab.train(&run).args(EMULATED).args(EITHER), 0);
        assert_eq!(lab.checkpoints(&run), straight, "stopped after {updates} updates");
    }
    for threads in [1, 2, 3, 4] {
        let run = format!("threads{threads}");
        let operational =
            [format!("num_threads={threads}"), format!("recompute_activations={}", threads % 2 == 0)];
        let mut train = lab.train(&run);
        train.args(EMULATED).args(["--set", &operational[0], "--set", &operational[1]]);
        expect(&mut train, 0);
        assert_eq!(lab.checkpoints(&run), straight, "{threads} threads");
    }
    expect(&mut on_a_haswell(lab.train("haswell").args(EMULATED)), 0);
    assert_eq!(lab.checkpoints("haswell"), straight);
}

/// Killed, not stopped, at whatever instant; the source of the bytes is the run that never was.
#[test]
fn a_killed_run_ends_in_the_same_bytes() {
    let lab = Lab::new();
    let train = |run: &str| {
        let mut train = lab.train(run);
        train.args(EMULATED).args(["--set", "save_steps=1"]);
        train
    };
    expect(&mut train("straight"), 0);
    for kill in 1..=8_u64 {
        let mut child = support::start(train("killed").stderr(std::process::Stdio::null()));
        std::thread::sleep(std::time::Duration::from_millis(25 * kill));
        child.kill().expect("a kill");
        child.wait().expect("its end");
    }
    expect(&mut train("killed"), 0);
    assert_eq!(lab.checkpoints("killed"), lab.checkpoints("straight"));
}

#[test]
fn without_the_instructions_it_is_refused_unless_something_else_is_allowed() {
    let lab = Lab::new();
    let refused = said(&expect(&mut on_a_haswell(lab.train("run").args(BF16)), 2));
    for part in ["`precision` is \"bf16\"", "AVX512-BF16", "[\"bf16\", \"float32\"]", "emulate_bf16 = true"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert!(!lab.path("run").exists(), "nothing was written");

    // float32 is taken where it is allowed, and then its bytes are those of any float32 run.
    expect(&mut on_a_haswell(lab.train("either").args(EITHER)), 0);
    assert_eq!(lab.checkpoints("either"), lab.straight("float32"));
    // A run keeps its precision, even if this processor supports the preferred one.
    expect(lab.train("either").args(EITHER).args(["--set", "emulate_bf16=true"]), 0);

    // A run in bf16 cannot continue here without emulation.
    expect(lab.train("begun").args(EMULATED).args(["--stop-after", "2"]), 75);
    let refused = said(&expect(&mut on_a_haswell(lab.train("begun").args(EITHER)), 2));
    assert!(
        refused.contains("this run computes in bf16") && refused.contains("emulate_bf16 = true"),
        "{refused}"
    );
    expect(&mut on_a_haswell(lab.train("begun").args(EITHER).args(["--set", "emulate_bf16=true"])), 0);
}

#[test]
fn another_precision_is_another_run() {
    let lab = Lab::new();
    expect(lab.train("float32").args(["--stop-after", "5"]), 75);
    let refused = said(&expect(lab.train("float32").args(EMULATED), 2));
    assert!(refused.contains("computes in float32") && refused.contains("keepstep branch"), "{refused}");
    let mut branch = support::program();
    branch.arg("branch").arg(newest(&lab.path("float32"))).arg("--out").arg(lab.path("branch")).args(BF16);
    expect(&mut branch, 0);
    expect(lab.train("branch").args(EMULATED), 0);
    let refused = said(&expect(&mut lab.train("branch"), 2));
    assert!(refused.contains("computes in bf16"), "{refused}");
    // And back.
    let mut back = support::program();
    back.arg("branch").arg(newest(&lab.path("branch"))).arg("--out").arg(lab.path("back"));
    expect(back.args(["--set", "precision=float32"]), 0);
    expect(&mut lab.train("back"), 0);
}
