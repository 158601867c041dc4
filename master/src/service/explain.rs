//! Why something does not run: a task by how far it came, a framework by what it is not offered.

use argosy_proto::convert;
use argosy_proto::v1;
use argosy_state::ids::FrameworkId;
use prost::Message as _;
use tonic::Status;

use super::operator::one_task;
use super::{Services, malformed, not_found};
use crate::allocator::{Explanation, Question};
use crate::inbox::View;

impl Services {
    /// At the leader, who alone knows what is offered.
    pub(super) async fn explain_here(
        &self,
        question: v1::ExplainRequest,
    ) -> Result<v1::Explanation, Status> {
        if !question.task_id.is_empty() {
            let request = v1::GetRequest {
                framework_id: question.framework_id,
                id: question.task_id,
                consistency: v1::Consistency::Local.into(),
                ..Default::default()
            };
            return Ok(placed(&one_task(&self.desk, request).await?));
        }
        let id: FrameworkId =
            convert::id("framework_id", &question.framework_id).map_err(|why| malformed(&why))?;
        let wanted =
            convert::resources_from("wanted", &question.wanted).map_err(|why| malformed(&why))?;
        let wanted = (!wanted.is_empty()).then_some(wanted);
        let mut share = self
            .desk
            .reserve(EXPLANATION_BYTES, EXPLANATION_BYTES)
            .await?;
        let judged = self.judged(Question::new(id, wanted)).await?;
        let found = judged.ok_or_else(|| not_found("framework", &question.framework_id, &[]))?;
        let explanation = crate::leader::explanation(found);
        share.fit(2 * explanation.encoded_len());
        share.leave_to_answer();
        Ok(explanation)
    }

    /// The whole answer, from looks at some agents each; `None` if there is no such framework.
    async fn judged(&self, whole: Question) -> Result<Option<Explanation>, Status> {
        let mut known: Option<Explanation> = None;
        loop {
            let (agents, verdicts) = known.as_ref().map_or((0, 0), |known| {
                (known.agents() as usize, known.verdicts.len())
            });
            let question = Question {
                after: known
                    .as_ref()
                    .and_then(|known| known.next)
                    .unwrap_or(whole.after),
                agents: (whole.agents - agents).min(AGENTS_A_LOOK),
                verdicts: whole.verdicts - verdicts,
                ..whole.clone()
            };
            let look = move |view: &View<'_>| {
                view.registry.framework(question.framework)?;
                Some(
                    view.leader
                        .map(|leader| leader.explain(view.registry, &question)),
                )
            };
            let part = match self.desk.read(look).await? {
                None => return Ok(None),
                Some(None) => return Err(crate::desk::unavailable("leadership has just moved")),
                Some(Some(part)) => part,
            };
            let explanation = match known.take() {
                Some(mut known) => {
                    known.extend(part);
                    known
                }
                None => part,
            };
            if explanation.next.is_none() || explanation.agents() as usize >= whole.agents {
                return Ok(Some(explanation));
            }
            known = Some(explanation);
        }
    }
}

/// Agents that one look judges, each in a microsecond and with a sentence.
const AGENTS_A_LOOK: usize = 200;
/// Room for an explanation: a hundred sentences.
const EXPLANATION_BYTES: usize = 256 << 10;

/// A task with a record has an agent: nothing is left to be offered.
fn placed(task: &v1::Task) -> v1::Explanation {
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
    fn a_task_is_explained_by_how_far_it_came() {
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
            placed(&stopped).summary,
            "agent-2 is unreachable; web may run on there, and counts again when agent-2 returns"
        );
        stopped.latest = Some(v1::TaskStatus {
            stopped: true,
            ..Default::default()
        });
        assert_eq!(
            placed(&stopped).summary,
            "agent-2 is unreachable; web has stopped itself after its stop_after_ms and may be replaced"
        );
        let summary = |state, message| placed(&task(state, message)).summary;
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
