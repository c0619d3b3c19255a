//! The commands around training, as people use them.

use crate::support;

use serde_json::Value;
use std::fs;
use support::{Lab, damage, expect, program, said};

fn output(command: &mut std::process::Command, status: i32) -> String {
    String::from_utf8(expect(command, status).stdout).expect("text")
}

#[test]
fn list_shows_losses_and_damage() {
    let lab = Lab::new();
    lab.straight("run");
    damage(&lab.path("run/checkpoint_epoch1_step6_global2.pt"));
    let table = output(program().arg("list").arg(lab.path("run")), 0);
    assert_eq!(table.lines().count(), 8, "{table}");
    assert!(table.contains("DAMAGED") && table.contains("best_model.pt"), "{table}");
    // Each evaluation was better than the one before: the best is the last, under both its names.
    let best: Vec<&str> = table.lines().filter(|line| line.ends_with(", best")).collect();
    assert_eq!(best.len(), 2, "{table}");
    assert!(best[0].contains("_global12.pt") && best[1].contains("best_model.pt"), "{table}");
    let json = output(program().arg("list").arg(lab.path("run")).arg("--json"), 0);
    let list: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(list[0]["valid"], false);
    assert_eq!(list[1]["global_step"], 4);
    assert!(list[1]["val_loss"].as_f64().expect("a loss") > 0.0);
    fs::create_dir(lab.path("empty")).expect("a folder");
    expect(program().arg("list").arg(lab.path("empty")), 1);
}

#[test]
fn inspect_verify_and_diff() {
    let lab = Lab::new();
    lab.straight("run");
    let file = |name: &str| lab.path("run").join(name);
    let last = file("checkpoint_epoch3_final_global12.pt");
    let tree = output(program().arg("inspect").arg(&last), 0);
    for word in ["all match", "global_step: 12", "transformer.h.1.mlp.c_fc.weight", "float32", "weight_decay"]
    {
        assert!(tree.contains(word), "{word}:\n{tree}");
    }
    let json: Value =
        serde_json::from_str(&output(program().arg("inspect").arg(&last).arg("--json"), 0)).expect("JSON");
    assert_eq!(json["root"]["config"]["model"]["n_embd"], 32);
    assert!(
        output(program().arg("verify").arg(lab.path("run")), 0).lines().all(|line| line.ends_with(": valid"))
    );
    let before = file("checkpoint_epoch3_step6_global10.pt");
    assert_eq!(output(program().arg("diff").arg(&last).arg(&last), 0), "no difference\n");
    let changes = output(program().arg("diff").arg(&before).arg(&last), 1);
    assert!(changes.contains("global_step: 10 | 12") && changes.contains("elements differ"), "{changes}");
    damage(&before);
    let output = expect(program().arg("verify").arg(lab.path("run")), 1);
    assert!(said(&output).contains("step6_global10"), "{}", said(&output));
}

#[test]
fn generate_writes_the_same_for_the_same_seed() {
    let lab = Lab::new();
    lab.straight("run");
    let write = |extra: &[&str]| {
        let mut command = program();
        command.arg("generate").arg(lab.path("run")).args(["--prompt", "the run", "--max-new-tokens", "30"]);
        output(command.args(extra), 0)
    };
    assert!(write(&[]).starts_with("the run"));
    assert_eq!(write(&[]), write(&["--seed", "0"]));
    assert_ne!(write(&["--temperature", "2", "--top-k", "0"]), write(&["--temperature", "2", "--seed", "1"]));
    assert_eq!(write(&["--temperature", "0"]), write(&["--temperature", "0", "--seed", "5"]));
    let mut empty = program();
    empty.arg("generate").arg(lab.path("run")).args(["--prompt", ""]);
    assert!(said(&expect(&mut empty, 2)).contains("prompt"));
}

/// Several texts at once are those of any other number of texts. The first is the single one.
#[test]
fn generate_writes_several_samples() {
    let lab = Lab::new();
    lab.straight("run");
    let write = |extra: &[&str], status: i32| {
        let mut command = program();
        command.arg("generate").arg(lab.path("run")).args(["--prompt", "the run", "--max-new-tokens", "30"]);
        expect(command.args(["--temperature", "2", "--top-k", "0"]).args(extra), status)
    };
    let texts = |count: &str| -> Vec<String> {
        let text = String::from_utf8(write(&["--num-samples", count], 0).stdout).expect("text");
        let text = text.strip_suffix('\n').expect("a line's end");
        text.split("\n---------------\n").map(str::to_owned).collect()
    };
    let all = texts("5");
    assert_eq!(all.len(), 5, "{all:?}");
    assert!(all.iter().all(|text| text.starts_with("the run")));
    assert!(all[1..].iter().all(|text| *text != all[0]) && all[1] != all[2], "{all:?}");
    assert_eq!(texts("2"), all[..2]);
    assert_eq!(texts("1"), all[..1]);
    let single = String::from_utf8(write(&[], 0).stdout).expect("text");
    assert_eq!(single.strip_suffix('\n'), Some(all[0].as_str()));
    let refused = write(&["--num-samples", "0"], 2);
    assert!(refused.stdout.is_empty() && said(&refused).contains("--num-samples"), "{}", said(&refused));
}

/// A new run from a checkpoint with another learning rate: it continues with that rate, knows its parent, and resumes exactly.
#[test]
fn branch_goes_on_with_the_change() {
    let lab = Lab::new();
    expect(lab.train("run").args(["--stop-after", "7"]), 75);
    let from = lab.path("run/checkpoint_epoch2_step6_global6.pt");
    let branch = |out: &str, set: &[&str], status: i32| {
        let mut command = program();
        command.arg("branch").arg(&from).arg("--out").arg(lab.path(out));
        for change in set {
            command.arg("--set").arg(change);
        }
        expect(&mut command, status)
    };
    let made = branch("new", &["optimizer.learning_rate=0.005", "schedule.kind=linear"], 0);
    let made = String::from_utf8(made.stdout).expect("text");
    assert!(made.contains("keepstep train CONFIG.toml --set output_dir="), "{made}");
    let change = ["--set", "optimizer.learning_rate=0.005", "--set", "schedule.kind=linear"];
    // Without the change the config is not the new run's.
    let output = expect(&mut lab.train("new"), 2);
    assert!(said(&output).contains("optimizer.learning_rate"), "{}", said(&output));
    let output = expect(lab.train("new").args(change), 0);
    assert!(said(&output).contains("Global step: 6"), "{}", said(&output));
    let end = lab.path("new/checkpoint_epoch3_final_global12.pt");
    let checkpoint = keepstep::store::load(&end).expect("the end");
    assert_eq!(checkpoint.lineage.len(), 1);
    assert_eq!(checkpoint.lineage[0].position.global_step, 6);

    branch("again", &["optimizer.learning_rate=0.005", "schedule.kind=linear"], 0);
    expect(lab.train("again").args(change).args(["--stop-after", "2"]), 75);
    expect(lab.train("again").args(change), 0);
    assert_eq!(lab.checkpoints("again"), lab.checkpoints("new"));

    // Another accumulation, where it has a boundary here; not where it has none.
    branch("accumulate", &["gradient_accumulation_steps=2"], 0);
    let output = expect(lab.train("accumulate").args(["--set", "gradient_accumulation_steps=2"]), 0);
    assert!(said(&output).contains("Step in epoch: 6"), "{}", said(&output));
    branch("window", &["gradient_accumulation_steps=4"], 1);
    for (set, word) in [
        ("model.n_layer=3", "model.n_layer"),
        ("data.tokenizer=chars", "data.tokenizer"),
        ("data.validation_fraction=0.5", "data.validation_fraction"),
        ("optimizer.lr=1", "optimizer"),
    ] {
        let output = branch("refused", &[set], 2);
        assert!(said(&output).contains(word), "{set}: {}", said(&output));
        assert!(!lab.path("refused").exists());
    }
    let output = branch("run", &["seed=9"], 1);
    assert!(said(&output).contains("empty"), "{}", said(&output));
}

/// `--help` of each command, and a reader that goes away.
#[test]
fn help_and_pipes() {
    let help = output(program().arg("--help"), 0);
    for command in [
        "train", "branch", "import", "export", "generate", "list", "history", "prove", "report", "inspect",
        "verify", "diff",
    ] {
        assert!(help.contains(command), "{command}");
        output(program().args([command, "--help"]), 0);
    }
    let lab = Lab::new();
    lab.straight("run");
    let script = format!(
        "{} inspect {} | head -1",
        program().get_program().display(),
        lab.path("run/best_model.pt").display()
    );
    let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("a shell");
    assert!(said(&output).is_empty(), "{}", said(&output));
}
