//! Places to push to: a folder, and servers on this machine. `cargo xtask test` installs the servers and names them in
//! KEEPSTEP_MOTO, KEEPSTEP_SEAWEEDFS and KEEPSTEP_AZURITE.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Azurite's public account.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes the container, which the store's client cannot.
const MAKE_CONTAINER: &str = r#"
const crypto = require('crypto'), http = require('http');
const [port, account, key] = process.argv.slice(1);
const date = new Date().toUTCString(), path = `/${account}/keepstep`;
const text = 'PUT' + '\n'.repeat(12) + `x-ms-date:${date}\nx-ms-version:2020-04-08\n/${account}${path}\nrestype:container`;
const signature = crypto.createHmac('sha256', Buffer.from(key, 'base64')).update(text, 'utf8').digest('base64');
const headers = { 'x-ms-date': date, 'x-ms-version': '2020-04-08', Authorization: `SharedKey ${account}:${signature}`, 'Content-Length': 0 };
http.request({ port, path: path + '?restype=container', method: 'PUT', headers }, answer => process.exit(answer.statusCode === 201 ? 0 : 1)).end();
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    Moto,
    Seaweedfs,
    Azurite,
}

/// A place that is there until it is dropped.
pub(super) struct Place {
    pub(super) kind: Kind,
    folder: TempDir,
    server: Option<Child>,
    pub(super) port: u16,
}

/// A port that is free, and so is the one 10,000 above it, which SeaweedFS takes as well.
fn free_pair() -> u16 {
    loop {
        let port = 10_000 + free_port() % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok()
            && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok()
        {
            return port;
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a port").port()
}

fn installed(variable: &str) -> OsString {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is set by cargo xtask test"))
}

impl Place {
    pub(super) fn start(kind: Kind) -> Place {
        let folder = TempDir::new().expect("a folder");
        let port = if kind == Kind::Seaweedfs { free_pair() } else { free_port() };
        let mut command = match kind {
            Kind::Folder => return Place { kind, folder, server: None, port },
            Kind::Moto => {
                let mut command = Command::new(installed("KEEPSTEP_MOTO"));
                command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
                command
            }
            Kind::Seaweedfs => {
                let mut command = Command::new(installed("KEEPSTEP_SEAWEEDFS"));
                command.args([
                    "server",
                    "-ip=127.0.0.1",
                    "-ip.bind=127.0.0.1",
                    "-filer",
                    "-s3",
                    "-volume.max=20",
                ]);
                command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
                command.arg(format!("-dir={}", folder.path().display()));
                command.arg("-master.volumeSizeLimitMB=64").arg(format!("-s3.port={port}"));
                for role in ["master", "volume", "filer"] {
                    command.arg(format!("-{role}.port={}", free_pair()));
                }
                command
            }
            Kind::Azurite => {
                let mut command = Command::new(installed("KEEPSTEP_AZURITE"));
                command.args([
                    "--silent",
                    "--skipApiVersionCheck",
                    "--inMemoryPersistence",
                    "--blobHost",
                    "127.0.0.1",
                ]);
                command.args(["--blobPort", &port.to_string()]);
                command
            }
        };
        let server = command.current_dir(folder.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let place = Place { kind, folder, server: Some(server.expect("the server starts")), port };
        place.make_bucket();
        place
    }

    /// Waits for the server, and makes the bucket.
    fn make_bucket(&self) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            let is_made = if self.kind == Kind::Azurite {
                let mut node = Command::new("node");
                node.args(["-e", MAKE_CONTAINER, &self.port.to_string(), ACCOUNT, KEY]).stderr(Stdio::null());
                TcpStream::connect(("127.0.0.1", self.port)).is_ok() && node.status().expect("node").success()
            } else {
                self.ask("PUT /keepstep HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            };
            if is_made {
                return;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("{:?} does not start", self.kind);
    }

    fn ask(&self, request: &str) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
    }

    /// The URL of a run there.
    pub(super) fn url(&self, run: &str) -> String {
        match self.kind {
            Kind::Folder => format!("file://{}", self.folder.path().join(run).display()),
            Kind::Azurite => format!("az://keepstep/{run}"),
            _ => format!("s3://keepstep/{run}"),
        }
    }

    /// Sets what the program needs to reach the place, at another port than its own if something stands in between.
    pub(super) fn reach(&self, command: &mut Command, port: u16) {
        match self.kind {
            Kind::Folder => {}
            Kind::Azurite => {
                command.env("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT).env("AZURE_STORAGE_ACCOUNT_KEY", KEY);
                command.env("AZURE_STORAGE_ENDPOINT", format!("http://127.0.0.1:{port}/{ACCOUNT}"));
            }
            _ => {
                command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
                command.env("AWS_REGION", "us-east-1");
                command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"));
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
