//! Tables without borders, and lines of `name: value`.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::colour::Palette;

/// A record that can be a line of a table.
pub(crate) trait Row: Serialize {
    /// Headings of the default columns.
    const HEADINGS: &'static [&'static str];
    /// Headings of the columns that `wide` adds.
    const WIDE: &'static [&'static str];
    /// Returns the cells of the default columns.
    fn cells(&self) -> Vec<String>;
    /// Returns the cells of the columns that `wide` adds.
    fn wide_cells(&self) -> Vec<String>;
    /// Returns the text that `-o name` prints.
    fn name(&self) -> String;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ColumnSet {
    /// The default columns.
    Usual,
    /// All columns.
    Wide,
}

/// Formats the rows with headings; returns an empty text without rows.
pub(crate) fn table<R: Row>(rows: &[R], width: ColumnSet, palette: Palette) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut headings = R::HEADINGS.to_vec();
    if width == ColumnSet::Wide {
        headings.extend(R::WIDE);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(&headings);
    for row in rows {
        let mut cells = row.cells();
        if width == ColumnSet::Wide {
            cells.extend(row.wide_cells());
        }
        table.add_row(cells.iter().map(|cell| one_line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    coloured(&table.to_string(), palette)
}

/// Returns a cell as one line. Control characters in foreign text must not reach the terminal.
fn one_line(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect()
}

/// Colours headings and the words below STATE or ROLE, by position, so that colour never moves a
/// column.
fn coloured(plain: &str, palette: Palette) -> String {
    let mut lines = plain.lines();
    let headings = lines.next().unwrap_or_default().trim_end();
    let place = |name: &str| {
        headings
            .split("  ")
            .any(|word| word.trim() == name)
            .then(|| headings.find(name))
            .flatten()
    };
    // Headings are ASCII, so this counts characters too.
    let column = place("STATE").map(|at| headings[..at].chars().count());
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
            let value: String = value
                .chars()
                .filter(|letter| !letter.is_control() || *letter == '\n')
                .collect();
            let indented = value.replace('\n', &format!("\n{:width$}  ", ""));
            format!("{name:width$}  {indented}\n")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

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

    #[test]
    fn a_table_has_no_borders_and_no_trailing_blanks() {
        let rows = [SampleRow("tom", "running"), SampleRow("garfield", "")];
        expect![[r#"
            NAME      STATE    LEGS
            tom       running  4
            garfield  -        4
        "#]]
        .assert_eq(&table(&rows, ColumnSet::Wide, Palette::PLAIN));
    }

    #[test]
    fn colours_do_not_affect_column_alignment() {
        let rows = [SampleRow("tom", "running"), SampleRow("x", "failed")];
        let coloured = table(&rows, ColumnSet::Wide, Palette::COLOURED);
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
        assert_eq!(stripped, table(&rows, ColumnSet::Wide, Palette::PLAIN));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let rows = [SampleRow("a\u{1b}[2Jb", "x\ny")];
        let text = table(&rows, ColumnSet::Usual, Palette::PLAIN);
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert_eq!(text.lines().count(), 2);
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
