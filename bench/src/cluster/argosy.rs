//! Three masters, started as by an operator.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_testbed::processes::{LaunchMethod, ProcessSpec};
use tonic::transport::Channel;

use super::{ClusterMember, MEMBERS, MemberStatus, free_addresses};

/// Client of operator calls to one master.
pub(crate) type MasterClient = OperatorClient<Channel>;

/// Prefix of the loopback addresses of the masters.
const NETWORK: &str = "127.78.0";

/// Returns the API addresses, and the command of each master.
pub(super) fn specs(argosy: &Path, directory: &Path) -> Result<Vec<(String, ProcessSpec)>> {
    let mut places = Vec::with_capacity(MEMBERS);
    for number in 1..=MEMBERS {
        let addresses = free_addresses(&format!("{NETWORK}.{number}"), 2)?;
        places.push((addresses[0].clone(), addresses[1].clone()));
    }
    let peers: Vec<&str> = places.iter().map(|(_, raft)| raft.as_str()).collect();
    let recipe = |(number, (api, raft)): (usize, &(String, String))| {
        let name = format!("master-{number}");
        let data = directory.join(&name).display().to_string();
        let peers = peers.join(",");
        let arguments = [
            "master",
            "start",
            "--listen",
            api,
            "--raft-listen",
            raft,
            "--peers",
            &peers,
            "--data-dir",
            &data,
            "--log",
            "warn",
        ];
        let recipe = ProcessSpec {
            program: argosy.to_owned(),
            arguments: arguments.map(str::to_owned).to_vec(),
            log: directory.join(format!("{name}.log")),
            launch: LaunchMethod::WithParent,
            name,
        };
        (api.clone(), recipe)
    };
    Ok((1..).zip(&places).map(recipe).collect())
}

pub(super) async fn member_status(
    channel: Channel,
    members: &[ClusterMember],
) -> Result<MemberStatus> {
    let request = v1::GetClusterRequest {
        consistency: v1::Consistency::Local.into(),
    };
    let cluster = MasterClient::new(channel)
        .get_cluster(request)
        .await?
        .into_inner();
    let leader = cluster
        .masters
        .iter()
        .find(|master| master.role == "leader");
    Ok(MemberStatus {
        leader: leader.and_then(|leader| {
            members
                .iter()
                .position(|member| member.api == leader.api_address)
        }),
        voters: cluster.masters.iter().filter(|master| master.voter).count(),
        applied: cluster.applied_index,
        term: cluster.term,
    })
}

/// Checks that the executable is of the same build as this program, and returns its version.
///
/// # Errors
/// If it cannot be run, or is of another build; the error names the remedy.
pub(crate) fn check_build(argosy: &Path) -> Result<String> {
    let output = Command::new(argosy).args(["version", "-v"]).output();
    let output = output.with_context(|| {
        format!(
            "cannot run {}: build it, or name another with --argosy",
            argosy.display()
        )
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    check_build_output(&text)
        .with_context(|| format!("{} is not of the build of this program", argosy.display()))
}

fn check_build_output(text: &str) -> Result<String> {
    let release = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("argosy "))
        .unwrap_or("unknown")
        .trim();
    if release != env!("CARGO_PKG_VERSION") {
        bail!(
            "it is release {release}, this is {}",
            env!("CARGO_PKG_VERSION")
        );
    }
    let fact = |name: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(name))
            .map(|rest| rest.trim_start_matches(':').trim())
    };
    let own = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    match fact("build") {
        Some(build) if build != own => bail!("it is a {build} build, this is a {own} build"),
        Some(_) | None => {}
    }
    if let Some(features) = fact("features").filter(|features| features.contains("testing")) {
        bail!("it was built with the features {features}: faults can be switched on in it");
    }
    let commit = fact("commit")
        .map(|commit| format!(" {commit}"))
        .unwrap_or_default();
    Ok(format!("argosy {release}{commit} ({own})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_output(release: &str, build: &str, features: &str) -> String {
        format!(
            "argosy {release}\nprotocol  argosy.v1, version 1\nfeatures  {features}\nbuild     {build}\n"
        )
    }

    #[test]
    fn another_build_is_refused() {
        let own = env!("CARGO_PKG_VERSION");
        assert!(check_build_output(&version_output(own, "debug", "rocksdb")).is_ok());
        assert!(
            check_build_output(&version_output("0.0.9", "debug", "rocksdb"))
                .unwrap_err()
                .to_string()
                .contains("release 0.0.9")
        );
        assert!(
            check_build_output(&version_output(own, "release", "rocksdb"))
                .unwrap_err()
                .to_string()
                .contains("release build")
        );
        assert!(
            check_build_output(&version_output(own, "debug", "rocksdb, testing"))
                .unwrap_err()
                .to_string()
                .contains("testing")
        );
        assert!(
            check_build_output("sh: not found")
                .unwrap_err()
                .to_string()
                .contains("unknown")
        );
    }
}
