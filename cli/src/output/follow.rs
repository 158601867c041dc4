//! Rows that are printed one by one, as they arrive.

use super::layout::ListLayout;
use super::table::{Row, cells};
use super::{line, name_line, palette, print, yaml};
use crate::args::Format;
use crate::exit::Failure;

/// Prints rows below each other. The widths of columns are those of the rows that came first.
pub(crate) struct RowPrinter<'a> {
    format: Format,
    layout: &'a ListLayout,
    widths: Vec<usize>,
    least: Vec<usize>,
    has_begun: bool,
}

impl<'a> RowPrinter<'a> {
    /// Creates a printer for any format but JSON, which is one value.
    pub(crate) fn new(format: Format, layout: &'a ListLayout) -> Result<Self, Failure> {
        if format == Format::Json {
            return Err(Failure::usage(
                "--output json is one value, and lines come one by one here; write --output ndjson",
            ));
        }
        Ok(Self {
            format,
            layout,
            widths: Vec::new(),
            least: Vec::new(),
            has_begun: false,
        })
    }

    /// Sets the least widths of columns.
    pub(crate) fn at_least(mut self, widths: &[usize]) -> Self {
        self.least = widths.to_vec();
        self
    }

    /// Prints rows, and headings before the first ones.
    pub(crate) fn rows<R: Row>(&mut self, rows: &[R]) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table | Format::Wide => self.lines(rows),
            Format::Json | Format::Ndjson => {
                rows.iter().map(line).collect::<Result<String, _>>()?
            }
            Format::Yaml => {
                let documents = rows.iter().map(|row| Ok(format!("---\n{}", yaml(row)?)));
                documents.collect::<Result<String, Failure>>()?
            }
            Format::Name => rows.iter().map(name_line).collect(),
        };
        print(&text).map(|_| ())
    }

    fn lines<R: Row>(&mut self, rows: &[R]) -> String {
        let columns = self.layout.columns();
        let mut all: Vec<_> = rows.iter().map(|row| cells(row, columns)).collect();
        if !self.has_begun {
            self.has_begun = true;
            let headings = columns.iter().map(|column| column.heading.clone());
            all.insert(0, headings.collect());
            let width = |at: usize| all.iter().map(|cells| cells[at].chars().count()).max();
            let least = |at: usize| self.least.get(at).copied().unwrap_or(0);
            let width = |at: usize| width(at).unwrap_or(0).max(least(at));
            self.widths = (0..columns.len()).map(width).collect();
        }
        let palette = palette();
        let state = columns.iter().position(|column| column.heading == "STATE");
        let mut text = String::new();
        for (number, cells) in all.iter().enumerate() {
            let last = cells.len().saturating_sub(1);
            for (at, cell) in cells.iter().enumerate() {
                let blanks = match at == last {
                    true => 0,
                    false => self.widths[at].saturating_sub(cell.chars().count()) + 2,
                };
                let is_heading = number == 0 && *cell == columns[at].heading;
                let shown = match (is_heading, state == Some(at)) {
                    (true, _) => palette.heading(cell),
                    (false, true) => palette.state(cell),
                    (false, false) => cell.clone(),
                };
                text.push_str(&format!("{shown}{:blanks$}", ""));
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use argosy_proto::v1;

    use super::*;

    #[test]
    fn later_rows_are_below_the_columns_of_the_first() {
        let layout = ListLayout::plain::<v1::RoleWeight>(Format::Table);
        let mut printer = RowPrinter::new(Format::Table, &layout).unwrap();
        let role = |role: &str| v1::RoleWeight {
            role: role.to_owned(),
            weight_milli: 500,
        };
        let text = printer.lines(&[role("batch"), role("a")]);
        assert_eq!(text, "ROLE   WEIGHT\nbatch  0.5\na      0.5\n");
        assert_eq!(printer.lines(&[role("longer")]), "longer  0.5\n");
        assert!(RowPrinter::new(Format::Json, &layout).is_err());
    }
}
