//! Processes that a test starts and goes on with.

use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, Output};

/// A process that ends with the test, whatever becomes of the test.
pub struct Running(Option<Child>);

/// Starts a command.
pub fn start(command: &mut Command) -> Running {
    Running(Some(command.spawn().expect("it starts")))
}

impl Running {
    /// Waits for the end, and gives what was printed to pipes.
    pub fn output(mut self) -> Output {
        self.0.take().expect("it runs").wait_with_output().expect("it ends")
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().expect("it runs")
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().expect("it runs")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_process_ends_with_its_test() {
    let is_there = |id: u32| {
        let mut kill = Command::new("kill");
        kill.args(["-0", &id.to_string()]).stderr(std::process::Stdio::null());
        kill.status().expect("kill").success()
    };
    let running = start(Command::new("sleep").arg("1000"));
    let id = running.id();
    assert!(is_there(id));
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _running = running;
        panic!("the test fails, on purpose");
    }));
    assert!(failed.is_err() && !is_there(id));
}
