//! Turns signals into requests to a run.
//!
//! SIGINT, SIGTERM, SIGHUP, SIGUSR2 and SIGXCPU ask for a stop at the next update boundary. A second SIGINT or SIGTERM
//! ends the program at once; the others may be repeated, because batch systems and the kernel repeat them. SIGUSR1 asks
//! for a checkpoint. SIGXFSZ is ignored: the write that caused it fails with EFBIG.

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

/// The requests that signals have made so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    stop: Arc<AtomicBool>,
    stopped_by: Arc<AtomicI32>,
    save: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers. A separate thread calls `announce` once, with the name of the signal that requests the
    /// stop.
    ///
    /// Signals that the parent process has set to be ignored stay ignored: SIGHUP under `nohup`, SIGINT in a script's
    /// background job.
    pub(crate) fn install(announce: impl Fn(&'static str) + Send + 'static) -> Result<Signals, Failure> {
        take_over(announce)
            .map_err(|error| Failure::new(1, format!("the signal handlers cannot be installed: {error}")))
    }

    /// A flag that is set when the run should stop.
    pub(crate) fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The number of the signal that requested the stop, or 0.
    pub(crate) fn stopped_by(&self) -> Arc<AtomicI32> {
        Arc::clone(&self.stopped_by)
    }

    /// A flag that requests a checkpoint now. The saver clears it.
    pub(crate) fn save(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.save)
    }

    /// Whether a signal requested a stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether Ctrl-C requested the stop.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.stopped_by.load(Ordering::SeqCst) == SIGINT
    }

    /// The name of the signal that requested the stop.
    pub(crate) fn name(&self) -> Option<&'static str> {
        self.is_stopping().then(|| name(self.stopped_by.load(Ordering::SeqCst)))
    }

    /// If Ctrl-C stopped the run, ends the program by SIGINT's default action. A shell's loop then ends too.
    pub(crate) fn raise_interrupt(&self) {
        if self.is_interrupted() {
            // It does not return for a signal whose default is to end the program.
            let _ = low_level::emulate_default_handler(SIGINT);
        }
    }

    /// Ends the program by the default action of the signal that requested the stop.
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

/// Keeps SIGXFSZ from ending the program. A write beyond the limit on a file's size (`ulimit -f`) then fails with EFBIG.
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

/// The signals that the parent process set to be ignored, as a set of bits. SIGHUP alone if the system does not report
/// them.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(1 << (SIGHUP - 1))
}
