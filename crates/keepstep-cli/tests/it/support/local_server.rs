//! A server of ours that speaks the routes of one outside, in Python, for the real packages to talk to.

use super::Lab;
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The Python that has the packages. `cargo xtask test` makes its environment.
pub fn uploaders_python() -> PathBuf {
    let python = std::env::var_os("KEEPSTEP_UPLOADERS_PYTHON");
    python
        .expect("KEEPSTEP_UPLOADERS_PYTHON names a Python with kagglehub, kaggle and huggingface_hub")
        .into()
}

/// A server on a free port.
pub struct LocalServer {
    child: Child,
    port: u16,
    /// An empty home folder: real credentials must not be found.
    pub home: PathBuf,
}

impl LocalServer {
    /// Starts `support/NAME/server.py`.
    pub fn start(lab: &Lab, name: &str, environment: &[(&str, String)]) -> LocalServer {
        let (scratch, home) = (lab.path("server"), lab.path("home"));
        fs::create_dir_all(&scratch).expect("a folder");
        fs::create_dir_all(&home).expect("a folder");
        let mut command = Command::new(uploaders_python());
        command.arg(LocalServer::folder(name).join("server.py")).arg(scratch);
        command.envs(environment.iter().map(|(name, value)| (*name, value)));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("its port");
        LocalServer { child, port: line.trim().parse().expect("a port"), home }
    }

    pub fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support").join(name)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Asks for faults, each once.
    pub fn faults(&self, faults: &[&str]) {
        let body = json!({ "faults": faults }).to_string();
        self.ask(&format!("POST /control HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        self.ask(&format!("GET {path} HTTP/1.0\r\n\r\n"))
    }

    fn ask(&self, request: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let head = answer.windows(4).position(|part| part == b"\r\n\r\n").expect("a head");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        answer.split_off(head + 4)
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
