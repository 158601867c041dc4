//! Agents: hello, registration result, orders, updates.
//!
//! A first connection, a reconnection and a new leader follow the same procedure: compare facts,
//! send the difference.

use std::collections::BTreeMap;

use argosy_proto::v1;
use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::agent::{Agent, AgentMode};
use argosy_state::buggify;
use argosy_state::command::{
    AgentUpdate, ApplyOutcome, Command, CommandReply, HeldTask, ReconcileAgent, Rejection,
    UpdateTasks,
};
use argosy_state::ids::{AgentId, OrderIndex, TaskKey, Timestamp};
use argosy_state::level;
use argosy_state::limits;
use argosy_state::persistent::Map;
use argosy_state::planted_bug;
use argosy_state::registry::ClusterRecord;

use super::{Effect, Hello, Leader, LeaderTime, ProposalOrigin};
use crate::links::LinkId;

/// Maximum number of updates in one command: it fits into an entry regardless of the length of
/// their texts.
const UPDATES: usize = limits::UPDATES_PER_COMMAND;

/// Returns the number of these updates that one command has: at least one, and at most as many as
/// change 1,000 records.
fn of_one_command(registry: &Registry, updates: &[AgentUpdate]) -> usize {
    let mut records = 0;
    let most = updates.iter().take(UPDATES).take_while(|update| {
        records += registry.records_of_update(&update.key, update.state);
        records <= limits::CHANGED_RECORDS
    });
    most.count().max(1)
}

/// The stage of an agent's link.
#[derive(Debug)]
pub(super) enum LinkStage {
    /// The registration is proposed, or waits in line.
    Registering(Box<Hello>),
    /// The agent will be asked for its list.
    Queued { incarnation: u64 },
    /// The agent's list is awaited; orders wait for the comparison.
    Listing {
        incarnation: u64,
        after: Option<TaskKey>,
        floor: Option<OrderIndex>,
    },
    /// Orders up to and including this one were sent.
    Ready { sent: OrderIndex },
}

/// One connection of an agent.
#[derive(Debug)]
pub(super) struct AgentLink {
    /// The authenticated peer.
    pub(super) actor: Actor,
    /// Known once it is registered.
    pub(super) agent: Option<AgentId>,
    /// Time at which the last message arrived.
    pub(super) last_contact: Timestamp,
    pub(super) stage: LinkStage,
}

/// Returns whether the agent is known to hold exactly what it should. Only then is it offered.
pub(super) fn is_ready(
    linked: &Map<AgentId, LinkId>,
    links: &BTreeMap<LinkId, AgentLink>,
    id: AgentId,
) -> bool {
    link_of(linked, links, id).is_some_and(|link| matches!(link.stage, LinkStage::Ready { .. }))
}

/// Returns the link on which the agent is registered.
fn link_of<'a>(
    linked: &Map<AgentId, LinkId>,
    links: &'a BTreeMap<LinkId, AgentLink>,
    id: AgentId,
) -> Option<&'a AgentLink> {
    links.get(linked.get(&id)?)
}

/// The relation of an agent to the cluster of this leader.
pub(super) enum Allegiance {
    /// It belongs to this cluster, or to none yet.
    Own,
    /// It belongs to an ancestor, and its operator has confirmed that it follows this cluster.
    Follows,
    /// It belongs to another one, for the reason in the text.
    Foreign(String),
}

pub(super) fn allegiance(cluster: &ClusterRecord, hello: &Hello) -> Allegiance {
    let own = cluster.facts.id;
    match hello.cluster {
        None => Allegiance::Own,
        Some(named) if named == own => Allegiance::Own,
        Some(named) if cluster.descends_from(named) && hello.follows == Some(own) => {
            Allegiance::Follows
        }
        Some(named) if cluster.descends_from(named) => Allegiance::Foreign(format!(
            "this is cluster {own}, restored from {named}, to which the agent belongs: run `argosy agent adopt {own}` on its host and restart it, if that cluster is lost"
        )),
        Some(_) => Allegiance::Foreign(format!(
            "this is cluster {own}; the agent belongs to another one: empty its --data-dir, or give it the right --masters"
        )),
    }
}

fn is_known(registry: &Registry, id: AgentId) -> bool {
    let agent = registry.agent(id);
    agent.is_some_and(|agent| agent.mode() != AgentMode::Gone)
}

/// Returns whether the caller can be this agent by its certificate.
fn may_be(registry: &Registry, agent: &Agent, actor: &Actor) -> bool {
    let bound = agent.principal.as_ref();
    bound.is_none_or(|bound| registry.agent_principal(agent.id, actor) == Some(bound))
}

impl Leader {
    pub(super) fn agent_hello(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        link: LinkId,
        actor: Actor,
        mut hello: Hello,
    ) {
        hello.info = level::reported(self.level, &hello.info);
        if self.agent_links.contains_key(&link) {
            return self.refuse_agent(link, "malformed", "a second hello on one stream");
        }
        let follows = match self.judge(registry, &hello) {
            Ok(follows) => follows,
            Err((code, text)) => return self.refuse_agent(link, code, &text),
        };
        if hello.agent.is_some_and(|id| !is_known(registry, id)) {
            return self.shut_down(link, "this agent is not known here, or was declared gone");
        }
        let known = hello.agent.and_then(|id| registry.agent(id));
        let newest = hello.tried.last().copied().unwrap_or(hello.confirmed);
        let from_another_boot = |agent: &Agent| agent.report.boot_id != hello.boot_id;
        if known
            .is_some_and(|agent| from_another_boot(agent) && self.has_recent_contact(now, agent.id))
            && !planted_bug!(CloneAccepted)
        {
            let text = "another host is connected with this agent's id: the data directory was copied; empty its --data-dir. \
                A host that has just restarted is accepted once its former connection is silent";
            return self.refuse_agent(link, "clone", text);
        }
        // Its registration may wait for those of many others, and it is not silent.
        if let Some(agent) = known.filter(|agent| may_be(registry, agent, &actor)) {
            self.deadlines.record_contact(agent.id, now.at);
        }
        let nothing_new = !follows
            && known.is_some_and(|agent| {
                let proven = registry.agent_principal(agent.id, &actor);
                agent.mode() != AgentMode::Unreachable
                    && proven.is_none_or(|proven| agent.principal.as_ref() == Some(proven))
                    && agent.report.incarnation == newest
                    && agent.report.info == hello.info
                    && agent.report.boot_id == hello.boot_id
            });
        let agent = hello.agent;
        self.agent_links.insert(
            link,
            AgentLink {
                actor,
                agent: None,
                last_contact: now.at,
                stage: LinkStage::Registering(Box::new(hello)),
            },
        );
        match agent {
            Some(agent) if nothing_new => self.admit(registry, now, link, agent),
            Some(_) | None => self.queue_registration(link),
        }
    }

    /// Returns whether the agent follows this cluster from an ancestor, or the code and the text of
    /// a refusal.
    fn judge(&self, registry: &Registry, hello: &Hello) -> Result<bool, (&'static str, String)> {
        match allegiance(registry.cluster(), hello) {
            Allegiance::Foreign(text) => Err(("foreign-cluster", text)),
            // Epochs of another cluster cannot be compared with those of this one.
            Allegiance::Follows if hello.agent.is_some_and(|id| is_known(registry, id)) => Ok(true),
            Allegiance::Follows => {
                let text = "the restored registry does not have this agent, or it was declared gone there: its tasks are kept, and it cannot follow. \
                    End them (argosy agent stop --kill-tasks), and start it with an empty --data-dir";
                Err(("unknown-follower", text.to_owned()))
            }
            Allegiance::Own if hello.highest_epoch > self.epoch => {
                let text = format!(
                    "the agent has seen epoch {}, this master leads epoch {}: it was replaced, or its masters were set back",
                    hello.highest_epoch.0, self.epoch.0
                );
                Err(("epoch-above", text))
            }
            Allegiance::Own => Ok(false),
        }
    }

    /// Returns whether the agent has a link on which something arrived within two heartbeat
    /// intervals: its process is alive.
    ///
    /// Incarnations alone do not show a copy of a disk that was made after the agent had stored its
    /// next incarnation and before the master had confirmed it: the copy knows both.
    fn has_recent_contact(&self, now: LeaderTime, agent: AgentId) -> bool {
        let link = link_of(&self.linked_agents, &self.agent_links, agent);
        let interval_ms = self.heartbeat_interval_ms();
        link.is_some_and(|link| now.at.since_ms(link.last_contact) <= 2 * interval_ms)
    }

    pub(super) fn agent_registered(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        link: LinkId,
        outcome: ApplyOutcome,
    ) {
        match outcome {
            Ok(CommandReply::Agent(agent)) => self.admit(registry, now, link, agent),
            Ok(_) => {}
            Err(why @ (Rejection::UnknownAgent(_) | Rejection::AgentGone(_))) => {
                self.shut_down(link, &why.to_string())
            }
            Err(why) => self.refuse_agent(link, why.code(), &why.to_string()),
        }
    }

    pub(super) fn agent_is_ready(&mut self, registry: &Registry, id: AgentId) {
        self.pump_orders(registry, id);
        self.offer_agent(id);
    }

    pub(super) fn agent_list(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        link: LinkId,
        floor: OrderIndex,
        held: Vec<HeldTask>,
        last: bool,
    ) {
        self.record_contact(now, link);
        let Some(AgentLink {
            actor,
            agent: Some(agent),
            stage:
                LinkStage::Listing {
                    incarnation,
                    after,
                    floor: listed,
                },
            ..
        }) = self.agent_links.get_mut(&link)
        else {
            return;
        };
        let ascending = held.windows(2).all(|pair| pair[0].key < pair[1].key)
            && held
                .first()
                .is_none_or(|first| after.as_ref().is_none_or(|after| first.key > *after));
        if !ascending || held.len() > limits::RECORDS_PER_COMMAND || (held.is_empty() && !last) {
            return self.refuse_agent(
                link,
                "malformed",
                "its list does not ascend, or a chunk is empty or too long",
            );
        }
        if last {
            // Orders continue after this index once the last chunk is compared.
            *listed = Some(floor);
        }
        self.admission.renew(link, now.at);
        let (actor, agent, incarnation, after) = (
            actor.clone(),
            *agent,
            *incarnation,
            std::mem::replace(after, held.last().map(|task| task.key.clone())),
        );
        let through = if last {
            None
        } else {
            held.last().map(|task| task.key.clone())
        };
        let list = ReconcileAgent {
            agent,
            incarnation,
            floor,
            after,
            through,
            held,
            wall_ms: now.wall_ms,
        };
        for part in list.parts(registry) {
            self.propose(
                actor.clone(),
                Command::ReconcileAgent(part),
                ProposalOrigin::List(link),
            );
        }
    }

    /// Handles the outcome of a list. A list of another incarnation, or one that could not be
    /// compared, proves nothing about this link, and no other list will follow on it: the agent
    /// must reconnect.
    pub(super) fn list_compared(&mut self, link: LinkId, outcome: &ApplyOutcome) {
        if outcome.is_err() && self.agent_links.contains_key(&link) {
            self.effects.push(Effect::CloseAgent(link));
            self.agent_closed(link);
        }
    }

    pub(super) fn agent_reconciled(&mut self, registry: &Registry, id: AgentId, complete: bool) {
        if !complete {
            return;
        }
        let Some(link) = self.linked_agents.get(&id).copied() else {
            return;
        };
        let Some(state) = self.agent_links.get_mut(&link) else {
            return;
        };
        // A list of a former link: the present one has not sent its last chunk.
        let LinkStage::Listing {
            floor: Some(floor), ..
        } = state.stage
        else {
            return;
        };
        let sent = planted_bug!(LaunchRepeated, floor, OrderIndex(0));
        state.stage = LinkStage::Ready { sent };
        self.admission.leave(link);
        self.agent_is_ready(registry, id);
    }

    pub(super) fn agent_report(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        link: LinkId,
        updates: Vec<AgentUpdate>,
    ) {
        self.record_contact(now, link);
        let Some(AgentLink {
            actor,
            agent: Some(agent),
            ..
        }) = self.agent_links.get(&link)
        else {
            return;
        };
        let (actor, agent) = (actor.clone(), *agent);
        let mut updates = updates;
        for update in &mut updates {
            shorten(&mut update.message, limits::MESSAGE_BYTES);
            let notice = update.limits.as_mut();
            if let Some(refusal) = notice.and_then(|notice| notice.outcome.as_mut().err()) {
                shorten(refusal, limits::MESSAGE_BYTES);
            }
        }
        while !updates.is_empty() {
            let most = buggify!(OneUpdateACommand, of_one_command(registry, &updates), 1);
            let rest = updates.split_off(updates.len().min(most));
            planted_bug!(SettledBeforeCommit => self.settle_early(agent, &updates));
            let mut report = Command::UpdateTasks(UpdateTasks { agent, updates });
            level::reduce(self.level, &mut report);
            self.propose(actor.clone(), report, ProposalOrigin::Events);
            updates = rest;
        }
    }

    /// Implements the planted bug `SettledBeforeCommit`.
    fn settle_early(&mut self, agent: AgentId, updates: &[AgentUpdate]) {
        for update in updates {
            self.update_settled(agent, &update.key, update.order, update.number, false);
        }
    }

    pub(super) fn agent_ping(&mut self, now: LeaderTime, link: LinkId, serial: u64) {
        self.record_contact(now, link);
        if self.agent_links.contains_key(&link) {
            self.send_to_agent(link, v1::to_agent::Message::Pong(v1::Ping { serial }));
        }
    }

    fn record_contact(&mut self, now: LeaderTime, link: LinkId) {
        if let Some(state) = self.agent_links.get_mut(&link) {
            state.last_contact = now.at;
            if let Some(agent) = state.agent {
                self.deadlines.record_contact(agent, now.at);
            }
        }
    }

    pub(super) fn agent_closed(&mut self, link: LinkId) {
        let Some(state) = self.agent_links.remove(&link) else {
            return;
        };
        self.admission.leave(link);
        self.registering.leave(link);
        let Some(agent) = state.agent else { return };
        if self.linked_agents.get(&agent) == Some(&link) {
            self.linked_agents.remove(&agent);
            self.withhold_agent(agent);
        }
    }

    /// Updates links and offers after the agent's record has changed.
    pub(super) fn agent_changed(&mut self, registry: &Registry, now: LeaderTime, id: AgentId) {
        self.rescind_outdated(registry, id);
        match registry.agent(id).map(|agent| agent.mode()) {
            Some(AgentMode::Unreachable) => {
                if let Some(link) = self.linked_agents.get(&id).copied() {
                    self.effects.push(Effect::CloseAgent(link));
                    self.agent_closed(link);
                }
                // An operator may change the record of an agent that is already unreachable.
                let is_new = self.unwatch_agent(id);
                self.start_stop_timer(registry, now, id);
                if is_new {
                    self.send_agent_failure(id, "unreachable");
                }
            }
            Some(AgentMode::Gone) | None => {
                self.unwatch_agent(id);
                self.cancel_stop_timer(id);
            }
            Some(
                AgentMode::Registered
                | AgentMode::Draining
                | AgentMode::Drained
                | AgentMode::Deactivated,
            ) => {
                self.watch_agent(now, id);
                self.cancel_stop_timer(id);
            }
        }
        self.offer_agent(id);
    }

    pub(super) fn agent_gone(&mut self, id: AgentId) {
        if let Some(link) = self.linked_agents.get(&id).copied() {
            self.shut_down(link, "an operator declared this agent gone");
        }
        self.send_agent_failure(id, "gone");
    }

    pub(super) fn refuse_agent(&mut self, link: LinkId, code: &str, text: &str) {
        let refused = v1::RefusedAgent {
            code: code.to_owned(),
            text: text.to_owned(),
        };
        self.send_to_agent(link, v1::to_agent::Message::Refused(refused));
        self.effects.push(Effect::CloseAgent(link));
        self.agent_closed(link);
    }

    pub(super) fn shut_down(&mut self, link: LinkId, reason: &str) {
        let shutdown = v1::Shutdown {
            reason: reason.to_owned(),
        };
        self.send_to_agent(link, v1::to_agent::Message::Shutdown(shutdown));
        self.effects.push(Effect::CloseAgent(link));
        self.agent_closed(link);
    }

    pub(super) fn send_to_agent(&mut self, link: LinkId, message: v1::to_agent::Message) {
        let message = v1::ToAgent {
            epoch: self.epoch.0,
            cluster_id: self.cluster.to_string(),
            message: Some(message),
        };
        self.effects.push(Effect::ToAgent(link, Box::new(message)));
    }
}

/// Truncates a text as `apply` would.
fn shorten(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
    }
}
