//! What signals ask of a run.
//!
//! SIGINT, SIGTERM, SIGHUP, SIGUSR2 and SIGXCPU ask for a stop at the next update boundary. A second SIGINT or SIGTERM
//! ends the program at once; the others may be repeated, because batch systems and the kernel repeat them. SIGUSR1 asks
//! for a checkpoint. SIGXFSZ does nothing: the write that it reports fails with an error of its own.

use crate::failure::Failure;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::Signals as Incoming;
use signal_hook::low_level;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// A signal that comes again within this time is the first one once more: `timeout` and some supervisors send it to the
/// process and to its whole group. Two presses of a key are further apart.
const ECHO: Duration = Duration::from_millis(200);

/// What the signals have asked for so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    stop: Arc<AtomicBool>,
    stopped_by: Arc<AtomicI32>,
    save: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers. `announce` is called once, in a thread of its own, with the name of the signal that asks
    /// for the stop.
    ///
    /// Signals that the parent process has set to be ignored stay ignored: SIGHUP under `nohup`, SIGINT in a script's
    /// background job.
    pub(crate) fn install(announce: impl Fn(&'static str) + Send + 'static) -> Result<Signals, Failure> {
        take_over(announce)
            .map_err(|error| Failure::new(1, format!("the signal handlers cannot be installed: {error}")))
    }

    /// Set as soon as the run should stop.
    pub(crate) fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The number of the signal that asked for it; 0 before.
    pub(crate) fn stopped_by(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.stopped_by)
    }

    /// Set when a checkpoint is wanted now; whoever makes it clears the flag.
    pub(crate) fn save(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.save)
    }

    /// Whether a stop was asked for.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether Ctrl-C is what asked for the stop.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.stopped_by.load(Ordering::SeqCst) == SIGINT
    }

    /// The name of the signal that asked for the stop.
    pub(crate) fn name(&self) -> Option<&'static str> {
        self.is_stopping().then(|| name(self.stopped_by.load(Ordering::SeqCst)))
    }

    /// Ends the program as the default action of SIGINT does, if that is what stopped it, so that a shell's loop ends
    /// with it.
    pub(crate) fn raise_interrupt(&self) {
        if self.is_interrupted() {
            // It does not return for a signal whose default is to end the program.
            let _ = low_level::emulate_default_handler(SIGINT);
        }
    }

    /// Ends the program by the signal that asked for the stop, as if it had never been taken over.
    pub(crate) fn raise(&self) {
        if self.is_stopping() {
            let _ = low_level::emulate_default_handler(self.stopped_by.load(Ordering::SeqCst));
        }
    }
}

fn take_over(announce: impl Fn(&'static str) + Send + 'static) -> io::Result<Signals> {
    let signals = Signals::default();
    let ignored = ignored();
    let taken = [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU];
    let taken = taken.into_iter().filter(|signal| ignored >> (signal - 1) & 1 == 0);
    let mut incoming = Incoming::new(taken)?;
    let Signals { stop, stopped_by, save } = signals.clone();
    Builder::new().name("signals".to_owned()).spawn(move || {
        let mut armed: Option<Instant> = None;
        for signal in incoming.forever() {
            if signal == SIGUSR1 {
                save.store(true, Ordering::SeqCst);
                continue;
            }
            let insists = matches!(signal, SIGINT | SIGTERM);
            if armed.is_some_and(|first| first.elapsed() >= ECHO) && insists {
                // It does not return: the default is to end the program.
                let _ = low_level::emulate_default_handler(signal);
            }
            if armed.is_none() && insists {
                armed = Some(Instant::now());
            }
            if !stop.load(Ordering::SeqCst) {
                // In this order: whoever sees the stop sees its reason.
                stopped_by.store(signal, Ordering::SeqCst);
                stop.store(true, Ordering::SeqCst);
                announce(name(signal));
            } else if signal == SIGINT {
                // Ctrl-C after another signal: a shell's loop must end with it.
                stopped_by.store(signal, Ordering::SeqCst);
            }
        }
    })?;
    Ok(signals)
}

/// Keeps SIGXFSZ from ending the program, so that a write beyond the limit on a file's size (`ulimit -f`) fails with
/// EFBIG, like any other failed write.
///
/// A handler that does nothing does the same as ignoring the signal, and programs that this one starts do not inherit it.
pub(crate) fn report_large_files_as_errors() -> io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(|_| ())
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGINT => "Ctrl-C",
        SIGTERM => "SIGTERM",
        SIGHUP => "SIGHUP",
        SIGUSR2 => "SIGUSR2",
        SIGXCPU => "SIGXCPU",
        _ => "a signal",
    }
}

/// The signals that this process was told to ignore, as a set of bits. Where the system does not say, SIGHUP is left
/// alone.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(1 << (SIGHUP - 1))
}
