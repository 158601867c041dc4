//! One turn of the allocator: its input, its budget and its result.

use std::sync::Arc;

use argosy_state::Registry;
use argosy_state::command::OfferTerms;
use argosy_state::ids::{FrameworkId, Role, Timestamp};

use super::eligibility::LinkStates;
use crate::offers::OfferBook;

/// The work that one turn may do, in steps of about a microsecond each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnBudget(pub usize);

impl TurnBudget {
    /// The budget of the leader's loop: about 500 offers, within the bound of 5 ms for a turn that
    /// also signs and encodes them.
    pub const TURN: Self = Self(1_000);
    /// Returns the budget that a turn has left after `ticked` steps of timers and heartbeats and
    /// `ordered` orders to agents. Signing and encoding an offer takes about as long as an order,
    /// and seven times as long as a heartbeat.
    pub(crate) fn after(ticked: usize, ordered: usize) -> Self {
        let Self(steps) = Self::TURN;
        Self(steps.saturating_sub(ticked / 2 + ordered * 2).max(1))
    }

    /// The budget of a caller without a time limit.
    pub const UNBOUNDED: Self = Self(usize::MAX);
}

/// The decisions of one turn. The offers are already open in the book and remain to be signed and
/// sent.
#[derive(Debug, Default)]
pub struct AllocationRound {
    /// Offers that are withdrawn because one of `offers` contains them. These events are sent
    /// first.
    pub joined: Vec<Arc<OfferTerms>>,
    /// New offers, in the order in which they were made.
    pub offers: Vec<Arc<OfferTerms>>,
    /// Clients for which a pass over all agents has found nothing. Each is reported once until it
    /// is offered something, a few in each turn; [`super::Allocator::explain`] gives the reasons.
    pub unmet: Vec<(FrameworkId, Role)>,
    /// Whether the budget is spent and work is left: call again after other work has had its turn.
    pub more: bool,
    /// Full rounds that began in this epoch.
    pub serial: u64,
}

/// The facts of one turn and the rest of its budget.
pub(super) struct AllocationTurn<'a> {
    pub(super) registry: &'a Registry,
    pub(super) links: LinkStates<'a>,
    pub(super) now: Timestamp,
    pub(super) book: &'a mut OfferBook,
    pub(super) steps_left: usize,
    pub(super) joined: Vec<Arc<OfferTerms>>,
    pub(super) offers: Vec<Arc<OfferTerms>>,
    pub(super) unmet: Vec<(FrameworkId, Role)>,
}

impl AllocationTurn<'_> {
    pub(super) fn spend(&mut self, steps: usize) {
        self.steps_left = self.steps_left.saturating_sub(steps);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.steps_left == 0
    }
}
