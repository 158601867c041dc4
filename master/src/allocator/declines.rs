//! Recording declines as filters.
//!
//! A decline waits in a queue until a turn records it. An agent is not offered to a framework in a
//! role while a decline of the pair waits.

use argosy_state::Registry;
use argosy_state::agent::Agent;
use argosy_state::ids::{AgentId, FrameworkId, Timestamp};
use argosy_state::resources::Resources;

use super::budget::AllocationTurn;
use super::decline_queue::QueuedDecline;
use super::filters::Filter;
use super::{
    Allocator, DECLINE_CODE, DECLINE_TEXT, DeclinedResources, FILTER_MS, LONGEST_FILTER_MS,
    LastDecline,
};

impl Allocator {
    /// Hides an agent from a framework while the free resources there do not exceed the declined
    /// ones. Takes effect before anything is offered.
    pub fn decline(&mut self, declined: DeclinedResources, now: Timestamp) {
        self.queue_decline(declined, None, now);
    }

    /// Declines the rest of accepted offers. The declined resources are all that the agent has
    /// left; only those that were `offered` are hidden. If the others are hidden already, they stay
    /// hidden, because a client has one filter for each agent.
    pub(crate) fn decline_rest(
        &mut self,
        declined: DeclinedResources,
        offered: Resources,
        now: Timestamp,
    ) {
        self.queue_decline(declined, Some(offered), now);
    }

    fn queue_decline(
        &mut self,
        declined: DeclinedResources,
        offered: Option<Resources>,
        at: Timestamp,
    ) {
        self.agent_changed(declined.agent);
        self.declines_due.push(QueuedDecline {
            declined,
            offered,
            at,
            is_presented: false,
        });
    }

    /// Adds the filters that a framework presents when it subscribes. They replace those of its
    /// former subscriptions that still wait. Filters that hide nothing are dropped, and so are
    /// those for which there is no room: without them, agents are only offered again a little
    /// early.
    pub fn present_filters(
        &mut self,
        registry: &Registry,
        framework: FrameworkId,
        filters: impl IntoIterator<Item = DeclinedResources>,
        now: Timestamp,
    ) {
        let facts = registry.framework(framework);
        let filters = filters.into_iter().filter_map(|mut declined| {
            let total = registry.agent(declined.agent).map(Agent::total)?;
            // The rest can hide nothing, and may be large.
            declined.resources = part_of(total, declined.resources);
            let takes_part = facts.is_some_and(|facts| facts.info.roles.contains(&declined.role));
            let hides = declined.filter_ms != Some(0) && !declined.resources.is_empty();
            (takes_part && hides).then_some(QueuedDecline {
                declined,
                offered: None,
                at: now,
                is_presented: true,
            })
        });
        self.declines_due.present(framework, filters);
    }

    /// Returns whether a decline of an agent by a client waits to be recorded.
    pub(super) fn decline_waits(&self, client: u32, agent: AgentId) -> bool {
        !self.declines_due.is_empty() && {
            let facts = self.clients.get(client);
            let queue = &self.declines_due;
            queue.holds(facts.framework, &facts.role, agent)
        }
    }

    /// Records declines that wait, with at most half of the steps that are left: the other half is
    /// for offers. A full queue takes all steps, because more offers could add to it.
    pub(super) fn record_declines(&mut self, turn: &mut AllocationTurn<'_>) {
        let most = match self.declines_due.is_full() {
            true => turn.steps_left,
            false => turn.steps_left.div_ceil(2),
        };
        let reserved = turn.steps_left - most;
        while turn.steps_left > reserved {
            let Some((queued, is_last)) = self.declines_due.take() else {
                break;
            };
            turn.spend(1);
            let framework = queued.declined.framework;
            self.record_decline(turn, queued);
            if is_last && self.declines_are_late {
                self.wake_framework(framework);
            }
        }
        self.declines_are_late = !self.declines_due.is_empty();
    }

    /// Starts a pass over all agents for a framework. Passes have skipped agents for which its
    /// declines waited, and these may hide less than was free.
    fn wake_framework(&mut self, framework: FrameworkId) {
        let known = self.clients.frameworks.get(&framework);
        for client in known.into_iter().flat_map(|known| known.clients.values()) {
            self.scan.wake(*client);
        }
    }

    fn record_decline(&mut self, turn: &mut AllocationTurn<'_>, queued: QueuedDecline) {
        let QueuedDecline {
            declined,
            offered,
            at,
            ..
        } = queued;
        let mirror = self.clients.frameworks.get(&declined.framework);
        if mirror.is_none_or(|mirror| mirror.session != declined.session) {
            return;
        }
        let Some(client) = self.clients.slot(declined.framework, &declined.role) else {
            return;
        };
        if let Some(because) = declined.reason {
            self.clients.get_mut(client).last_decline = Some(LastDecline {
                code: because.code.chars().take(DECLINE_CODE).collect(),
                text: because.text.chars().take(DECLINE_TEXT).collect(),
                agent: declined.agent,
                at,
            });
        }
        let filter_ms = declined.filter_ms.unwrap_or(FILTER_MS);
        if filter_ms == 0 || declined.resources.is_empty() {
            return;
        }
        let filter_ms = filter_ms.clamp(self.settings.round_ms, LONGEST_FILTER_MS);
        if self.agents.slot(declined.agent).is_none() {
            self.refresh_agent(turn, declined.agent);
        }
        let Some(agent) = self.agents.slot(declined.agent) else {
            return;
        };
        let mut resources = declined.resources;
        if let Some(offered) = offered.filter(|_| !self.filters.hides(client, agent)) {
            resources = common(&offered, &resources);
        }
        self.add_filter(turn, (client, agent), resources, at.plus_ms(filter_ms));
    }

    fn add_filter(
        &mut self,
        turn: &mut AllocationTurn<'_>,
        (client, agent): (u32, u32),
        declined: Resources,
        until: Timestamp,
    ) {
        let mirror = self.agents.get(agent);
        let Some(total) = turn.registry.agent(mirror.id).map(Agent::total) else {
            return;
        };
        let mut declined = part_of(total, declined);
        let visibility = (!mirror.is_plain).then(|| self.clients.get(client).visibility.on(total));
        if let Some(rules) = &visibility {
            // Equal bundles are shared by all clients that see the same of this agent.
            declined = rules.visible_part(&declined);
        }
        if declined.is_empty() {
            return;
        }
        let added = self.filters.add(Filter {
            client,
            agent,
            declined: &declined,
            free: &mirror.free,
            visibility,
            until,
        });
        turn.spend(added.steps);
        for client in added.dropped {
            self.wake(client);
        }
    }
}

/// Returns the part of `resources` that an agent with `total` has.
fn part_of(total: &Resources, resources: Resources) -> Resources {
    match total.contains(&resources) {
        true => resources,
        false => common(total, &resources),
    }
}

/// Returns the part of `others` that is in `all`.
fn common(all: &Resources, others: &Resources) -> Resources {
    all.minus_saturating(&all.minus_saturating(others))
}
