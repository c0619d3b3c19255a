//! Holds a curve of any length in little memory: count, sum, minimum and maximum for each range of steps.

/// Summarizes the values of one range of steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Column {
    pub(super) first_step: u64,
    pub(super) last_step: u64,
    pub(super) count: u64,
    sum: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Column {
    pub(super) fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// The step at which the column is drawn.
    pub(super) fn step(&self) -> u64 {
        self.first_step + (self.last_step - self.first_step) / 2
    }

    fn add(&mut self, other: &Column) {
        self.last_step = other.last_step;
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }
}

/// Values by rising step. If there are too many columns, the ranges become twice as long.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    /// The steps of a range.
    width: u64,
    columns: Vec<Column>,
}

/// A curve holds at most twice as many columns.
const COLUMNS: usize = 1024;

impl Curve {
    pub(super) fn new() -> Curve {
        Curve { width: 1, columns: Vec::new() }
    }

    /// Adds a value, unless it is not finite.
    pub(super) fn push(&mut self, step: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        let column =
            Column { first_step: step, last_step: step, count: 1, sum: value, min: value, max: value };
        match self.columns.last_mut() {
            Some(last) if last.first_step / self.width == step / self.width => last.add(&column),
            _ => self.columns.push(column),
        }
        while self.columns.len() > 2 * COLUMNS {
            self.widen();
        }
    }

    fn widen(&mut self) {
        self.width *= 2;
        let width = self.width;
        let mut columns: Vec<Column> = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            match columns.last_mut() {
                Some(last) if last.first_step / width == column.first_step / width => last.add(column),
                _ => columns.push(*column),
            }
        }
        self.columns = columns;
    }

    /// The curve in at most `most` columns.
    pub(super) fn columns(&self, most: usize) -> Vec<Column> {
        let mut curve = self.clone();
        while curve.columns.len() > most.max(1) {
            curve.widen();
        }
        curve.columns
    }

    pub(super) fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The most updates that one column summarizes.
    pub(super) fn width(&self, most: usize) -> u64 {
        self.columns(most).iter().map(|column| column.count).max().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_values_become_few_columns_that_are_true_of_them() {
        let mut curve = Curve::new();
        for step in 1..=1_000_000_u64 {
            curve.push(step, if step == 777_777 { 50.0 } else { (step % 10) as f64 });
        }
        curve.push(1_000_001, f64::NAN);
        assert!(curve.columns.len() <= 2 * COLUMNS && curve.columns.len() > COLUMNS / 2);
        let columns = curve.columns(300);
        assert!(columns.len() <= 300 && columns.len() > 100, "{}", columns.len());
        assert_eq!(columns.iter().map(|column| column.count).sum::<u64>(), 1_000_000);
        assert!(columns.windows(2).all(|pair| pair[0].last_step < pair[1].first_step));
        let spike = columns.iter().find(|column| (column.first_step..=column.last_step).contains(&777_777));
        assert_eq!(spike.map(|column| (column.min, column.max)), Some((0.0, 50.0)));
        assert!(columns.iter().all(|column| column.min <= column.mean() && column.mean() <= column.max));
    }

    #[test]
    fn a_short_curve_is_left_as_it_is() {
        let mut curve = Curve::new();
        (5..9).for_each(|step| curve.push(step, step as f64));
        assert_eq!(curve.columns(300).len(), 4);
        assert_eq!(curve.width(300), 1);
    }
}
