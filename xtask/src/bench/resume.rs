//! Opening a run at its start and deep inside an epoch.

use super::measure::{ROUNDS, Times, bench, collect, median, scratch};

pub(super) fn run() -> Result<(), String> {
    println!("resume, from opening the folder to knowing the next sample    ms");
    for step in ["10", "10000", "100000000"] {
        let folder = scratch("resume")?;
        let mut times = Times::new();
        for round in 0..ROUNDS {
            let place = folder.join(round.to_string()).display().to_string();
            collect(&mut bench("keepstep", "store", &["resume", &place, step]), &mut times)?;
        }
        println!(
            "{:<55} {:>8.1}",
            format!("at step {step} of an epoch of 200000000"),
            median(&times, "resume")
        );
        std::fs::remove_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    Ok(())
}
