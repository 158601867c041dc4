//! Three members of etcd with their default settings.
//!
//! It uses only the calls of `proto/etcd.proto`.

use std::path::Path;

use anyhow::{Context, Result};
use argosy_testbed::processes::{LaunchMethod, ProcessSpec};
use tonic::transport::Channel;

use super::{ClusterMember, MEMBERS, MemberStatus, free_addresses};

/// Generated from `proto/etcd.proto`.
#[allow(unreachable_pub, clippy::all, reason = "generated")]
pub(crate) mod wire {
    tonic::include_proto!("etcdserverpb");
}

/// Returns the API addresses, and the command of each member.
pub(super) fn specs(directory: &Path) -> Result<Vec<(String, ProcessSpec)>> {
    let addresses = free_addresses("127.0.0.1", 2 * MEMBERS)?;
    let (clients, peers) = addresses.split_at(MEMBERS);
    let cluster: Vec<String> = (1..)
        .zip(peers)
        .map(|(number, peer)| format!("member-{number}=http://{peer}"))
        .collect();
    let recipe = |((number, client), peer): ((usize, &String), &String)| {
        let name = format!("member-{number}");
        let arguments = [
            ("name", name.clone()),
            ("data-dir", directory.join(&name).display().to_string()),
            ("listen-client-urls", format!("http://{client}")),
            ("advertise-client-urls", format!("http://{client}")),
            ("listen-peer-urls", format!("http://{peer}")),
            ("initial-advertise-peer-urls", format!("http://{peer}")),
            ("initial-cluster", cluster.join(",")),
            ("initial-cluster-state", "new".to_owned()),
            (
                "initial-cluster-token",
                format!("argosy-bench-{}", std::process::id()),
            ),
        ];
        let flags = arguments
            .into_iter()
            .map(|(flag, value)| format!("--{flag}={value}"));
        let recipe = ProcessSpec {
            program: "etcd".into(),
            arguments: flags.collect(),
            log: directory.join(format!("{name}.log")),
            launch: LaunchMethod::WithParent,
            name,
        };
        (client.clone(), recipe)
    };
    Ok((1..).zip(clients).zip(peers).map(recipe).collect())
}

/// Returns the version of the installed etcd.
///
/// # Errors
/// If it is not installed, with the remedy.
pub(crate) fn version() -> Result<String> {
    let output = std::process::Command::new("etcd").arg("--version").output();
    let output = output.context("etcd is not installed: scripts/setup bench installs Debian's etcd-server and starts nothing")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("etcd Version: "));
    Ok(format!(
        "etcd {}",
        version.context("etcd does not report its version")?
    ))
}

pub(super) async fn member_status(
    channel: Channel,
    members: &[ClusterMember],
) -> Result<MemberStatus> {
    let mut client = wire::maintenance_client::MaintenanceClient::new(channel);
    let status = client.status(wire::StatusRequest {}).await?.into_inner();
    let mut leader = None;
    // A member's id is known only to the member itself, so each is queried.
    if status.leader != 0 {
        for (place, member) in members.iter().enumerate() {
            let mut other =
                wire::maintenance_client::MaintenanceClient::new(member.channel.clone());
            let header = other
                .status(wire::StatusRequest {})
                .await?
                .into_inner()
                .header;
            if header.is_some_and(|header| header.member_id == status.leader) {
                leader = Some(place);
            }
        }
    }
    Ok(MemberStatus {
        leader,
        voters: MEMBERS,
        applied: status.raft_applied_index,
        term: status.raft_term,
    })
}
