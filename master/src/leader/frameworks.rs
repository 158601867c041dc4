//! Frameworks: subscriptions, sessions, streams.

use std::collections::{BTreeMap, BTreeSet};

use argosy_proto::v1;
use argosy_proto::versions::VersionRange;
use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::command::{ApplyOutcome, Command, CommandReply, Rejection, Subscribe};
use argosy_state::framework::{Framework, SchedulerConnection};
use argosy_state::ids::{AgentId, FrameworkId, Revision, TaskId, Timestamp};
use argosy_state::level;

use super::deadlines::HEARTBEAT_MS;
use super::{Effect, Input, Leader, LeaderTime, ProposalOrigin, SchedulerHello};
use crate::links::LinkId;

/// Heartbeats that a scheduler sends within its silence timeout.
const HEARTBEATS_PER_TIMEOUT: u64 = 3;

/// Progress of a stream's replay: a cursor, because 100,000 tasks may wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReplayCursor {
    /// Starts with the first task.
    Start,
    /// Continues after this task.
    After(TaskId),
    /// The whole replay was sent.
    Done,
}

/// One stream of a framework.
#[derive(Debug)]
pub(super) struct FrameworkLink {
    /// The actor whose stream it is.
    pub(super) actor: Actor,
    /// Known once it is subscribed.
    pub(super) framework: Option<FrameworkId>,
    pub(super) subscription: Box<SchedulerHello>,
    /// Tasks with updates that are sent and not acknowledged, and the revision up to which they
    /// were sent.
    pub(super) in_flight: BTreeMap<TaskId, Revision>,
    /// Tasks with updates that wait for room; none of them is in flight.
    pub(super) unsent: BTreeSet<TaskId>,
    /// Updates that were not acknowledged when the stream began, in the order of the registry's
    /// index.
    pub(super) replay: ReplayCursor,
    /// Whether its reader is behind: it is sent neither offers nor hints.
    pub(super) is_behind: bool,
    /// Time at which the last message of its scheduler arrived.
    pub(super) last_contact: Timestamp,
}

impl Leader {
    pub(super) fn subscribe(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        link: LinkId,
        actor: Actor,
        subscription: SchedulerHello,
    ) {
        if let Some(named) = subscription.cluster.filter(|named| *named != self.cluster) {
            // Its process knows revisions that this registry gives to other changes.
            let remedy = match registry.cluster().descends_from(named) {
                true => "one from which this one was restored: restart the framework",
                false => "another one: check its list of masters",
            };
            let text = format!(
                "this is cluster {}; the framework belongs to {remedy}",
                self.cluster
            );
            return self.end_stream(link, "refused", &text);
        }
        let info = level::announced(self.level, &subscription.info);
        let named = subscription.framework;
        let known = named.or_else(|| {
            registry.framework_by_session(&subscription.info.principal, subscription.session)
        });
        // If another master leads by now, a framework without a record may be newer than this
        // leader's state: the entry decides.
        let framework = known.and_then(|id| registry.framework(id));
        if let Some(present) = framework
            && self.must_name(&subscription, present)
        {
            return self.name_session(link, present.session);
        }
        let nothing_new = framework.is_some_and(|framework| {
            framework.session == subscription.session
                && framework.connection == SchedulerConnection::Connected
                && *framework.info == info
                && !framework.removing
                && !self.deadlines.is_disconnecting(framework.id)
        });
        let command = Subscribe {
            framework: known,
            session: subscription.session,
            info,
        };
        let state = FrameworkLink {
            actor: actor.clone(),
            framework: None,
            subscription: Box::new(subscription),
            in_flight: BTreeMap::new(),
            unsent: BTreeSet::new(),
            replay: ReplayCursor::Start,
            is_behind: false,
            last_contact: now.at,
        };
        self.framework_links.insert(link, state);
        match known {
            Some(id) if nothing_new => self.attach(registry, now, link, id),
            Some(_) | None => {
                self.propose(
                    actor,
                    Command::Subscribe(command),
                    ProposalOrigin::Framework(link),
                );
            }
        }
    }

    /// Returns whether a subscription must name the present session of its framework before it
    /// replaces it. A process that has been killed cannot: its subscription may still be on its way
    /// when its successor has subscribed. While another subscription is being committed, none is
    /// named correctly. Another principal does not learn the session: its entry is refused.
    fn must_name(&self, subscription: &SchedulerHello, present: &Framework) -> bool {
        let is_committing = |link: &FrameworkLink| {
            link.framework.is_none() && link.subscription.framework == subscription.framework
        };
        subscription.session != present.session
            && subscription.info.principal == present.info.principal
            && subscription.replaces.is_some_and(|named| {
                named != present.session || self.framework_links.values().any(is_committing)
            })
    }

    fn name_session(&mut self, link: LinkId, present: u64) {
        let text = "the framework has another session: name it, to replace it";
        let error = v1::Error {
            code: "session-present".to_owned(),
            message: text.to_owned(),
            session: present,
        };
        self.end_stream_with(link, error);
    }

    pub(super) fn framework_subscribed(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        link: LinkId,
        outcome: ApplyOutcome,
    ) {
        match outcome {
            Ok(CommandReply::Framework(id)) => self.attach(registry, now, link, id),
            Ok(_) => {}
            Err(why) => {
                let code = match &why {
                    Rejection::Superseded(_) => "superseded",
                    Rejection::UnknownFramework(_) | Rejection::FrameworkRemoved(_) => "removed",
                    _ => "refused",
                };
                self.end_stream(link, code, &why.to_string());
            }
        }
    }

    /// Attaches a stream to its framework: revalidates the offers that the framework holds, and
    /// sends the updates that it missed.
    fn attach(&mut self, registry: &Registry, now: LeaderTime, link: LinkId, id: FrameworkId) {
        let Some(state) = self.framework_links.get_mut(&link) else {
            return;
        };
        let Some(framework) = registry.framework(id) else {
            // The framework was subscribed and removed again in the same entry.
            let text = Rejection::UnknownFramework(id).to_string();
            return self.end_stream(link, "removed", &text);
        };
        if framework.session != state.subscription.session {
            let text = Rejection::Superseded(id).to_string();
            return self.end_stream(link, "superseded", &text);
        }
        state.framework = Some(id);
        let held = std::mem::take(&mut state.subscription.held);
        let filters = std::mem::take(&mut state.subscription.filters);
        let session = state.subscription.session;
        let version = state.subscription.version;
        state.last_contact = now.at;
        if let Some(former) = self
            .linked_frameworks
            .insert(id, link)
            .filter(|former| *former != link)
        {
            let same = self
                .framework_links
                .get(&former)
                .is_some_and(|former| former.subscription.session == session);
            if same {
                self.framework_links.remove(&former);
                self.effects.push(Effect::CloseFramework(former));
            } else {
                self.end_stream(former, "superseded", &Rejection::Superseded(id).to_string());
            }
        }
        self.arm_framework(registry, now, id);
        let scheduler_heartbeat_interval_ms = self.expect_heartbeats(now, link);
        let (kept, rescinded) = self.revalidate(registry, now, id, held);
        let subscribed = v1::Subscribed {
            framework_id: id.to_string(),
            session,
            revision: Some(argosy_proto::convert::revision(framework.revision)),
            kept_offers: kept.iter().map(ToString::to_string).collect(),
            rescinded_offers: rescinded.iter().map(ToString::to_string).collect(),
            cluster_id: self.cluster.to_string(),
            heartbeat_interval_ms: HEARTBEAT_MS,
            epoch: self.epoch.0,
            protocol: Some(VersionRange::OWN.answer(version)),
            leader_address: String::new(),
            scheduler_heartbeat_interval_ms,
        };
        self.send_to_framework(link, v1::event::Event::Subscribed(subscribed));
        self.pump_updates(registry, link);
        self.framework_resumed(registry, now, id, filters);
    }

    /// Returns the heartbeat interval for the scheduler of a stream, in milliseconds; 0 for a
    /// scheduler that sends none.
    fn expect_heartbeats(&mut self, now: LeaderTime, link: LinkId) -> u64 {
        let state = self.framework_links.get(&link);
        if !state.is_some_and(|state| state.subscription.sends_heartbeats) {
            return 0;
        }
        self.arm_stream(now, link);
        self.limits.framework_timeout_ms / HEARTBEATS_PER_TIMEOUT
    }

    pub(super) fn framework_closed(&mut self, now: LeaderTime, link: LinkId) {
        let Some(state) = self.framework_links.remove(&link) else {
            return;
        };
        let Some(id) = state.framework else { return };
        if self.linked_frameworks.get(&id) == Some(&link) {
            self.linked_frameworks.remove(&id);
            self.stream_gone(now, id);
            self.withhold_framework(id);
        }
    }

    /// Records that the scheduler of the present session is alive: it has sent a heartbeat or
    /// another call. Any other session has no effect: a superseded scheduler is notified on its
    /// stream.
    pub(super) fn note_contact(&mut self, now: LeaderTime, input: &Input) {
        let (id, session) = match input {
            Input::FrameworkHeartbeat {
                framework, session, ..
            } => (*framework, *session),
            Input::Call { call, .. } => (call.framework, call.session),
            Input::Decline { decline, .. } => (decline.framework, decline.session),
            Input::Message { message, .. } => (message.framework, message.session),
            Input::Acknowledge { acknowledge, .. } => (acknowledge.framework, acknowledge.session),
            Input::Reconcile { reconcile, .. } => (reconcile.framework, reconcile.session),
            _ => return,
        };
        let link = self.linked_frameworks.get(&id);
        if let Some(state) = link.and_then(|link| self.framework_links.get_mut(link))
            && state.subscription.session == session
        {
            state.last_contact = now.at;
        }
    }

    /// Handles a scheduler that no longer sends heartbeats: its offers are free immediately, and
    /// its disconnection timeout begins.
    pub(super) fn framework_silent(&mut self, now: LeaderTime, link: LinkId) {
        let Some(id) = self
            .framework_links
            .get(&link)
            .and_then(|state| state.framework)
        else {
            return;
        };
        self.rescind_all(id, "its scheduler sends no heartbeats");
        self.effects.push(Effect::CloseFramework(link));
        self.framework_closed(now, link);
    }

    pub(super) fn framework_behind(&mut self, link: LinkId, behind: bool) {
        let Some(state) = self.framework_links.get_mut(&link) else {
            return;
        };
        state.is_behind = behind;
        if let Some(id) = state.framework {
            self.allocator.framework_changed(id);
        }
    }

    /// Updates streams, timers and offers after info, suppression or connection of a framework has
    /// changed.
    pub(super) fn framework_changed(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        id: FrameworkId,
    ) {
        let Some(framework) = registry.framework(id) else {
            return;
        };
        if let Some(link) = self.linked_frameworks.get(&id).copied() {
            let session = self
                .framework_links
                .get(&link)
                .map(|state| state.subscription.session);
            if session.is_some_and(|session| session != framework.session) {
                self.linked_frameworks.remove(&id);
                self.end_stream(link, "superseded", &Rejection::Superseded(id).to_string());
            } else if framework.connection != SchedulerConnection::Connected && !framework.removing
            {
                self.close_stream(id, link);
            }
        }
        self.arm_framework(registry, now, id);
        self.rescind_after_change(registry, id);
    }

    /// Ends the stream of a framework that is being removed, or is gone.
    pub(super) fn framework_removed(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        id: FrameworkId,
        why: &str,
    ) {
        self.arm_framework(registry, now, id);
        // The end of the stream withdraws all offers: a message for each one could exceed what the
        // stream holds, and the scheduler would not receive the reason.
        if let Some(link) = self.linked_frameworks.remove(&id) {
            self.end_stream(link, "removed", why);
        }
        self.rescind_after_change(registry, id);
    }

    /// Notifies every framework whose stream is not behind that an agent failed. This is a hint:
    /// the updates of its tasks are authoritative.
    pub(super) fn send_agent_failure(&mut self, agent: AgentId, reason: &str) {
        let read = |link: &LinkId| {
            self.framework_links
                .get(link)
                .is_some_and(|link| !link.is_behind)
        };
        let links = self.linked_frameworks.values().copied().filter(read);
        for link in links.collect::<Vec<_>>() {
            let failure = v1::AgentFailure {
                agent_id: agent.to_string(),
                reason: reason.to_owned(),
            };
            self.send_to_framework(link, v1::event::Event::Failure(failure));
        }
    }

    pub(super) fn send_to_framework(&mut self, link: LinkId, event: v1::event::Event) {
        self.effects.push(Effect::ToFramework(
            link,
            Box::new(v1::Event { event: Some(event) }),
        ));
    }

    /// Closes a stream whose framework is recorded as disconnected: the decision was applied after
    /// the framework had subscribed. The scheduler subscribes again, just as an agent in this
    /// situation registers again, and that is committed. A `Subscribe` proposed here instead would
    /// overwrite a newer description of the framework that is already in the log.
    fn close_stream(&mut self, id: FrameworkId, link: LinkId) {
        self.linked_frameworks.remove(&id);
        self.framework_links.remove(&link);
        self.effects.push(Effect::CloseFramework(link));
    }

    /// Sends the reason, then ends the stream.
    pub(super) fn end_stream(&mut self, link: LinkId, code: &str, message: &str) {
        let error = v1::Error {
            code: code.to_owned(),
            message: message.to_owned(),
            session: 0,
        };
        self.end_stream_with(link, error);
    }

    fn end_stream_with(&mut self, link: LinkId, error: v1::Error) {
        self.send_to_framework(link, v1::event::Event::Error(error));
        self.effects.push(Effect::CloseFramework(link));
        self.framework_links.remove(&link);
    }
}
