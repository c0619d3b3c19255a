//! Learning rate schedules, with the formulas of transformers (`transformers.optimization`).

use keepstep::settings;
use keepstep_numerics::math::cos;
use serde::{Deserialize, Serialize};

settings! {
    /// The learning rate schedule, with the formulas of transformers.
    pub struct ScheduleConfig {
        /// The shape of the schedule.
        result kind: ScheduleKind = ScheduleKind::Constant,
        /// Number of updates during which the rate rises from 0.
        result warmup_steps: u64 = 0,
        /// The final rate, for `cosine_with_min_lr` and `warmup_stable_decay`.
        result min_lr: f64 = 0.0,
        /// Number of updates in the decay phase of `warmup_stable_decay`.
        result decay_steps: u64 = 0,
    }
}

/// The shapes of a schedule, under transformers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// A constant rate.
    Constant,
    /// A constant rate after the warmup.
    ConstantWithWarmup,
    /// Linear decay to 0.
    Linear,
    /// Decay to 0 along half a cosine.
    Cosine,
    /// Decay to `min_lr` along half a cosine.
    CosineWithMinLr,
    /// A constant rate, then decay to `min_lr` along half a cosine over the last `decay_steps`.
    WarmupStableDecay,
}

impl ScheduleKind {
    /// Reports whether the rate is independent of the length of the run.
    pub fn is_constant(self) -> bool {
        matches!(self, ScheduleKind::Constant | ScheduleKind::ConstantWithWarmup)
    }
}

/// The learning rate as a pure function of the number of completed updates.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    config: ScheduleConfig,
    learning_rate: f64,
    total_steps: u64,
}

impl Schedule {
    /// Creates the schedule of a run of `total_steps` updates whose highest rate is `learning_rate`.
    pub fn new(config: &ScheduleConfig, learning_rate: f64, total_steps: u64) -> Schedule {
        Schedule { config: config.clone(), learning_rate, total_steps }
    }

    /// Returns the rate of update number `global_step`, from 0: the highest rate times the factor, as in `LambdaLR`.
    pub fn learning_rate(&self, global_step: u64) -> f64 {
        self.learning_rate * self.factor(global_step)
    }

    /// Returns the factor of every group's rate in update number `step`, from 0.
    pub fn factor(&self, step: u64) -> f64 {
        let ScheduleConfig { kind, warmup_steps: warmup, min_lr, decay_steps: decay } = self.config;
        let min_ratio = min_lr / self.learning_rate;
        let part = |done: u64, of: u64| done as f64 / of.max(1) as f64;
        if step < warmup && kind != ScheduleKind::Constant {
            let factor = part(step, warmup);
            // Only this schedule rises from its lowest rate. The others rise from 0.
            let rises = kind == ScheduleKind::WarmupStableDecay;
            return if rises { factor * (1.0 - min_ratio) + min_ratio } else { factor };
        }
        // The angle is rounded in the same way as in Python.
        let half_cosine = |progress: f64| 0.5 * (1.0 + cos(std::f64::consts::PI * progress));
        let progress = || part(step - warmup, self.total_steps.saturating_sub(warmup));
        match kind {
            ScheduleKind::Constant | ScheduleKind::ConstantWithWarmup => 1.0,
            ScheduleKind::Linear => {
                part(self.total_steps.saturating_sub(step), self.total_steps.saturating_sub(warmup))
            }
            ScheduleKind::Cosine => half_cosine(progress()).max(0.0),
            ScheduleKind::CosineWithMinLr => {
                (half_cosine(progress()) * (1.0 - min_ratio) + min_ratio).max(0.0)
            }
            ScheduleKind::WarmupStableDecay => {
                let decay_start = self.total_steps.saturating_sub(decay).max(warmup);
                if step < decay_start {
                    1.0
                } else if step < decay_start + decay {
                    (half_cosine(part(step - decay_start, decay)) * (1.0 - min_ratio) + min_ratio).max(0.0)
                } else {
                    min_ratio
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        let config = ScheduleConfig { kind, warmup_steps: 10, min_lr: 1e-4, decay_steps: 20 };
        Schedule::new(&config, 1e-3, 110)
    }

    #[test]
    fn corners_of_each_shape() {
        use ScheduleKind::*;
        for (kind, at) in [
            (Constant, [(0, 1e-3), (5, 1e-3), (110, 1e-3)]),
            (ConstantWithWarmup, [(0, 0.0), (5, 5e-4), (110, 1e-3)]),
            (Linear, [(5, 5e-4), (60, 5e-4), (110, 0.0)]),
            (Cosine, [(10, 1e-3), (60, 5e-4), (110, 0.0)]),
            (CosineWithMinLr, [(5, 5e-4), (60, 5.5e-4), (110, 1e-4)]),
            (WarmupStableDecay, [(0, 1e-4), (89, 1e-3), (100, 5.5e-4)]),
        ] {
            for (step, expected) in at {
                let found = schedule(kind).learning_rate(step);
                assert!((found - expected).abs() < 1e-15, "{kind:?} at {step}: {found}");
            }
        }
    }

    #[test]
    fn beyond_the_end_and_with_odd_sizes_it_is_finite() {
        for kind in [ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::WarmupStableDecay] {
            for total in [0, 1, 5] {
                let config = ScheduleConfig { kind, warmup_steps: 7, min_lr: 0.0, decay_steps: 9 };
                for step in [0, 6, 7, 8, 1000] {
                    let rate = Schedule::new(&config, 1.0, total).learning_rate(step);
                    assert!((0.0..=1.0).contains(&rate), "{kind:?}, {total}, {step}: {rate}");
                }
            }
        }
    }
}
