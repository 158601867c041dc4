//! `master list` and `master failovers`.

use argosy_proto::v1;
use clap::Args;
use serde::Serialize;

use crate::args::{ConnectionArguments, Format, ListArguments, ListView, OutputArguments};
use crate::exit::{Failure, VerbResult};
use crate::operator::ClusterClient;
use crate::output::{self, ListLayout, ShownFailover, note};
use crate::probe;
use crate::watching::{self, PolledRow};

#[derive(Debug, Args)]
pub(crate) struct MasterList {
    /// Keep printing a line for each change of a master but those of BEHIND and HEARD, until
    /// Ctrl-C. The change feed does not have masters: they are read every second
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    view: ListView,
    #[command(flatten)]
    pub(super) show: OutputArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

impl PolledRow for v1::Master {
    fn has_changed(&self, former: &Self) -> bool {
        let place = |master: &Self| {
            let (api, raft) = (master.api_address.clone(), master.raft_address.clone());
            (master.role.clone(), master.voter, api, raft)
        };
        let levels = |master: &Self| master.oldest_level.zip(master.newest_level);
        // Only the leader knows the levels of the others.
        let has_other_levels = levels(self)
            .zip(levels(former))
            .is_some_and(|(own, former)| own != former);
        place(self) != place(former) || has_other_levels
    }

    fn last(mut self) -> Option<Self> {
        self.role = "removed".to_owned();
        Some(self)
    }
}

pub(super) async fn list(arguments: &MasterList) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<v1::Master>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let mut cluster = read(&operator, format).await?;
    if arguments.watch {
        let again = async || Ok(read(&operator, format).await?.masters);
        return watching::poll((format, &layout), cluster.masters, again).await;
    }
    layout.arrange(&mut cluster.masters);
    output::list_as(format, &layout, &cluster, &cluster.masters)
}

/// Returns the cluster, also without a leader, because the list is needed most then.
async fn read(operator: &ClusterClient, format: Format) -> Result<v1::Cluster, Failure> {
    let mut cluster = operator.cluster_at_best().await?;
    if !format.is_json() {
        let unanswered = probe::masters(&cluster.masters, operator.transport()).await;
        let down = cluster
            .masters
            .iter_mut()
            .filter(|master| unanswered.contains_key(&master.node_id));
        down.for_each(|master| master.role = "silent".to_owned());
    }
    Ok(cluster)
}

#[derive(Debug, Serialize)]
struct FailoverPage<'a> {
    failovers: &'a [ShownFailover],
}

pub(super) async fn failovers(arguments: &ListArguments) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<ShownFailover>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    // Every master has them, also without a leader.
    let cluster = operator.cluster_at_best().await?;
    let mut failovers = ShownFailover::of(&cluster);
    failovers.reverse();
    layout.arrange(&mut failovers);
    if failovers.is_empty() && !format.is_json() {
        note("no changes of leader are known");
    }
    let page = FailoverPage {
        failovers: &failovers,
    };
    output::list_as(format, &layout, &page, &failovers)
}
