//! Lists that continue with a line for each change, from the change feed.

use std::collections::HashSet;

use argosy_client::CallError;
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;

use crate::args::Format;
use crate::exit::{DONE, Failure, VerbResult};
use crate::operator::{ClusterClient, read_failure};
use crate::output::{ListLayout, Row, RowPrinter, note};

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

/// Prints the records of a list, and then each changed record, until it is ended, a master rejects
/// the stream, or the reader of the output is gone. It continues at another master if necessary. A
/// record that no longer belongs to the list is printed once more.
pub(crate) async fn follow<R: Row>(
    operator: &ClusterClient,
    list: WatchedList,
    (format, layout): (Format, &ListLayout),
    first: Vec<R>,
    of: impl Fn(Record) -> Option<R>,
    belongs: impl Fn(&R) -> bool,
) -> VerbResult {
    let mut printer = RowPrinter::new(format, layout)?;
    if printer.rows(&first)?.is_gone() {
        return Ok(DONE);
    }
    let mut listed = ListedNames(first.iter().map(Row::name).collect());
    let filter = list.filter.into_iter();
    let mut watch = operator.watch(v1::WatchRequest {
        from_revision: Some(list.revision),
        min_revision: list.revision,
        kinds: vec![list.kind.to_owned()],
        filter: filter
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        ..v1::WatchRequest::default()
    });
    loop {
        let (record, removed) = match next(&mut watch).await? {
            Event::Change(change) => (change.record, change.removed),
            // After a loss of history, all records come again.
            Event::Record(record) => (Some(record), false),
            Event::SnapshotBegin(_) => {
                listed.0.clear();
                continue;
            }
            Event::HistoryLost(_) => {
                note("some changes are no longer known; all records follow");
                continue;
            }
            Event::SnapshotEnd(_) | Event::Progress(_) => continue,
        };
        let Some(record) = record else { continue };
        let row = record.record.and_then(&of);
        let belongs = row.as_ref().is_some_and(&belongs);
        // Without a record, there is nothing to show.
        if listed.shows(&record.id, belongs, removed) && printer.rows(row.as_slice())?.is_gone() {
            return Ok(DONE);
        }
    }
}

/// Returns the next event. While no master answers, reports it once and continues to search: the
/// caller has already had an answer of one.
pub(crate) async fn next(watch: &mut argosy_client::Watch) -> Result<Event, Failure> {
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
}
