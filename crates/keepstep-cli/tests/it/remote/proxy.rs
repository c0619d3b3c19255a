//! A proxy between the program and a server, which cuts, resets, slows and flips.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What happens once, to the first connection that gets so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes to the server.
    Cut(u64),
    /// It is reset after so many bytes to the server.
    Reset(u64),
    /// It ends after so many bytes to the client.
    CutAnswer(u64),
    /// One bit of this byte to the server is flipped.
    Flip(u64),
    /// One bit of this byte to the client is flipped.
    FlipAnswer(u64),
}

/// A proxy that lives until it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: u16,
    fault: Mutex<Option<Fault>>,
    /// Bytes a second in each direction; 0 for any.
    rate: AtomicU64,
    is_closed: AtomicBool,
    happened: AtomicU64,
}

impl Proxy {
    /// Forwards to a port of this machine.
    pub(crate) fn start(to: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            to,
            fault: Mutex::new(None),
            rate: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            happened: AtomicU64::new(0),
        });
        let theirs = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if theirs.is_closed.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", theirs.to)) else { continue };
                let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                let (one, other) = (Arc::clone(&theirs), Arc::clone(&theirs));
                std::thread::spawn(move || forward(client, server, &one, true));
                std::thread::spawn(move || forward(server_too, client_too, &other, false));
            }
        });
        Proxy { port, shared }
    }

    /// Lets a fault happen once.
    pub(crate) fn inject(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// Limits the rate in each direction of each connection.
    pub(crate) fn slow(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Refuses every connection from now on.
    pub(crate) fn close(&self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        // The listener looks at the flag when somebody comes.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }

    /// How many faults have happened.
    pub(crate) fn happened(&self) -> u64 {
        self.shared.happened.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.close();
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, shared: &Shared, is_request: bool) {
    let (mut buffer, mut done, began) = (vec![0; 1 << 14], 0_u64, Instant::now());
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if shared.is_closed.load(Ordering::SeqCst) {
            break;
        }
        let end = done + count as u64;
        let mut fault = shared.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match *fault {
            Some(Fault::Cut(at) | Fault::Reset(at) | Fault::Flip(at)) if is_request => Some(at),
            Some(Fault::CutAnswer(at) | Fault::FlipAnswer(at)) if !is_request => Some(at),
            _ => None,
        };
        let hit = at.filter(|at| (done..end).contains(at)).and_then(|at| Some((fault.take()?, at)));
        drop(fault);
        if let Some((fault, at)) = hit {
            shared.happened.fetch_add(1, Ordering::SeqCst);
            let nth = (at - done) as usize;
            match fault {
                Fault::Flip(_) | Fault::FlipAnswer(_) => buffer[nth] ^= 1 << (at % 8),
                Fault::Cut(_) | Fault::CutAnswer(_) => {
                    let _ = to.write_all(&buffer[..nth]);
                    break;
                }
                Fault::Reset(_) => {
                    // A socket that is closed with bytes nobody has read resets its connection.
                    let _ = from.shutdown(Shutdown::Write);
                    return;
                }
            }
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
        done = end;
        let rate = shared.rate.load(Ordering::SeqCst);
        if let Some(due) = (done * 1_000_000_000).checked_div(rate) {
            std::thread::sleep(Duration::from_nanos(due).saturating_sub(began.elapsed()));
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
