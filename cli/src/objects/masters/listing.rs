//! `master list` and `master failovers`.

use argosy_proto::v1;
use serde::Serialize;

use crate::args::ListArguments;
use crate::exit::VerbResult;
use crate::operator::ClusterClient;
use crate::output::{self, ListLayout, ShownFailover, note};
use crate::probe;

pub(super) async fn list(arguments: &ListArguments) -> VerbResult {
    let layout = ListLayout::new::<v1::Master>(arguments.show.output, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach);
    // Also without a leader, because the list is needed most then.
    let mut cluster = operator.cluster_at_best().await?;
    if !arguments.show.output.is_json() {
        let unanswered = probe::masters(&cluster.masters).await?;
        let down = cluster
            .masters
            .iter_mut()
            .filter(|master| unanswered.contains_key(&master.node_id));
        down.for_each(|master| master.role = "silent".to_owned());
    }
    layout.arrange(&mut cluster.masters);
    output::list_as(arguments.show.output, &layout, &cluster, &cluster.masters)
}

#[derive(Debug, Serialize)]
struct FailoverPage<'a> {
    failovers: &'a [ShownFailover],
}

pub(super) async fn failovers(arguments: &ListArguments) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<ShownFailover>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach);
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
