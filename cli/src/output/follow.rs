//! Rows that are printed one by one, as they arrive.

use std::io;

use super::layout::ListLayout;
use super::table::{Row, cells};
use super::{Reader, line, name_line, palette, write_to, yaml};
use crate::args::Format;
use crate::exit::Failure;

/// Width up to which a cell of a later row widens its column.
const WIDEST: usize = 40;

/// Prints rows below each other. The widths of columns are those of the widest cells so far.
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
    pub(crate) fn rows<R: Row>(&mut self, rows: &[R]) -> Result<Reader, Failure> {
        self.rows_to(&mut io::stdout().lock(), rows)
    }

    fn rows_to<R: Row>(&mut self, out: &mut impl io::Write, rows: &[R]) -> Result<Reader, Failure> {
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
        write_to(out, &text)
    }

    fn lines<R: Row>(&mut self, rows: &[R]) -> String {
        let columns = self.layout.columns();
        let mut all: Vec<_> = rows.iter().map(|row| cells(row, columns)).collect();
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if is_first {
            let headings = columns.iter().map(|column| column.heading.clone());
            all.insert(0, headings.collect());
            self.widths = self.least.clone();
            self.widths.resize(columns.len(), 0);
        }
        for cells in &all {
            for (width, cell) in self.widths.iter_mut().zip(cells) {
                let cell = cell.chars().count();
                // One long name must not move all later rows.
                if is_first || cell <= WIDEST {
                    *width = (*width).max(cell);
                }
            }
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
    fn later_rows_are_below_the_columns_of_the_widest() {
        let layout = ListLayout::plain::<v1::RoleWeight>(Format::Table);
        let mut printer = RowPrinter::new(Format::Table, &layout).unwrap();
        let role = |role: &str| v1::RoleWeight {
            role: role.to_owned(),
            weight_milli: 500,
        };
        let text = printer.lines(&[role("batch"), role("a")]);
        assert_eq!(text, "ROLE   WEIGHT\nbatch  0.5\na      0.5\n");
        assert_eq!(printer.lines(&[role("longer")]), "longer  0.5\n");
        assert_eq!(printer.lines(&[role("b")]), "b       0.5\n");
        let long = "x".repeat(WIDEST + 1);
        assert_eq!(printer.lines(&[role(&long)]), format!("{long}  0.5\n"));
        assert_eq!(printer.lines(&[role("b")]), "b       0.5\n");
        assert!(RowPrinter::new(Format::Json, &layout).is_err());
    }

    /// Fails each write with this kind of error.
    struct FailingWriter(io::ErrorKind);

    impl io::Write for FailingWriter {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_reported_and_no_failure() {
        let layout = ListLayout::plain::<v1::RoleWeight>(Format::Table);
        let mut printer = RowPrinter::new(Format::Table, &layout).unwrap();
        let rows = [v1::RoleWeight::default()];
        let present = printer.rows_to(&mut Vec::<u8>::new(), &rows);
        assert_eq!(present, Ok(Reader::Present));
        let gone = printer.rows_to(&mut FailingWriter(io::ErrorKind::BrokenPipe), &rows);
        assert_eq!(gone, Ok(Reader::Gone));
        let full = printer.rows_to(&mut FailingWriter(io::ErrorKind::StorageFull), &rows);
        let failure = full.unwrap_err();
        assert!(failure.message.contains("standard output"), "{failure}");
    }
}
