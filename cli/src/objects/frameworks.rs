//! `framework list|show|teardown`.

use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_proto::v1::watch_record::Record;
use argosy_proto::v1::write_operation::Operation;
use clap::{Args, Subcommand};

use super::{ObjectCommand, calls};
use crate::args::{ConnectionArguments, ListView, OutputArguments, ShowArguments, WriteArguments};
use crate::commands::confirm;
use crate::exit::{DONE, Failure, VerbResult};
use crate::operator::{ClusterClient, EndedObjects};
use crate::output::{
    self, ListLayout, StatusLine, StatusMode, natural_order, note, resources, span_ms,
};
use crate::watching::{self, WatchedList};

#[derive(Debug, Subcommand)]
pub(crate) enum FrameworkCommand {
    /// List frameworks
    #[command(after_help = "Examples:
  argosy framework list
  argosy framework list --all -o json

STATE is connected, disconnected, detached (without a scheduler, as of argosy run --detach) or
removed. CPUS and MEM are what its tasks use; -o wide shows when a disconnected one is removed.")]
    List(FrameworkList),
    /// Show one framework
    #[command(after_help = "Examples:
  argosy framework show framework-7
  argosy framework show wordcount -o json")]
    Show(ShowArguments),
    /// Remove a framework and kill its tasks, permanently
    #[command(after_help = "Examples:
  argosy framework teardown framework-7
  argosy framework teardown wordcount --yes --detach")]
    Teardown(FrameworkTeardown),
}

#[derive(Debug, Args)]
pub(crate) struct FrameworkList {
    /// Only frameworks in this role
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: Option<String>,
    /// Include removed frameworks
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Keep printing a line for each change, until Ctrl-C; changes of tasks alone print none
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) view: ListView,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct FrameworkTeardown {
    /// Id, unique prefix of an id, or name
    pub(crate) framework: String,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
    /// Do not wait until its tasks have ended
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) write: WriteArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

impl FrameworkList {
    fn matches(&self, framework: &v1::Framework) -> bool {
        let info = framework.info.as_ref();
        let has = |role| info.is_some_and(|info| info.roles.contains(role));
        self.role.as_ref().is_none_or(has)
    }
}

impl ObjectCommand for FrameworkCommand {
    const ABOUT: &str = "Frameworks: list, show, tear down";
    const EXAMPLES: &str = "Examples:
  argosy framework list
  argosy framework teardown framework-7 --yes";

    fn run(&self) -> VerbResult {
        match self {
            Self::List(arguments) => calls(list(arguments)),
            Self::Show(arguments) => calls(show(arguments)),
            Self::Teardown(arguments) => calls(teardown(arguments)),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::List(arguments) => Some(arguments.show),
            Self::Show(arguments) => Some(arguments.show),
            Self::Teardown(_) => None,
        }
    }
}

/// Interval at which the end of a framework's tasks is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) async fn list(arguments: &FrameworkList) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<v1::Framework>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let mut page = operator
        .frameworks(EndedObjects::from_flag(arguments.all))
        .await?;
    page.frameworks
        .retain(|framework| arguments.matches(framework));
    // The newest comes first: ids are given in ascending order.
    page.frameworks
        .sort_by(|left, right| natural_order(&right.framework_id, &left.framework_id));
    layout.arrange(&mut page.frameworks);
    if arguments.watch {
        let list = WatchedList {
            kind: "framework",
            filter: Vec::new(),
            revision: page.revision.unwrap_or_default().index,
        };
        let of = |record: v1::WatchRecord| match record.record? {
            Record::Framework(framework) => Some(framework),
            _ => None,
        };
        let belongs = |framework: &v1::Framework| arguments.matches(framework);
        let shown = (format, &layout);
        return watching::follow(&operator, list, shown, page.frameworks, of, belongs).await;
    }
    if page.frameworks.is_empty() && !format.is_json() {
        note(if arguments.all {
            "no frameworks"
        } else {
            "no frameworks; removed ones: --all"
        });
    }
    output::list_as(format, &layout, &page, &page.frameworks)
}

pub(crate) async fn show(arguments: &ShowArguments) -> VerbResult {
    let framework = ClusterClient::open(&arguments.reach)?
        .find_framework(&arguments.id)
        .await?;
    let info = framework.info.clone().unwrap_or_default();
    let details = [
        ("framework", framework.framework_id.clone()),
        ("name", info.name),
        ("user", info.user),
        ("principal", info.principal),
        ("roles", info.roles.join(", ")),
        ("suppressed", framework.suppressed_roles.join(", ")),
        ("state", output::framework_state(&framework).to_owned()),
        (
            "removed in",
            framework.expires_in_ms.map(span_ms).unwrap_or_default(),
        ),
        ("live tasks", framework.live_tasks.to_string()),
        ("uses", resources(&framework.used)),
        ("capabilities", info.capabilities.join(", ")),
        ("more at", info.web_url),
    ];
    output::one(arguments.show.output, &framework, &details)
}

pub(crate) async fn teardown(arguments: &FrameworkTeardown) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let framework = operator.find_framework(&arguments.framework).await?;
    let name = framework
        .info
        .as_ref()
        .map(|info| info.name.as_str())
        .unwrap_or_default();
    let shown = format!("{} ({name})", framework.framework_id);
    if framework.removed {
        note(&format!("{shown} was removed before"));
        return Ok(DONE);
    }
    let tasks = match framework.live_tasks {
        1 => "1 task".to_owned(),
        count => format!("{count} tasks"),
    };
    if arguments.write.dry_run {
        note(&format!(
            "would remove {shown} permanently and kill {tasks}"
        ));
        return Ok(DONE);
    }
    confirm(
        &format!("this removes {shown} permanently and kills {tasks}"),
        arguments.yes,
    )?;
    let order = v1::TeardownFramework {
        framework_id: framework.framework_id.clone(),
    };
    operator
        .write(
            arguments.write.request_id.as_ref(),
            Operation::TeardownFramework(order),
        )
        .await?;
    if arguments.detach {
        note(&format!("{shown} is being removed"));
        return Ok(DONE);
    }
    let deadline = Instant::now() + operator.timeout();
    let mut line = StatusLine::new(StatusMode::Shown);
    while Instant::now() < deadline {
        let now = operator.framework(&framework.framework_id).await?;
        let now = now.filter(|now| !now.removed || now.live_tasks > 0);
        let Some(now) = now else {
            note(&format!("{shown} is removed"));
            return Ok(DONE);
        };
        line.show(|_| format!("waiting for the tasks of {shown}: {} left", now.live_tasks));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Err(Failure::failed(format!(
        "{shown} is removed permanently, but some of its tasks have not ended yet"
    ))
    .advise(
        "tasks on unreachable agents are killed when those return; argosy task list shows them",
    ))
}
