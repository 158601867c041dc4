//! Registration, loss and removal of agents.

use std::sync::Arc;

use super::CommandContext;
use crate::Registry;
use crate::actor::{Actor, Principal, PrincipalKind};
use crate::agent::{
    Administration, Agent, AgentAdministration, AgentInfo, AgentMode, AgentReport, Reachability,
    UsedOffers,
};
use crate::capability;
use crate::command::{
    AgentDecision, ApplyOutcome, CommandReply, RegisterAgent, Rejection, SweepTarget,
};
use crate::event::Event;
use crate::ids::{AgentId, OrderIndex, Timestamp};
use crate::limits;
use crate::planted_bug;
use crate::registry::{MAX_NEWER_ORDERS, RecordKey};
use crate::resources::{Resource, Resources, Value};

impl Registry {
    pub(super) fn register_agent(
        &mut self,
        context: &mut CommandContext,
        register: &RegisterAgent,
    ) -> ApplyOutcome {
        check_info(&register.info)?;
        if register.boot_id.len() > limits::NAME_BYTES {
            return Err(Rejection::Invalid {
                field: "boot_id".into(),
                text: format!("at most {} bytes", limits::NAME_BYTES),
            });
        }
        if register.agent.is_none() && register.nonce == 0 {
            return Err(Rejection::Invalid {
                field: "nonce".into(),
                text: "choose a random number that is not 0".into(),
            });
        }
        let Some(incarnation) = register
            .tried
            .last()
            .copied()
            .or(Some(register.confirmed))
            .filter(|number| *number != 0)
        else {
            return Err(Rejection::Invalid {
                field: "tried_incarnations".into(),
                text: "name at least one, not 0".into(),
            });
        };
        self.check_follower(register)?;
        match register
            .agent
            .or_else(|| self.agent_by_nonce(register.nonce))
        {
            Some(id) => self.reregister_agent(context, id, incarnation, register),
            None => self.add_agent(context, incarnation, register),
        }
    }

    /// Rejects an agent that leaves another cluster than an ancestor of this one, or that this
    /// registry never had: its tasks would be ended.
    fn check_follower(&self, register: &RegisterAgent) -> Result<(), Rejection> {
        let Some(former) = register.follows else {
            return Ok(());
        };
        if self.cluster.descends_from(former.id) && register.agent.is_some() {
            let known = register.agent.and_then(|id| self.agents.get(&id));
            let most = known
                .map_or(0, |known| known.orders.0)
                .saturating_add(MAX_NEWER_ORDERS);
            if former.floor.0 > most {
                return Err(Rejection::Invalid {
                    field: "floor".into(),
                    text: format!("it is {}, at most {most}", former.floor.0),
                });
            }
            return Ok(());
        }
        Err(Rejection::Invalid {
            field: "follows".into(),
            text: format!(
                "this cluster was not restored from {}, or the agent has no id",
                former.id
            ),
        })
    }

    fn add_agent(
        &mut self,
        context: &mut CommandContext,
        incarnation: u64,
        register: &RegisterAgent,
    ) -> ApplyOutcome {
        let id = AgentId(self.cluster.last_agent + 1);
        let revision = context.next_revision();
        let agent = Agent {
            id,
            nonce: register.nonce,
            principal: self.agent_principal(id, &context.actor).cloned(),
            report: reported(incarnation, register),
            admin: AgentAdministration {
                administration: Administration::Active,
                since: context.at,
                deadline: None,
                attributes: Default::default(),
                revision,
            },
            reachability: Reachability::Reachable { since: context.at },
            orders: OrderIndex(0),
            offer_revision: revision,
            used_offers: UsedOffers::default(),
            revision,
        };
        self.check_agent_bytes(&agent)?;
        self.check_resource_kinds(&agent.report.info, None)?;
        self.cluster.last_agent = id.0;
        self.changed.insert(RecordKey::Cluster);
        self.put_agent(agent);
        context.emit(Event::AgentChanged(id));
        Ok(CommandReply::Agent(id))
    }

    fn reregister_agent(
        &mut self,
        context: &mut CommandContext,
        id: AgentId,
        incarnation: u64,
        register: &RegisterAgent,
    ) -> ApplyOutcome {
        let known = self.agents.get(&id).ok_or(Rejection::UnknownAgent(id))?;
        if known.admin.administration == Administration::Gone {
            return Err(Rejection::AgentGone(id));
        }
        let former = Arc::clone(&known.report);
        // An ancestor has confirmed incarnations that this registry does not have.
        if register.follows.is_none()
            && former.incarnation != register.confirmed
            && !register.tried.contains(&former.incarnation)
            && !planted_bug!(CloneAccepted)
        {
            return Err(Rejection::Clone(id));
        }
        let proven = self.agent_principal(id, &context.actor);
        let bound = known.principal.as_ref();
        if let (Some(proven), Some(bound)) = (proven, bound)
            && proven != bound
        {
            return Err(Rejection::AgentBound(id, bound.clone()));
        }
        let principal = bound.or(proven).cloned();
        let back = known.mode() == AgentMode::Unreachable;
        // The numbers of orders continue behind all that the agent has accepted.
        let orders = register
            .follows
            .map_or(known.orders, |former| known.orders.max(former.floor));
        let same = known.orders == orders
            && known.principal == principal
            && former.incarnation == incarnation
            && former.info == register.info
            && former.boot_id == register.boot_id;
        if same && !back {
            return Ok(CommandReply::Agent(id));
        }
        let mut agent = known.clone();
        agent.orders = orders;
        agent.revision = context.next_revision();
        if former.info.resources != register.info.resources
            || former.info.attributes != register.info.attributes
            || former.info.allowed_security_options != register.info.allowed_security_options
            || former.info.largest_sizes != register.info.largest_sizes
        {
            agent.offer_revision = agent.revision;
        }
        if !same {
            agent.report = reported(incarnation, register);
            agent.principal = principal;
        }
        self.check_agent_bytes(&agent)?;
        self.check_resource_kinds(&agent.report.info, Some(&former.info))?;
        if back {
            agent.reachability = Reachability::Reachable { since: context.at };
            self.remove_sweep(SweepTarget::Agent(id));
        }
        self.put_agent(agent);
        context.emit(Event::AgentChanged(id));
        Ok(CommandReply::Agent(id))
    }

    /// Returns the principal of an actor that registers this agent, if it is the proven one of an
    /// agent. Since level 3, once the record of the agent is one of those that have it.
    #[must_use]
    pub fn agent_principal<'a>(&self, id: AgentId, actor: &'a Actor) -> Option<&'a Principal> {
        match actor {
            Actor::Principal(principal)
                if principal.kind == PrincipalKind::Agent
                    && self.cluster.layout.splits_agent(id) =>
            {
                Some(principal)
            }
            Actor::Principal(_) | Actor::Unauthenticated | Actor::Cluster => None,
        }
    }

    pub(super) fn agent_unreachable(
        &mut self,
        context: &mut CommandContext,
        decision: &AgentDecision,
    ) -> ApplyOutcome {
        let agent = self
            .agents
            .get(&decision.agent)
            .ok_or(Rejection::UnknownAgent(decision.agent))?;
        if agent.revision != decision.decided_on && !planted_bug!(MovedDecisionCommits) {
            return Err(Rejection::Conflict);
        }
        if agent.mode().is_lost() {
            return Ok(CommandReply::Done);
        }
        let since = context.at;
        self.change_agent(context, decision.agent, |agent| {
            agent.reachability = Reachability::Unreachable { since };
        });
        self.begin_sweep(
            context,
            SweepTarget::Agent(decision.agent),
            decision.wall_ms,
        );
        Ok(CommandReply::Done)
    }

    /// Records the time at which very many agents were silent simultaneously, for later leaders.
    pub(super) fn mass_loss(&mut self, context: &CommandContext) -> CommandReply {
        if self.cluster.mass_loss != Some(context.at) {
            self.cluster.mass_loss = Some(context.at);
            self.changed.insert(RecordKey::Cluster);
        }
        CommandReply::Done
    }

    /// Removes an agent. There are no tombstones: an agent that the registry no longer knows kills
    /// its tasks and registers as a new agent. Live tasks first become GONE, so that their
    /// frameworks receive updates before the record is removed.
    pub(super) fn prune_agent(
        &mut self,
        context: &mut CommandContext,
        decision: &AgentDecision,
    ) -> ApplyOutcome {
        let id = decision.agent;
        let agent = self.agents.get(&id).ok_or(Rejection::UnknownAgent(id))?;
        if agent.revision != decision.decided_on {
            return Err(Rejection::Conflict);
        }
        if !agent.mode().is_lost() {
            return Err(Rejection::WrongMode(id, agent.mode()));
        }
        let index = self.index.agents.get(&id);
        let swept = [SweepTarget::Agent(id), SweepTarget::PrunedAgent(id)];
        let is_swept = |target| self.cluster.sweeps.contains_key(target);
        if index.is_none_or(|index| index.tasks.is_empty()) {
            for target in swept {
                self.remove_sweep(target);
            }
            self.remove_agent(id);
            context.emit(Event::AgentForgotten(id));
        } else if agent.mode() == AgentMode::Unreachable && !swept.iter().any(is_swept) {
            // The agent counts as gone since it became unreachable, so it remains the next one to
            // remove.
            let since = agent.reachability.since();
            self.set_administration(context, id, Administration::Gone, since);
            context.emit(Event::AgentGone(id));
            self.begin_sweep(context, SweepTarget::PrunedAgent(id), decision.wall_ms);
        }
        Ok(CommandReply::Done)
    }

    /// Changes an existing agent. The caller has looked it up.
    pub(super) fn change_agent(
        &mut self,
        context: &mut CommandContext,
        id: AgentId,
        change: impl FnOnce(&mut Agent),
    ) {
        let mut agent = self
            .agents
            .get(&id)
            .expect("the caller has just looked it up")
            .clone();
        agent.revision = context.next_revision();
        change(&mut agent);
        self.put_agent(agent);
        context.emit(Event::AgentChanged(id));
    }

    /// Sets the administrative state of an agent. The caller has checked the transition.
    pub(super) fn set_administration(
        &mut self,
        context: &mut CommandContext,
        id: AgentId,
        administration: Administration,
        since: Timestamp,
    ) {
        self.change_agent(context, id, |agent| {
            agent.admin.administration = administration;
            agent.admin.since = since;
            agent.admin.deadline = None;
            agent.admin.revision = agent.revision;
        });
    }
}

/// Returns the facts that a registration reports.
fn reported(incarnation: u64, register: &RegisterAgent) -> Arc<AgentReport> {
    Arc::new(AgentReport {
        incarnation,
        boot_id: register.boot_id.clone(),
        info: register.info.clone(),
    })
}

fn check_info(info: &AgentInfo) -> Result<(), Rejection> {
    let invalid = |field: &str, text: String| {
        Err(Rejection::Invalid {
            field: field.into(),
            text,
        })
    };
    if info.attributes.len() > limits::ATTRIBUTES {
        return invalid(
            "info.attributes",
            format!(
                "{} of them; at most {}",
                info.attributes.len(),
                limits::ATTRIBUTES
            ),
        );
    }
    let texts = [
        &info.host_name,
        &info.address,
        &info.version,
        &info.isolation,
    ];
    let controllers = &info.missing_controllers;
    if texts
        .into_iter()
        .chain(controllers)
        .any(|text| text.len() > limits::NAME_BYTES)
        || controllers.len() > limits::MISSING_CONTROLLERS
    {
        return invalid(
            "info",
            format!(
                "host name, address, version, isolation and each of {} missing controllers take {} bytes at most",
                limits::MISSING_CONTROLLERS,
                limits::NAME_BYTES
            ),
        );
    }
    if !capability::are_bounded(&info.capabilities) {
        return invalid("info.capabilities", capability::bounds());
    }
    if let Err(why) = check_resources(&info.resources) {
        return invalid("info.resources", why);
    }
    for (name, value) in &info.attributes {
        if name.is_empty()
            || name.len() > limits::NAME_BYTES
            || value.len() > limits::ATTRIBUTE_BYTES
        {
            return invalid("info.attributes", format!("{name:?} is empty or too long"));
        }
    }
    Ok(())
}

/// Validates amounts from an untrusted source. Valid amounts can be summed over all tasks and
/// agents.
pub(super) fn check_resources(resources: &Resources) -> Result<(), String> {
    let mut parts = 0;
    for resource in resources {
        let identity = &resource.identity;
        let name = &identity.name;
        if name.is_empty() || name.len() > limits::NAME_BYTES {
            return Err(format!("a name takes 1 to {} bytes", limits::NAME_BYTES));
        }
        if texts(resource).any(|text| text.len() > limits::NAME_BYTES) {
            return Err(format!(
                "{name}: a principal, label, volume or item takes at most {} bytes",
                limits::NAME_BYTES
            ));
        }
        parts += 1 + identity.reservations.len();
        match &resource.value {
            Value::Scalar(milli) => {
                if !(1..=limits::SCALAR_MILLI).contains(milli) {
                    return Err(format!("{name}: the amount is too large"));
                }
                if **name == *"gpus" && milli % 1_000 != 0 {
                    return Err("gpus are whole".to_owned());
                }
            }
            Value::Ranges(ranges) => parts += ranges.len(),
            Value::Set(items) => parts += items.len(),
        }
    }
    if parts > limits::RESOURCE_PARTS {
        return Err(format!(
            "{parts} resources, ranges and items; at most {}",
            limits::RESOURCE_PARTS
        ));
    }
    Ok(())
}

/// Returns every text of a resource except its name and roles, which have their own rules.
fn texts(resource: &Resource) -> impl Iterator<Item = &str> {
    let reservations = resource.identity.reservations.iter().flat_map(|level| {
        let labels = level
            .labels
            .iter()
            .flat_map(|(name, value)| [name.as_str(), value.as_str()]);
        labels.chain([level.principal.as_str()])
    });
    let volume = resource
        .identity
        .volume
        .iter()
        .flat_map(|volume| [volume.id.as_str(), volume.container_path.as_str()]);
    let items = match &resource.value {
        Value::Set(items) => Some(items.iter().map(AsRef::as_ref)),
        Value::Scalar(_) | Value::Ranges(_) => None,
    };
    reservations
        .chain(volume)
        .chain(items.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, FormerCluster};
    use crate::ids::ClusterId;
    use crate::testing::World;

    #[test]
    fn a_follower_keeps_its_id_and_its_orders_continue() {
        let mut world = World::new();
        let id = world.register("cpus:8");
        let former = world.registry.cluster.facts.id;
        let known = world.registry.agent(id).unwrap().clone();
        let register = |follows: Option<(ClusterId, u64)>| {
            Command::RegisterAgent(RegisterAgent {
                agent: Some(id),
                nonce: known.nonce,
                // The former cluster has confirmed it after the registry was saved.
                confirmed: 0x77,
                tried: vec![0x78],
                boot_id: known.report.boot_id.clone(),
                info: known.report.info.clone(),
                follows: follows.map(|(id, floor)| FormerCluster {
                    id,
                    floor: OrderIndex(floor),
                }),
            })
        };
        let outcome = |world: &mut World, follows| world.apply(register(follows)).outcome;
        let foreign = outcome(&mut world, Some((former, 30)));
        assert!(
            matches!(foreign, Err(Rejection::Invalid { .. })),
            "{foreign:?}"
        );
        let index = world.registry.applied();
        let restored = world
            .registry
            .cluster
            .restored(index, ClusterId(9), [1; 32]);
        world.registry.cluster = restored.unwrap();
        world.registry.changed.insert(RecordKey::Cluster);
        assert_eq!(outcome(&mut world, None), Err(Rejection::Clone(id)));
        for floor in [30, 30, 10] {
            let followed = outcome(&mut world, Some((former, floor)));
            assert_eq!(followed, Ok(CommandReply::Agent(id)));
            assert_eq!(world.registry.agent(id).unwrap().orders, OrderIndex(30));
        }
        for floor in [u64::MAX, u64::MAX - 1, 31 + MAX_NEWER_ORDERS] {
            let refused = outcome(&mut world, Some((former, floor)));
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("floor"), "{text}");
        }
        assert_eq!(world.registry.agent(id).unwrap().orders, OrderIndex(30));
        assert!(world.reloaded() == world.registry, "its orders are stored");
    }
}
