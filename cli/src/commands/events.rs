//! `argosy events`: changes of records, from the change feed.

use argosy_client::Watch;
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;

use crate::args::{Events, ListView};
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::operator::ClusterClient;
use crate::output::{
    ListLayout, Row, RowPrinter, exit_word, framework_state, milli, mode_word, note, reason_word,
    state_word,
};
use crate::watching;

/// Widths of the columns, so that rows of all kinds are aligned.
const WIDTHS: [usize; 4] = [8, 9, 28, 12];

pub(crate) async fn show(arguments: &Events) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<v1::WatchChange>(format, &ListView::default())?;
    let mut printer = RowPrinter::new(format, &layout)?.at_least(&WIDTHS);
    let operator = ClusterClient::open(&arguments.reach);
    let cluster = operator.cluster(v1::Consistency::Linearizable).await?;
    let newest = cluster.applied_index;
    if let Some(from) = arguments.from.filter(|from| *from > newest) {
        let text = format!("--from {from} is after the newest revision, {newest}");
        return Err(Failure::usage(text).advise("argosy events -f shows new changes"));
    }
    // Without --follow, the changes up to now are shown; without either, those that are known.
    let end = (!arguments.follow).then_some(newest);
    let from = arguments.from.or((!arguments.follow).then_some(0));
    let mut watch = operator.watch(request(arguments, from));
    printer.rows::<v1::WatchChange>(&[])?;
    loop {
        match watching::next(&mut watch).await? {
            Event::Change(change) => {
                let index = change.revision.unwrap_or_default().index;
                if end.is_some_and(|end| index > end) {
                    return Ok(DONE);
                }
                printer.rows(&[change])?;
            }
            Event::Progress(progress) if end.is_some_and(|end| progress.revision >= end) => {
                return Ok(DONE);
            }
            Event::HistoryLost(lost) => watch = resumed(arguments, &operator, &watch, &lost)?,
            Event::Progress(_)
            | Event::Record(_)
            | Event::SnapshotBegin(_)
            | Event::SnapshotEnd(_) => {}
        }
    }
}

fn request(arguments: &Events, from: Option<u64>) -> v1::WatchRequest {
    v1::WatchRequest {
        from_revision: from,
        kinds: arguments.kinds.clone(),
        filter: arguments.filter.iter().cloned().collect(),
        no_snapshot: true,
        ..v1::WatchRequest::default()
    }
}

/// Continues after a loss of history, unless the user named the revision that is lost.
fn resumed(
    arguments: &Events,
    operator: &ClusterClient,
    watch: &Watch,
    lost: &v1::HistoryLost,
) -> Result<Watch, Failure> {
    let oldest = lost.oldest;
    let read = watch.position().revision();
    if let Some(from) = arguments
        .from
        .filter(|from| read.is_none_or(|read| read <= *from))
    {
        let text = format!("the changes after revision {from} are no longer known");
        return Err(Failure::new(FailureCode::Failed, text).advise(format!(
            "argosy events --from {oldest} shows the oldest known ones"
        )));
    }
    if let Some(read) = read.filter(|read| *read > 0) {
        note(&format!(
            "the changes from revision {read} to {oldest} are no longer known"
        ));
    }
    Ok(operator.watch(request(arguments, Some(oldest))))
}

impl Row for v1::WatchChange {
    const HEADINGS: &'static [&'static str] = &["REVISION", "KIND", "ID", "STATE", "DETAIL"];
    const WIDE: &'static [&'static str] = &["POSITION"];

    fn cells(&self) -> Vec<String> {
        let record = self.record.clone().unwrap_or_default();
        let (state, detail) = described(record.record.as_ref(), self.removed);
        vec![
            self.revision.unwrap_or_default().index.to_string(),
            record.kind,
            record.id,
            state,
            detail,
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.revision.unwrap_or_default().position.to_string()]
    }

    fn name(&self) -> String {
        let record = self.record.as_ref();
        record.map_or_else(String::new, |record| {
            format!("{}/{}", record.kind, record.id)
        })
    }
}

/// Returns the state of a record, and what else is worth knowing.
fn described(record: Option<&Record>, removed: bool) -> (String, String) {
    let text = |parts: Vec<String>| {
        let known: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        known.join(", ")
    };
    match record {
        None => ("removed".to_owned(), String::new()),
        Some(Record::Task(task)) => {
            let latest = task.latest.clone().unwrap_or_default();
            let detail = vec![
                task.agent_id.clone(),
                exit_word(latest.exit.as_ref()),
                reason_word(latest.reason),
                latest.message,
            ];
            (state_word(task.state), text(detail))
        }
        Some(Record::Agent(agent)) => {
            let host = agent.info.as_ref().map(|info| info.host_name.clone());
            (mode_word(agent.mode), host.unwrap_or_default())
        }
        Some(Record::Framework(framework)) => {
            let name = framework.info.as_ref().map(|info| info.name.clone());
            (
                framework_state(framework).to_owned(),
                name.unwrap_or_default(),
            )
        }
        Some(Record::Role(_)) if removed => ("weight 1".to_owned(), String::new()),
        Some(Record::Role(role)) => {
            let weight = i64::try_from(role.weight_milli).unwrap_or(i64::MAX);
            (format!("weight {}", milli(weight)), String::new())
        }
        Some(Record::Cluster(cluster)) => {
            let leader = match cluster.leader.as_str() {
                "" => String::new(),
                leader => format!("leader {leader}"),
            };
            let level = format!("feature level {}", cluster.feature_level);
            (
                format!("epoch {}", cluster.epoch),
                text(vec![leader, level]),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: &str, id: &str, record: Option<Record>, removed: bool) -> v1::WatchChange {
        v1::WatchChange {
            revision: Some(v1::Revision {
                index: 12,
                position: 3,
            }),
            record: Some(v1::WatchRecord {
                kind: kind.to_owned(),
                id: id.to_owned(),
                record,
            }),
            removed,
        }
    }

    #[test]
    fn a_change_is_shown_with_its_state() {
        let task = v1::Task {
            agent_id: "agent-1".to_owned(),
            state: v1::TaskState::Failed.into(),
            latest: Some(v1::TaskStatus {
                exit: Some(v1::Exit {
                    how: Some(v1::exit::How::Code(3)),
                }),
                message: "exited".to_owned(),
                ..v1::TaskStatus::default()
            }),
            ..v1::Task::default()
        };
        let failed = change("task", "framework-1/web", Some(Record::Task(task)), true);
        let expected = [
            "12",
            "task",
            "framework-1/web",
            "failed",
            "agent-1, exit 3, exited",
        ];
        assert_eq!(failed.cells(), expected);
        let dropped = change("task", "framework-1/web", None, true);
        assert_eq!(dropped.cells()[3..], ["removed", ""]);
        let role = v1::RoleWeight {
            role: "web".to_owned(),
            weight_milli: 2_500,
        };
        let weight = change("role", "web", Some(Record::Role(role.clone())), false);
        assert_eq!(weight.cells()[3], "weight 2.5");
        let default = change("role", "web", Some(Record::Role(role)), true);
        assert_eq!(default.cells()[3], "weight 1");
        assert_eq!(default.name(), "role/web");
        assert_eq!(v1::WatchChange::default().cells()[3], "removed");
    }
}
