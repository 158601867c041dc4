//! The search for an order. It takes the earliest call that may come next, remembers every tried
//! pair of taken calls and value, and goes back when it reaches the end of a call that was not
//! taken.

use std::collections::HashSet;
use std::time::Instant;

use super::Budget;
use super::register::{RegisterCall, RegisterOp};

/// The result of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchOutcome {
    /// An order exists.
    Linearizable,
    /// No order exists. The furthest attempt could not place this call.
    Impossible {
        /// The position of the call in the list.
        stuck: usize,
    },
    /// The budget was used up.
    Undecided,
}

/// Marks a missing position in the list.
const NONE: usize = usize::MAX;
/// Steps between two readings of the clock.
const STEPS_PER_CHECK: u64 = 4096;

/// Searches for an order of the calls on one register that is absent at the beginning.
#[must_use]
pub fn search(calls: &[RegisterCall<'_>], budget: Budget) -> SearchOutcome {
    let calls: Vec<(usize, RegisterCall<'_>)> = relevant_calls(calls);
    let mut search = Search::new(&calls);
    let mut steps = 0_u64;
    loop {
        steps += 1;
        let over = match budget {
            Budget::Steps(most) => steps > most,
            Budget::Deadline(end) => steps.is_multiple_of(STEPS_PER_CHECK) && Instant::now() >= end,
        };
        if over {
            return SearchOutcome::Undecided;
        }
        match search.step() {
            SearchStep::Advanced => {}
            SearchStep::Done => return SearchOutcome::Linearizable,
            SearchStep::Stuck => {
                let stuck = calls[search.stuck].0;
                return SearchOutcome::Impossible { stuck };
            }
        }
    }
}

/// Leaves out writes of unknown outcome whose value no read has found, if there are no conditional
/// ones: they can always come last. Each one that is kept would double the search.
fn relevant_calls<'a>(calls: &[RegisterCall<'a>]) -> Vec<(usize, RegisterCall<'a>)> {
    let swaps = calls
        .iter()
        .any(|call| matches!(call.action, RegisterOp::Swap { .. }));
    let found: HashSet<Option<&str>> = calls
        .iter()
        .filter_map(|call| match call.action {
            RegisterOp::Read(found) => Some(found),
            RegisterOp::Write(_) | RegisterOp::Swap { .. } => None,
        })
        .collect();
    let counts = |call: &RegisterCall<'_>| match call.action {
        RegisterOp::Write(value) => call.end.is_some() || swaps || found.contains(&value),
        RegisterOp::Read(_) | RegisterOp::Swap { .. } => true,
    };
    let numbered = calls.iter().copied().enumerate();
    numbered.filter(|(_, call)| counts(call)).collect()
}

/// The beginning or the end of a call.
#[derive(Debug, Clone, Copy)]
struct CallBoundary {
    call: usize,
    is_end: bool,
    previous: usize,
    next: usize,
}

enum SearchStep {
    Advanced,
    Done,
    Stuck,
}

struct Search<'a> {
    calls: &'a [(usize, RegisterCall<'a>)],
    /// All beginnings and ends in order, with those of taken calls unlinked. The first one is only
    /// the head.
    boundaries: Vec<CallBoundary>,
    /// The position of the end of each call.
    ends: Vec<usize>,
    /// The current position.
    position: usize,
    value: Option<&'a str>,
    linearized: Vec<u64>,
    /// Taken calls: their beginnings, and the value before each.
    path: Vec<(usize, Option<&'a str>)>,
    visited: HashSet<(Vec<u64>, Option<&'a str>)>,
    furthest: usize,
    stuck: usize,
}

impl<'a> Search<'a> {
    fn new(calls: &'a [(usize, RegisterCall<'a>)]) -> Self {
        let mut order: Vec<(usize, usize, bool)> = Vec::with_capacity(calls.len() * 2);
        for (number, (_, call)) in calls.iter().enumerate() {
            order.push((call.start, number, false));
            order.push((call.end.unwrap_or(NONE), number, true));
        }
        order.sort_unstable();
        let mut marks = vec![CallBoundary {
            call: NONE,
            is_end: false,
            previous: NONE,
            next: if calls.is_empty() { NONE } else { 1 },
        }];
        let mut ends = vec![NONE; calls.len()];
        let last = order.len();
        for (place, (_, call, is_end)) in order.into_iter().enumerate() {
            let here = place + 1;
            if is_end {
                ends[call] = here;
            }
            marks.push(CallBoundary {
                call,
                is_end,
                previous: here - 1,
                next: if here == last { NONE } else { here + 1 },
            });
        }
        Self {
            calls,
            position: marks[0].next,
            boundaries: marks,
            ends,
            value: None,
            linearized: vec![0; calls.len().div_ceil(64)],
            path: Vec::new(),
            visited: HashSet::new(),
            furthest: 0,
            stuck: 0,
        }
    }

    fn step(&mut self) -> SearchStep {
        if self.boundaries[0].next == NONE {
            return SearchStep::Done;
        }
        let boundary = self.boundaries[self.position];
        if boundary.is_end {
            // This call had to be taken before here.
            if self.path.len() >= self.furthest {
                self.furthest = self.path.len();
                self.stuck = boundary.call;
            }
            return self.backtrack();
        }
        let (_, call) = self.calls[boundary.call];
        if let Some(after) = call.action.apply(self.value) {
            self.toggle(boundary.call);
            if self.visited.insert((self.linearized.clone(), after)) {
                self.path.push((self.position, self.value));
                self.value = after;
                self.unlink(self.position, self.ends[boundary.call]);
                self.position = self.boundaries[0].next;
                return SearchStep::Advanced;
            }
            self.toggle(boundary.call);
        }
        self.position = boundary.next;
        SearchStep::Advanced
    }

    fn backtrack(&mut self) -> SearchStep {
        let Some((beginning, value)) = self.path.pop() else {
            return SearchStep::Stuck;
        };
        let call = self.boundaries[beginning].call;
        self.value = value;
        self.toggle(call);
        self.link(beginning, self.ends[call]);
        self.position = self.boundaries[beginning].next;
        SearchStep::Advanced
    }

    fn toggle(&mut self, call: usize) {
        self.linearized[call / 64] ^= 1 << (call % 64);
    }

    fn unlink(&mut self, beginning: usize, end: usize) {
        for place in [beginning, end] {
            let CallBoundary { previous, next, .. } = self.boundaries[place];
            self.boundaries[previous].next = next;
            if next != NONE {
                self.boundaries[next].previous = previous;
            }
        }
    }

    /// Undoes `unlink`, in the opposite order.
    fn link(&mut self, beginning: usize, end: usize) {
        for place in [end, beginning] {
            let CallBoundary { previous, next, .. } = self.boundaries[place];
            self.boundaries[previous].next = place;
            if next != NONE {
                self.boundaries[next].previous = place;
            }
        }
    }
}
