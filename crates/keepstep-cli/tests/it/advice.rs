//! Commands that the program suggests work when they are pasted into a shell.

use crate::support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use support::{Lab, expect, said};

/// The command that a message advises: from its name to the message's end.
fn advised(message: &str) -> String {
    let line = message.lines().rfind(|line| line.contains("keepstep: ")).expect("a message");
    let start = line.rfind(": keepstep ").unwrap_or_else(|| panic!("no command in:\n{message}"));
    line[start + 2..].to_owned()
}

/// Runs a command as a shell does, in the lab's folder, with this program first on the path.
fn paste(lab: &Lab, command: &str, status: i32) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_keepstep"));
    let path = format!(
        "{}:{}",
        program.parent().expect("a folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(lab.path("")).env("PATH", path);
    expect(&mut shell, status)
}

/// A lab whose paths a shell would take apart, with a run that has stopped within its second epoch.
fn started(run: &str) -> Lab {
    let lab = Lab::new();
    expect(lab.train(run).args(["--stop-after", "5"]), 75);
    lab
}

const NAME: &str = "it's a \"run\"";

#[test]
fn a_changed_key_is_branched_as_advised() {
    for set in ["optimizer.betas=[0.8, 0.9]", "optimizer.learning_rate=0.02", "seed=8", "eval_batches=1"] {
        let lab = started(NAME);
        let refused = expect(lab.train(NAME).args(["--set", set]), 2);
        let command = advised(&said(&refused));
        assert!(command.starts_with("keepstep branch "), "{command}");
        paste(&lab, &command, 0);
        expect(lab.train("NEW_RUN").args(["--set", set]), 0);
    }
}

#[test]
fn a_change_of_the_batch_size_at_an_epoch_s_end_brings_the_corpus() {
    let lab = Lab::new();
    lab.straight(NAME);
    let refused = expect(lab.train(NAME).args(["--set", "batch_size=1"]), 2);
    paste(&lab, &advised(&said(&refused)), 0);
    expect(lab.train("NEW_RUN").args(["--set", "batch_size=1"]), 0);
}

/// A branch cannot make it; a new run can.
#[test]
fn what_no_branch_can_change_begins_anew() {
    for set in ["data.tokenizer={ bpe = 260 }", "model.n_embd=64", "data.validation_fraction=0.1"] {
        let lab = started(NAME);
        let refused = expect(lab.train(NAME).args(["--set", set]), 2);
        let command = advised(&said(&refused));
        assert!(command.starts_with("keepstep train "), "{command}");
        paste(&lab, &command, 0);
        assert!(lab.path("NEW_RUN").is_dir(), "{command}");
    }
    // A key that is no longer set.
    let lab = Lab::new();
    expect(lab.train("run").args(["--set", "eval_batches=1", "--stop-after", "5"]), 75);
    let refused = expect(&mut lab.train("run"), 2);
    paste(&lab, &advised(&said(&refused)), 0);
}

#[test]
fn a_changed_corpus_is_named_with_two_ways_on() {
    for tokenizer in ["bytes", "chars", "{ bpe = 270 }"] {
        let lab = Lab::new();
        let folder = lab.path("texts");
        fs::create_dir(&folder).expect("a folder");
        for (name, from) in [("a.txt", 0), ("b.txt", 200)] {
            fs::write(folder.join(name), &support::text(2_000)[from..from + 900]).expect("a text");
        }
        let set = [
            format!("data.tokenizer={tokenizer}"),
            format!("data.paths=[\"{}\"]", folder.join("*.txt").display()),
        ];
        let train = || {
            let mut command = lab.train(NAME);
            set.iter().for_each(|set| {
                command.args(["--set", set]);
            });
            command
        };
        expect(train().args(["--stop-after", "3"]), 75);
        let text = fs::read_to_string(folder.join("b.txt")).expect("a text");
        fs::write(folder.join("b.txt"), text.replace("exact", "step and")).expect("a text");
        let refused = said(&expect(&mut train(), 2));
        assert!(
            refused.contains("changed: `") && refused.contains("b.txt") && !refused.contains("a.txt"),
            "{refused}"
        );
        paste(&lab, &advised(&refused), 0);
        assert!(lab.path("NEW_RUN/best_model.pt").exists());
        // The other way on.
        fs::write(folder.join("b.txt"), text).expect("a text");
        expect(&mut train(), 0);
    }
}

/// In the folder of a run, in a path to resume from, and among the texts.
#[test]
fn an_unset_variable_is_named_with_a_way_on() {
    let lab = Lab::new();
    for arguments in [
        ["--set", "output_dir=$KEEPSTEP_NOT_SET/run"],
        ["--set", "data.paths=[\"${KEEPSTEP_NOT_SET}/*.txt\"]"],
        ["--resume", "$KEEPSTEP_NOT_SET/run"],
    ] {
        let refused = said(&expect(lab.train("run").args(arguments), 2));
        assert!(
            refused.contains(
                "KEEPSTEP_NOT_SET, which is not set; set it, or write ${KEEPSTEP_NOT_SET:-DEFAULT}"
            ),
            "{refused}"
        );
    }
}

#[test]
fn another_order_of_the_same_files_is_said() {
    let lab = Lab::new();
    for (name, from) in [("a.txt", 0), ("b.txt", 200)] {
        fs::write(lab.path(name), &support::text(2_000)[from..from + 900]).expect("a text");
    }
    let paths = |names: [&str; 2]| {
        format!("data.paths=[\"{}\", \"{}\"]", lab.path(names[0]).display(), lab.path(names[1]).display())
    };
    expect(lab.train("run").args(["--set", &paths(["a.txt", "b.txt"]), "--stop-after", "3"]), 75);
    let refused = said(&expect(lab.train("run").args(["--set", &paths(["b.txt", "a.txt"])]), 2));
    assert!(refused.contains("another order"), "{refused}");
}

/// At an epoch's end, a branch continues with another corpus and the same optimizer state.
#[test]
fn a_branch_takes_another_corpus_at_an_epoch_s_end() {
    let lab = started("run");
    fs::write(lab.path("other.txt"), support::text(900)).expect("a text");
    let paths = format!("data.paths=[\"{}\"]", lab.path("other.txt").display());
    let branch = |out: &str, from: &str, status: i32| {
        let mut command = support::program();
        command
            .arg("branch")
            .arg(lab.path("run").join(from))
            .arg("--out")
            .arg(lab.path(out))
            .args(["--set", &paths]);
        expect(&mut command, status)
    };
    branch("new", "checkpoint_epoch1_final_global4.pt", 0);
    expect(lab.train("new").args(["--set", &paths]), 0);
    let refused = said(&branch("within", "checkpoint_epoch2_step3_global5.pt", 1));
    assert!(refused.contains("epoch's end"), "{refused}");
}

#[test]
fn weights_alone_are_told_from_a_damaged_checkpoint() {
    let lab = Lab::new();
    lab.straight("run");
    let mut export = support::program();
    expect(
        export.arg("export").arg(lab.path("run")).args(["--format", "hf", "--out"]).arg(lab.path("the base")),
        0,
    );
    for source in ["the base", "the base/model.safetensors"] {
        let refused = said(&expect(lab.train("new").arg("--resume").arg(lab.path(source)), 2));
        assert!(refused.contains("weights alone") && !refused.contains("damaged"), "{refused}");
        assert!(!lab.path("new").exists());
        paste(&lab, &advised(&refused), 0);
        fs::remove_dir_all(lab.path("new")).expect("the new run");
    }
}

/// A resumed run does not need the weights that it began with.
#[test]
fn a_run_goes_on_without_its_first_weights() {
    let lab = Lab::new();
    expect(lab.train("first").args(["--set", "data.tokenizer={ bpe = 270 }"]), 0);
    let mut export = support::program();
    expect(
        export.arg("export").arg(lab.path("first")).args(["--format", "hf", "--out"]).arg(lab.path("base")),
        0,
    );
    let config = lab.config_text();
    let (before, model) = config.split_once("[model]").expect("a model");
    let (_, after) = model.split_once("[optimizer]").expect("an optimizer");
    let config = format!("{before}[optimizer]{after}").replace("tokenizer = \"bytes\"\n", "");
    fs::write(lab.path("config.toml"), config).expect("a config");
    let init_from = format!("init_from={}", lab.path("base").display());
    let train = |run: &str| {
        let mut command = lab.train(run);
        command.args(["--set", &init_from]);
        command
    };
    expect(&mut train("straight"), 0);
    for (run, gone) in [("gone", true), ("empty", false)] {
        expect(train(run).args(["--stop-after", "3"]), 75);
        fs::rename(lab.path("base"), lab.path("elsewhere")).expect("to move the weights");
        if !gone {
            // An empty folder: a disk that is not mounted.
            fs::create_dir(lab.path("base")).expect("an empty folder");
        }
        let refused = said(&expect(train("new").arg("--dry-run"), 2));
        assert!(refused.contains("base"), "{refused}");
        expect(&mut train(run), 0);
        assert_eq!(lab.checkpoints(run), lab.checkpoints("straight"), "{run}");
        if !gone {
            fs::remove_dir(lab.path("base")).expect("the empty folder");
        }
        fs::rename(lab.path("elsewhere"), lab.path("base")).expect("to move the weights back");
    }
    // Git LFS left a pointer.
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    for file in ["model.safetensors", "config.json", "tokenizer.json"] {
        let text = fs::read(lab.path("base").join(file)).expect("a file");
        fs::write(lab.path("base").join(file), pointer).expect("a pointer");
        let refused = said(&expect(&mut train("pointer"), 2));
        assert!(refused.contains("Git LFS pointer") && refused.contains(file), "{refused}");
        assert!(!lab.path("pointer").exists());
        fs::write(lab.path("base").join(file), text).expect("the file");
    }
}
