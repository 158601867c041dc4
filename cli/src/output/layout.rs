//! The records of a list that are shown, in which order and with which columns.

use std::cmp::Ordering;

use super::note;
use super::table::Row;
use crate::args::{Format, ListView};
use crate::exit::Failure;

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(super) heading: String,
    source: CellSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum CellSource {
    /// One of the default columns.
    Usual(usize),
    /// One of the columns that `wide` adds.
    Wide(usize),
    /// Something with this name, as the label `app`.
    Named(String),
}

/// The layout of a list.
#[derive(Debug)]
pub(crate) struct ListLayout {
    columns: Vec<Column>,
    sort: Option<Column>,
    reverse: bool,
    limit: Option<usize>,
}

impl ListLayout {
    /// Checks the options of a list of this kind of records.
    pub(crate) fn new<R: Row>(format: Format, view: &ListView) -> Result<Self, Failure> {
        if !view.columns.is_empty() && !format.is_table() {
            return Err(Failure::usage(
                "--columns: only tables have columns; leave it out, or write --output table",
            ));
        }
        // One + is enough: it adds all columns of the flag.
        let adds = view.columns.iter().any(|name| name.starts_with('+'));
        let mut columns = match adds || view.columns.is_empty() {
            true => default_columns::<R>(format == Format::Wide),
            false => Vec::new(),
        };
        for name in &view.columns {
            let name = name.strip_prefix('+').unwrap_or(name);
            let column = column::<R>("--columns", name)?;
            if !adds || !columns.contains(&column) {
                columns.push(column);
            }
        }
        let sort = view.sort.as_deref();
        Ok(Self {
            columns,
            sort: sort.map(|name| column::<R>("--sort", name)).transpose()?,
            reverse: view.reverse,
            limit: view.limit.map(|limit| limit as usize),
        })
    }

    /// Returns the layout without options.
    pub(super) fn plain<R: Row>(format: Format) -> Self {
        Self {
            columns: default_columns::<R>(format == Format::Wide),
            sort: None,
            reverse: false,
            limit: None,
        }
    }

    /// Returns the names of the columns of a kind of records, as `--sort` takes them. Further ones
    /// are `label.NAME`.
    pub(crate) fn column_names<R: Row>() -> Vec<String> {
        let all = all_columns::<R>().into_iter();
        let named = R::NAMED.map(|kind| format!("{kind}.NAME"));
        let all = all.map(|column| column_name(&column.heading));
        all.chain(named).collect()
    }

    /// Returns the columns of a table.
    pub(super) fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Sorts the records, which are in their default order, and removes those beyond the limit.
    pub(crate) fn arrange<R: Row>(&self, rows: &mut Vec<R>) {
        if let Some(column) = &self.sort {
            rows.sort_by_cached_key(|row| SortKey {
                amount: row.amount(&column.heading),
                text: column.cell(row),
            });
        }
        if self.reverse {
            rows.reverse();
        }
        let Some(limit) = self.limit.filter(|limit| *limit < rows.len()) else {
            return;
        };
        note(&format!("{} more; --limit shows more", rows.len() - limit));
        rows.truncate(limit);
    }
}

/// The cells of one row, which are computed once for all columns.
pub(super) struct RowCells<'a, R> {
    row: &'a R,
    usual: Option<Vec<String>>,
    wide: Option<Vec<String>>,
}

impl<'a, R: Row> RowCells<'a, R> {
    pub(super) fn new(row: &'a R) -> Self {
        Self {
            row,
            usual: None,
            wide: None,
        }
    }

    /// Returns the text of a column.
    pub(super) fn cell(&mut self, column: &Column) -> String {
        let of = |cells: &[String], at: usize| cells.get(at).cloned().unwrap_or_default();
        let row = self.row;
        match &column.source {
            CellSource::Usual(at) => of(self.usual.get_or_insert_with(|| row.cells()), *at),
            CellSource::Wide(at) => of(self.wide.get_or_insert_with(|| row.wide_cells()), *at),
            CellSource::Named(name) => row.named_cell(name),
        }
    }
}

impl Column {
    /// Returns the text of this column.
    fn cell<R: Row>(&self, row: &R) -> String {
        RowCells::new(row).cell(self)
    }
}

fn default_columns<R: Row>(wide: bool) -> Vec<Column> {
    let mut all = all_columns::<R>();
    all.truncate(if wide { all.len() } else { R::HEADINGS.len() });
    all
}

fn all_columns<R: Row>() -> Vec<Column> {
    let of = |heading: &&str, source| Column {
        heading: (*heading).to_owned(),
        source,
    };
    let usual = R::HEADINGS.iter().enumerate();
    let wide = R::WIDE.iter().enumerate();
    usual
        .map(|(at, heading)| of(heading, CellSource::Usual(at)))
        .chain(wide.map(|(at, heading)| of(heading, CellSource::Wide(at))))
        .collect()
}

/// Returns the name of a column on the command line: `not-enforced` for NOT ENFORCED.
fn column_name(heading: &str) -> String {
    heading.to_ascii_lowercase().replace([' ', '_'], "-")
}

fn column<R: Row>(flag: &str, wanted: &str) -> Result<Column, Failure> {
    let all = all_columns::<R>();
    let wanted = wanted.trim();
    let is_it = |column: &&Column| column_name(&column.heading) == column_name(wanted);
    if let Some(found) = all.iter().find(is_it) {
        return Ok(found.clone());
    }
    let named = R::NAMED.and_then(|kind| wanted.strip_prefix(kind)?.strip_prefix('.'));
    if let Some(name) = named.filter(|name| !name.is_empty()) {
        return Ok(Column {
            heading: wanted.to_ascii_uppercase(),
            source: CellSource::Named(name.to_owned()),
        });
    }
    let names = ListLayout::column_names::<R>().join(", ");
    Err(
        Failure::usage(format!("{flag}: there is no column {wanted:?}"))
            .advise(format!("the columns are {names}")),
    )
}

/// By amount if the column has amounts, else by text. Empty cells come last.
#[derive(Debug, PartialEq, Eq)]
struct SortKey {
    amount: Option<i64>,
    text: String,
}

impl Ord for SortKey {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.amount, other.amount) {
            (Some(own), Some(others)) => own.cmp(&others),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => match (self.text.is_empty(), other.text.is_empty()) {
                (false, false) => natural_order(&self.text, &other.text),
                (own, others) => own.cmp(&others),
            },
        }
    }
}

impl PartialOrd for SortKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares texts with the numbers in them by value: `web-9` is before `web-10`.
pub(crate) fn natural_order(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left, right);
    loop {
        let (own, others) = (number(left), number(right));
        if !own.is_empty() && !others.is_empty() {
            let [first, second] = [own, others].map(|digits| digits.trim_start_matches('0'));
            let order = (first.len(), first).cmp(&(second.len(), second));
            if order != Ordering::Equal {
                return order;
            }
            (left, right) = (&left[own.len()..], &right[others.len()..]);
            continue;
        }
        let mut letters = (left.chars(), right.chars());
        let order = match (letters.0.next(), letters.1.next()) {
            (None, None) => return Ordering::Equal,
            (own, others) => own.cmp(&others),
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (letters.0.as_str(), letters.1.as_str());
    }
}

/// Returns the digits at the beginning.
fn number(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_ascii_digit());
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use argosy_proto::v1;

    use super::*;

    fn view(words: &[&str]) -> ListView {
        use clap::Parser;
        #[derive(Debug, Parser)]
        struct TestArguments {
            #[command(flatten)]
            view: ListView,
        }
        let words = std::iter::once(&"list").chain(words);
        TestArguments::try_parse_from(words).unwrap().view
    }

    fn layout(words: &[&str]) -> Result<ListLayout, Failure> {
        ListLayout::new::<v1::Task>(Format::Table, &view(words))
    }

    fn headings(words: &[&str]) -> Vec<String> {
        let columns = layout(words).unwrap().columns;
        columns.into_iter().map(|column| column.heading).collect()
    }

    fn task(id: &str, mem: i64) -> v1::Task {
        v1::Task {
            task_id: id.to_owned(),
            spec: Some(v1::TaskSpec {
                resources: argosy_client::resources::resources(&format!("mem:{mem}")).unwrap(),
                labels: [("app".to_owned(), id.to_uppercase())].into(),
                ..v1::TaskSpec::default()
            }),
            ..v1::Task::default()
        }
    }

    #[test]
    fn columns_are_chosen_by_name_or_added() {
        assert_eq!(
            headings(&["--columns", "task,label.app"]),
            ["TASK", "LABEL.APP"]
        );
        let added = headings(&["--columns", "+role,+label.app"]);
        assert_eq!(added[..2], ["TASK", "STATE"]);
        assert_eq!(added[added.len() - 2..], ["ROLE", "LABEL.APP"]);
        for words in ["+role,label.app", "+role,state,label.app,role"] {
            assert_eq!(headings(&["--columns", words]), added, "{words}");
        }
        let chosen = layout(&["--columns", "label.app"]).unwrap();
        assert_eq!(chosen.columns[0].cell(&task("web", 1)), "WEB");
        let failure = layout(&["--sort", "colour"]).unwrap_err();
        let text = failure.to_string();
        assert!(
            text.contains("no column \"colour\"") && text.contains("label.NAME"),
            "{text}"
        );
        let as_json = ListLayout::new::<v1::Task>(Format::Json, &view(&["--columns", "task"]));
        assert_eq!(as_json.unwrap_err().code, crate::exit::FailureCode::Usage);
    }

    #[test]
    fn records_are_sorted_by_amount_or_by_text_with_numbers() {
        let order = |words: &[&str]| {
            let mut tasks = vec![task("web-10", 64), task("web-9", 2_048), task("db", 512)];
            layout(words).unwrap().arrange(&mut tasks);
            let ids: Vec<_> = tasks.into_iter().map(|task| task.task_id).collect();
            ids.join(" ")
        };
        assert_eq!(order(&[]), "web-10 web-9 db");
        assert_eq!(order(&["--sort", "task"]), "db web-9 web-10");
        assert_eq!(order(&["--sort", "mem"]), "web-10 db web-9");
        assert_eq!(
            order(&["--sort", "mem", "--reverse", "--limit", "1"]),
            "web-9"
        );
    }

    #[test]
    fn numbers_in_texts_are_compared_by_value() {
        let ascending = ["", "a", "a-2", "a-10", "a-10b", "b", "ä"];
        for pair in ascending.windows(2) {
            assert_eq!(natural_order(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        assert_eq!(natural_order("a-007", "a-7"), Ordering::Equal);
    }
}
