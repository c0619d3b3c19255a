//! Draws the charts with plotters, each for a wide and for a narrow page.

use super::curve::{Column, Curve};
use super::html::{short, thousands};
use super::svg::{SCALE, Svg};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::fmt::Write;

/// The classes of the page's style.
pub(super) mod ink {
    pub(crate) const TRAIN: u8 = 1;
    pub(crate) const VALIDATION: u8 = 2;
    pub(crate) const RATE: u8 = 3;
    pub(crate) const SPEED: u8 = 4;
    pub(crate) const NORM: u8 = 5;
    pub(crate) const AXIS: u8 = 6;
    pub(crate) const GRID: u8 = 7;
    pub(crate) const SESSION: u8 = 8;
}

/// One chart over global steps.
pub(super) struct Chart<'a> {
    pub(super) name: &'a str,
    pub(super) curve: &'a Curve,
    pub(super) color: u8,
    /// Validation losses, drawn as points and a line.
    pub(super) points: &'a [(u64, f64)],
    /// The global steps at which sessions begin.
    pub(super) sessions: &'a [u64],
    pub(super) steps: (u64, u64),
    pub(super) from_zero: bool,
    /// Width and height on a wide page, in pixels.
    pub(super) size: (i32, i32),
}

const NARROW: (i32, i32) = (340, 230);
const FONT: i32 = 12;
/// The most columns of a wide chart: about one for two pixels. Each shows one mean.
pub(super) const MOST_COLUMNS: usize = 480;
const MOST_TOOLTIPS: usize = 160;

fn color(class: u8) -> RGBColor {
    RGBColor(0, 0, class)
}

impl Chart<'_> {
    /// Both drawings. The page shows the one that fits.
    pub(super) fn svg(&self) -> String {
        let mut out = String::new();
        for (class, size) in [("wide", self.size), ("narrow", NARROW)] {
            let (width, height) = size;
            let _ = write!(
                out,
                "<svg class=\"{class}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
                self.name
            );
            if self.draw(&mut out, size, class == "wide").is_err() {
                out.push_str("<text x=\"10\" y=\"20\">This chart cannot be drawn.</text>");
            }
            out.push_str("</svg>");
        }
        out
    }

    fn range(&self, columns: &[Column]) -> (f64, f64) {
        let values = columns
            .iter()
            .flat_map(|column| [column.min, column.max])
            .chain(self.points.iter().map(|point| point.1));
        let (low, high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        let room = ((high - low) * 0.06).max(high.abs() * 1e-3).max(f64::MIN_POSITIVE * 1e6);
        if self.from_zero { (0.0, high + room.max(high * 0.05)) } else { (low - room, high + room) }
    }

    fn draw(
        &self,
        out: &mut String,
        (width, height): (i32, i32),
        wide: bool,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let columns =
            self.curve.columns(if wide { MOST_COLUMNS * self.size.0 as usize / 1000 + 1 } else { 160 });
        let (low, high) = self.range(&columns);
        let (first, last) = (self.steps.0, self.steps.1.max(self.steps.0 + 1));
        let px = |pixels: i32| pixels * SCALE;
        let mut marks = String::new();
        {
            let svg = Svg { out, size: (px(width) as u32, px(height) as u32) };
            let root: DrawingArea<Svg<'_>, Shift> = svg.into_drawing_area();
            let mut chart = ChartBuilder::on(&root)
                .margin_top(px(20))
                .margin_right(px(if wide { 18 } else { 14 }))
                .x_label_area_size(px(24))
                .y_label_area_size(px(46))
                .build_cartesian_2d(first..last, low..high)?;
            let text = ("sans-serif", px(FONT)).into_font().color(&color(ink::AXIS));
            chart
                .configure_mesh()
                .disable_x_mesh()
                .light_line_style(color(ink::GRID).mix(0.0))
                .bold_line_style(color(ink::GRID).stroke_width(SCALE as u32))
                .axis_style(color(ink::GRID).stroke_width(SCALE as u32))
                .set_all_tick_mark_size(px(3))
                .x_labels((width / 60).max(2) as usize)
                .y_labels((height / 45).max(2) as usize)
                .x_label_formatter(&|step| short(*step as f64))
                .y_label_formatter(&|value| short(*value))
                .label_style(text)
                .draw()?;
            let top = chart.plotting_area().get_pixel_range().1.start;
            let bottom = chart.plotting_area().get_pixel_range().1.end;
            let mut free_from = i32::MIN;
            for (index, &step) in self.sessions.iter().enumerate() {
                if step > last {
                    continue;
                }
                let x = chart.backend_coord(&(step.max(first), low)).0;
                if index > 0 {
                    let line = PathElement::new(
                        vec![(step, low), (step, high)],
                        color(ink::SESSION).stroke_width(SCALE as u32),
                    );
                    chart.draw_series([line])?;
                }
                let label = format!("#{}", index + 1);
                let anchor = if x > px(width - 40) { "end" } else { "start" };
                if x >= free_from {
                    let tenth = f64::from(SCALE);
                    let _ = write!(
                        marks,
                        "<text class=\"session\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{label}</text>",
                        f64::from(x) / tenth + 2.0,
                        f64::from(top) / tenth - 6.0
                    );
                    free_from = x + px(10 + 8 * label.len() as i32);
                }
            }
            if columns.iter().any(|column| column.count > 1) {
                let upper = columns.iter().map(|column| (column.step(), column.max));
                let lower = columns.iter().rev().map(|column| (column.step(), column.min));
                let band: Vec<(u64, f64)> = upper.chain(lower).collect();
                chart.draw_series([Polygon::new(band, color(self.color).mix(0.22))])?;
            }
            let means: Vec<(u64, f64)> =
                columns.iter().map(|column| (column.step(), column.mean())).collect();
            let thick = |class| color(class).stroke_width(18);
            if let [only] = means.as_slice() {
                chart.draw_series([Circle::new(*only, px(3), color(self.color).filled())])?;
            } else {
                chart.draw_series([PathElement::new(means, thick(self.color))])?;
            }
            if self.points.len() > 1 {
                chart.draw_series([PathElement::new(self.points.to_vec(), thick(ink::VALIDATION))])?;
            }
            let dots = if self.points.len() > 60 { &[][..] } else { self.points };
            for &(step, value) in dots {
                let (x, y) = chart.backend_coord(&(step, value));
                let tenth = f64::from(SCALE);
                let _ = write!(
                    marks,
                    "<circle class=\"f2\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.2\"><title>Global step {}: validation loss \
                     {value:.4}</title></circle>",
                    f64::from(x) / tenth,
                    f64::from(y) / tenth,
                    thousands(step)
                );
            }
            if wide {
                let mut hover = String::new();
                let columns = self.curve.columns(MOST_TOOLTIPS);
                let edge =
                    |step: u64| f64::from(chart.backend_coord(&(step.clamp(first, last), low)).0) / 10.0;
                for (index, column) in columns.iter().enumerate() {
                    let left = edge(column.first_step);
                    let right =
                        columns.get(index + 1).map_or(edge(column.last_step), |next| edge(next.first_step));
                    hover.push_str(&tooltip(column, left, right, (top, bottom)));
                }
                marks.insert_str(0, &hover);
            }
            root.present()?;
        }
        out.push_str(&marks);
        Ok(())
    }
}

fn tooltip(column: &Column, left: f64, right: f64, (top, bottom): (i32, i32)) -> String {
    let (top, bottom) = (f64::from(top) / 10.0, f64::from(bottom) / 10.0);
    let (middle, width) = ((left + right) / 2.0, (right - left).max(1.5));
    let text = if column.count == 1 {
        format!("Global step {}: {}", thousands(column.first_step), exact(column.mean()))
    } else {
        format!(
            "Global steps {} to {}: mean {}, from {} to {}",
            thousands(column.first_step),
            thousands(column.last_step),
            exact(column.mean()),
            exact(column.min),
            exact(column.max)
        )
    };
    format!(
        "<g class=\"h\"><rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/><path \
         d=\"M{middle:.1} {top:.1}V{bottom:.1}\"/><title>{text}</title></g>",
        bottom - top
    )
}

fn exact(value: f64) -> String {
    if value.abs() >= 0.01 && value.abs() < 1e4 { format!("{value:.4}") } else { short(value) }
}
