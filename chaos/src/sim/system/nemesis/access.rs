//! Rights that are taken for a while.

use super::{Nemesis, SystemActiveFault};
use crate::history::FaultKind;
use crate::sim::run::Simulation;
use crate::sim::system::administrator::{AccessChange, ProbedRight};

impl Nemesis {
    /// Lets the administrator deny a right, or revoke a token, and give it back later.
    pub(super) fn take_right(&mut self, simulation: &Simulation<'_>) {
        if !self.world.enforces_access {
            return;
        }
        let (taken, given) = match self.rng.below(3) {
            0 => AccessChange::denial(ProbedRight::SetAttribute),
            1 => AccessChange::denial(ProbedRight::ViewAgent),
            _ => (AccessChange::RevokeToken, AccessChange::CreateToken),
        };
        self.note(FaultKind::RuleChange, "*", &format!("{taken:?}"));
        self.world.state().access.requests.push_back(taken);
        let right = SystemActiveFault::RightTaken(given);
        self.lasting(simulation, right, 200, 4_000);
    }
}
