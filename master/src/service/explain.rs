//! Why something does not run: a task by how far it came, a framework by what it is not offered.

use argosy_proto::convert;
use argosy_proto::v1;
use argosy_state::ids::FrameworkId;
use tonic::Status;

use super::operator::one_task;
use super::{Services, malformed, not_found};

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
        let found = self.desk.read(move |view| {
            let framework = view.registry.framework(id)?;
            Some(
                view.leader
                    .map(|leader| leader.explain(view.registry, framework.id, &wanted)),
            )
        });
        match found.await? {
            None => Err(not_found("framework", &question.framework_id, &[])),
            Some(None) => Err(crate::desk::unavailable("leadership has just moved")),
            Some(Some(explanation)) => Ok(explanation),
        }
    }
}

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
