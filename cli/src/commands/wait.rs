//! `argosy wait`: until an object is in a state, by the change feed; or until the cluster is
//! healthy, by what all masters answer.

mod condition;
mod health;
mod leading;

use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;

use crate::args::{Wait, WaitKind};
use crate::contexts::ChosenCluster;
use crate::exit::{DONE, Failure, VerbResult};
use crate::operator::ClusterClient;
use crate::output::{StatusLine, StatusMode, mode_word, note, span_ms, state_word};
use crate::{preparation, watching};

use condition::{Condition, Progress};

/// Time by which calls may last longer than the wait.
const CALL_MARGIN: Duration = Duration::from_secs(10);

/// The kinds of objects that the feed has.
#[derive(Debug, Clone, Copy)]
enum RecordKind {
    Task,
    Agent,
    Framework,
}

/// The object that is waited for.
struct Subject {
    kind: RecordKind,
    /// As in the feed: `framework-1/web` of a task.
    id: String,
    filter: Vec<(&'static str, String)>,
}

/// Returns whether this is a condition of such objects.
#[cfg(test)]
pub(crate) fn is_condition(kind: WaitKind, text: &str) -> bool {
    Condition::parse(kind, text).is_ok()
}

pub(crate) async fn run(arguments: &Wait) -> VerbResult {
    let condition = Condition::parse(arguments.kind, &arguments.condition)?;
    let name = arguments.name.as_deref().unwrap_or_default();
    let kind = match arguments.kind {
        WaitKind::Task => RecordKind::Task,
        WaitKind::Agent => RecordKind::Agent,
        WaitKind::Framework => RecordKind::Framework,
        WaitKind::Master => return leading::run(arguments, name).await,
        WaitKind::Cluster if name.is_empty() => return health::run(arguments).await,
        WaitKind::Cluster => {
            let text = format!("{name:?}: a cluster has no name here");
            return Err(Failure::usage(text).advise("argosy wait cluster --for healthy"));
        }
    };
    let ChosenCluster { masters, transport } = ChosenCluster::of(&arguments.cluster)?;
    let operator = ClusterClient::within(masters, call_timeout(arguments), transport);
    let started = Instant::now();
    let waited = wait(&operator, arguments, kind, condition);
    let text = match arguments.timeout {
        None => waited.await?,
        Some(limit) => match tokio::time::timeout(limit, waited).await {
            Ok(ended) => ended?,
            Err(_) => {
                let text = format!(
                    "{} {} is not {} after {}",
                    arguments.kind.word(),
                    name,
                    arguments.condition,
                    span_ms(limit.as_millis() as u64)
                );
                return Err(Failure::failed(text).advise("--timeout waits longer"));
            }
        },
    };
    let took = span_ms(started.elapsed().as_millis() as u64);
    note(&format!("{text}, after {took}"));
    Ok(DONE)
}

/// Returns the timeout of a call: longer than the wait, whose own limit ends it.
fn call_timeout(arguments: &Wait) -> Option<Duration> {
    let limit = arguments.timeout?;
    Some(limit.saturating_add(CALL_MARGIN))
}

/// Returns what has become true.
async fn wait(
    operator: &ClusterClient,
    arguments: &Wait,
    kind: RecordKind,
    condition: Condition,
) -> Result<String, Failure> {
    // Before the object is read, so that no change is missed.
    let revision = operator
        .cluster(v1::Consistency::Linearizable)
        .await?
        .applied_index;
    let name = arguments.name.as_deref().unwrap_or_default();
    let (subject, record) = find(operator, kind, name).await?;
    if let Some(text) = outcome(&subject, condition, Some(&record))? {
        return Ok(text);
    }
    let filter = subject.filter.iter();
    let mut watch = operator.watch(v1::WatchRequest {
        from_revision: Some(revision),
        min_revision: revision,
        kinds: vec![arguments.kind.word().to_owned()],
        filter: filter
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        ..v1::WatchRequest::default()
    });
    let mut line = StatusLine::new(StatusMode::Shown);
    let mut last = Some(record);
    loop {
        line.show(|_| pending_text(&subject.id, condition, last.as_ref()));
        // Every few seconds there is an event.
        last = match watching::next(&mut watch).await? {
            Event::Change(_) | Event::Progress(_) if condition.needs_reads() => {
                read(operator, &subject).await?
            }
            Event::Change(change) => change.record.and_then(|changed| changed.record),
            // History was lost: the object may have ended since, so it is read.
            Event::SnapshotEnd(_) => read(operator, &subject).await?,
            Event::Record(_)
            | Event::HistoryLost(_)
            | Event::SnapshotBegin(_)
            | Event::Progress(_) => continue,
        };
        if let Some(text) = outcome(&subject, condition, last.as_ref())? {
            return Ok(text);
        }
    }
}

/// Returns the text of a condition that holds; a failure if it can never hold any more.
fn outcome(
    subject: &Subject,
    condition: Condition,
    record: Option<&Record>,
) -> Result<Option<String>, Failure> {
    match condition.evaluate(record) {
        Progress::Met(state) => Ok(Some(format!("{} is {state}", subject.id))),
        Progress::Pending => Ok(None),
        Progress::Never(why) => {
            let text = format!("{} {why}, so it will never be {condition}", subject.id);
            Err(Failure::failed(text))
        }
    }
}

/// Returns what is waited for, and the present state: `waiting until f/web is running: starting`.
fn pending_text(id: &str, condition: Condition, record: Option<&Record>) -> String {
    let text = format!("waiting until {id} is {condition}");
    let state = match record {
        // The message has what its agent fetches.
        Some(Record::Task(task)) => {
            let message = task.latest.as_ref().map(|latest| latest.message.as_str());
            let message = message.filter(|_| preparation::is_prepared(task));
            let parts = [
                state_word(task.state),
                message.unwrap_or_default().to_owned(),
            ];
            let parts = parts.into_iter().filter(|part| !part.is_empty());
            parts.collect::<Vec<_>>().join(", ")
        }
        Some(Record::Agent(agent)) if condition == Condition::Idle => {
            format!("{} tasks left", agent.live_tasks)
        }
        Some(Record::Agent(agent)) => mode_word(agent.mode),
        Some(Record::Framework(framework)) => format!("{} tasks left", framework.live_tasks),
        Some(Record::Role(_) | Record::Cluster(_)) | None => return text,
    };
    format!("{text}: {state}")
}

async fn find(
    operator: &ClusterClient,
    kind: RecordKind,
    name: &str,
) -> Result<(Subject, Record), Failure> {
    let (id, filter, record) = match kind {
        RecordKind::Task => {
            let task = operator.find_task(name).await?;
            let filter = vec![
                ("framework_id", task.framework_id.clone()),
                ("task_id", task.task_id.clone()),
            ];
            let id = format!("{}/{}", task.framework_id, task.task_id);
            (id, filter, Record::Task(task))
        }
        RecordKind::Agent => {
            let agent = operator.find_agent(name).await?;
            let id = agent.agent_id.clone();
            (id.clone(), vec![("agent_id", id)], Record::Agent(agent))
        }
        RecordKind::Framework => {
            let framework = operator.find_framework(name).await?;
            let id = framework.framework_id.clone();
            let filter = vec![("framework_id", id.clone())];
            (id, filter, Record::Framework(framework))
        }
    };
    Ok((Subject { kind, id, filter }, record))
}

async fn read(operator: &ClusterClient, subject: &Subject) -> Result<Option<Record>, Failure> {
    Ok(match subject.kind {
        RecordKind::Task => {
            let (framework, task) = subject.id.split_once('/').unwrap_or_default();
            operator.task(framework, task).await?.map(Record::Task)
        }
        RecordKind::Agent => operator.agent(&subject.id).await?.map(Record::Agent),
        RecordKind::Framework => operator
            .framework(&subject.id)
            .await?
            .map(Record::Framework),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_names_the_condition_and_the_present_state() {
        let mut task = v1::Task {
            agent_id: "agent-1".to_owned(),
            state: v1::TaskState::Starting.into(),
            latest: Some(v1::TaskStatus {
                message: "pulling the image nginx".to_owned(),
                ..v1::TaskStatus::default()
            }),
            ..v1::Task::default()
        };
        let running = Condition::Task(v1::TaskState::Running);
        let text = |task: &v1::Task| {
            let record = Record::Task(task.clone());
            pending_text("framework-1/web", running, Some(&record))
        };
        assert_eq!(
            text(&task),
            "waiting until framework-1/web is running: starting, pulling the image nginx"
        );
        task.state = v1::TaskState::Unreachable.into();
        assert_eq!(
            text(&task),
            "waiting until framework-1/web is running: unreachable"
        );
        let framework = Record::Framework(v1::Framework {
            live_tasks: 3,
            ..v1::Framework::default()
        });
        assert_eq!(
            pending_text("framework-1", Condition::Removed, Some(&framework)),
            "waiting until framework-1 is removed: 3 tasks left"
        );
    }
}
