//! `task list` and `ps`.

use argosy_proto::v1;
use argosy_proto::v1::watch_record::Record;
use clap::Args;

use crate::args::filters::{LabelFilter, task_state};
use crate::args::{ConnectionArguments, ListView, OutputArguments};
use crate::exit::{Failure, VerbResult};
use crate::operator::{ClusterClient, EndedObjects, is_terminal};
use crate::output::{self, ListLayout, note, state_word};
use crate::watching::{self, WatchedList};

#[derive(Debug, Args)]
pub(crate) struct TaskList {
    /// Only tasks of this framework: id, unique prefix of an id, or name
    #[arg(long, value_name = "FRAMEWORK")]
    framework: Option<String>,
    /// Only tasks on this agent: id, unique prefix of an id, or host name
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Only tasks in one of these states, as running or failed,killed; ended ones need no --all
    #[arg(long = "state", value_name = "STATE,…", value_delimiter = ',', value_parser = task_state)]
    states: Vec<v1::TaskState>,
    /// Only tasks of this role
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Only tasks with this label; may be repeated
    #[arg(long = "label", value_name = "NAME[=VALUE]", value_parser = LabelFilter::parse)]
    labels: Vec<LabelFilter>,
    /// Include tasks that have ended
    #[arg(short, long)]
    all: bool,
    /// Keep printing a line for each change, until Ctrl-C; the last one of a task shows that it no
    /// longer matches
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    view: ListView,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

impl TaskList {
    fn includes_ended(&self) -> EndedObjects {
        let ended = |state: &v1::TaskState| is_terminal((*state).into());
        EndedObjects::from_flag(self.all || self.states.iter().any(ended))
    }

    /// Returns the fields by which masters filter.
    async fn filter(
        &self,
        operator: &ClusterClient,
    ) -> Result<Vec<(&'static str, String)>, Failure> {
        let mut filter = Vec::new();
        if let Some(wanted) = &self.framework {
            let framework = operator.find_framework(wanted).await?;
            filter.push(("framework_id", framework.framework_id));
        }
        if let Some(wanted) = &self.agent {
            filter.push(("agent_id", operator.find_agent(wanted).await?.agent_id));
        }
        if let [state] = self.states[..] {
            filter.push(("state", state_word(state.into()).replace('-', "_")));
        }
        filter.extend(self.role.clone().map(|role| ("role", role)));
        Ok(filter)
    }

    /// Returns whether a task matches what masters do not filter by.
    fn matches(&self, task: &v1::Task) -> bool {
        let labels = task.spec.as_ref().map(|spec| &spec.labels);
        let has = |label: &LabelFilter| labels.is_some_and(|labels| label.matches(labels));
        (self.states.is_empty() || self.states.contains(&task.state()))
            && self.labels.iter().all(has)
    }

    fn is_filtered(&self) -> bool {
        let names = [&self.framework, &self.agent, &self.role];
        names.iter().any(|name| name.is_some())
            || !self.states.is_empty()
            || !self.labels.is_empty()
    }
}

pub(crate) async fn list(arguments: &TaskList) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<v1::Task>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let filter = arguments.filter(&operator).await?;
    let fields: Vec<_> = filter
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut page = operator.tasks(&fields, arguments.includes_ended()).await?;
    page.tasks.retain(|task| arguments.matches(task));
    page.tasks.sort_by_key(newest_first);
    layout.arrange(&mut page.tasks);
    if arguments.watch {
        let list = WatchedList {
            kind: "task",
            filter,
            revision: page.revision.unwrap_or_default().index,
        };
        let of = |record: v1::WatchRecord| match record.record? {
            Record::Task(task) => Some(task),
            _ => None,
        };
        let belongs = |task: &v1::Task| arguments.matches(task);
        let shown = (format, &layout);
        return watching::follow(&operator, list, shown, page.tasks, of, belongs).await;
    }
    if page.tasks.is_empty() && !format.is_json() {
        note(
            match (arguments.is_filtered(), arguments.includes_ended()) {
                (true, EndedObjects::Included) => "no such tasks",
                (true, EndedObjects::Excluded) => "no such live tasks; ended ones: --all",
                (false, EndedObjects::Included) => "no tasks",
                (false, EndedObjects::Excluded) => "no live tasks; ended ones: --all",
            },
        );
    }
    output::list_as(format, &layout, &page, &page.tasks)
}

/// The order of lists: the task that changed last comes first.
fn newest_first(task: &v1::Task) -> std::cmp::Reverse<(u64, u32)> {
    let revision = task.revision.unwrap_or_default();
    std::cmp::Reverse((revision.index, revision.position))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct TestArguments {
        #[command(flatten)]
        list: TaskList,
    }

    fn parse(words: &[&str]) -> TaskList {
        let words = std::iter::once(&"list").chain(words);
        TestArguments::try_parse_from(words).unwrap().list
    }

    #[test]
    fn a_state_after_the_end_includes_finished_tasks() {
        assert_eq!(parse(&[]).includes_ended(), EndedObjects::Excluded);
        let of = |states| parse(&["--state", states]).includes_ended();
        assert_eq!(of("running,unreachable"), EndedObjects::Excluded);
        assert_eq!(of("running,failed"), EndedObjects::Included);
    }

    #[test]
    fn tasks_are_selected_by_state_and_label() {
        let task = |state: v1::TaskState| v1::Task {
            state: state.into(),
            spec: Some(v1::TaskSpec {
                labels: [("app".to_owned(), "web".to_owned())].into(),
                ..v1::TaskSpec::default()
            }),
            ..v1::Task::default()
        };
        use v1::TaskState::{Failed, Running};
        let both = parse(&["--state", "failed,killed", "--label", "app=web"]);
        assert!(both.matches(&task(Failed)) && !both.matches(&task(Running)));
        let other = parse(&["--label", "app=web", "--label", "tier"]);
        assert!(!other.matches(&task(Running)));
        assert!(!other.matches(&v1::Task::default()));
    }

    #[test]
    fn the_last_change_comes_first() {
        let task = |index, position| v1::Task {
            revision: Some(v1::Revision { index, position }),
            ..v1::Task::default()
        };
        let mut tasks = [task(7, 1), task(9, 0), task(7, 2)];
        tasks.sort_by_key(newest_first);
        let order = tasks.map(|task| task.revision.unwrap_or_default().position);
        assert_eq!(order, [0, 2, 1]);
    }
}
