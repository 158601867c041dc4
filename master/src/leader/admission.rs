//! Admission of registered agents: an agent either holds the expected tasks and orders, or sends
//! its list.
//!
//! After an election, every agent of the cluster returns within milliseconds. An agent that holds
//! what it should costs nothing. Each list costs log entries, so the number of lists in progress is
//! bounded and the other agents wait in line.

use std::collections::{BTreeMap, BTreeSet};

use argosy_proto::v1;
use argosy_proto::versions::VersionRange;
use argosy_state::Registry;
use argosy_state::agent::Agent;
use argosy_state::command::Rejection;
use argosy_state::digest::{DigestKind, Digests, task_mark};
use argosy_state::ids::{AgentId, Timestamp};
use argosy_state::limits;
use argosy_state::planted_bug;
use argosy_state::registry::Order;

use super::agents::{AgentLink, LinkStage};
use super::{Effect, Hello, Leader, LeaderTime};
use crate::links::LinkId;
use crate::ticket_keys;

/// Maximum number of lists in progress.
pub(super) const LISTS: usize = 32;
/// Time that an agent may take for each chunk of its list, in milliseconds. After it, the next
/// agent is asked; the late list is still accepted. This bounds the wait in line when agents stop
/// between the request and the list.
pub(super) const CHUNK_MS: u64 = 5_000;

/// Agents that were asked for their lists, and agents in line. Each link is in one of the two sets
/// at most, so both are bounded by the number of links.
#[derive(Debug, Default)]
pub(super) struct ListAdmission {
    /// Links whose lists are in progress, and when each was asked or last sent a chunk.
    listing: BTreeMap<LinkId, Timestamp>,
    /// Links in line. Their numbers ascend as connections arrive: the first one is the next.
    queued: BTreeSet<LinkId>,
}

impl ListAdmission {
    /// Renews the timeout of a list in progress.
    pub(super) fn renew(&mut self, link: LinkId, at: Timestamp) {
        if let Some(heard) = self.listing.get_mut(&link) {
            *heard = at;
        }
    }

    /// Removes a link that is closed, or whose list is compared.
    pub(super) fn leave(&mut self, link: LinkId) {
        self.listing.remove(&link);
        self.queued.remove(&link);
    }

    /// Returns the next link to ask, if there is room for another list.
    fn next(&mut self, now: Timestamp) -> Option<LinkId> {
        if self.queued.is_empty() {
            return None;
        }
        if self.listing.len() >= LISTS {
            self.listing
                .retain(|_, heard| now.since_ms(*heard) < CHUNK_MS);
        }
        if self.listing.len() >= LISTS {
            return None;
        }
        let link = self.queued.pop_first()?;
        self.listing.insert(link, now);
        Some(link)
    }
}

impl Leader {
    /// Decides whether the agent is ready or must send its list. A former link of the same agent is
    /// dropped.
    pub(super) fn admit(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        link: LinkId,
        id: AgentId,
    ) {
        let Some(state) = self.agent_links.get_mut(&link) else {
            return;
        };
        let LinkStage::Registering(hello) = &state.stage else {
            return;
        };
        let Some(agent) = registry.agent(id) else {
            // The agent was registered and removed again in the same entry.
            return self.shut_down(link, &Rejection::UnknownAgent(id).to_string());
        };
        let mut equal = matches_registry(registry, agent, hello);
        planted_bug!(DigestIgnored => equal |= hello.floor == agent.orders);
        planted_bug!(EqualWithUnsentOrder => equal |= is_equal(hello, &expected_digests(registry, id)));
        let sent = planted_bug!(EqualWithUnsentOrder, hello.floor, agent.orders);
        let (incarnation, version) = (agent.report.incarnation, hello.version);
        let file = self.secret_keys.as_deref();
        let ticket_keys = ticket_keys::for_registration(registry.cluster(), file, id, &state.actor);
        state.agent = Some(id);
        state.last_contact = now.at;
        state.stage = if equal {
            LinkStage::Ready { sent }
        } else {
            self.admission.queued.insert(link);
            LinkStage::Queued { incarnation }
        };
        if let Some(former) = self
            .linked_agents
            .insert(id, link)
            .filter(|former| *former != link)
        {
            self.agent_links.remove(&former);
            self.admission.leave(former);
            self.effects.push(Effect::CloseAgent(former));
        }
        let registered = v1::Registered {
            agent_id: id.to_string(),
            incarnation,
            heartbeat_interval_ms: self.heartbeat_interval_ms(),
            equal,
            protocol: Some(VersionRange::OWN.answer(version)),
            ticket_keys,
        };
        self.send_to_agent(link, v1::to_agent::Message::Registered(registered));
        let revoked = registry.access().revoked.keys().copied();
        self.send_revoked_keys(link, revoked);
        if equal {
            self.agent_is_ready(registry, id);
        }
        self.arm_agent(now, id);
    }

    /// Asks the next agents in line for their lists; called at the end of each step. An agent in
    /// line is registered: its heartbeats are answered and keep it reachable.
    pub(super) fn ask_for_lists(&mut self, now: LeaderTime) {
        while let Some(link) = self.admission.next(now.at) {
            let Some(AgentLink { stage, .. }) = self.agent_links.get_mut(&link) else {
                self.admission.leave(link);
                continue;
            };
            let LinkStage::Queued { incarnation } = *stage else {
                self.admission.leave(link);
                continue;
            };
            *stage = LinkStage::Listing {
                incarnation,
                after: None,
                floor: None,
            };
            self.send_to_agent(link, v1::to_agent::Message::ListTasks(v1::ListTasks {}));
        }
    }

    pub(super) fn heartbeat_interval_ms(&self) -> u64 {
        interval_ms(self.deadlines.watched(), self.limits.agent_timeout_ms)
    }
}

/// Returns the heartbeat interval: one second up to 1,000 reachable agents, then longer in
/// proportion to their number, a third of the timeout at most.
pub(super) fn interval_ms(watched: usize, timeout_ms: u64) -> u64 {
    let stretched = 1_000 * (watched as u64).div_ceil(1_000).max(1);
    stretched.min(timeout_ms / 3).max(100)
}

/// Returns whether an agent with this last applied order and digest holds exactly what it should.
/// Launches after that order are still to be delivered, so their digests do not count. The cost is
/// proportional to the number of undelivered orders.
fn matches_registry(registry: &Registry, agent: &Agent, hello: &Hello) -> bool {
    let mut expected = expected_digests(registry, agent.id);
    let index = registry.agent_index(agent.id);
    let unreachable = index.map_or(0, |index| index.unreachable);
    // UNREACHABLE tasks need the comparison: it reports that they are back.
    if unreachable > 0 || hello.floor > agent.orders {
        return false;
    }
    let undelivered = registry.orders_after(agent.id, hello.floor);
    for (count, (_, order)) in undelivered.enumerate() {
        // A longer list of orders costs as much as a comparison.
        if count == limits::RECORDS_PER_COMMAND {
            return false;
        }
        match order {
            Order::Launch(key) => {
                // A task that has reported was delivered: this agent has lost it.
                let Some(task) = registry.task(key).filter(|task| task.reported == 0) else {
                    return false;
                };
                // The comparison ends tasks that an agent of an earlier release cannot run.
                if !agent.report.info.can_launch(&task.spec) {
                    return false;
                }
                expected.remove(DigestKind::Task, task_mark(key, task.order, task.reported));
            }
            Order::Kill(_) => {}
            // The comparison settles limit changes that an agent of an earlier release cannot
            // confirm.
            Order::Limits(_) if !agent.report.info.takes(order.kind()) => return false,
            Order::Limits(_) => {}
        }
    }
    is_equal(hello, &expected)
}

fn expected_digests(registry: &Registry, id: AgentId) -> Digests {
    let index = registry.agent_index(id);
    index.map_or_else(Digests::default, |index| index.expected)
}

/// Returns whether the agent holds this, as far as it reports it. An agent of another release may
/// not know a kind.
fn is_equal(hello: &Hello, expected: &Digests) -> bool {
    let mut reported = hello.digests.iter();
    reported.all(|(kind, digest)| expected.of(*kind) == *digest)
}
