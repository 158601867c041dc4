//! `argosy events`: changes of records, from the change feed.

mod history;

use argosy_client::Watch;
use argosy_proto::v1;
use argosy_proto::v1::watch_event::Event;
use argosy_proto::v1::watch_record::Record;

use crate::args::{Events, ListView};
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::operator::ClusterClient;
use crate::output::{
    ListLayout, Row, RowPrinter, exit_word, framework_state, milli, mode_word, note, reason_word,
    state_word, utc,
};
use crate::watching;

use history::History;

/// Widths of the columns, so that rows of all kinds are aligned.
const WIDTHS: [usize; 4] = [8, 9, 28, 16];

pub(crate) async fn show(arguments: &Events) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<v1::WatchChange>(format, &ListView::default())?;
    let mut printer = RowPrinter::new(format, &layout)?.at_least(&WIDTHS);
    let operator = ClusterClient::open(&arguments.reach)?;
    let cluster = operator.cluster(v1::Consistency::Linearizable).await?;
    let newest = cluster.applied_index;
    if let Some(from) = arguments.from.filter(|from| *from > newest) {
        let text = format!("--from {from} is after the newest revision, {newest}");
        return Err(Failure::usage(text).advise("argosy events -f shows new changes"));
    }
    let shows_history = !arguments.follow || arguments.from.is_some() || arguments.tail.is_some();
    if !shows_history {
        // The headings.
        printer.rows::<v1::WatchChange>(&[])?;
        return follow(arguments, &operator, printer, None).await;
    }
    let history = history::read(&operator, arguments, newest).await?;
    for text in remarks(&history, arguments) {
        note(&text);
    }
    let reader = printer.rows(&history.changes)?;
    match arguments.follow && !reader.is_gone() {
        true => follow(arguments, &operator, printer, Some(newest)).await,
        false => Ok(DONE),
    }
}

/// Prints changes after a log index, or new ones, until a master rejects the stream or the reader
/// of the output is gone.
async fn follow(
    arguments: &Events,
    operator: &ClusterClient,
    mut printer: RowPrinter<'_>,
    from: Option<u64>,
) -> VerbResult {
    let mut watch = operator.watch(v1::WatchRequest {
        min_revision: from.unwrap_or_default(),
        ..request(arguments, from)
    });
    loop {
        match watching::next(&mut watch).await? {
            Event::Change(change) => {
                if printer.rows(&[change])?.is_gone() {
                    return Ok(DONE);
                }
            }
            Event::HistoryLost(lost) => watch = resumed(arguments, operator, &watch, &lost),
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

/// Continues after a loss of history.
fn resumed(
    arguments: &Events,
    operator: &ClusterClient,
    watch: &Watch,
    lost: &v1::HistoryLost,
) -> Watch {
    let oldest = lost.oldest;
    let position = watch.position();
    let [former, next] = [position.cluster(), lost.cluster_id.as_str()];
    if !former.is_empty() && !next.is_empty() && former != next {
        note(&format!(
            "cluster {next} has taken the place of {former}: its changes after revision {oldest} follow"
        ));
    } else if let Some(read) = position.revision() {
        note(&format!(
            "the changes from revision {read} to {oldest} are no longer known"
        ));
    }
    operator.watch(v1::WatchRequest {
        cluster_id: lost.cluster_id.clone(),
        min_revision: oldest,
        ..request(arguments, Some(oldest))
    })
}

/// Returns the failure of a history that begins after the revision of `--from`.
fn revisions_unknown(from: u64, oldest: u64) -> Failure {
    let text = format!("the changes after revision {from} are no longer known");
    Failure::new(FailureCode::Failed, text).advise(format!(
        "argosy events --from {oldest} shows the oldest known ones"
    ))
}

/// Returns what is missing in a history.
fn remarks(history: &History, arguments: &Events) -> Vec<String> {
    let mut remarks = Vec::new();
    let wanted = arguments.tail.map_or(usize::MAX, |tail| tail as usize);
    if history.lost > 0 && history.changes.len() < wanted {
        remarks.push(format!(
            "the changes up to revision {} are no longer known; argosy task show has the history of a task",
            history.lost
        ));
    }
    if history.tasks_left_out > 0 {
        let tasks = match history.tasks_left_out {
            1 => "1 task".to_owned(),
            count => format!("{count} tasks"),
        };
        remarks.push(format!(
            "only the newest change is shown of {tasks} that changed before the others; --tail NUMBER or --filter selects less"
        ));
    }
    remarks
}

impl Row for v1::WatchChange {
    const HEADINGS: &'static [&'static str] = &["REVISION", "KIND", "ID", "STATE", "DETAIL"];
    const WIDE: &'static [&'static str] = &["POSITION", "TIME"];

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
        let record = self.record.as_ref().and_then(|all| all.record.as_ref());
        // Only the updates of tasks have a time.
        let time = match record {
            Some(Record::Task(task)) => task.latest.as_ref().map(|latest| latest.wall_ms),
            _ => None,
        };
        let time = time.filter(|time| *time > 0);
        vec![
            self.revision.unwrap_or_default().position.to_string(),
            time.map(utc).unwrap_or_default(),
        ]
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
                wall_ms: 1_500,
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
        assert_eq!(failed.wide_cells(), ["3", "1970-01-01 00:00:01.500Z"]);
        assert_eq!(default.wide_cells(), ["3", ""]);
    }

    #[test]
    fn what_is_missing_in_a_history_is_reported() {
        use clap::Parser;
        #[derive(Debug, Parser)]
        struct TestArguments {
            #[command(flatten)]
            events: Events,
        }
        let arguments = |words: &[&str]| {
            let words = std::iter::once(&"events").chain(words);
            TestArguments::try_parse_from(words).unwrap().events
        };
        let history = |lost, changes, tasks_left_out| History {
            changes: vec![v1::WatchChange::default(); changes],
            lost,
            tasks_left_out,
        };
        let all = arguments(&[]);
        assert_eq!(remarks(&history(0, 5, 0), &all), [""; 0]);
        let found = remarks(&history(4_711, 5, 2), &all);
        assert!(
            found[0].starts_with("the changes up to revision 4711 are no longer known"),
            "{found:?}"
        );
        assert!(found[1].contains("of 2 tasks"), "{found:?}");
        // The last changes are complete without those.
        let tail = arguments(&["--tail", "5"]);
        assert_eq!(remarks(&history(4_711, 5, 0), &tail), [""; 0]);
        assert_eq!(remarks(&history(4_711, 4, 0), &tail).len(), 1);
        let unknown = revisions_unknown(7, 4_711).to_string();
        assert!(unknown.contains("argosy events --from 4711"), "{unknown}");
    }
}
