//! The banner that `train` prints when it resumes a run.

use crate::format;
use keepstep_lm::trainer::ResumeReport;
use std::fmt::Write;

/// The banner: what was loaded, and where the run continues.
pub(crate) fn banner(report: &ResumeReport) -> String {
    let mut text = format!("Loading checkpoint: {}\n", report.path.display());
    for what in [
        "Model state loaded",
        "Optimizer state loaded",
        "Scheduler state loaded",
        "Checkpoint loaded successfully",
    ] {
        let _ = writeln!(text, "✓ {what}");
    }
    let place = |text: &mut String, epoch: u64, step: u64| {
        let _ = writeln!(
            text,
            "  Epoch: {epoch}\n  Step in epoch: {step}\n  Global step: {}",
            report.global_step
        );
    };
    place(&mut text, report.epoch, report.step);
    for (name, loss) in [("Train loss", report.train_loss), ("Val loss", report.val_loss)] {
        if let Some(loss) = loss {
            let _ = writeln!(text, "  {name}: {}", format::loss(loss));
        }
    }
    if report.complete {
        text.push_str("⚡ NOTHING LEFT TO DO: this run is complete");
        return text;
    }
    text.push_str("⚡ WILL RESUME FROM:\n");
    if report.step == report.steps_per_epoch {
        place(&mut text, report.epoch + 1, 0);
        let _ = write!(text, "  (epoch {} is complete)", report.epoch);
    } else {
        place(&mut text, report.epoch, report.step);
        let _ = write!(text, "  (first {} steps of epoch {} already done)", report.step, report.epoch);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ResumeReport {
        ResumeReport {
            path: "runs/rust/checkpoint_epoch2_step5000_global15000.pt".into(),
            epoch: 2,
            step: 5000,
            steps_per_epoch: 10_000,
            global_step: 15_000,
            train_loss: Some(3.2456),
            val_loss: Some(3.1234),
            complete: false,
        }
    }

    #[test]
    fn in_the_middle_of_an_epoch() {
        let expected = "\
Loading checkpoint: runs/rust/checkpoint_epoch2_step5000_global15000.pt
✓ Model state loaded
✓ Optimizer state loaded
✓ Scheduler state loaded
✓ Checkpoint loaded successfully
  Epoch: 2
  Step in epoch: 5000
  Global step: 15000
  Train loss: 3.2456
  Val loss: 3.1234
⚡ WILL RESUME FROM:
  Epoch: 2
  Step in epoch: 5000
  Global step: 15000
  (first 5000 steps of epoch 2 already done)";
        assert_eq!(banner(&report()), expected);
    }

    #[test]
    fn at_the_end_of_an_epoch() {
        let text = banner(&ResumeReport { step: 10_000, val_loss: None, ..report() });
        assert!(
            text.ends_with("  Epoch: 3\n  Step in epoch: 0\n  Global step: 15000\n  (epoch 2 is complete)"),
            "{text}"
        );
        assert!(!text.contains("Val loss"));
    }

    #[test]
    fn at_the_end_of_the_run() {
        let text = banner(&ResumeReport { step: 10_000, complete: true, ..report() });
        assert!(text.ends_with("⚡ NOTHING LEFT TO DO: this run is complete"), "{text}");
    }
}
