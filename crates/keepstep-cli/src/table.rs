//! Tables for people: columns where the terminal is wide enough, one block per row where it is not.

use std::fmt::Write;

/// A table of text.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Column {
    title: &'static str,
    is_number: bool,
}

impl Table {
    /// A table with these columns: a title, and whether the cells are numbers (aligned to the right).
    pub(crate) fn new(columns: &[(&'static str, bool)]) -> Table {
        let columns = columns.iter().map(|&(title, is_number)| Column { title, is_number }).collect();
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row with one cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as text for a terminal of `width` columns, or of any width for None.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|index| {
                let cells =
                    self.rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
                cells.chain([self.columns[index].title.len()]).max().unwrap_or(0)
            })
            .collect();
        let total = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        if width.is_some_and(|width| width < total) { self.blocks() } else { self.lines(&widths) }
    }

    fn lines(&self, widths: &[usize]) -> String {
        let mut text = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut line = String::new();
            for ((cell, column), &width) in cells.zip(&self.columns).zip(widths) {
                // Writing to a string does not fail.
                let _ = match column.is_number {
                    true => write!(line, "{cell:>width$}  "),
                    false => write!(line, "{cell:width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        };
        line(&mut self.columns.iter().map(|column| column.title));
        for row in &self.rows {
            line(&mut row.iter().map(String::as_str));
        }
        text
    }

    /// Each row as a block: the first cell as a headline, the others below it, without empty ones.
    fn blocks(&self) -> String {
        let width = self.columns.iter().map(|column| column.title.len()).max().unwrap_or(0);
        let mut text = String::new();
        for row in &self.rows {
            for (index, (cell, column)) in row.iter().zip(&self.columns).enumerate() {
                let title = column.title.to_lowercase();
                let _ = match index {
                    0 => writeln!(text, "{cell}"),
                    _ if cell.is_empty() || cell == "-" => Ok(()),
                    _ => writeln!(text, "  {title:width$} {cell}"),
                };
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_or_blocks() {
        let mut table = Table::new(&[("NAME", false), ("SIZE", true), ("MARK", false)]);
        table.row(vec!["a.pt".to_owned(), "12.0 MB".to_owned(), "best".to_owned()]);
        table.row(vec!["long name.pt".to_owned(), "1.0 MB".to_owned(), String::new()]);
        let wide = "NAME             SIZE  MARK\na.pt          12.0 MB  best\nlong name.pt   1.0 MB\n";
        assert_eq!(table.render(None), wide);
        assert_eq!(table.render(Some(27)), wide);
        let narrow = "a.pt\n  size 12.0 MB\n  mark best\nlong name.pt\n  size 1.0 MB\n";
        assert_eq!(table.render(Some(26)), narrow);
    }
}
