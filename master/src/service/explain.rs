//! Explanations of why work does not run: of a task by its progress, of a framework by the agents
//! that it is not offered.

use std::sync::Arc;

use argosy_proto::convert;
use argosy_proto::v1;
use argosy_state::access::Action;
use argosy_state::ids::{AgentId, FrameworkId};
use prost::Message as _;
use tonic::Status;

use super::records::one_task;
use super::{Services, denied, malformed, not_found};
use crate::access::Reader;
use crate::allocator::{DemandExplanation, ExplainQuery};
use crate::inbox::OwnerState;

impl Services {
    /// Runs at the leader, which alone knows the offers.
    pub(crate) async fn explain_here(
        &self,
        question: v1::ExplainRequest,
        reader: Reader,
    ) -> Result<v1::Explanation, Status> {
        if !question.task_id.is_empty() {
            let request = v1::GetRequest {
                framework_id: question.framework_id,
                id: question.task_id,
                consistency: v1::Consistency::Local.into(),
                ..Default::default()
            };
            let task = one_task(&self.owner, (reader, Action::Explain), request);
            return Ok(placed_explanation(&task.await?));
        }
        let id: FrameworkId =
            convert::id("framework_id", &question.framework_id).map_err(|why| malformed(&why))?;
        let wanted =
            convert::resources_from("wanted", &question.wanted).map_err(|why| malformed(&why))?;
        let wanted = (!wanted.is_empty()).then_some(wanted);
        let mut share = self
            .owner
            .reserve(EXPLANATION_BYTES, EXPLANATION_BYTES)
            .await?;
        let query = ExplainQuery::new(id, wanted);
        let policy = Arc::clone(&self.owner.access.borrow().policy);
        let sees_all = reader.sight_by(&policy, Action::ViewAgent).is_all();
        let evaluated = self.explain_copy(query, reader).await?;
        let found = evaluated.ok_or_else(|| not_found("framework", &question.framework_id, &[]))?;
        let mut explanation = crate::leader::explanation(found);
        if explanation.counts.is_empty() && !sees_all {
            NO_AGENT_SEEN.clone_into(&mut explanation.summary);
        }
        share.resize(2 * explanation.encoded_len());
        share.attach_to_answer();
        Ok(explanation)
    }

    /// Evaluates all agents of a copy of the registry outside the owner's turns; `None` if the
    /// framework does not exist. The leader's private state comes from short queries, so it may be
    /// some milliseconds newer. Agents that the reader may not see are left out.
    async fn explain_copy(
        &self,
        query: ExplainQuery,
        reader: Reader,
    ) -> Result<Option<DemandExplanation>, Status> {
        let framework = query.framework;
        let policy = Arc::clone(&self.owner.access.borrow().policy);
        let sight = reader.sight_by(&policy, Action::Explain);
        sight.some().map_err(|denial| denied(&denial))?;
        let agents = reader.sight_by(&policy, Action::ViewAgent);
        let is_seen = move |facts: &OwnerState<'_>| {
            let known = facts.registry.framework(framework);
            known.is_some_and(|known| sight.framework(framework, &known.info))
        };
        if !self.owner.query(is_seen).await? {
            return Ok(None);
        }
        let first = move |facts: &OwnerState<'_>| {
            facts.registry.framework(framework)?;
            let leader = facts.leader.map(|leader| {
                let inputs = leader.explain_inputs(facts.registry, &query);
                (Arc::new(inputs), leader.book().epoch())
            });
            Some(leader.map(|(inputs, epoch)| (inputs, epoch, facts.registry.snapshot())))
        };
        let Some(known) = self.owner.query(first).await? else {
            return Ok(None);
        };
        let (inputs, epoch, registry) = known.ok_or_else(moved)?;
        let mut explanation = inputs.begin();
        let mut after = AgentId(0);
        loop {
            let some = registry.agents_after(after).take(AGENTS_PER_QUERY);
            let mut ids: Vec<AgentId> = some.map(|agent| agent.id).collect();
            let Some(last) = ids.last() else {
                return Ok(Some(explanation));
            };
            after = *last;
            ids.retain(|id| agents.agent(*id));
            let of_agents = {
                let (inputs, ids) = (Arc::clone(&inputs), ids.clone());
                move |facts: &OwnerState<'_>| {
                    // Another leader numbers the clients in `inputs` differently.
                    let leader = facts
                        .leader
                        .filter(|leader| leader.book().epoch() == epoch)?;
                    Some(leader.agent_inputs(&inputs, framework, &ids))
                }
            };
            let known = self.owner.query(of_agents).await?.ok_or_else(moved)?;
            for (id, known) in ids.into_iter().zip(known) {
                if let Some(agent) = registry.agent(id) {
                    inputs.evaluate(&mut explanation, &registry, agent, &known);
                }
            }
        }
    }
}

fn moved() -> Status {
    crate::owner_handle::unavailable("leadership has just moved")
}

/// Agents that one query covers, at a microsecond each, and that are evaluated before other work of
/// the thread is scheduled.
const AGENTS_PER_QUERY: usize = 200;
/// The summary for a reader of none of the agents, of which the cluster may have some.
const NO_AGENT_SEEN: &str =
    "this caller sees no agent: only agents that the caller may view are explained (view-agent)";
/// Memory reserved for an explanation: a hundred details.
const EXPLANATION_BYTES: usize = 256 << 10;

/// Explains a task with a record: it has an agent, so there is nothing left to offer.
fn placed_explanation(task: &v1::Task) -> v1::Explanation {
    use v1::TaskState;
    let (id, agent) = (&task.task_id, &task.agent_id);
    let message = task.latest.as_ref().map_or("", |latest| &latest.message);
    let summary = match task.state() {
        TaskState::Staging | TaskState::Starting => {
            format!("{id} was given to {agent}, which has not started it yet")
        }
        TaskState::Running => format!("{id} runs on {agent}"),
        TaskState::Killing => format!("{agent} is ending {id}"),
        TaskState::Unreachable if task.latest.as_ref().is_some_and(|latest| latest.stopped) => {
            format!(
                "{agent} is unreachable; {id} has stopped itself after its stop_after_ms and may be replaced"
            )
        }
        TaskState::Unreachable => format!(
            "{agent} is unreachable; {id} may run on there, and counts again when {agent} returns"
        ),
        ended => {
            let state = ended.as_str_name().trim_start_matches("TASK_STATE_");
            let separator = if message.is_empty() { "" } else { ": " };
            format!("{id} has ended on {agent} as {state}{separator}{message}")
        }
    };
    v1::Explanation {
        summary,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_explanation_depends_on_its_state() {
        let task = |state: v1::TaskState, message: &str| v1::Task {
            task_id: "web".to_owned(),
            agent_id: "agent-2".to_owned(),
            state: state.into(),
            latest: Some(v1::TaskStatus {
                message: message.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut stopped = task(v1::TaskState::Unreachable, "");
        assert_eq!(
            placed_explanation(&stopped).summary,
            "agent-2 is unreachable; web may run on there, and counts again when agent-2 returns"
        );
        stopped.latest = Some(v1::TaskStatus {
            stopped: true,
            ..Default::default()
        });
        assert_eq!(
            placed_explanation(&stopped).summary,
            "agent-2 is unreachable; web has stopped itself after its stop_after_ms and may be replaced"
        );
        let summary = |state, message| placed_explanation(&task(state, message)).summary;
        assert_eq!(
            summary(v1::TaskState::Staging, ""),
            "web was given to agent-2, which has not started it yet"
        );
        assert_eq!(summary(v1::TaskState::Running, ""), "web runs on agent-2");
        assert_eq!(
            summary(v1::TaskState::Failed, "exited with 3"),
            "web has ended on agent-2 as FAILED: exited with 3"
        );
    }
}
