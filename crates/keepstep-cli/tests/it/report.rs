//! `keepstep report`: a run as one page.

use crate::support;

use std::fs;
use std::path::Path;
use std::process::Command;
use support::{Lab, expect, program, said};

fn report(lab: &Lab, run: &str) -> String {
    let out = lab.path("report.html");
    expect(program().arg("report").arg(lab.path(run)).arg("--out").arg(&out), 0);
    fs::read_to_string(out).expect("the page")
}

/// Three sessions, one of them with updates that were made again.
fn stopped_and_resumed(lab: &Lab) {
    let prompt = ["--set", "sample.prompt=<script>alert(1)</script>"];
    expect(lab.train("run").args(["--stop-after", "5"]).args(prompt), 75);
    fs::remove_file(support::newest(&lab.path("run"))).expect("a checkpoint to lose");
    expect(lab.train("run").args(["--stop-after", "4"]).args(prompt), 75);
    expect(lab.train("run").args(prompt), 0);
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_page_has_all_of_a_run() {
    let lab = Lab::new();
    stopped_and_resumed(&lab);
    let before = files(&lab.path("run"));
    let page = report(&lab, "run");
    assert_eq!(files(&lab.path("run")), before);
    for part in [
        "Finished",
        "Loss over global step",
        "Learning rate",
        "Gradient norm",
        "id=\"checkpoints\"",
        "checkpoint_epoch3_final_global12.pt",
        "optimizer.learning_rate",
        "id=\"sessions\"",
        "#3</text>",
        "Global step 12 ",
        "prefers-color-scheme:dark",
        "1 updates replayed",
    ] {
        assert!(page.contains(part), "{part}");
    }
    // Evaluations at 3, 4, 6, 8, 9 and 12, each with one text.
    assert_eq!(page.matches("<details class=\"sample\"").count(), 6);
    assert_eq!(page.matches("Global step 4: validation loss").count(), 2, "once in each drawing");
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script"));
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
}

#[test]
fn runs_that_lack_something_are_told_so() {
    let lab = Lab::new();
    expect(lab.train("run").args(["--stop-after", "3"]), 75);
    let journal = lab.path("run/journal.jsonl");
    let text = fs::read_to_string(&journal).expect("the journal");
    let page = report(&lab, "run");
    assert!(page.contains("Stopped: ") && page.contains("The same command goes on"));
    // Killed within a line.
    let killed = text.rsplit_once("{").expect("a last line").0;
    fs::write(&journal, format!("{killed}{{\"event\":\"upd")).expect("a torn journal");
    let page = report(&lab, "run");
    assert!(page.contains("no end recorded") && page.contains("Loss over global step"));
    fs::remove_file(&journal).expect("a journal to lose");
    let page = report(&lab, "run");
    assert!(page.contains("This folder has no journal") && page.contains("id=\"checkpoints\""));
    fs::create_dir(lab.path("new")).expect("a folder");
    fs::write(lab.path("new/journal.jsonl"), text.lines().next().expect("the start")).expect("a journal");
    let page = report(&lab, "new");
    assert!(
        page.contains("No update has been made yet") && page.contains("No checkpoint has been saved yet")
    );
    fs::create_dir(lab.path("empty")).expect("a folder");
    for run in ["empty", "nowhere"] {
        let mut command = program();
        command.arg("report").arg(lab.path(run)).arg("--out").arg(lab.path("none.html"));
        let output = expect(&mut command, 1);
        assert!(said(&output).contains(run), "{}", said(&output));
    }
    assert!(!lab.path("none.html").exists());
}

/// In the real browser, named by KEEPSTEP_CHROMIUM: charts are there, nothing is asked for or complained about, and nothing
/// is wider than a phone.
#[test]
#[ignore = "needs a browser"]
fn a_browser_shows_it() {
    let lab = Lab::new();
    stopped_and_resumed(&lab);
    let page = report(&lab, "run");
    let browse = |file: &Path| {
        let mut chromium = Command::new(std::env::var_os("KEEPSTEP_CHROMIUM").expect("KEEPSTEP_CHROMIUM"));
        chromium.args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
        ]);
        chromium.arg(format!("--user-data-dir={}", lab.path("profile").display()));
        let output = expect(chromium.arg(format!("file://{}", file.display())), 0);
        assert!(!said(&output).contains("CONSOLE"), "{}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(browse(&lab.path("report.html")).contains("Loss over global step"));
    for (width, shown) in [(390, "narrow"), (1280, "wide")] {
        let inner = page.replace('&', "&amp;").replace('"', "&quot;");
        let outer = format!(
            r#"<!doctype html><body><iframe style="width:{width}px;height:900px;border:0" srcdoc="{inner}"></iframe><script>
const f = document.querySelector("iframe");
f.onload = () => {{
  const d = f.contentDocument, w = f.contentWindow;
  const seen = [...d.querySelectorAll("svg.{shown}")].filter(s => s.getBoundingClientRect().height > 150);
  const lines = seen.filter(s => s.querySelector("path.s1,path.s3,path.s4,path.s5"));
  const wide = [...d.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > w.innerWidth + 1);
  document.body.dataset.found = [lines.length >= 3, d.documentElement.scrollWidth <= w.innerWidth, wide.length,
    w.performance.getEntriesByType("resource").length].join(" ");
}};
</script></body>"#
        );
        fs::write(lab.path("outer.html"), outer).expect("a page around it");
        let dom = browse(&lab.path("outer.html"));
        let found = dom.split_once("data-found=\"").and_then(|(_, rest)| rest.split_once('"'));
        assert_eq!(found.map(|found| found.0), Some("true true 0 0"), "{width}");
    }
}
