//! `agent list`.

use argosy_proto::v1;
use argosy_proto::v1::watch_record::Record;
use clap::Args;

use crate::args::filters::{LabelFilter, agent_mode};
use crate::args::{ConnectionArguments, ListView, OutputArguments};
use crate::exit::VerbResult;
use crate::operator::{ClusterClient, EndedObjects};
use crate::output::{self, ListLayout, note};
use crate::watching::{self, WatchedList};

#[derive(Debug, Args)]
pub(crate) struct AgentList {
    /// Only agents in one of these states, as registered or unreachable,deactivated
    #[arg(long = "state", value_name = "STATE,…", value_delimiter = ',', value_parser = agent_mode)]
    states: Vec<v1::AgentMode>,
    /// Only agents with this attribute; may be repeated
    #[arg(long = "attribute", value_name = "NAME[=VALUE]", value_parser = LabelFilter::parse)]
    attributes: Vec<LabelFilter>,
    /// Keep printing a line for each change, until Ctrl-C; the last one of an agent shows that it
    /// no longer matches
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    view: ListView,
    #[command(flatten)]
    pub(super) show: OutputArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

impl AgentList {
    fn matches(&self, agent: &v1::Agent) -> bool {
        let attributes = agent.info.as_ref().map(|info| &info.attributes);
        let has = |wanted: &LabelFilter| attributes.is_some_and(|all| wanted.matches(all));
        (self.states.is_empty() || self.states.contains(&agent.mode()))
            && self.attributes.iter().all(has)
    }
}

pub(super) async fn list(arguments: &AgentList) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<v1::Agent>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let mut page = operator.agents(EndedObjects::Excluded).await?;
    let is_empty = page.agents.is_empty();
    page.agents.retain(|agent| arguments.matches(agent));
    layout.arrange(&mut page.agents);
    if arguments.watch {
        let list = WatchedList {
            kind: "agent",
            filter: Vec::new(),
            revision: page.revision.unwrap_or_default().index,
        };
        let of = |record: v1::WatchRecord| match record.record? {
            Record::Agent(agent) => Some(agent),
            _ => None,
        };
        let belongs = |agent: &v1::Agent| arguments.matches(agent);
        let shown = (format, &layout);
        return watching::follow(&operator, list, shown, page.agents, of, belongs).await;
    }
    if page.agents.is_empty() && !format.is_json() {
        note(match is_empty {
            true => "no agents; argosy agent start starts one",
            false => "no such agents",
        });
    }
    output::list_as(format, &layout, &page, &page.agents)
}
