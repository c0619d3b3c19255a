//! What copying every save to an object store at 100 MB/s costs training.
//!
//! The store and the link to it stand for other machines, so the last core of this machine is theirs. The run has the
//! other cores, with a thread for each.

use crate::command::{cargo, root};
use crate::machine;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[allow(dead_code, reason = "the tests break connections, this only slows them")]
#[path = "../../../crates/keepstep-cli/tests/it/remote/proxy.rs"]
mod proxy;

const RATE: u64 = 100_000_000;
const ROUNDS: usize = 7;

/// A run of about twelve seconds on one core, whose saves of 18 MB follow each other by about three.
const CONFIG: &str = r#"
output_dir = "run"
epochs = 100
total_steps = 240
batch_size = 8
save_steps = 60
eval_steps = 100000
eval_batches = 1
tensorboard = false
[data]
paths = ["corpus.txt"]
[model]
block_size = 128
n_layer = 4
n_head = 4
n_embd = 160
[sample]
at_evaluation = 0
max_new_tokens = 0
"#;

pub(super) fn run() -> Result<(), String> {
    let stores = machine::object_stores()?;
    let weed = stores.iter().find(|(name, _)| *name == "KEEPSTEP_SEAWEEDFS").map(|(_, path)| path.clone());
    crate::command::run(cargo().args(["build", "--release", "-p", "keepstep-cli", "--features", "remote"]))?;
    let folder = std::env::temp_dir().join(format!("keepstep-bench-remote-{}", std::process::id()));
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder.join("weed")).map_err(failed)?;
    let line = "the run that stops goes on from its exact step and ends in the same bytes again\n";
    std::fs::write(folder.join("corpus.txt"), line.repeat(6000)).map_err(failed)?;
    std::fs::write(folder.join("config.toml"), CONFIG).map_err(failed)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        return Err("remote: this takes two cores: one stands for the machine of the store".to_owned());
    }
    stay_on(&format!("{}", cores - 1))?;
    let (mut server, port) = start(&weed.unwrap_or_default(), &folder.join("weed"))?;
    let proxy = proxy::Proxy::start(port);
    proxy.slow(RATE);
    let result = measure(&folder, proxy.port, cores - 1);
    let _ = server.kill();
    let _ = server.wait();
    let _ = std::fs::remove_dir_all(&folder);
    stay_on(&format!("0-{}", cores - 1))?;
    result
}

/// Keeps this process on some cores, with all that it starts from now on.
fn stay_on(cores: &str) -> Result<(), String> {
    let own = std::process::id().to_string();
    crate::command::run(Command::new("taskset").args(["-a", "-p", "-c", cores, &own]).stdout(Stdio::null()))
}

fn measure(folder: &Path, port: u16, cores: usize) -> Result<(), String> {
    let (mut plain, mut copied) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        // The first round warms caches.
        let one = train(folder, cores, None)?;
        let other = train(folder, cores, Some((round, port)))?;
        if round > 0 {
            plain.push(one);
            copied.push(other);
        }
    }
    let ratios: Vec<f64> = plain.iter().zip(&copied).map(|(one, other)| other / one).collect();
    println!(
        "remote: an update takes {:.2} ms alone and {:.2} ms with copies at 100 MB/s (medians of {ROUNDS}); median of the ratios {:.4}",
        median(plain) * 1e3,
        median(copied) * 1e3,
        median(ratios),
    );
    Ok(())
}

fn median(mut list: Vec<f64>) -> f64 {
    list.sort_by(f64::total_cmp);
    list.get(list.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Trains on the first cores, and gives the seconds from the first update to the last, by the journal: the end of the
/// session, which waits for the last copy, is not training.
fn train(folder: &Path, cores: usize, remote: Option<(usize, u16)>) -> Result<f64, String> {
    let _ = std::fs::remove_dir_all(folder.join("run"));
    let mut command = Command::new("taskset");
    command.args(["-c", &format!("0-{}", cores - 1)]).arg(root().join("target/release/keepstep"));
    command.env("RAYON_NUM_THREADS", cores.to_string());
    command.args(["train", "config.toml"]).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some((round, port)) = remote {
        command.arg("--set").arg(format!("remote=s3://keepstep/bench{round}"));
        command
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "us-east-1");
        command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"));
    }
    let output = command.output().map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let journal =
        std::fs::read_to_string(folder.join("run/journal.jsonl")).map_err(|error| error.to_string())?;
    let time = |line: &str| line.split("\"time\":").nth(1)?.split([',', '}']).next()?.parse::<f64>().ok();
    let times: Vec<f64> =
        journal.lines().filter(|line| line.contains("\"event\":\"update\"")).filter_map(time).collect();
    match (times.first(), times.last()) {
        (Some(first), Some(last)) if times.len() > 1 => Ok((last - first) / (times.len() - 1) as f64),
        _ => Err("the journal has no updates".to_owned()),
    }
}

fn start(weed: &Path, folder: &Path) -> Result<(Child, u16), String> {
    let free =
        || TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).map(|at| at.port());
    let port = free().map_err(|error| error.to_string())?;
    let mut command = Command::new(weed);
    command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-volume.max=50"]);
    command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
    command.arg(format!("-dir={}", folder.display())).arg(format!("-s3.port={port}"));
    for (nth, role) in ["master", "volume", "filer"].iter().enumerate() {
        command.arg(format!("-{role}.port={}", 21_000 + nth));
    }
    let child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            use std::io::{Read, Write};
            let mut answer = String::new();
            let request =
                "PUT /keepstep HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let asked =
                stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
            if asked.is_ok() && answer.starts_with("HTTP/1.1 200") {
                return Ok((child, port));
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Err("seaweedfs does not start".to_owned())
}
