//! `argosy wait master --for leading`: until a quorum confirms that this master leads. Backups use
//! it as a condition, because only one master has to make them.

use std::time::Instant;

use argosy_proto::v1;

use super::health::{INTERVAL, text_of, within};
use crate::args::Wait;
use crate::contexts::ChosenCluster;
use crate::exit::{DONE, Failure, VerbResult};
use crate::lookup::pick_master;
use crate::operator::ClusterClient;
use crate::output::{StatusLine, StatusMode, note};

pub(super) async fn run(arguments: &Wait, name: &str) -> VerbResult {
    let ChosenCluster { masters, transport } = ChosenCluster::of(&arguments.cluster)?;
    let operator = ClusterClient::within(masters, super::call_timeout(arguments), transport);
    let started = Instant::now();
    let mut line = StatusLine::new(StatusMode::Shown);
    let late = |shown: &str| {
        let waited = text_of(arguments.timeout.unwrap_or_default());
        Failure::failed(format!("{shown} does not lead after {waited}"))
    };
    let mut shown = name.to_owned();
    loop {
        let reading = operator.cluster(v1::Consistency::Linearizable);
        let Some(cluster) = within(arguments.timeout, started, reading).await else {
            return Err(late(&shown));
        };
        let master = pick_master(cluster?.masters, name)?;
        shown = format!("{} ({})", master.node_id, master.api_address);
        if master.role == "leader" {
            note(&format!("{shown} leads"));
            return Ok(DONE);
        }
        line.show(|_| format!("waiting until {shown} leads"));
        let pause = tokio::time::sleep(INTERVAL);
        if within(arguments.timeout, started, pause).await.is_none() {
            return Err(late(&shown));
        }
    }
}
