//! Three members of etcd with their default settings.
//!
//! It uses only the calls of `proto/etcd.proto`.

use std::path::Path;

use anyhow::{Context, Result};
use argosy_testbed::loopback::free_addresses;
use argosy_testbed::processes::{LaunchMethod, ProcessSpec};
use tonic::transport::Channel;

use super::{CAUGHT_UP, LogStatus, MEMBERS, REQUEST_TIMEOUT};

/// Generated from `proto/etcd.proto`.
#[allow(unreachable_pub, clippy::all, reason = "generated")]
pub(crate) mod wire {
    tonic::include_proto!("etcdserverpb");
}

/// Returns the API addresses, and the command of each member.
pub(super) fn specs(directory: &Path) -> Result<Vec<(String, ProcessSpec)>> {
    let addresses = free_addresses("127.0.0.1", 2 * MEMBERS).context("no free ports")?;
    let (clients, peers) = addresses.split_at(MEMBERS);
    let cluster: Vec<String> = (1..)
        .zip(peers)
        .map(|(number, peer)| format!("member-{number}=http://{peer}"))
        .collect();
    let spec = |((number, client), peer): ((usize, &String), &String)| {
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
        let spec = ProcessSpec {
            program: "etcd".into(),
            arguments: flags.collect(),
            log: directory.join(format!("{name}.log")),
            launch: LaunchMethod::WithParent,
            name,
        };
        (client.clone(), spec)
    };
    Ok((1..).zip(clients).zip(peers).map(spec).collect())
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

async fn status(channel: Channel) -> Result<wire::StatusResponse> {
    let mut client = wire::maintenance_client::MaintenanceClient::new(channel);
    let status = tokio::time::timeout(REQUEST_TIMEOUT, client.status(wire::StatusRequest {}));
    let status = status.await.context("it does not answer")??;
    Ok(status.into_inner())
}

pub(super) async fn log_status(channel: Channel) -> Result<LogStatus> {
    let status = status(channel).await?;
    Ok(LogStatus {
        applied: status.raft_applied_index,
        term: status.raft_term,
        epoch: 0,
    })
}

/// Returns the index of the leader, if all members follow it and have caught up.
pub(super) async fn leader(members: &[Channel]) -> Result<usize> {
    let mut statuses = Vec::with_capacity(members.len());
    for (number, channel) in (1..).zip(members) {
        let status = status(channel.clone()).await;
        statuses.push(status.with_context(|| format!("member-{number}"))?);
    }
    common_leader(&statuses).with_context(|| format!("they report {statuses:?}"))
}

fn common_leader(statuses: &[wire::StatusResponse]) -> Option<usize> {
    let newest = statuses.iter().map(|one| one.raft_applied_index).max()?;
    let leader = statuses.first()?.leader;
    let agrees = |one: &wire::StatusResponse| {
        one.leader == leader && newest - one.raft_applied_index <= CAUGHT_UP
    };
    // A member's id is known only to the member itself.
    let is_leader = |one: &wire::StatusResponse| {
        let header = one.header.as_ref();
        header.is_some_and(|header| header.member_id == leader)
    };
    let all_agree = leader != 0 && statuses.iter().all(agrees);
    statuses.iter().position(is_leader).filter(|_| all_agree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(own: u64, leader: u64, applied: u64) -> wire::StatusResponse {
        wire::StatusResponse {
            header: Some(wire::ResponseHeader {
                member_id: own,
                ..Default::default()
            }),
            leader,
            raft_applied_index: applied,
            ..Default::default()
        }
    }

    #[test]
    fn members_agree_once_all_name_one_leader_and_have_caught_up() {
        let leader_of = |second, applied| {
            common_leader(&[
                status(7, 8, 90),
                status(8, second, 92),
                status(9, 8, applied),
            ])
        };
        assert_eq!(leader_of(8, 90), Some(1));
        assert_eq!(leader_of(9, 90), None);
        assert_eq!(leader_of(8, 9), None);
        assert_eq!(common_leader(&[status(7, 0, 90)]), None);
        assert_eq!(common_leader(&[]), None);
    }
}
