//! Lists that continue with a line for each change, from the change feed.

use argosy_client::CallError;
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;

use crate::args::Format;
use crate::exit::{Failure, VerbResult};
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

/// Prints the records of a list, and then each changed record, until it is ended or a master
/// rejects the stream. It continues at another master if necessary.
pub(crate) async fn follow<R: Row>(
    operator: &ClusterClient,
    list: WatchedList,
    (format, layout): (Format, &ListLayout),
    first: Vec<R>,
    of: impl Fn(Record) -> Option<R>,
) -> VerbResult {
    let mut printer = RowPrinter::new(format, layout)?;
    printer.rows(&first)?;
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
        let record = match next(&mut watch).await? {
            Event::Change(change) => change.record,
            // After a loss of history, all records come again.
            Event::Record(record) => Some(record),
            Event::HistoryLost(_) => {
                note("some changes are no longer known; all records follow");
                None
            }
            Event::SnapshotBegin(_) | Event::SnapshotEnd(_) | Event::Progress(_) => None,
        };
        let row = record.and_then(|record| of(record.record?));
        printer.rows(row.as_slice())?;
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
