//! Lists that continue with a line for each change: from the change feed, or by reading a list of
//! records again that the feed does not have.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use argosy_client::{CallError, Watch};
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;

use crate::args::Format;
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::operator::{ClusterClient, read_failure};
use crate::output::{ListLayout, Row, RowPrinter, note};

/// Interval at which a list is read again that the change feed does not have.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The records that a list shows.
pub(crate) struct WatchedList {
    /// As in `WatchRequest.kinds`.
    pub(crate) kind: &'static str,
    pub(crate) filter: Vec<(&'static str, String)>,
    /// The revision of the list: changes after it follow.
    pub(crate) revision: u64,
}

/// The names of the listed records.
#[derive(Debug, Default)]
struct ListedNames(HashSet<String>);

impl ListedNames {
    /// Returns whether a changed record is shown: it belongs to the list, or it leaves the list and
    /// its last line shows that. `removed`: the masters no longer list it.
    fn shows(&mut self, name: &str, belongs: bool, removed: bool) -> bool {
        let was_listed = self.0.remove(name);
        if belongs && !removed {
            self.0.insert(name.to_owned());
        }
        belongs || was_listed
    }
}

/// A change of a list.
pub(crate) enum ListChange {
    /// A record has changed. `removed`: the masters no longer list it.
    Record {
        record: Box<v1::WatchRecord>,
        removed: bool,
    },
    /// Changes were lost, and all records of the list follow.
    SnapshotBegin,
    /// The records are complete.
    SnapshotEnd,
}

/// The changes of a list, from the change feed. It continues at another master if necessary.
pub(crate) struct ListFeed(Watch);

impl ListFeed {
    pub(crate) fn new(operator: &ClusterClient, list: WatchedList) -> Self {
        let filter = list.filter.into_iter();
        let watch = operator.watch(v1::WatchRequest {
            from_revision: Some(list.revision),
            min_revision: list.revision,
            kinds: vec![list.kind.to_owned()],
            filter: filter
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            ..v1::WatchRequest::default()
        });
        Self(watch)
    }

    pub(crate) async fn next(&mut self) -> Result<ListChange, Failure> {
        loop {
            let (record, removed) = match next(&mut self.0).await? {
                Event::Change(change) => (change.record, change.removed),
                // After a loss of history, all records come again.
                Event::Record(record) => (Some(record), false),
                Event::SnapshotBegin(_) => return Ok(ListChange::SnapshotBegin),
                Event::SnapshotEnd(_) => return Ok(ListChange::SnapshotEnd),
                Event::HistoryLost(_) => {
                    note("some changes are no longer known; all records follow");
                    continue;
                }
                Event::Progress(_) => continue,
            };
            if let Some(record) = record.map(Box::new) {
                return Ok(ListChange::Record { record, removed });
            }
        }
    }
}

/// Prints the records of a list, and then each changed record, until it is ended, a master rejects
/// the stream, or the reader of the output is gone. A record that no longer belongs to the list is
/// printed once more.
pub(crate) async fn follow<R: Row>(
    operator: &ClusterClient,
    list: WatchedList,
    (format, layout): (Format, &ListLayout),
    first: Vec<R>,
    of: impl Fn(v1::WatchRecord) -> Option<R>,
    belongs: impl Fn(&R) -> bool,
) -> VerbResult {
    let mut printer = RowPrinter::new(format, layout)?;
    if printer.rows(&first)?.is_gone() {
        return Ok(DONE);
    }
    let mut listed = ListedNames(first.iter().map(Row::name).collect());
    let mut feed = ListFeed::new(operator, list);
    loop {
        let (record, removed) = match feed.next().await? {
            ListChange::Record { record, removed } => (record, removed),
            ListChange::SnapshotBegin => {
                listed.0.clear();
                continue;
            }
            ListChange::SnapshotEnd => continue,
        };
        let id = record.id.clone();
        let row = of(*record);
        let belongs = row.as_ref().is_some_and(&belongs);
        // Without a record, there is nothing to show.
        if listed.shows(&id, belongs, removed) && printer.rows(row.as_slice())?.is_gone() {
            return Ok(DONE);
        }
    }
}

/// A row of a list that is read again and again.
pub(crate) trait PolledRow: Row + Clone {
    /// Returns whether the change from `former` is worth a line. Amounts that always change are
    /// not.
    fn has_changed(&self, former: &Self) -> bool;

    /// Returns the last line of a row that has left the list; `None` if it has none.
    fn last(self) -> Option<Self>;
}

/// The rows that a list had when it was last read, by name.
struct PolledRows<R>(BTreeMap<String, R>);

impl<R: PolledRow> PolledRows<R> {
    fn new(rows: &[R]) -> Self {
        Self(rows.iter().map(|row| (row.name(), row.clone())).collect())
    }

    /// Replaces the rows, and returns those to print: new ones, changed ones, and the last lines of
    /// those that have left.
    fn replace(&mut self, rows: Vec<R>) -> Vec<R> {
        let mut former = std::mem::take(&mut self.0);
        let mut printed = Vec::new();
        for row in rows {
            let name = row.name();
            let known = former.remove(&name);
            if known.is_none_or(|known| row.has_changed(&known)) {
                printed.push(row.clone());
            }
            self.0.insert(name, row);
        }
        printed.extend(former.into_values().filter_map(R::last));
        printed
    }
}

/// Prints the rows of a list that the change feed does not have, reads it again every second, and
/// prints the differences, until it is ended, a master rejects the call, or the reader of the
/// output is gone. Changes between two reads that cancel each other are not seen.
pub(crate) async fn poll<R: PolledRow>(
    (format, layout): (Format, &ListLayout),
    mut first: Vec<R>,
    read: impl AsyncFn() -> Result<Vec<R>, Failure>,
) -> VerbResult {
    let mut printer = RowPrinter::new(format, layout)?;
    // Rows beyond the limit are known, too: they are not new when they are read again.
    let mut known = PolledRows::new(&first);
    layout.arrange(&mut first);
    if printer.rows(&first)?.is_gone() {
        return Ok(DONE);
    }
    let mut is_reported = false;
    loop {
        tokio::time::sleep(READ_INTERVAL).await;
        match read().await {
            Ok(rows) => {
                is_reported = false;
                let printed = known.replace(rows);
                if !printed.is_empty() && printer.rows(&printed)?.is_gone() {
                    return Ok(DONE);
                }
            }
            Err(failure) if failure.code != FailureCode::Unavailable => return Err(failure),
            Err(_) if is_reported => {}
            Err(failure) => {
                is_reported = true;
                note(&format!("{}; still trying", failure.message));
            }
        }
    }
}

/// Returns the next event. While no master answers, reports it once and continues to search: the
/// caller has already had an answer of one.
pub(crate) async fn next(watch: &mut Watch) -> Result<Event, Failure> {
    let mut is_reported = false;
    loop {
        match watch.next().await {
            Ok(event) => return Ok(event),
            Err(error @ CallError::Refused(_)) => return Err(read_failure(error)),
            Err(_) if is_reported => {}
            Err(error) => {
                is_reported = true;
                note(&format!("{}; still trying", read_failure(error).message));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_leaves_the_list_is_shown_once_more() {
        let mut listed = ListedNames(["f/web".to_owned()].into());
        // It changes, and then leaves, by a filter of the masters or of this program.
        assert!(listed.shows("f/web", true, false));
        assert!(listed.shows("f/web", false, true));
        assert!(!listed.shows("f/web", false, true));
        assert!(listed.shows("f/db", true, false));
        assert!(listed.shows("f/db", false, false));
        assert!(!listed.shows("f/db", false, false));
        // A removal may name a record that was never listed.
        assert!(!listed.shows("f/other", false, true));
        // The end of a task is shown without a filter, also if nothing before it was seen.
        assert!(listed.shows("f/short", true, true));
        assert_eq!(listed.0.len(), 0);
    }

    fn master(id: u32, role: &str, lag: u64) -> v1::Master {
        v1::Master {
            node_id: format!("master-{id}"),
            role: role.to_owned(),
            lag: Some(lag),
            ..v1::Master::default()
        }
    }

    #[test]
    fn a_list_that_is_read_again_has_lines_for_its_differences_only() {
        let shown = |rows: Vec<v1::Master>| {
            let rows = rows.into_iter();
            let rows: Vec<_> = rows
                .map(|row| format!("{} {}", row.node_id, row.role))
                .collect();
            rows.join(", ")
        };
        let first = vec![master(1, "leader", 0), master(2, "follower", 7)];
        let mut known = PolledRows::new(&first);
        assert_eq!(shown(known.replace(first.clone())), "");
        let behind = vec![master(1, "leader", 0), master(2, "follower", 90)];
        assert_eq!(shown(known.replace(behind)), "", "its lag always changes");
        let elected = vec![master(2, "leader", 0), master(3, "learner", 9)];
        assert_eq!(
            shown(known.replace(elected)),
            "master-2 leader, master-3 learner, master-1 removed"
        );
        assert_eq!(
            shown(known.replace(Vec::new())),
            "master-2 removed, master-3 removed"
        );
        assert_eq!(
            shown(known.replace(first)),
            "master-1 leader, master-2 follower"
        );
    }

    #[test]
    fn offers_have_a_line_when_they_are_new() {
        let offer = |id: &str| v1::Offer {
            offer_id: id.to_owned(),
            ..v1::Offer::default()
        };
        let mut known = PolledRows::new(&[offer("1.1"), offer("1.2")]);
        let printed = known.replace(vec![offer("1.2"), offer("1.3")]);
        assert_eq!(printed, [offer("1.3")]);
    }
}
