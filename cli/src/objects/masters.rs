//! `master list|join|remove|transfer|raise-level`.

use argosy_proto::v1;

use crate::args::{ListArguments, MasterJoin, MasterRaiseLevel, MasterRemove, MasterTransfer};
use crate::commands::confirm;
use crate::exit::{DONE, Failure, VerbResult};
use crate::lookup::{self, Candidate};
use crate::operator::ClusterClient;
use crate::output::{self, note};
use crate::probe;

pub(crate) async fn list(arguments: &ListArguments) -> VerbResult {
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
    output::list(arguments.show.output, &cluster, &cluster.masters)
}

pub(crate) async fn join(arguments: &MasterJoin) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach);
    let reply = operator.join_master(arguments.raft_address.clone()).await?;
    note(&format!("{} is a voter now", arguments.raft_address));
    output::list(arguments.show.output, &reply, &reply.masters)
}

pub(crate) async fn remove(arguments: &MasterRemove) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach);
    let master = find(&operator, &arguments.master).await?;
    let shown = format!("{} ({})", master.node_id, master.api_address);
    if arguments.dry_run {
        note(&format!("would remove {shown}, a {} now", master.role));
        return Ok(DONE);
    }
    confirm(
        &format!("this removes {shown} from the group; it can only return as a new member"),
        arguments.yes,
    )?;
    let reply = operator.remove_master(master.node_id).await?;
    note(&format!(
        "{shown} is removed; stop it, and empty its data directory before it joins again"
    ));
    output::list(arguments.show.output, &reply, &reply.masters)
}

pub(crate) async fn transfer(arguments: &MasterTransfer) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach);
    let node_id = match &arguments.master {
        Some(wanted) => find(&operator, wanted).await?.node_id,
        None => String::new(),
    };
    let reply = operator.transfer_leader(node_id).await?;
    output::list(arguments.show.output, &reply, &reply.masters)
}

pub(crate) async fn raise_level(arguments: &MasterRaiseLevel) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach);
    confirm(
        "this raises the feature level of the cluster; no master of an earlier release can return",
        arguments.yes,
    )?;
    let reply = operator.raise_level(arguments.to).await?;
    let level = reply.level;
    note(&match level == reply.former_level {
        true => format!("the cluster is at feature level {level} already"),
        false => format!("the cluster is at feature level {level} now"),
    });
    output::list(arguments.show.output, &reply, &reply.masters)
}

async fn find(operator: &ClusterClient, wanted: &str) -> Result<v1::Master, Failure> {
    let mut masters = operator
        .cluster(v1::Consistency::Linearizable)
        .await?
        .masters;
    let by = |address: fn(&v1::Master) -> &String| {
        masters.iter().position(|master| address(master) == wanted)
    };
    let at = match by(|master| &master.api_address).or_else(|| by(|master| &master.raft_address)) {
        Some(at) => at,
        None => {
            let candidates: Vec<_> = masters.iter().map(candidate).collect();
            lookup::find("master", wanted, &candidates)?
        }
    };
    Ok(masters.swap_remove(at))
}

fn candidate(master: &v1::Master) -> Candidate {
    Candidate {
        id: master.node_id.clone(),
        name: master.api_address.clone(),
        label: format!("{} ({})", master.node_id, master.api_address),
    }
}
