//! Agents come, fall silent, and are declared gone.

use super::Scene;
use crate::Registry;
use crate::agent::{Agent, AgentInfo, AgentMode, UsedOffers};
use crate::command::{AgentDecision, Outcome, RegisterAgent, Rejection, Reply, SweepTarget};
use crate::event::Event;
use crate::ids::{AgentId, OrderIndex};
use crate::limits;
use crate::registry::RecordKey;

impl Registry {
    pub(super) fn register_agent(
        &mut self,
        scene: &mut Scene,
        register: &RegisterAgent,
    ) -> Outcome {
        check_info(&register.info)?;
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
        match register
            .agent
            .or_else(|| self.agent_by_nonce(register.nonce))
        {
            Some(id) => self.return_agent(scene, id, incarnation, register),
            None => Ok(self.add_agent(scene, incarnation, register)),
        }
    }

    fn add_agent(
        &mut self,
        scene: &mut Scene,
        incarnation: u64,
        register: &RegisterAgent,
    ) -> Reply {
        self.cluster.last_agent += 1;
        self.changed.insert(RecordKey::Cluster);
        let id = AgentId(self.cluster.last_agent);
        let revision = scene.next_revision();
        self.put_agent(Agent {
            id,
            nonce: register.nonce,
            incarnation,
            boot_id: register.boot_id.clone(),
            info: register.info.clone(),
            set_attributes: Default::default(),
            mode: AgentMode::Registered,
            since: scene.at,
            orders: OrderIndex(0),
            promise: revision,
            used_offers: UsedOffers::default(),
            revision,
        });
        scene.say(Event::AgentChanged(id));
        Reply::Agent(id)
    }

    fn return_agent(
        &mut self,
        scene: &mut Scene,
        id: AgentId,
        incarnation: u64,
        register: &RegisterAgent,
    ) -> Outcome {
        let known = self.agents.get(&id).ok_or(Rejection::UnknownAgent(id))?;
        if known.mode == AgentMode::Gone {
            return Err(Rejection::AgentGone(id));
        }
        if known.incarnation != register.confirmed && !register.tried.contains(&known.incarnation) {
            return Err(Rejection::Clone(id));
        }
        let back = known.mode == AgentMode::Unreachable;
        let same = !back
            && known.incarnation == incarnation
            && known.info == register.info
            && known.boot_id == register.boot_id;
        if same {
            return Ok(Reply::Agent(id));
        }
        let mut agent = known.clone();
        agent.revision = scene.next_revision();
        if agent.info.resources != register.info.resources
            || agent.info.attributes != register.info.attributes
        {
            agent.promise = agent.revision;
        }
        agent.incarnation = incarnation;
        agent.info = register.info.clone();
        agent.boot_id.clone_from(&register.boot_id);
        if back {
            agent.mode = AgentMode::Registered;
            agent.since = scene.at;
            self.cluster.sweeps.remove(&SweepTarget::Agent(id));
            self.changed.insert(RecordKey::Cluster);
        }
        self.put_agent(agent);
        scene.say(Event::AgentChanged(id));
        Ok(Reply::Agent(id))
    }

    pub(super) fn agent_unreachable(
        &mut self,
        scene: &mut Scene,
        decision: &AgentDecision,
    ) -> Outcome {
        let agent = self
            .agents
            .get(&decision.agent)
            .ok_or(Rejection::UnknownAgent(decision.agent))?;
        if agent.revision != decision.decided_on {
            return Err(Rejection::Moved);
        }
        match agent.mode {
            AgentMode::Unreachable | AgentMode::Gone => return Ok(Reply::Done),
            AgentMode::Registered
            | AgentMode::Draining
            | AgentMode::Drained
            | AgentMode::Deactivated => {}
        }
        self.set_mode(scene, decision.agent, AgentMode::Unreachable);
        self.begin_sweep(scene, SweepTarget::Agent(decision.agent));
        Ok(Reply::Done)
    }

    /// Enters `mode`; the caller has checked that it may.
    pub(super) fn set_mode(&mut self, scene: &mut Scene, id: AgentId, mode: AgentMode) {
        let mut agent = self
            .agents
            .get(&id)
            .expect("the caller has just looked it up")
            .clone();
        agent.mode = mode;
        agent.since = scene.at;
        agent.revision = scene.next_revision();
        self.put_agent(agent);
        scene.say(Event::AgentChanged(id));
    }
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
