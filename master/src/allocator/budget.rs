//! One turn of the allocator: what it sees, what it may spend, what comes out.

use std::sync::Arc;

use argosy_state::Registry;
use argosy_state::command::Promise;
use argosy_state::ids::{FrameworkId, Role, Timestamp};

use super::eligibility::Demand;
use crate::offers::OfferBook;

/// How much one turn may do, in steps of about a microsecond each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget(pub usize);

impl Budget {
    /// For the leader's loop: some 500 offers, within its bound of 5 ms a turn when they are signed
    /// and encoded too.
    pub const TURN: Self = Self(1_000);
    /// What is left of a turn after so many steps of timers and heartbeats, and so many orders to agents. An offer that is
    /// signed and encoded takes about as long as an order, and seven times as long as a heartbeat.
    pub(crate) fn after(ticked: usize, ordered: usize) -> Self {
        let Self(steps) = Self::TURN;
        Self(steps.saturating_sub(ticked / 2 + ordered * 2).max(1))
    }

    /// For whoever has all the time there is.
    pub const UNBOUNDED: Self = Self(usize::MAX);
}

/// What a turn has decided. The offers are open in the book already: they are to be signed and sent.
#[derive(Debug, Default)]
pub struct Round {
    /// Withdrawn because one of `offers` contains them: these events are sent first.
    pub joined: Vec<Arc<Promise>>,
    /// In the order in which they were made.
    pub offers: Vec<Arc<Promise>>,
    /// Clients for which a pass over all agents has found nothing, each said once until it is
    /// offered something, a few a turn; [`super::Allocator::explain`] says why.
    pub unmet: Vec<(FrameworkId, Role)>,
    /// The budget is spent and there is more to do: call again after other work had its turn.
    pub more: bool,
    /// Full rounds begun in this reign.
    pub serial: u64,
}

/// The facts of a turn and what is left of its budget.
pub(super) struct Turn<'a> {
    pub(super) registry: &'a Registry,
    pub(super) demand: Demand<'a>,
    pub(super) now: Timestamp,
    pub(super) book: &'a mut OfferBook,
    pub(super) left: usize,
    pub(super) joined: Vec<Arc<Promise>>,
    pub(super) offers: Vec<Arc<Promise>>,
    pub(super) unmet: Vec<(FrameworkId, Role)>,
}

impl Turn<'_> {
    pub(super) fn spend(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.left == 0
    }
}
