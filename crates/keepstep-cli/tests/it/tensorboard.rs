//! Event files, read by the real TensorBoard. `cargo xtask test` makes the environment and names it in
//! KEEPSTEP_TENSORBOARD_PYTHON.

use crate::support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Lab, expect};

const SCRIPT: &str = r#"
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    | {tag: [[e.step, 0] for e in events.Tensors(tag)] for tag in events.Tags()["tensors"]}))
"#;

type Curves = BTreeMap<String, Vec<(u64, f64)>>;

/// The curves that TensorBoard shows. Steps must rise.
fn curves(lab: &Lab, run: &str) -> Curves {
    let python = std::env::var_os("KEEPSTEP_TENSORBOARD_PYTHON").expect("KEEPSTEP_TENSORBOARD_PYTHON");
    let output = expect(Command::new(python).args(["-c", SCRIPT]).arg(lab.path(run).join("tensorboard")), 0);
    let curves: Curves = serde_json::from_slice(&output.stdout).expect("JSON");
    for (tag, points) in &curves {
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0), "{tag}: {points:?}");
    }
    curves
}

/// The journal's last record of each update.
fn journal(lab: &Lab, run: &str) -> BTreeMap<u64, Value> {
    let text = fs::read_to_string(lab.path(run).join("journal.jsonl")).expect("a journal");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines
        .filter(|line| line["event"] == "update")
        .map(|line| (line["global_step"].as_u64().expect("a step"), line))
        .collect()
}

#[test]
#[ignore = "needs TensorBoard"]
fn one_curve_after_kills_and_resumes() {
    let lab = Lab::new();
    expect(&mut lab.train("straight"), 0);
    let expected = curves(&lab, "straight");
    let losses = &expected["train/loss"];
    assert_eq!(losses.len() as u64, support::UPDATES);
    for (tag, key) in
        [("train/loss", "loss"), ("train/learning_rate", "learning_rate"), ("train/grad_norm", "grad_norm")]
    {
        for (step, value) in &expected[tag] {
            let journal = journal(&lab, "straight")[step][key].as_f64().expect("a number");
            assert_eq!((journal as f32).to_bits(), (*value as f32).to_bits(), "{tag} at {step}");
        }
    }
    let steps: Vec<u64> = expected["eval/loss"].iter().map(|point| point.0).collect();
    assert_eq!(steps, [3, 4, 6, 8, 9, 12]);
    assert_eq!(expected["eval/sample/text_summary"].len(), steps.len());

    // Killed at many places, its newest checkpoint lost now and then, and the event file torn.
    for round in 0..12_u64 {
        let mut child = support::start(lab.train("killed").stdout(Stdio::null()).stderr(Stdio::null()));
        std::thread::sleep(Duration::from_millis(30 + 17 * round));
        let _ = child.kill();
        let _ = child.wait();
        let folder = lab.path("killed/tensorboard");
        if let (true, Ok(files)) = (round % 3 == 1, fs::read_dir(&folder)) {
            for file in files {
                let path = file.expect("an entry").path();
                let bytes = fs::read(&path).expect("a file");
                fs::write(&path, &bytes[..bytes.len() - bytes.len().min(7)]).expect("a torn file");
            }
        }
        if round % 4 == 2 && lab.path("killed").exists() && lab.checkpoints("killed").len() > 2 {
            fs::remove_file(support::newest(&lab.path("killed"))).expect("a checkpoint to lose");
        }
    }
    expect(&mut lab.train("killed"), 0);
    let without_rate = |mut curves: Curves| {
        curves.remove("train/tokens_per_second");
        curves
    };
    assert_eq!(without_rate(curves(&lab, "killed")), without_rate(expected.clone()));

    // Resumed elsewhere, from a folder that is only read: the journal came along, and the curve with it.
    expect(lab.train("source").args(["--stop-after", "7"]), 75);
    expect(lab.train("elsewhere").arg("--resume").arg(lab.path("source")), 0);
    assert_eq!(without_rate(curves(&lab, "elsewhere")), without_rate(expected));
}

/// If the files cannot be written, the run reports it once and continues. Without the setting, no file is made.
#[test]
fn it_never_ends_a_run() {
    let lab = Lab::new();
    fs::create_dir(lab.path("run")).expect("a folder");
    fs::write(lab.path("run/tensorboard"), "in the way").expect("a file");
    let output = expect(&mut lab.train("run"), 0);
    assert_eq!(support::said(&output).matches("TensorBoard's files cannot be written").count(), 1);
    expect(lab.train("none").args(["--set", "tensorboard=false"]), 0);
    assert!(!lab.path("none/tensorboard").exists());
    assert_eq!(lab.checkpoints("none"), lab.checkpoints("run"));
}
