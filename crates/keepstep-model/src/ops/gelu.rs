//! GELU in its tanh form (Hendrycks and Gimpel, 2016), GPT-2's `gelu_new`.
//!
//! 0.5 x (1 + tanh u) = x σ(2u) with u = sqrt(2/π) (x + 0.044715 x³) and σ the logistic function.

use keepstep_numerics::math::exp;
use keepstep_numerics::vectorized;

/// 2 sqrt(2/π)
const SLOPE: f32 = 1.595_769;
const CUBIC: f32 = 0.044_715;

vectorized! {
    /// Computes `y = gelu(x)`.
    pub fn gelu(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let z = SLOPE * x * f32::mul_add(CUBIC * x, x, 1.0);
            *y = x / (1.0 + exp(-z));
        }
    }
}

vectorized! {
    /// Replaces `x` by `d · gelu'(x)`, and recomputes `y = gelu(x)` with the same bits as forward.
    pub fn backward(x: &mut [f32], y: &mut [f32], d: &[f32]) {
        for ((x, y), d) in x.iter_mut().zip(y).zip(d) {
            let value = *x;
            let square = value * value;
            let divisor = 1.0 + exp(-(SLOPE * value * f32::mul_add(CUBIC * value, value, 1.0)));
            let sigmoid = 1.0 / divisor;
            let slope = SLOPE * f32::mul_add(3.0 * CUBIC, square, 1.0);
            *y = value / divisor;
            *x = d * f32::mul_add(value * sigmoid * (1.0 - sigmoid), slope, sigmoid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(x: f64) -> f64 {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
    }

    #[test]
    fn value_and_derivative() {
        let x: Vec<f32> = (-1200..1200).map(|step| step as f32 * 0.01).collect();
        let mut y = vec![0.0; x.len()];
        gelu(&mut y, &x);
        let (mut d, mut again) = (x.clone(), vec![0.0; x.len()]);
        backward(&mut d, &mut again, &vec![1.0; x.len()]);
        assert_eq!(again, y);
        for ((&x, &y), &d) in x.iter().zip(&y).zip(&d) {
            let x = f64::from(x);
            assert!((f64::from(y) - exact(x)).abs() < 2e-6 * x.abs().max(1.0), "{x}: {y}");
            let slope = (exact(x + 1e-5) - exact(x - 1e-5)) / 2e-5;
            assert!((f64::from(d) - slope).abs() < 3e-6, "{x}: {d}, {slope}");
        }
        gelu(&mut y[..1], &[f32::NAN]);
        assert!(y[0].is_nan());
    }
}
