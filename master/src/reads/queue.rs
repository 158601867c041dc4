//! The line of reads: their order, and the part of the budget that each connection holds.
//!
//! Connections share by cost: weighted fair queueing (A. Demers, S. Keshav, S. Shenker, SIGCOMM
//! 1989). The tag of a read is its start plus its cost, and the smallest tag is served first. A
//! read starts at its connection's last tag, or at the clock if its connection was idle. The clock
//! advances by the cost of served reads, divided by the number of waiting connections. So a
//! connection without state, such as an idle one, has neither debts nor savings.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// A connection, by the address and port of its peer; `None` if they are unknown.
pub(super) type ConnectionKey = Option<SocketAddr>;

/// Costs are counted in this fraction of a unit, so that they can be divided by the number of
/// connections.
const COST: u64 = 1 << 10;

/// Resources that may be held at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadCapacity {
    pub(super) units: usize,
    pub(super) builders: usize,
}

#[derive(Debug)]
struct WaitingRead<W> {
    serial: u64,
    units: usize,
    cost: u64,
    waiter: W,
}

/// A connection that waits or holds something.
#[derive(Debug)]
struct ConnectionQueue<W> {
    held: ReadCapacity,
    queue: VecDeque<WaitingRead<W>>,
    /// The start of the first read in the queue.
    start: u64,
    /// Its position in the order, while it waits.
    position: Option<(u64, u64)>,
}

/// The read that is served next.
#[derive(Debug)]
pub(super) struct NextRead<W> {
    pub(super) caller: ConnectionKey,
    pub(super) units: usize,
    pub(super) waiter: W,
}

#[derive(Debug)]
pub(super) struct FairReadQueue<W> {
    free: ReadCapacity,
    /// Maximum that one connection may hold. A connection that holds nothing may take any one read.
    each: ReadCapacity,
    /// Units that are reserved for small reads: those of at most a third of it.
    reserved: usize,
    max_waiting: usize,
    /// The cost that a permanently waiting connection would have received.
    virtual_time: u64,
    last_serial: u64,
    waiting: usize,
    connections: BTreeMap<ConnectionKey, ConnectionQueue<W>>,
    /// Waiting connections, by the tag and number of their first read.
    order: BTreeSet<(u64, u64, ConnectionKey)>,
}

impl<W> FairReadQueue<W> {
    /// Creates a line of at most `longest` waiting reads.
    pub(super) fn new(free: ReadCapacity, each: ReadCapacity, kept: usize, longest: usize) -> Self {
        Self {
            free,
            each,
            reserved: kept,
            max_waiting: longest,
            virtual_time: 0,
            last_serial: 0,
            waiting: 0,
            connections: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }

    pub(super) fn free(&self) -> ReadCapacity {
        self.free
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Adds a read to the end of its connection's queue. Returns its number.
    pub(super) fn push(
        &mut self,
        caller: ConnectionKey,
        units: usize,
        cost: usize,
        waiter: W,
    ) -> u64 {
        self.last_serial += 1;
        self.waiting += 1;
        let connection = self.connections.entry(caller).or_insert(ConnectionQueue {
            held: ReadCapacity::NONE,
            queue: VecDeque::new(),
            start: self.virtual_time,
            position: None,
        });
        if connection.queue.is_empty() {
            connection.start = self.virtual_time;
        }
        connection.queue.push_back(WaitingRead {
            serial: self.last_serial,
            units,
            cost: cost as u64 * COST,
            waiter,
        });
        self.update_position(caller);
        self.last_serial
    }

    /// Takes the next read for which there is room.
    ///
    /// A connection that holds its share is skipped. Other reads wait for the first one, regardless
    /// of its size, except small ones, which have reserved room.
    pub(super) fn next(&mut self) -> Option<NextRead<W>> {
        if self.free.builders == 0 {
            return None;
        }
        let mut only_small = false;
        let (tag, caller) = self.order.iter().find_map(|&(tag, _, caller)| {
            let connection = &self.connections[&caller];
            let units = connection.queue[0].units;
            let is_small = units <= self.reserved / 3;
            if !connection.can_take(units, self.each) || (only_small && !is_small) {
                return None;
            }
            let others = if is_small { 0 } else { self.reserved };
            let fits = units + others <= self.free.units;
            only_small |= !fits;
            fits.then_some((tag, caller))
        })?;
        let sharers = self.order.len() as u64;
        let connection = self.connections.get_mut(&caller)?;
        let read = connection.queue.pop_front()?;
        connection.start = tag;
        connection.held.units += read.units;
        connection.held.builders += 1;
        self.virtual_time += read.cost / sharers;
        self.free.units -= read.units;
        self.free.builders -= 1;
        self.waiting -= 1;
        self.update_position(caller);
        Some(NextRead {
            caller,
            units: read.units,
            waiter: read.waiter,
        })
    }

    /// Removes a read from a line that is too long: the newest of the connection with the most
    /// reads.
    pub(super) fn overflow(&mut self) -> Option<W> {
        if self.waiting <= self.max_waiting {
            return None;
        }
        let most = self.order.iter().map(|(_, _, caller)| caller);
        let caller = *most.max_by_key(|caller| self.connections[caller].queue.len())?;
        let read = self.connections.get_mut(&caller)?.queue.pop_back()?;
        self.waiting -= 1;
        self.update_position(caller);
        Some(read.waiter)
    }

    /// Removes a read that no longer waits, if it is still in line.
    pub(super) fn remove(&mut self, caller: ConnectionKey, serial: u64) {
        let Some(connection) = self.connections.get_mut(&caller) else {
            return;
        };
        let before = connection.queue.len();
        connection.queue.retain(|read| read.serial != serial);
        self.waiting -= before - connection.queue.len();
        self.update_position(caller);
    }

    /// Returns the room that a connection held.
    pub(super) fn release(&mut self, caller: ConnectionKey, room: ReadCapacity) {
        self.free.units += room.units;
        self.free.builders += room.builders;
        if let Some(connection) = self.connections.get_mut(&caller) {
            connection.held.units -= room.units;
            connection.held.builders -= room.builders;
        }
        self.forget_if_idle(caller);
    }

    /// Takes more units for a read that is being served, if there is room.
    pub(super) fn grow(&mut self, caller: ConnectionKey, units: usize) -> bool {
        let Some(connection) = self.connections.get_mut(&caller) else {
            return false;
        };
        let is_room = units <= self.free.units;
        if is_room {
            self.free.units -= units;
            connection.held.units += units;
        }
        is_room
    }

    /// Orders a connection by its first read.
    fn update_position(&mut self, caller: ConnectionKey) {
        if let Some(connection) = self.connections.get_mut(&caller) {
            let head = connection.queue.front();
            let place = head.map(|read| (connection.start + read.cost, read.serial));
            if place != connection.position {
                if let Some((tag, serial)) = connection.position {
                    self.order.remove(&(tag, serial, caller));
                }
                if let Some((tag, serial)) = place {
                    self.order.insert((tag, serial, caller));
                }
                connection.position = place;
            }
        }
        self.forget_if_idle(caller);
    }

    fn forget_if_idle(&mut self, caller: ConnectionKey) {
        let connection = self.connections.get(&caller);
        if connection
            .is_some_and(|known| known.queue.is_empty() && known.held == ReadCapacity::NONE)
        {
            self.connections.remove(&caller);
        }
    }
}

impl ReadCapacity {
    const NONE: Self = Self {
        units: 0,
        builders: 0,
    };
}

impl<W> ConnectionQueue<W> {
    fn can_take(&self, units: usize, each: ReadCapacity) -> bool {
        self.held.units == 0
            || (self.held.units + units <= each.units && self.held.builders < each.builders)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 3_000;
    /// The room that one page holds.
    const ONE_PAGE: ReadCapacity = ReadCapacity {
        units: PAGE,
        builders: 1,
    };

    fn caller(number: u16) -> ConnectionKey {
        Some(SocketAddr::from(([10, 0, 0, 1], number)))
    }

    fn line(units: usize, builders: usize, longest: usize) -> FairReadQueue<u32> {
        let room = ReadCapacity { units, builders };
        let each = ReadCapacity {
            units: 2 * PAGE,
            builders: 2,
        };
        FairReadQueue::new(room, each, 0, longest)
    }

    /// Serves one read after another to its end. Returns the names in order.
    fn serve(line: &mut FairReadQueue<u32>, reads: usize) -> Vec<u32> {
        let served = (0..reads).map_while(|_| {
            let turn = line.next()?;
            let room = ReadCapacity {
                units: turn.units,
                builders: 1,
            };
            line.release(turn.caller, room);
            Some(turn.waiter)
        });
        served.collect()
    }

    #[test]
    fn small_read_of_an_idle_connection_goes_first() {
        let mut line = line(PAGE, 1, 10_000);
        for at in 0..200 {
            for _ in 0..20 {
                line.push(caller(at), PAGE, PAGE, u32::from(at));
            }
        }
        serve(&mut line, 500);
        line.push(caller(999), 100, 16, 999);
        let next = serve(&mut line, 3);
        assert!(next.contains(&999), "{next:?}");
    }

    #[test]
    fn connections_get_equal_shares_regardless_of_demand() {
        let mut line = line(PAGE, 1, 10_000);
        for _ in 0..100 {
            line.push(caller(1), PAGE, PAGE, 1);
        }
        for _ in 0..10 {
            line.push(caller(2), PAGE, PAGE, 2);
            line.push(caller(3), PAGE / 2, PAGE / 2, 3);
        }
        let served = serve(&mut line, 20);
        let of = |name| served.iter().filter(|one| **one == name).count();
        assert_eq!((of(1), of(2), of(3)), (5, 5, 10), "{served:?}");
        // The rest of one connection has the line for itself.
        assert_eq!(serve(&mut line, 1_000).len(), 100);
    }

    #[test]
    fn idle_connection_gains_no_credit() {
        let mut line = line(PAGE, 1, 10_000);
        for _ in 0..50 {
            line.push(caller(1), PAGE, PAGE, 1);
        }
        serve(&mut line, 40);
        for _ in 0..10 {
            line.push(caller(2), PAGE, PAGE, 2);
        }
        let served = serve(&mut line, 10);
        let of_first = served.iter().filter(|one| **one == 1).count();
        assert_eq!(of_first, 5, "{served:?}");
    }

    #[test]
    fn full_queue_drops_the_newest_read_of_the_largest_connection() {
        let mut line = line(PAGE, 1, 4);
        for name in 0..4 {
            line.push(caller(1), PAGE, PAGE, name);
        }
        assert_eq!(line.overflow(), None);
        line.push(caller(2), PAGE, PAGE, 9);
        assert_eq!(line.overflow(), Some(3));
        assert_eq!((line.overflow(), line.waiting()), (None, 4));
        // If its connection has as many reads as any other, the new read itself is rejected.
        line.push(caller(1), PAGE, PAGE, 5);
        assert_eq!(line.overflow(), Some(5));
        assert_eq!(serve(&mut line, 10), [0, 9, 1, 2]);
    }

    #[test]
    fn connection_at_its_share_is_skipped() {
        let mut line = line(100 * PAGE, 100, 100);
        for name in 0..5 {
            line.push(caller(1), PAGE, PAGE, name);
        }
        line.push(caller(2), 50 * PAGE, 50 * PAGE, 9);
        // Two pages each; but any one read of a connection that holds nothing.
        let turns: Vec<_> = std::iter::from_fn(|| line.next()).collect();
        let names: Vec<_> = turns.iter().map(|turn| turn.waiter).collect();
        assert_eq!(names, [0, 1, 9]);
        assert_eq!(line.waiting(), 3);
        line.release(caller(1), ONE_PAGE);
        assert_eq!(line.next().map(|turn| turn.waiter), Some(2));
    }

    #[test]
    fn large_read_is_not_overtaken_for_lack_of_room() {
        let mut line = line(2 * PAGE, 10, 100);
        line.push(caller(1), PAGE, PAGE, 1);
        assert_eq!(line.next().map(|turn| turn.waiter), Some(1));
        line.push(caller(2), 2 * PAGE, 10, 2);
        line.push(caller(3), 10, 20, 3);
        assert!(line.next().is_none());
        line.release(caller(1), ONE_PAGE);
        assert_eq!(line.next().map(|turn| turn.waiter), Some(2));
    }

    #[test]
    fn small_reads_have_room_although_large_answers_hold_the_rest() {
        let room = ReadCapacity {
            units: 3 * PAGE,
            builders: 10,
        };
        let mut line = FairReadQueue::new(room, room, PAGE, 100);
        for at in 1..=4 {
            line.push(caller(at), PAGE, PAGE, u32::from(at));
        }
        for at in 5..=6 {
            line.push(caller(at), PAGE / 3, PAGE / 3, u32::from(at));
        }
        let turns: Vec<_> = std::iter::from_fn(|| line.next()).collect();
        let names: Vec<_> = turns.iter().map(|turn| turn.waiter).collect();
        assert_eq!(names, [5, 6, 1]);
        line.push(caller(7), PAGE / 3, PAGE / 3, 7);
        assert_eq!(line.next().map(|turn| turn.waiter), Some(7));
        assert!(line.next().is_none());
        let small = ReadCapacity {
            units: PAGE / 3,
            builders: 1,
        };
        for at in 5..=7 {
            line.release(caller(at), small);
        }
        assert_eq!(line.next().map(|turn| turn.waiter), Some(2));
    }

    #[test]
    fn empty_queue_is_reset() {
        let mut line = line(4 * PAGE, 3, 100);
        let free = line.free();
        let first = line.push(caller(1), PAGE, PAGE, 1);
        let second = line.push(caller(1), PAGE, PAGE, 2);
        line.remove(caller(1), first);
        line.remove(caller(7), 99);
        assert_eq!(line.waiting(), 1);
        let turn = line.next().unwrap();
        assert_eq!(turn.waiter, 2);
        // It was served before it left.
        line.remove(caller(1), second);
        assert!(line.grow(caller(1), PAGE));
        assert!(!line.grow(caller(1), 3 * PAGE));
        let all = ReadCapacity {
            units: 2 * PAGE,
            builders: 1,
        };
        line.release(caller(1), all);
        assert_eq!((line.free(), line.waiting()), (free, 0));
        assert!(line.connections.is_empty() && line.order.is_empty());
    }
}
