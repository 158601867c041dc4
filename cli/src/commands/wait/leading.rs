//! `argosy wait master --for leading`: until a quorum confirms that this master leads. Backups use
//! it as a condition, because only one master has to make them. While the leader is unknown, no
//! failure has the exit code of a master that does not lead: every master would skip its backup.

use std::time::Instant;

use argosy_proto::v1;

use super::health::{INTERVAL, text_of, within};
use crate::args::Wait;
use crate::contexts::ChosenCluster;
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::lookup::pick_master;
use crate::operator::ClusterClient;
use crate::output::{StatusLine, StatusMode, note};

pub(super) async fn run(arguments: &Wait, name: &str) -> VerbResult {
    let chosen = ChosenCluster::of(&arguments.cluster).map_err(unknown)?;
    let operator = ClusterClient::within(chosen.masters, arguments.timeout, chosen.transport);
    let started = Instant::now();
    let mut line = StatusLine::new(StatusMode::Shown);
    let late = |shown: &str| {
        let waited = text_of(arguments.timeout.unwrap_or_default());
        Failure::failed(format!("{shown} does not lead after {waited}"))
    };
    // The master as a quorum has described it.
    let mut described: Option<String> = None;
    loop {
        let left = arguments
            .timeout
            .map(|limit| limit.saturating_sub(started.elapsed()));
        let reader = operator.lasting(left.unwrap_or(operator.timeout()));
        let cluster = match (
            reader.cluster(v1::Consistency::Linearizable).await,
            &described,
        ) {
            (Ok(cluster), _) => cluster,
            (Err(failure), Some(shown))
                if left.is_some() && failure.code == FailureCode::Unavailable =>
            {
                return Err(late(shown));
            }
            (Err(failure), _) => return Err(unknown(failure)),
        };
        let master = pick_master(cluster.masters, name)?;
        let shown = format!("{} ({})", master.node_id, master.api_address);
        if master.role == "leader" {
            note(&format!("{shown} leads"));
            return Ok(DONE);
        }
        line.show(|_| format!("waiting until {shown} leads"));
        let pause = tokio::time::sleep(INTERVAL);
        if within(arguments.timeout, started, pause).await.is_none() {
            return Err(late(&shown));
        }
        described = Some(shown);
    }
}

/// Returns the failure with the exit code of an unknown leader in place of that of a master that
/// does not lead.
fn unknown(mut failure: Failure) -> Failure {
    if failure.code == FailureCode::Failed {
        failure.code = FailureCode::Unavailable;
    }
    failure
}
