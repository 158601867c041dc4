//! Waiting calls, in the order in which they are served: accounts take turns.
//!
//! Accounts share by cost: deficit round robin (M. Shreedhar, G. Varghese, SIGCOMM 1995). A turn
//! adds [`QUANTUM`] to what the account may use, and what it does not use it keeps for its next
//! turn, as long as it has calls waiting. So between two accounts that always wait, the difference
//! in served cost is bounded by a quantum and twice the most expensive call.
//!
//! An order alone is not enough, because a served call then waits in the log, with all that were
//! served before it. So each account has a bounded number of places there. As long as only one
//! account calls, it may have [`PLACES_ALONE`]. Otherwise all share [`PLACES_SHARED`] by max-min
//! fairness: an account that needs fewer than its share leaves the rest to the others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The cost that one turn adds, in units of [`crate::turns::work`]: about 0.3 ms.
pub(super) const QUANTUM: u32 = 256;
/// The maximum cost of one call; a call that costs more counts as this.
pub(super) const MAX_COST: u32 = 4_096;
/// Calls in the log at a time while only one account calls: more do not increase the throughput.
const PLACES_ALONE: u32 = 1_024;
/// Calls in the log at a time of all accounts, if several call. A group of masters commits about as
/// much with 256 calls in flight as with more, and each call waits behind fewer others.
const PLACES_SHARED: u32 = 256;
/// The minimum places of an account, however many accounts there are.
const MIN_PLACES: u32 = 4;

/// The bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueBounds {
    /// Maximum number of waiting calls of one account; further ones are refused.
    pub(super) of_account: usize,
    /// Maximum number of waiting calls. Beyond it, the newest call of the account with the most
    /// calls is refused.
    pub(super) total: usize,
    /// Maximum bytes of the waiting calls of one account; further ones are refused.
    pub(super) bytes_of_account: usize,
    /// Maximum bytes of all waiting calls. Beyond it, the newest calls of the account with the most
    /// bytes are refused.
    pub(super) bytes_total: usize,
}

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A call: it may be refused, and holds a place until it is answered.
    Call,
    /// The start of a stream: it may be refused when it is added, and holds no place.
    Stream,
    /// The end of a stream whose start was queued. It is never refused: there is at most one for
    /// each stream.
    End,
}

/// The place of a call that is being served; released when it is dropped.
#[derive(Debug)]
pub(crate) struct CallPlace(Arc<AtomicU32>);

impl CallPlace {
    fn take(places: &Arc<AtomicU32>) -> Self {
        places.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(places))
    }
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct QueuedEntry<T> {
    cost: u32,
    bytes: usize,
    kind: EntryKind,
    entry: T,
}

/// An account with waiting calls, or with calls in the last seconds.
#[derive(Debug)]
struct AccountQueue<T> {
    waiting: VecDeque<QueuedEntry<T>>,
    /// The bytes of the waiting entries.
    bytes: usize,
    /// The cost that it may still use in its turn.
    deficit: u32,
    places: Arc<AtomicU32>,
    /// The most places that it had since the last tick.
    peak: u32,
    /// The places that it needs, as of the last tick. It decays over some ticks.
    demand: u32,
}

impl<T> Default for AccountQueue<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            deficit: 0,
            places: Arc::default(),
            peak: 0,
            demand: 0,
        }
    }
}

impl<T> AccountQueue<T> {
    fn places(&self) -> u32 {
        self.places.load(Ordering::Relaxed)
    }

    /// Returns whether the places of the account allow its first entry to be served.
    fn has_place(&self, share: u32) -> bool {
        let first = self.waiting.front();
        first.is_some_and(|first| first.kind != EntryKind::Call) || self.places() < share
    }
}

/// The waiting calls of all accounts. `K` identifies an account.
#[derive(Debug)]
pub(super) struct FairQueue<K, T> {
    bounds: QueueBounds,
    accounts: BTreeMap<K, AccountQueue<T>>,
    /// The accounts with waiting calls, in the order of their turns.
    turns: VecDeque<K>,
    waiting: usize,
    /// The bytes of all waiting entries.
    bytes: usize,
    /// The places that each account may have.
    share: u32,
}

impl<K: Ord + Clone, T> FairQueue<K, T> {
    pub(super) fn new(bounds: QueueBounds) -> Self {
        Self {
            bounds,
            accounts: BTreeMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            bytes: 0,
            share: PLACES_ALONE,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns the number of known accounts.
    pub(super) fn accounts(&self) -> usize {
        self.accounts.len()
    }

    pub(super) fn knows(&self, account: &K) -> bool {
        self.accounts.contains_key(account)
    }

    /// Adds an entry of these bytes to the end of its account's queue. Returns the entries that are
    /// refused for it: this one, or the newest calls of the account with the most.
    pub(super) fn push(
        &mut self,
        account: &K,
        kind: EntryKind,
        (cost, bytes): (u32, usize),
        entry: T,
    ) -> Vec<T> {
        let is_bounded = kind != EntryKind::End;
        let queue = self.accounts.entry(account.clone()).or_default();
        let is_full = queue.waiting.len() >= self.bounds.of_account
            || queue.bytes.saturating_add(bytes) > self.bounds.bytes_of_account;
        if is_bounded && is_full {
            return vec![entry];
        }
        if queue.waiting.is_empty() {
            queue.deficit = QUANTUM;
            self.turns.push_back(account.clone());
        }
        queue.waiting.push_back(QueuedEntry {
            cost: cost.clamp(1, MAX_COST),
            bytes,
            kind,
            entry,
        });
        queue.bytes += bytes;
        // The ends of streams may be more than the bound allows.
        let most = self.bounds.total.max(self.waiting);
        self.waiting += 1;
        self.bytes += bytes;
        let mut refused = Vec::new();
        while is_bounded && (self.waiting > most || self.has_too_many_bytes()) {
            // Without a call to refuse there, it is the entry that was just added.
            let from = self.largest().unwrap_or_else(|| account.clone());
            refused.extend(self.pop_newest(&from));
            if from == *account {
                break;
            }
        }
        refused
    }

    fn has_too_many_bytes(&self) -> bool {
        self.bytes > self.bounds.bytes_total
    }

    /// Returns the account with the most of what the queue has too much of, if its newest entry is
    /// a call.
    fn largest(&self) -> Option<K> {
        let accounts = self.accounts.iter();
        let (account, queue) = match self.has_too_many_bytes() {
            true => accounts.max_by_key(|(_, queue)| queue.bytes)?,
            false => accounts.max_by_key(|(_, queue)| queue.waiting.len())?,
        };
        let newest = queue.waiting.back()?;
        (newest.kind == EntryKind::Call).then(|| account.clone())
    }

    /// Removes the newest entry of an account.
    fn pop_newest(&mut self, account: &K) -> Option<T> {
        let queue = self.accounts.get_mut(account)?;
        let newest = queue.waiting.pop_back()?;
        queue.bytes -= newest.bytes;
        self.bytes -= newest.bytes;
        self.waiting -= 1;
        if queue.waiting.is_empty() {
            self.turns.retain(|one| one != account);
        }
        Some(newest.entry)
    }

    /// Takes the next entry that may be served, and the place of a call.
    pub(super) fn take(&mut self) -> Option<(T, Option<CallPlace>)> {
        // The number of accounts in a row that have no place.
        let mut passed = 0;
        while passed < self.turns.len() {
            let account = self.turns.front()?;
            let queue = self.accounts.get_mut(account)?;
            let cost = queue.waiting.front().map_or(0, |first| first.cost);
            if !queue.has_place(self.share) {
                self.turns.rotate_left(1);
                passed += 1;
            } else if queue.deficit < cost {
                queue.deficit += QUANTUM;
                self.turns.rotate_left(1);
                passed = 0;
            } else {
                let first = queue.waiting.pop_front()?;
                queue.deficit -= cost;
                queue.bytes -= first.bytes;
                self.bytes -= first.bytes;
                self.waiting -= 1;
                let place = (first.kind == EntryKind::Call).then(|| {
                    let place = CallPlace::take(&queue.places);
                    queue.peak = queue.peak.max(queue.places());
                    place
                });
                if queue.waiting.is_empty() {
                    queue.deficit = 0;
                    self.turns.pop_front();
                }
                return Some((first.entry, place));
            }
        }
        None
    }

    /// Computes the share of each account from what all have needed. Accounts without calls are
    /// forgotten after some ticks.
    pub(super) fn tick(&mut self) {
        for queue in self.accounts.values_mut() {
            let needed = match queue.waiting.is_empty() {
                true => queue.peak.max(queue.demand - queue.demand.div_ceil(8)),
                // It needs more places than it has.
                false => PLACES_ALONE,
            };
            queue.demand = needed;
            queue.peak = queue.places();
        }
        self.accounts
            .retain(|_, queue| queue.demand > 0 || queue.places() > 0);
        let demands = self.accounts.values().map(|queue| queue.demand);
        self.share = share(demands.collect());
    }
}

/// Returns the largest share with which accounts of these demands have at most [`PLACES_SHARED`]
/// together.
fn share(mut demands: Vec<u32>) -> u32 {
    if demands.len() <= 1 {
        return PLACES_ALONE;
    }
    demands.sort_unstable();
    let mut left = PLACES_SHARED;
    let mut sharers = u32::try_from(demands.len()).unwrap_or(u32::MAX);
    for demand in demands {
        let each = left / sharers;
        if demand >= each {
            return each.max(MIN_PLACES);
        }
        left -= demand;
        sharers -= 1;
    }
    // The sum of all demands is below the number of places: no call has to wait.
    PLACES_ALONE
}

#[cfg(test)]
mod tests;
