//! `task list|show|kill` and `ps`.

mod listing;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use argosy_proto::uri::RedactedUri;
use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;
use clap::{Args, Subcommand};

use super::{ObjectCommand, calls};
use crate::args::{ConnectionArguments, OutputArguments, ShowArguments, WriteArguments};
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::files::executor_of;
use crate::operator::{ClusterClient, is_terminal};
use crate::output::{
    self, StatusLine, StatusMode, check_results_text, exit_word, limits_status, limits_text, note,
    reason_word, resources, state_word, timeline, visible_line,
};
use crate::parsers;

pub(crate) use listing::{TaskList, list};

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// List tasks
    #[command(after_help = "Examples:
  argosy task list --label app=web --sort mem --reverse --columns +label.app
  argosy task list --agent agent-2 --state failed,killed --limit 20 -o wide")]
    List(Box<TaskList>),
    /// Show one task
    #[command(after_help = "Examples:
  argosy task show brave-otter
  argosy task show framework-7/web-3 -o json")]
    Show(ShowArguments),
    /// Kill a task: TERM, and KILL after the grace period
    #[command(after_help = "Examples:
  argosy task kill brave-otter
  argosy task kill framework-7/web-3 --grace 30s --detach")]
    Kill(TaskKill),
}

#[derive(Debug, Args)]
pub(crate) struct TaskKill {
    /// TASK or FRAMEWORK/TASK: id, unique prefix of an id, or name
    pub(crate) task: String,
    /// Grace period between TERM and KILL [default: as launched]
    #[arg(long, value_name = "TIME", value_parser = parsers::duration)]
    pub(crate) grace: Option<Duration>,
    /// Do not wait until it has ended
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) write: WriteArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

impl ObjectCommand for TaskCommand {
    const ABOUT: &str = "Tasks: list, show, kill";
    const EXAMPLES: &str = "Examples:
  argosy task list --all
  argosy task kill brave-otter";

    fn run(&self) -> VerbResult {
        match self {
            Self::List(arguments) => calls(list(arguments)),
            Self::Show(arguments) => calls(show(arguments)),
            Self::Kill(arguments) => calls(kill(arguments)),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::List(arguments) => Some(arguments.show),
            Self::Show(arguments) => Some(arguments.show),
            Self::Kill(_) => None,
        }
    }
}

/// Interval at which an expected change is polled.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) async fn show(arguments: &ShowArguments) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let mut task = operator.find_task(&arguments.id).await?;
    // A task that was found in a list has no history.
    if task.history.is_empty()
        && let Some(complete) = operator.task(&task.framework_id, &task.task_id).await?
    {
        task = complete;
    }
    output::one(arguments.show.output, &task, &details(&task))
}

fn details(task: &v1::Task) -> Vec<(&'static str, String)> {
    let spec = task.spec.clone().unwrap_or_default();
    let latest = task.latest.clone().unwrap_or_default();
    let mut environment: Vec<_> = spec.environment.keys().cloned().collect();
    environment.sort();
    let labels = spec.labels.iter();
    let labels = labels.map(|(name, value)| visible_line(&format!("{name}={value}")));
    let mut labels: Vec<_> = labels.collect();
    labels.sort();
    vec![
        ("task", task.task_id.clone()),
        ("name", spec.name.clone()),
        ("framework", task.framework_id.clone()),
        ("role", task.role.clone()),
        ("labels", labels.join("\n")),
        ("state", state_word(task.state)),
        ("checks", check_results_text(&latest)),
        ("end", exit_word(latest.exit.as_ref())),
        ("reason", reason_word(latest.reason)),
        ("message", latest.message),
        (
            "kill requested",
            if task.kill_wanted {
                "yes".to_owned()
            } else {
                String::new()
            },
        ),
        ("group", group_text(&spec)),
        ("executor", executor_of(task).unwrap_or_default().to_owned()),
        ("agent", task.agent_id.clone()),
        ("agent api", task.agent_address.clone()),
        ("resources", resources(&spec.resources)),
        (
            "limits",
            spec.limits.as_ref().map(limits_text).unwrap_or_default(),
        ),
        ("limits changed", limits_status(task.limits.as_ref())),
        ("discovery", discovery_text(spec.discovery.as_ref())),
        ("command", command_text(&spec)),
        ("user", spec.user),
        // Values may be secret; JSON has them.
        ("environment", environment.join(", ")),
        // Parts of these may be secret too.
        (
            "uris",
            spec.uris
                .iter()
                .map(|uri| RedactedUri::of(&uri.value).to_string())
                .collect::<Vec<_>>()
                .join("\n"),
        ),
        (
            "unacknowledged",
            match task.unacknowledged_updates {
                0 => String::new(),
                1 => "1 update".to_owned(),
                count => format!("{count} updates"),
            },
        ),
        ("history", timeline(&task.history)),
    ]
}

fn command_text(spec: &v1::TaskSpec) -> String {
    if !spec.shell.is_empty() {
        return spec.shell.clone();
    }
    let words = spec.argv.iter().map(|word| crate::operator::quote(word));
    words.collect::<Vec<_>>().join(" ")
}

/// Returns how other programs find a task: its service and its labels, and a line for each port.
fn discovery_text(found: Option<&v1::Discovery>) -> String {
    let pairs = |labels: &HashMap<String, String>| {
        let labels: BTreeMap<_, _> = labels.iter().collect();
        let labels = labels.into_iter();
        let labels: Vec<_> = labels
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        labels.join(" ")
    };
    let Some(found) = found else {
        return String::new();
    };
    let service = [found.name.clone(), pairs(&found.labels)];
    let ports = found.ports.iter().map(|port| {
        let protocol = if port.udp { "udp" } else { "tcp" };
        let number = format!("{} {}/{protocol}", port.name, port.number);
        [number, pairs(&port.labels)]
    });
    let lines = [service].into_iter().chain(ports);
    let lines = lines.map(|parts| parts.join(" ").trim().to_owned());
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}

/// Returns the group of a task as `site, task 2 of 3`.
fn group_text(spec: &v1::TaskSpec) -> String {
    let group = spec.group.as_ref();
    group.map_or_else(String::new, |group| {
        let v1::TaskGroup {
            group_id,
            place,
            size,
        } = group;
        format!("{group_id}, task {} of {size}", place + 1)
    })
}

pub(crate) async fn kill(arguments: &TaskKill) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let task = operator.find_task(&arguments.task).await?;
    let shown = format!("{}/{}", task.framework_id, task.task_id);
    if is_terminal(task.state) {
        note(&format!(
            "{shown} has already ended: {}",
            state_word(task.state)
        ));
        return Ok(DONE);
    }
    if arguments.write.dry_run {
        note(&format!(
            "would kill {shown}, {} on {}",
            state_word(task.state),
            task.agent_id
        ));
        return Ok(DONE);
    }
    let order = v1::KillTask {
        framework_id: task.framework_id.clone(),
        task_id: task.task_id.clone(),
        grace_ms: arguments.grace.map(|grace| grace.as_millis() as u64),
    };
    operator
        .write(
            arguments.write.request_id.as_ref(),
            Operation::KillTask(order),
        )
        .await?;
    if arguments.detach {
        note(&format!("{shown} is being killed"));
        return Ok(DONE);
    }
    wait_for_end(&operator, &task, &shown).await
}

async fn wait_for_end(operator: &ClusterClient, task: &v1::Task, shown: &str) -> VerbResult {
    let deadline = Instant::now() + operator.timeout();
    let mut last = task.state;
    let mut line = StatusLine::new(StatusMode::Shown);
    while Instant::now() < deadline {
        let Some(now) = operator.task(&task.framework_id, &task.task_id).await? else {
            note(&format!("{shown} has ended"));
            return Ok(DONE);
        };
        last = now.state;
        if is_terminal(last) {
            let latest = now.latest.unwrap_or_default();
            let end = exit_word(latest.exit.as_ref());
            let end = if end.is_empty() {
                end
            } else {
                format!(", {end}")
            };
            note(&format!("{shown} has ended: {}{end}", state_word(last)));
            return Ok(DONE);
        }
        if last == v1::TaskState::Unreachable as i32 {
            note(&format!(
                "{shown} is on {}, which is unreachable; it is killed when that agent returns",
                task.agent_id
            ));
            return Ok(DONE);
        }
        line.show(|_| format!("waiting for the end of {shown}, {} now", state_word(last)));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let waited = output::span_ms(operator.timeout().as_millis() as u64);
    Err(Failure::new(
        FailureCode::Failed,
        format!(
            "the kill of {shown} was requested, but it is still {} after {waited}",
            state_word(last)
        ),
    )
    .advise(format!(
        "argosy task show {shown} shows its state; --timeout waits longer"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_discovery_is_shown_with_one_line_for_each_port() {
        let labels = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let port = |name: &str, number, udp| v1::DiscoveryPort {
            name: name.to_owned(),
            number,
            udp,
            ..v1::DiscoveryPort::default()
        };
        let metrics = v1::DiscoveryPort {
            labels: labels(&[("path", "/stats")]),
            ..port("metrics", 80, false)
        };
        let mut found = v1::Discovery {
            name: "shop".to_owned(),
            ports: vec![metrics, port("dns", 53, true)],
            labels: labels(&[("team", "blue"), ("app", "web")]),
        };
        assert_eq!(
            discovery_text(Some(&found)),
            "shop app=web team=blue\nmetrics 80/tcp path=/stats\ndns 53/udp"
        );
        found.name.clear();
        found.labels.clear();
        assert_eq!(
            discovery_text(Some(&found)),
            "metrics 80/tcp path=/stats\ndns 53/udp"
        );
        assert_eq!(discovery_text(None), "");
    }

    #[test]
    fn a_task_is_shown_with_its_labels() {
        let labels = [("tier", "front"), ("app", "web\nrole  x")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let task = v1::Task {
            spec: Some(v1::TaskSpec {
                labels: labels.into(),
                ..v1::TaskSpec::default()
            }),
            ..v1::Task::default()
        };
        let shown = details(&task);
        let found = shown.iter().find(|(name, _)| *name == "labels");
        assert_eq!(found.unwrap().1, "app=web\\nrole  x\ntier=front");
    }
}
