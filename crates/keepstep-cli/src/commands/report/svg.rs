//! An SVG backend for plotters. The page's style sets the colours, for light and dark mode.

use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
};
use std::convert::Infallible;
use std::fmt::Write;

/// Plotters counts whole pixels: ten of them are one of the page.
pub(super) const SCALE: i32 = 10;

/// A drawing of `size` of plotters' pixels. The blue part of a colour is the number of its class in the page's style:
/// `.s1` strokes and `.f1` fills.
pub(super) struct Svg<'a> {
    pub(super) out: &'a mut String,
    pub(super) size: (u32, u32),
}

type Result = std::result::Result<(), DrawingErrorKind<Infallible>>;

struct Px(i32);

impl std::fmt::Display for Px {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, tenth) = (self.0 / SCALE, (self.0 % SCALE).abs());
        let sign = if self.0 < 0 && whole == 0 { "-" } else { "" };
        if tenth == 0 { write!(f, "{sign}{whole}") } else { write!(f, "{sign}{whole}.{tenth}") }
    }
}

impl Svg<'_> {
    fn path(&mut self, points: impl IntoIterator<Item = BackendCoord>, end: &str, attributes: &str) {
        let mut before = None;
        self.out.push_str("<path d=\"");
        for (x, y) in points {
            let _ = match before {
                None => write!(self.out, "M{} {}", Px(x), Px(y)),
                Some(place) if place == (x, y) => Ok(()),
                Some(_) => write!(self.out, "L{} {}", Px(x), Px(y)),
            };
            before = Some((x, y));
        }
        let _ = write!(self.out, "{end}\"{attributes}/>");
    }
}

fn attributes(kind: char, color: BackendColor, stroke_width: u32) -> String {
    let mut text = format!(" class=\"{kind}{}\"", color.rgb.2);
    if color.alpha < 1.0 {
        let _ = write!(text, " opacity=\"{:.2}\"", color.alpha);
    }
    if kind == 's' && stroke_width as i32 != SCALE {
        let _ = write!(text, " stroke-width=\"{}\"", Px(stroke_width as i32));
    }
    text
}

impl DrawingBackend for Svg<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Result {
        Ok(())
    }

    fn present(&mut self) -> Result {
        Ok(())
    }

    fn draw_pixel(&mut self, _: BackendCoord, _: BackendColor) -> Result {
        Ok(())
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Result {
        self.draw_path([from, to], style)
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Result {
        let kind = if fill { 'f' } else { 's' };
        let _ = write!(
            self.out,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"{}/>",
            Px(from.0),
            Px(from.1),
            Px((to.0 - from.0).max(0)),
            Px((to.1 - from.1).max(0)),
            attributes(kind, style.color(), style.stroke_width())
        );
        Ok(())
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Result {
        if style.color().alpha > 0.0 {
            let attributes = attributes('s', style.color(), style.stroke_width());
            self.path(path, "", &attributes);
        }
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        center: BackendCoord,
        radius: u32,
        style: &S,
        fill: bool,
    ) -> Result {
        let kind = if fill { 'f' } else { 's' };
        let attributes = attributes(kind, style.color(), style.stroke_width());
        let (x, y) = (Px(center.0), Px(center.1));
        let _ = write!(self.out, "<circle cx=\"{x}\" cy=\"{y}\" r=\"{}\"{attributes}/>", Px(radius as i32));
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        points: I,
        style: &S,
    ) -> Result {
        let attributes = attributes('f', style.color(), style.stroke_width());
        self.path(points, "Z", &attributes);
        Ok(())
    }

    fn draw_text<T: BackendTextStyle>(&mut self, text: &str, style: &T, (x, y): BackendCoord) -> Result {
        let size = style.size();
        let anchor = match style.anchor().h_pos {
            HPos::Left => "start",
            HPos::Center => "middle",
            HPos::Right => "end",
        };
        // Where the baseline lies below the place that is meant, in parts of the font's size.
        let below = match style.anchor().v_pos {
            VPos::Top => 0.8,
            VPos::Center => 0.35,
            VPos::Bottom => -0.2,
        };
        let y = y + (below * size) as i32;
        let _ = write!(
            self.out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            Px(x),
            Px(y),
            super::html::escape(text)
        );
        Ok(())
    }

    fn estimate_text_size<T: BackendTextStyle>(
        &self,
        text: &str,
        style: &T,
    ) -> std::result::Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let width = text.chars().count() as f64 * style.size() * 0.58;
        Ok((width as u32, (style.size() * 1.2) as u32))
    }
}
