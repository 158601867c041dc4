//! Tests of positions.

use super::*;

fn change(index: u64, position: u32) -> Event {
    Event::Change(v1::WatchChange {
        revision: Some(v1::Revision { index, position }),
        ..Default::default()
    })
}

fn progress(revision: u64) -> Event {
    Event::Progress(v1::WatchProgress { revision })
}

/// Returns the request of a reader that has received these events.
fn resumed(events: &[Event]) -> (Option<u64>, Option<u32>, u64) {
    let mut position = WatchPosition::default();
    for event in events {
        position.record(event);
    }
    let request = v1::WatchRequest::from(&position);
    (
        request.from_revision,
        request.from_position,
        request.min_revision,
    )
}

#[test]
fn a_reader_resumes_after_its_last_change_and_never_goes_back() {
    let end = |revision| Event::SnapshotEnd(v1::WatchSnapshot { revision });
    assert_eq!(resumed(&[]), (None, None, 0));
    assert_eq!(resumed(&[end(7)]), (Some(7), None, 7));
    assert_eq!(resumed(&[end(7), change(9, 2)]), (Some(9), Some(2), 9));
    // Progress in the middle of an entry names the entry before it.
    let early = [end(7), change(9, 2), progress(8)];
    assert_eq!(resumed(&early), (Some(9), Some(2), 9));
    let caught_up = [end(7), change(9, 2), progress(12)];
    assert_eq!(resumed(&caught_up), (Some(12), None, 12));
}

#[test]
fn an_incomplete_snapshot_begins_again_and_is_not_older() {
    let begin = Event::SnapshotBegin(v1::WatchSnapshot { revision: 20 });
    let lost = Event::HistoryLost(v1::HistoryLost { oldest: 15 });
    let events = [
        change(9, 0),
        lost,
        begin,
        Event::Record(v1::WatchRecord::default()),
    ];
    assert_eq!(resumed(&events[..1]), (Some(9), Some(0), 9));
    assert_eq!(resumed(&events[..2]), (Some(9), Some(0), 9));
    assert_eq!(resumed(&events), (None, None, 9));
}

#[test]
fn the_revision_of_a_position_is_complete() {
    let mut position = WatchPosition::through(5);
    assert_eq!(position.revision(), Some(5));
    position.record(&change(9, 0));
    assert_eq!(position.revision(), Some(8));
    assert_eq!(WatchPosition::default().revision(), None);
}
