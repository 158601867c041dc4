//! Tables without borders, and lines of `name: value`.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::colour::Palette;
use super::layout::{Column, RowCells};
use super::visible::{visible, visible_line};

/// A record that can be a line of a table.
pub(crate) trait Row: Serialize {
    /// Headings of the default columns.
    const HEADINGS: &'static [&'static str];
    /// Headings of the columns that `wide` adds.
    const WIDE: &'static [&'static str];
    /// The kind of further columns, which have names: `label`.
    const NAMED: Option<&'static str> = None;

    /// Returns the cells of the default columns.
    fn cells(&self) -> Vec<String>;

    /// Returns the cells of the columns that `wide` adds.
    fn wide_cells(&self) -> Vec<String>;

    /// Returns the cell of a further column.
    fn named_cell(&self, _name: &str) -> String {
        String::new()
    }

    /// Returns the amount by which a column is sorted; `None` sorts it by its text.
    fn amount(&self, _heading: &str) -> Option<i64> {
        None
    }

    /// Returns the text that `-o name` prints.
    fn name(&self) -> String;
}

/// Formats the rows with headings; returns an empty text without rows.
pub(crate) fn table<R: Row>(rows: &[R], columns: &[Column], palette: Palette) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let headings: Vec<_> = columns.iter().map(|column| &column.heading).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(&headings);
    for row in rows {
        table.add_row(cells(row, columns));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    coloured(&table.to_string(), palette)
}

/// Returns the cells of a row as single lines, `-` where there is nothing.
pub(super) fn cells<R: Row>(row: &R, columns: &[Column]) -> Vec<String> {
    let mut cells = RowCells::new(row);
    let cell = |column: &Column| match cells.cell(column) {
        text if text.is_empty() => "-".to_owned(),
        text => visible_line(&text),
    };
    columns.iter().map(cell).collect()
}

/// Colours headings and the words below STATE, by position, so that colour never moves a column.
fn coloured(plain: &str, palette: Palette) -> String {
    let mut lines = plain.lines();
    let headings = lines.next().unwrap_or_default().trim_end();
    let column = state_column(headings);
    let mut text = palette.heading(headings) + "\n";
    for line in lines {
        let line = line.trim_end();
        match column {
            Some(column) => text.push_str(&colour_word(line, column, palette)),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Returns the position of the heading STATE, in characters.
fn state_column(headings: &str) -> Option<usize> {
    let mut at = 0;
    for word in headings.split(' ') {
        if word == "STATE" {
            return Some(at);
        }
        at += word.chars().count() + 1;
    }
    None
}

fn colour_word(line: &str, column: usize, palette: Palette) -> String {
    let start = line
        .char_indices()
        .nth(column)
        .map_or(line.len(), |(at, _)| at);
    let (before, rest) = line.split_at(start);
    let end = rest.find(' ').unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    format!("{before}{}{after}", palette.state(word))
}

/// Formats one record, one field per line, without fields that have no value.
pub(crate) fn plain(details: &[(&str, String)]) -> String {
    let shown = || details.iter().filter(|(_, value)| !value.is_empty());
    let width = shown().map(|(name, _)| name.len()).max().unwrap_or(0);
    shown()
        .map(|(name, value)| {
            let value = visible(value);
            let indented = value.replace('\n', &format!("\n{:width$}  ", ""));
            format!("{name:width$}  {indented}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::layout::ListLayout;
    use super::*;
    use crate::args::Format;

    #[derive(Serialize)]
    struct SampleRow(&'static str, &'static str);

    impl Row for SampleRow {
        const HEADINGS: &'static [&'static str] = &["NAME", "STATE"];
        const WIDE: &'static [&'static str] = &["LEGS"];
        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_owned()]
        }
        fn wide_cells(&self) -> Vec<String> {
            vec!["4".to_owned()]
        }
        fn name(&self) -> String {
            self.0.to_owned()
        }
    }

    fn all() -> Vec<Column> {
        let layout = ListLayout::plain::<SampleRow>(Format::Wide);
        layout.columns().to_vec()
    }

    #[test]
    fn a_table_has_no_borders_and_no_trailing_blanks() {
        let rows = [SampleRow("tom", "running"), SampleRow("garfield", "")];
        expect![[r#"
            NAME      STATE    LEGS
            tom       running  4
            garfield  -        4
        "#]]
        .assert_eq(&table(&rows, &all(), Palette::PLAIN));
    }

    #[test]
    fn colours_do_not_affect_column_alignment() {
        let rows = [SampleRow("tom", "running"), SampleRow("x", "failed")];
        let coloured = table(&rows, &all(), Palette::COLOURED);
        assert!(coloured.contains('\u{1b}'));
        let mut stripped = String::new();
        let mut inside = false;
        for letter in coloured.chars() {
            match letter {
                '\u{1b}' => inside = true,
                'm' if inside => inside = false,
                _ if inside => {}
                _ => stripped.push(letter),
            }
        }
        assert_eq!(stripped, table(&rows, &all(), Palette::PLAIN));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let rows = [SampleRow("a\u{1b}[2Jb", "x\ny")];
        let text = table(&rows, &all(), Palette::PLAIN);
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(text.contains(r"a\u{1b}[2Jb"), "{text:?}");
        assert_eq!(text.lines().count(), 2);
        let text = plain(&[("message", "a\u{9b}31mb\u{1b}]0;x\u{7}".to_owned())]);
        assert_eq!(text, "message  a\\u{9b}31mb\\u{1b}]0;x\\u{7}\n");
    }

    #[test]
    fn only_the_heading_state_is_that_of_states() {
        assert_eq!(state_column("LABEL.STATE  STATE"), Some(13));
        assert_eq!(state_column("ROLE  WEIGHT"), None);
    }

    #[test]
    fn fields_without_a_value_are_omitted() {
        let text = plain(&[
            ("id", "a".to_owned()),
            ("message", String::new()),
            ("state", "x\ny".to_owned()),
        ]);
        assert_eq!(text, "id     a\nstate  x\n       y\n");
    }
}
