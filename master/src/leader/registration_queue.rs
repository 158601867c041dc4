//! Registrations in flight in the log: a bounded number, with the other agents in line.
//!
//! After very many hosts start at the same time, all their agents send a hello. Each agent times
//! out after some seconds and sends it again. A proposed registration costs the log, whether its
//! link still exists or not. A registration in line costs nothing once its link is closed, so that
//! the masters spend their time on agents that still wait.

use std::collections::BTreeSet;

use argosy_state::command::{Command, FormerCluster, RegisterAgent};
use argosy_state::ids::ClusterId;

use super::agents::LinkStage;
use super::{Hello, Leader, ProposalOrigin};
use crate::links::LinkId;

/// Maximum number of registrations in the log: less than a second of work.
pub(super) const REGISTRATIONS: usize = 1_024;

/// The number of registrations in the log, and the links in line. A link is in line at most once,
/// so the line is bounded by the number of links.
#[derive(Debug, Default)]
pub(super) struct RegistrationQueue {
    proposed: usize,
    /// Link numbers ascend as connections arrive: the first is the next.
    queued: BTreeSet<LinkId>,
}

impl RegistrationQueue {
    /// Removes a link that is closed.
    pub(super) fn leave(&mut self, link: LinkId) {
        self.queued.remove(&link);
    }
}

impl Leader {
    /// Queues a hello that changes the record: it is proposed in turn.
    pub(super) fn queue_registration(&mut self, link: LinkId) {
        self.registering.queued.insert(link);
        self.register_next();
    }

    /// Releases the slot of a registration that has come through the log, or could not be proposed.
    pub(super) fn registration_concluded(&mut self) {
        let registering = &mut self.registering;
        registering.proposed = registering.proposed.saturating_sub(1);
        self.register_next();
    }

    fn register_next(&mut self) {
        while self.registering.proposed < REGISTRATIONS
            && let Some(link) = self.registering.queued.pop_first()
        {
            let Some(state) = self.agent_links.get(&link) else {
                continue;
            };
            let LinkStage::Registering(hello) = &state.stage else {
                continue;
            };
            let (actor, register) = (state.actor.clone(), registration(hello, self.cluster));
            // Counted only with its proposal, whose outcome decrements the count.
            self.registering.proposed += 1;
            self.propose(
                actor,
                Command::RegisterAgent(register),
                ProposalOrigin::Agent(link),
            );
        }
    }
}

fn registration(hello: &Hello, cluster: ClusterId) -> RegisterAgent {
    let former = hello.cluster.filter(|former| *former != cluster);
    RegisterAgent {
        agent: hello.agent,
        nonce: hello.nonce,
        confirmed: hello.confirmed,
        tried: hello.tried.clone(),
        boot_id: hello.boot_id.clone(),
        info: hello.info.clone(),
        follows: former.map(|id| FormerCluster {
            id,
            floor: hello.floor,
        }),
    }
}
