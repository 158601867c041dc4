//! `argosy explain`: why a task or framework does not run, according to the masters' allocator.

use argosy_proto::v1;

use crate::args::{Explain, Format};
use crate::exit::{Failure, FailureCode, VerbResult};
use crate::operator::{ClusterClient, is_terminal};
use crate::output::{self, Row, exit_word, plain, reason_word, state_word};
use crate::reasons;

pub(crate) async fn show(arguments: &Explain) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let wanted = arguments.wanted.clone().map(|demand| demand.0);
    let subject = match wanted.is_some() && !arguments.id.contains('/') {
        // A demand is always that of a framework.
        true => Subject::Framework(Box::new(operator.find_framework(&arguments.id).await?)),
        false => find(&operator, &arguments.id).await?,
    };
    let request = match &subject {
        Subject::Task(_) if wanted.is_some() => {
            let text = format!("--wanted: {} is a task, and has an agent", subject.name());
            return Err(Failure::usage(text).advise("name a framework that waits for resources"));
        }
        Subject::Task(task) => v1::ExplainRequest {
            framework_id: task.framework_id.clone(),
            task_id: task.task_id.clone(),
            wanted: Vec::new(),
        },
        Subject::Framework(framework) => v1::ExplainRequest {
            framework_id: framework.framework_id.clone(),
            wanted: wanted.unwrap_or_default(),
            ..v1::ExplainRequest::default()
        },
    };
    let explanation = operator.explain(request).await?;
    match arguments.show.output {
        Format::Json => output::print(&output::json(&explanation)?),
        Format::Ndjson => output::print(&output::line(&explanation)?),
        Format::Yaml => output::print(&output::yaml(&explanation)?),
        Format::Name => output::print(&format!("{}\n", subject.name())),
        Format::Table | Format::Wide if matches!(subject, Subject::Task(_)) => {
            output::print(&explanation_text(&subject, &explanation))
        }
        Format::Table | Format::Wide => {
            output::print(&explanation_text(&subject, &explanation))?;
            output::list(arguments.show.output, &explanation, &explanation.verdicts)
        }
    }
}

enum Subject {
    Task(Box<v1::Task>),
    Framework(Box<v1::Framework>),
}

impl Subject {
    fn name(&self) -> String {
        match self {
            Self::Task(task) => format!("{}/{}", task.framework_id, task.task_id),
            Self::Framework(framework) => framework.framework_id.clone(),
        }
    }
}

/// Returns the framework with this id, else a task if one has this name, else a framework. A task
/// that still waits has no record.
async fn find(operator: &ClusterClient, wanted: &str) -> Result<Subject, Failure> {
    // It would also be a prefix of the ids of its tasks.
    if wanted.starts_with("framework-")
        && !wanted.contains('/')
        && let Some(framework) = operator.framework(wanted).await?
    {
        return Ok(Subject::Framework(Box::new(framework)));
    }
    match operator.find_task(wanted).await {
        Ok(task) => Ok(Subject::Task(Box::new(task))),
        Err(failure) if failure.code == FailureCode::NotFound && !wanted.contains('/') => {
            let framework = operator.find_framework(wanted).await;
            framework
                .map(|framework| Subject::Framework(Box::new(framework)))
                .map_err(|other| {
                    if other.code == FailureCode::NotFound {
                        Failure {
                            message: failure
                                .message
                                .replacen("no task", "no task or framework", 1),
                            ..failure
                        }
                    } else {
                        other
                    }
                })
        }
        Err(failure) => Err(failure),
    }
}

fn explanation_text(subject: &Subject, explanation: &v1::Explanation) -> String {
    let mut lines = Vec::new();
    match subject {
        Subject::Task(task) => {
            lines.push(("task", subject.name()));
            lines.push(("state", state_word(task.state)));
            lines.push(("why", explain_placed(task)));
            return plain(&lines);
        }
        Subject::Framework(framework) => {
            let name = framework
                .info
                .as_ref()
                .map(|info| info.name.clone())
                .unwrap_or_default();
            lines.push(("framework", format!("{} ({name})", framework.framework_id)));
        }
    }
    lines.push(("why", explanation.summary.clone()));
    lines.push(("agents", reasons::counts(&explanation.counts)));
    plain(&lines)
}

/// Explains the progress of a task that has a record, and therefore an agent.
fn explain_placed(task: &v1::Task) -> String {
    let latest = task.latest.clone().unwrap_or_default();
    let agent = &task.agent_id;
    let parts = match v1::TaskState::try_from(task.state).unwrap_or_default() {
        v1::TaskState::Staging | v1::TaskState::Starting => {
            vec![format!(
                "it is assigned to {agent}, which has not started it yet"
            )]
        }
        v1::TaskState::Running => vec![format!("it runs on {agent}")],
        v1::TaskState::Killing => vec![format!("{agent} is ending it")],
        v1::TaskState::Unreachable if latest.stopped => {
            vec![format!(
                "{agent} is unreachable; the task has stopped itself, so it may be replaced"
            )]
        }
        v1::TaskState::Unreachable => {
            vec![format!(
                "{agent} is unreachable; it may still run there, and counts again when {agent} returns"
            )]
        }
        state if is_terminal(state.into()) => {
            vec![
                "it has ended".to_owned(),
                exit_word(latest.exit.as_ref()),
                reason_word(latest.reason),
                latest.message,
            ]
        }
        _ => vec!["its state is unknown".to_owned()],
    };
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

impl Row for v1::Verdict {
    const HEADINGS: &'static [&'static str] = &["AGENT", "REASON", "DETAIL"];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![
            self.agent_id.clone(),
            reasons::word(&self.reason),
            self.detail.clone(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }

    fn name(&self) -> String {
        self.agent_id.clone()
    }
}
