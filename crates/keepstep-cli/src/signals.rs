//! SIGINT and SIGTERM: a request to stop at the next update boundary. A second one ends the program at once.

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The flags that the signal handlers set.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    stop: Arc<AtomicBool>,
    interrupted: Arc<AtomicBool>,
    save: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers.
    pub(crate) fn install() -> io::Result<Signals> {
        let signals = Signals { stop: Arc::default(), interrupted: Arc::default(), save: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // In this order: the default action runs if an earlier signal has set the flag, and only then is it set.
            flag::register_conditional_default(signal, Arc::clone(&signals.stop))?;
            flag::register(signal, Arc::clone(&signals.stop))?;
        }
        flag::register(SIGINT, Arc::clone(&signals.interrupted))?;
        flag::register(SIGUSR1, Arc::clone(&signals.save))?;
        Ok(signals)
    }

    /// Set as soon as the run should stop.
    pub(crate) fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Set when a checkpoint is wanted now; whoever makes it clears the flag.
    pub(crate) fn save(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.save)
    }

    /// Whether Ctrl-C is what asked for the stop.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// Ends the program as the default action of SIGINT does, if that is what stopped it, so that a shell's loop ends
    /// with it.
    pub(crate) fn raise_interrupt(&self) {
        if self.is_interrupted() {
            // It does not return for a signal whose default is to end the program.
            let _ = low_level::emulate_default_handler(SIGINT);
        }
    }
}
