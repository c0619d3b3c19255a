//! The learning rates of an imported run: the config's rate, in the proportions of the file's groups.

use keepstep_model::train::adamw::ParamGroup;

/// Sets the groups' learning rates from the config. Groups with different rates keep their proportions, and the highest
/// rate becomes `learning_rate`.
pub(crate) fn rescale(groups: &mut [ParamGroup], learning_rate: f64) {
    let highest = groups.iter().map(|group| group.learning_rate).fold(0.0, f64::max);
    for group in groups {
        if group.learning_rate == highest {
            group.learning_rate = learning_rate;
        } else if highest != learning_rate {
            group.learning_rate *= learning_rate / highest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rescaled(rates: &[f64], learning_rate: f64) -> Vec<f64> {
        let group = |&learning_rate: &f64| ParamGroup {
            learning_rate,
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.0,
            tensors: Vec::new(),
        };
        let mut groups: Vec<ParamGroup> = rates.iter().map(group).collect();
        rescale(&mut groups, learning_rate);
        groups.iter().map(|group| group.learning_rate).collect()
    }

    #[test]
    fn the_config_s_rate_goes_on_in_the_file_s_proportions() {
        assert_eq!(rescaled(&[1e-3, 1e-3], 3e-4), [3e-4, 3e-4]);
        assert_eq!(rescaled(&[0.0, 0.0], 3e-4), [3e-4, 3e-4]);
        assert_eq!(rescaled(&[1e-4, 1e-3], 1e-3), [1e-4, 1e-3]);
        assert_eq!(rescaled(&[1.0, 4.0, 2.0], 8.0), [2.0, 8.0, 4.0]);
    }
}
