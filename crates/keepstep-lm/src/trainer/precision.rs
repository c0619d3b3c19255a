//! The precision of a session.

use super::error::TrainError;
use crate::config::{Config, Precision, StoredConfig};
use keepstep::Checkpoint;
use keepstep_numerics::bf16::Support;
use std::path::Path;

/// Returns the precision of the run to continue, or the first allowed precision that this processor supports.
///
/// # Errors
/// Fails if the config does not allow the run's precision, or if this processor supports none of the allowed ones.
pub(crate) fn choose(
    config: &Config,
    saved: Option<(&Path, &Checkpoint)>,
    support: Support,
) -> Result<Precision, TrainError> {
    let can = |precision: Precision| {
        precision == Precision::Float32 || support == Support::Present || config.emulate_bf16
    };
    match saved {
        Some((path, checkpoint)) => {
            let saved = StoredConfig::from_checkpoint(checkpoint).precision();
            if !config.precision.iter().any(|precision| precision == saved) {
                let (path, allowed) = (path.to_path_buf(), config.precision.clone());
                return Err(TrainError::OtherPrecision { path, saved, allowed });
            }
            if !can(saved) {
                return Err(TrainError::PrecisionOfRun { path: path.to_path_buf(), saved, support });
            }
            Ok(saved)
        }
        None => config
            .precision
            .iter()
            .find(|precision| can(*precision))
            .ok_or_else(|| TrainError::Precision { allowed: config.precision.clone(), support }),
    }
}

/// Describes the precision for the user, if it is worth a message.
pub(super) fn note(precision: Precision, support: Support) -> Option<String> {
    match (precision, support) {
        (Precision::Float32, _) => None,
        (Precision::Bf16, Support::Present) => Some("Matmuls in bf16, by AVX512-BF16".to_owned()),
        (Precision::Bf16, _) => {
            Some("Matmuls in bf16, emulated (emulate_bf16): the same bytes, slower".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keepstep::State;
    use keepstep::identity::Identity;
    use keepstep::position::{Length, Plan, Position};

    fn config(precision: &str, emulate: bool) -> Config {
        let text = format!(
            "output_dir = \"run\"\nprecision = {precision}\nemulate_bf16 = {emulate}\n[data]\npaths = [\"a\"]"
        );
        Config::from_table(text.parse().expect("TOML")).expect("a config")
    }

    /// Creates a checkpoint of a run in this precision.
    fn checkpoint(precision: Option<&str>) -> Checkpoint {
        let mut identity = Identity::new(1);
        if let Some(precision) = precision {
            identity = identity.with("precision", precision);
        }
        let plan = Plan::new(1, 1, Length { epochs: 1, total_steps: None }, Position::START);
        Checkpoint::new(identity, plan, Position::START, State::default())
    }

    #[test]
    fn a_new_run_takes_the_first_that_the_processor_can() {
        let taken = |precision: &str, emulate, support| {
            choose(&config(precision, emulate), None, support).map_err(|error| error.to_string())
        };
        let both = "[\"bf16\", \"float32\"]";
        assert_eq!(taken("\"float32\"", false, Support::Missing), Ok(Precision::Float32));
        assert_eq!(taken("\"bf16\"", false, Support::Present), Ok(Precision::Bf16));
        assert_eq!(taken(both, false, Support::Present), Ok(Precision::Bf16));
        assert_eq!(taken(both, false, Support::Missing), Ok(Precision::Float32));
        assert_eq!(taken(both, false, Support::Differs), Ok(Precision::Float32));
        assert_eq!(taken(both, true, Support::Missing), Ok(Precision::Bf16));
        assert_eq!(taken("[\"float32\", \"bf16\"]", true, Support::Present), Ok(Precision::Float32));
        let error = taken("\"bf16\"", false, Support::Missing).expect_err("no instruction");
        for part in ["\"bf16\"", "AVX512-BF16"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(taken("\"bf16\"", false, Support::Differs).expect_err("another rounding").contains("round"));
    }

    #[test]
    fn a_run_keeps_its_own() {
        let taken = |precision: &str, emulate, saved, support| {
            let checkpoint = checkpoint(saved);
            let saved = Some((Path::new("a.pt"), &checkpoint));
            choose(&config(precision, emulate), saved, support).map_err(|error| error.to_string())
        };
        let both = "[\"bf16\", \"float32\"]";
        assert_eq!(taken(both, false, None, Support::Present), Ok(Precision::Float32));
        assert_eq!(taken(both, false, Some("bf16"), Support::Present), Ok(Precision::Bf16));
        assert_eq!(taken(both, true, Some("bf16"), Support::Missing), Ok(Precision::Bf16));
        let error = taken(both, false, Some("bf16"), Support::Missing).expect_err("no instruction");
        assert!(error.starts_with("a.pt: ") && error.contains("AVX512-BF16"), "{error}");
        for (allowed, saved) in [("\"bf16\"", None), ("\"float32\"", Some("bf16"))] {
            let error = taken(allowed, true, saved, Support::Present).expect_err("another");
            assert!(error.contains(allowed) && error.contains(saved.unwrap_or("float32")), "{error}");
        }
    }

    #[test]
    fn float32_is_not_written_down() {
        let stored = |precision: &str| {
            StoredConfig::new(&config(precision, true)).into_dict().get("precision").cloned()
        };
        assert_eq!(stored("\"float32\""), None);
        assert_eq!(stored("[\"float32\", \"bf16\"]"), None);
        assert_eq!(stored("\"bf16\"").as_ref().and_then(|value| value.as_str()), Some("bf16"));
        assert_eq!(stored("[\"bf16\", \"float32\"]").as_ref().and_then(|value| value.as_str()), Some("bf16"));
    }
}
