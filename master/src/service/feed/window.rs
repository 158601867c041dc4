//! The newest encoded changes, shared by all subscribers.
//!
//! A pure structure. It covers the log indexes after its floor up to its head; a subscriber has a
//! cursor in it, and no queue. Older changes are prepended when a subscriber needs them, and the
//! oldest ones are dropped at a bound.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use argosy_state::ids::Revision;

use super::event::FeedEvent;
use super::subject::Subject;

/// Maximum cost of all events of a window.
pub(super) const WINDOW_BYTES: usize = 96 << 20;
/// Maximum cost of older changes that are prepended together. A subscriber that needs more gets a
/// snapshot.
pub(super) const CATCH_UP_BYTES: usize = WINDOW_BYTES / 2;
/// Maximum cost of the events that are kept while no older ones are prepended: there is always room
/// for older ones. A reader may be 4 MiB behind, which are 32 MiB of the cost.
pub(super) const KEPT_BYTES: usize = 40 << 20;
const _: () = assert!(KEPT_BYTES + CATCH_UP_BYTES < WINDOW_BYTES);
/// Memory of an event in addition to its bytes.
const OVERHEAD: usize = 384;
/// An event may be kept as a change and as a removal, each in two forms: protobuf, and text of up
/// to three times that size.
const FORMS: usize = 8;
/// Maximum number of events that a subscriber takes at a time.
const TAKEN_EVENTS: usize = 256;
/// Maximum bytes of these events, unless a single one has more.
const TAKEN_BYTES: usize = 256 << 10;

/// Returns the cursor of a subscriber that has everything up to a log index.
pub(super) const fn through(index: u64) -> Revision {
    Revision {
        index,
        position: u32::MAX,
    }
}

/// Returns the log index up to which a subscriber with this cursor has every change.
pub(super) const fn complete_index(cursor: Revision) -> u64 {
    match cursor.position {
        u32::MAX => cursor.index,
        _ => cursor.index.saturating_sub(1),
    }
}

pub(super) fn cost(event: &FeedEvent) -> usize {
    FORMS * event.len() + OVERHEAD
}

/// Events of consecutive log indexes, ascending by revision; each subject once, but the removal of
/// a former task of the same id is a separate event. Never empty.
#[derive(Debug)]
struct Batch {
    /// Each event with the offset of its end among the bytes of all events.
    events: Vec<(Arc<FeedEvent>, i64)>,
    cost: usize,
}

impl Batch {
    fn new(events: Vec<FeedEvent>, mut offset: i64) -> Self {
        let cost = events.iter().map(cost).sum();
        let events = events.into_iter().map(|event| {
            offset += length(&event);
            (Arc::new(event), offset)
        });
        Self {
            events: events.collect(),
            cost,
        }
    }

    fn newest(&self) -> Revision {
        self.events
            .last()
            .map_or(through(0), |(event, _)| event.revision)
    }

    /// Returns the events after a cursor. A search, because a large batch is taken in many parts
    /// while the window is locked.
    fn after(&self, cursor: Revision) -> &[(Arc<FeedEvent>, i64)] {
        let events = &self.events;
        let first = events.partition_point(|(event, _)| event.revision <= cursor);
        &events[first..]
    }
}

fn length(event: &FeedEvent) -> i64 {
    i64::try_from(event.len()).unwrap_or(i64::MAX / 4)
}

#[derive(Debug, Default)]
pub(super) struct Window {
    batches: VecDeque<Batch>,
    /// Everything after this log index is here; `None` while there are no subscribers.
    floor: Option<u64>,
    head: u64,
    /// The number of batches at the front that were prepended.
    prepended: usize,
    /// Subscribers that do not have everything up to this log index need a snapshot. It is 0 again
    /// when the floor rises, since more of the older changes may fit then.
    lost_before: u64,
    cost: usize,
    /// The offset of the end of the newest event. Offsets of prepended events may be negative.
    end: i64,
}

/// What a subscriber takes.
#[derive(Debug)]
pub(super) enum Taken {
    /// Events, and how many bytes of further events wait after them.
    Events {
        events: Vec<Arc<FeedEvent>>,
        behind: i64,
    },
    /// Nothing is missing up to this log index, which a cursor of another master may be after.
    CaughtUp(u64),
    /// Changes after this log index must be prepended first.
    Below(u64),
    /// The changes are not known any more. A reader with everything up to this index can continue.
    Lost(u64),
    /// The window is not filled yet.
    Inactive,
}

impl Window {
    /// Empties the window, which then begins after this log index.
    pub(super) fn begin(&mut self, index: u64) {
        self.batches.clear();
        (self.cost, self.prepended, self.lost_before) = (0, 0, 0);
        self.floor = Some(index);
        self.head = index;
    }

    /// Empties the window until it begins again.
    pub(super) fn end(&mut self) {
        self.begin(0);
        self.floor = None;
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    pub(super) fn floor(&self) -> Option<u64> {
        self.floor
    }

    /// Returns the offset of the newest event.
    pub(super) fn end_offset(&self) -> i64 {
        self.end
    }

    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Records that subscribers that do not have everything up to this index need a snapshot.
    pub(super) fn lose_before(&mut self, index: u64) {
        self.lost_before = self.lost_before.max(index);
    }

    /// Appends the changes up to log index `head`, ascending by revision.
    pub(super) fn append(&mut self, head: u64, events: Vec<FeedEvent>) {
        self.head = head;
        if events.is_empty() {
            return;
        }
        let batch = Batch::new(events, self.end);
        self.end = batch.events.last().map_or(self.end, |(_, end)| *end);
        self.cost += batch.cost;
        self.batches.push_back(batch);
        while self.cost > self.most()
            && let Some(oldest) = self.batches.pop_front()
        {
            self.cost -= oldest.cost;
            self.floor = Some(oldest.newest().index);
            self.prepended = self.prepended.saturating_sub(1);
            self.lost_before = 0;
        }
    }

    /// Returns the maximum cost of the events.
    fn most(&self) -> usize {
        match self.prepended {
            0 => KEPT_BYTES,
            _ => WINDOW_BYTES,
        }
    }

    /// Prepends changes after log index `after` up to the floor, ascending by revision. They must
    /// not contain a subject that [`Window::subjects`] contains.
    pub(super) fn prepend(&mut self, after: u64, events: Vec<FeedEvent>) {
        self.floor = Some(after);
        if events.is_empty() {
            return;
        }
        let first = self.batches.front().and_then(|batch| batch.events.first());
        let start = first.map_or(self.end, |(event, end)| end - length(event));
        let bytes: i64 = events.iter().map(length).sum();
        let batch = Batch::new(events, start - bytes);
        self.cost += batch.cost;
        self.prepended += 1;
        self.batches.push_front(batch);
    }

    /// Returns the subjects of all events. Their newest states are already here.
    pub(super) fn subjects(&self) -> HashSet<Subject> {
        let events = self.batches.iter().flat_map(|batch| &batch.events);
        events.map(|(event, _)| event.subject.clone()).collect()
    }

    /// Returns the next events of a subscriber with this cursor.
    pub(super) fn take(&self, cursor: Revision) -> Taken {
        let Some(floor) = self.floor else {
            return Taken::Inactive;
        };
        let complete = complete_index(cursor);
        if complete < floor {
            return match complete < self.lost_before {
                true => Taken::Lost(self.lost_before),
                false => Taken::Below(complete),
            };
        }
        let first = self
            .batches
            .partition_point(|batch| batch.newest() <= cursor);
        // All but the first of these batches are after the cursor as a whole.
        let mut batches = self.batches.range(first..);
        let begun = batches.next().map_or(&[][..], |batch| batch.after(cursor));
        let rest = begun.iter().chain(batches.flat_map(|batch| &batch.events));
        let (mut events, mut bytes, mut end) = (Vec::new(), 0, self.end);
        for (event, offset) in rest {
            events.push(Arc::clone(event));
            bytes += event.len();
            end = *offset;
            if events.len() == TAKEN_EVENTS || bytes >= TAKEN_BYTES {
                break;
            }
        }
        if events.is_empty() {
            return Taken::CaughtUp(self.head);
        }
        Taken::Events {
            events,
            behind: self.end - end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::tests::event;
    use super::*;

    /// Reads everything after a cursor; returns "index.position agent" of each event, and the log
    /// index up to which nothing is missing.
    fn read(window: &Window, mut cursor: Revision) -> (Vec<String>, u64) {
        let mut found = Vec::new();
        loop {
            match window.take(cursor) {
                Taken::Events { events, .. } => {
                    for event in events {
                        cursor = event.revision;
                        let Revision { index, position } = cursor;
                        found.push(format!("{index}.{position} {}", event.subject.id()));
                    }
                }
                Taken::CaughtUp(head) => return (found, head),
                other => panic!("{other:?}"),
            }
        }
    }

    fn at(index: u64, position: u32) -> Revision {
        Revision { index, position }
    }

    #[test]
    fn a_reader_continues_at_any_change_and_gets_each_later_one_once() {
        let mut window = Window::default();
        assert!(matches!(window.take(through(5)), Taken::Inactive));
        window.begin(5);
        window.append(
            7,
            vec![event(6, 1, 1, 9), event(7, 0, 2, 9), event(7, 3, 3, 9)],
        );
        window.append(8, Vec::new());
        window.append(9, vec![event(9, 0, 1, 9)]);
        let all = ["6.1 agent-1", "7.0 agent-2", "7.3 agent-3", "9.0 agent-1"];
        for (cursor, left) in [
            (through(5), 0),
            (at(6, 0), 0),
            (at(6, 1), 1),
            (through(6), 1),
            (at(7, 0), 2),
            (at(7, 2), 2),
            (through(7), 3),
            (at(9, 0), 4),
            (through(9), 4),
        ] {
            let (found, head) = read(&window, cursor);
            assert_eq!(
                (found, head),
                (
                    all[left..]
                        .iter()
                        .map(|event| (*event).to_owned())
                        .collect(),
                    9
                )
            );
        }
        // The middle of the entry at the floor is not here.
        assert!(matches!(window.take(at(5, 2)), Taken::Below(4)));
        // A reader that another master has brought further waits, also within an entry.
        for further in [through(20), at(20, 1)] {
            assert!(matches!(window.take(further), Taken::CaughtUp(9)));
        }
    }

    #[test]
    fn a_large_batch_is_taken_in_parts_without_gaps() {
        let mut window = Window::default();
        window.begin(0);
        let of = |index| (0..1_000).map(move |position| event(index, position, 1, 9));
        window.append(2, of(1).chain(of(2)).collect());
        window.append(3, of(3).collect());
        let all = (1..4).flat_map(|index| {
            (0..1_000).map(move |position| format!("{index}.{position} agent-1"))
        });
        let all: Vec<_> = all.collect();
        assert_eq!(read(&window, through(0)), (all.clone(), 3));
        assert_eq!(read(&window, at(2, 998)).0, all[1_999..]);
    }

    #[test]
    fn older_changes_are_prepended_and_lost_ones_are_reported() {
        let mut window = Window::default();
        window.begin(10);
        window.append(12, vec![event(12, 0, 1, 9)]);
        assert!(matches!(window.take(through(3)), Taken::Below(3)));
        assert_eq!(window.subjects().len(), 1);
        window.prepend(3, vec![event(4, 0, 2, 9), event(9, 0, 3, 9)]);
        let (found, _) = read(&window, through(3));
        assert_eq!(found, ["4.0 agent-2", "9.0 agent-3", "12.0 agent-1"]);
        assert_eq!(read(&window, at(4, 0)).0.len(), 2);
        let Taken::Events { behind, .. } = window.take(at(9, 0)) else {
            panic!("there is a newer event");
        };
        assert_eq!(behind, 0);
        window.lose_before(2);
        assert!(matches!(window.take(through(1)), Taken::Lost(2)));
        assert!(matches!(window.take(through(2)), Taken::Below(2)));
    }

    #[test]
    fn the_oldest_changes_are_dropped_at_the_bound() {
        const BYTES: usize = 1 << 20;
        let mut window = Window::default();
        window.begin(0);
        for index in 1..=100 {
            window.append(index, vec![event(index, 0, index, BYTES)]);
            assert!(window.cost() <= WINDOW_BYTES);
        }
        let floor = window.floor().unwrap();
        // An event costs 8 MiB and a little more.
        assert_eq!(floor, 96);
        assert!(matches!(window.take(through(floor - 1)), Taken::Below(_)));
        let (found, head) = read(&window, through(floor));
        assert_eq!((found.len() as u64, head), (100 - floor, 100));
        // What waits for a reader is counted in the bytes of the encoded events.
        let Taken::Events { events, behind } = window.take(through(floor)) else {
            panic!("there are events");
        };
        assert_eq!(events.len(), 1);
        let per_event = events[0].len() as i64;
        assert_eq!(behind / per_event, 99 - floor as i64);
        // An event beyond the bound leaves nothing.
        window.append(101, vec![event(101, 0, 1, WINDOW_BYTES)]);
        assert_eq!((window.cost(), window.floor()), (0, Some(101)));
        window.end();
        assert!(matches!(window.take(through(101)), Taken::Inactive));
    }
}
