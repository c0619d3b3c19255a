//! Servers that speak the real protocols, behind a proxy that breaks connections.

use super::places::{Kind, Place};
use super::proxy::{Fault, Proxy};
use crate::support::{self, Lab, expect, said};
use std::process::Command;

/// The whole way on each server: push while training, refuse a second run, list, verify, generate, pull, resume.
fn whole_way(kind: Kind) {
    let place = Place::start(kind);
    let lab = Lab::new();
    let straight = lab.straight("straight");
    let url = place.url("way");
    let reach = |command: &mut Command| place.reach(command, place.port);
    let train = |run: &str| {
        let mut train = lab.train(run);
        train.args(["--set", &format!("remote={url}"), "--set", "remote.max_lag=0"]);
        reach(&mut train);
        train
    };
    let output = expect(train("run").args(["--stop-after", "7"]), 75);
    assert!(said(&output).contains("Pushed "), "{}", said(&output));
    let output = expect(&mut train("fresh"), 0);
    assert!(said(&output).contains("Fetched "), "{}", said(&output));
    let ask = |arguments: &[&str], status: i32| {
        let mut command = support::program();
        command.args(arguments);
        reach(&mut command);
        expect(&mut command, status)
    };
    let pulled = lab.path("pulled").display().to_string();
    ask(&["pull", &url, &pulled], 0);
    assert_eq!(lab.checkpoints("pulled"), straight, "{kind:?}");
    let listed = String::from_utf8(ask(&["list", &url], 0).stdout).expect("text");
    assert_eq!(listed.lines().count(), straight.len() + 1, "{listed}");
    ask(&["verify", &url], 0);
    let newest = format!("{url}/checkpoint_epoch3_final_global12.pt");
    let inspected = String::from_utf8(ask(&["inspect", &newest], 0).stdout).expect("text");
    assert!(inspected.contains("global_step: 12"), "{inspected}");
    let local = support::newest(&lab.path("straight")).display().to_string();
    let write = ["--prompt", "the run", "--max-new-tokens", "20"];
    let (there, here) = (
        ask(&[&["generate", &newest][..], &write].concat(), 0),
        ask(&[&["generate", &local][..], &write].concat(), 0),
    );
    assert_eq!(there.stdout, here.stdout);
    // Another run does not get in.
    let output = expect(train("other").args(["--set", "seed=8", "--resume", "never"]), 2);
    assert!(said(&output).contains("it holds another run"), "{}", said(&output));
}

#[test]
#[ignore = "needs seaweedfs"]
fn seaweedfs() {
    whole_way(Kind::Seaweedfs);
}

#[test]
#[ignore = "needs moto"]
fn moto() {
    whole_way(Kind::Moto);
}

#[test]
#[ignore = "needs azurite"]
fn azurite() {
    whole_way(Kind::Azurite);
}

/// Connections break at every 64 KiB, in both directions, and bits flip. Whatever is reported as pushed is whole.
#[test]
#[ignore = "needs seaweedfs"]
fn connections_that_break() {
    let mut place = Place::start(Kind::Seaweedfs);
    let mut proxy = Proxy::start(place.port);
    let lab = Lab::new();
    let wide = ["--set", "model.n_embd=96", "--set", "max_checkpoints=1", "--set", "save_steps=100"];
    expect(lab.train("run").args(wide).args(["--set", "epochs=1"]), 0);
    let run = lab.path("run").display().to_string();
    let size = std::fs::metadata(support::newest(&lab.path("run"))).expect("a checkpoint").len();
    let step: u64 =
        std::env::var("KEEPSTEP_REMOTE_STEP").ok().and_then(|text| text.parse().ok()).unwrap_or(1 << 18);
    let faults = [Fault::Cut, Fault::Reset, Fault::CutAnswer, Fault::Flip, Fault::FlipAnswer];
    let (mut tried, mut failed, mut round, mut happened) = (0, 0, 0, 0);
    for at in (0..size).step_by(step as usize).map(|at| at + 1000) {
        for fault in faults {
            round += 1;
            // The server's volumes are few: it fills up.
            if round % 100 == 0 {
                happened += proxy.happened();
                place = Place::start(Kind::Seaweedfs);
                proxy = Proxy::start(place.port);
            }
            let url = place.url(&format!("broken{round}"));
            let ask = |arguments: &[&str], port: u16| {
                let mut command = support::program();
                command.args(arguments);
                place.reach(&mut command, port);
                command.output().expect("the program starts")
            };
            proxy.inject(fault(at));
            // One that fails says so, and is made again.
            let mut attempts = 0;
            loop {
                let output = ask(&["push", &run, &url], proxy.port);
                if output.status.success() {
                    break;
                }
                failed += 1;
                attempts += 1;
                assert!(attempts < 4 && said(&output).contains("keepstep: "), "{fault:?}: {}", said(&output));
            }
            let verified = ask(&["verify", &url], place.port);
            assert!(verified.status.success(), "{:?}: {}", fault(at), said(&verified));
            proxy.inject(fault(at));
            let pulled = lab.path(&format!("pulled{round}")).display().to_string();
            let mut output = ask(&["pull", &url, &pulled], proxy.port);
            if !output.status.success() {
                failed += 1;
                output = ask(&["pull", &url, &pulled], proxy.port);
            }
            assert!(output.status.success(), "{:?}: {}", fault(at), said(&output));
            assert_eq!(lab.checkpoints("run"), lab.checkpoints(&format!("pulled{round}")), "{:?}", fault(at));
            tried += 2;
        }
    }
    happened += proxy.happened();
    println!("{tried} transfers, {happened} broken connections or bits, {failed} commands that said so");
    assert!(happened * 3 > tried, "{happened} of {tried}");
}

/// A server that goes away: training continues, the run is complete here, the exit status says that its copy is not, and
/// `keepstep push` brings the rest. A slow one keeps nobody waiting.
#[test]
#[ignore = "needs seaweedfs"]
fn a_server_that_goes_away() {
    let place = Place::start(Kind::Seaweedfs);
    let lab = Lab::new();
    let straight = lab.straight("straight");
    let url = place.url("gone");
    let proxy = Proxy::start(place.port);
    proxy.slow(2_000_000);
    let mut train = lab.train("run");
    train.args(["--set", &format!("remote={url}")]);
    place.reach(&mut train, proxy.port);
    expect(train.args(["--stop-after", "4"]), 75);
    let child = {
        let mut train = lab.train("run");
        train.args(["--set", &format!("remote={url}"), "--set", "tensorboard=false"]);
        place.reach(&mut train, proxy.port);
        support::start(train.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null()))
    };
    let journal = lab.path("run/journal.jsonl");
    let starts =
        || std::fs::read_to_string(&journal).unwrap_or_default().matches("\"event\":\"start\"").count();
    let began = std::time::Instant::now();
    while starts() < 2 {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "the second session does not begin");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    proxy.close();
    let output = child.output();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("THE RUN IS COMPLETE AND NOT ALL OF IT IS PUSHED"), "{}", said(&output));
    assert_eq!(lab.checkpoints("run"), straight);
    let status = std::fs::read_to_string(lab.path("run/status.json")).expect("a status");
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert!(status["state"] == "finished" && status["remote"]["error"].is_string(), "{status}");
    let mut push = support::program();
    push.arg("push").arg(lab.path("run")).arg(&url);
    place.reach(&mut push, place.port);
    expect(&mut push, 0);
    let mut pull = support::program();
    pull.arg("pull").arg(&url).arg(lab.path("pulled"));
    place.reach(&mut pull, place.port);
    expect(&mut pull, 0);
    assert_eq!(lab.checkpoints("pulled"), straight);
}
