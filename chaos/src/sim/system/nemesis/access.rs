//! Rights that are taken for a while, and keys that are renewed.

use argosy_state::access::KeyHash;

use super::{Nemesis, SystemActiveFault};
use crate::history::FaultKind;
use crate::sim::run::Simulation;
use crate::sim::system::administrator::{AccessChange, ProbedRight};
use crate::sim::system::world::{agent_name, framework_name, master_name};

/// The key of a member before a renewal.
#[derive(Debug, Clone)]
pub(in crate::sim::system) struct FormerKey {
    pub(in crate::sim::system) host: String,
    pub(in crate::sim::system) key: KeyHash,
}

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

    /// Renews the key of a member, and revokes the former one later.
    pub(super) fn renew_key(&mut self, simulation: &Simulation<'_>) {
        let host = match self.rng.below(3) {
            0 => master_name(self.master()),
            1 => agent_name(self.below(self.world.machines.len())),
            _ => framework_name(self.below(self.frameworks)),
        };
        let former = SystemActiveFault::FormerKey(self.renew(host));
        self.lasting(simulation, former, 200, 4_000);
    }

    /// Renews the keys of all members, and returns the former ones.
    pub(in crate::sim::system) fn renew_keys(&self) -> Vec<FormerKey> {
        let masters = self.members().into_iter().map(master_name);
        let agents = (0..self.world.machines.len()).map(agent_name);
        let frameworks = (0..self.frameworks).map(framework_name);
        let members = masters.chain(agents).chain(frameworks);
        members.map(|host| self.renew(host)).collect()
    }

    fn renew(&self, host: String) -> FormerKey {
        self.note(FaultKind::CertificateRenewal, &host, "");
        let key = self.world.keys.renew(&host);
        FormerKey { host, key }
    }

    /// Lets the administrator revoke a former key.
    pub(in crate::sim::system) fn revoke(&self, former: &FormerKey) {
        // Without rules there is no administrator.
        if self.world.enforces_access {
            self.note(FaultKind::KeyRevocation, &former.host, "former key");
            let change = AccessChange::RevokeKey(former.key);
            self.world.state().access.requests.push_back(change);
        }
    }
}
