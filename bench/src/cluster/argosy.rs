//! Three masters, started as by an operator.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use argosy_proto::v1;
use argosy_proto::v1::operator_client::OperatorClient;
use argosy_testbed::command_lines::MasterFlags;
use argosy_testbed::health::{HealthCheck, read_cluster};
use argosy_testbed::loopback::free_addresses;
use argosy_testbed::processes::{LaunchMethod, ProcessSpec};
use argosy_testbed::transport::ClientTransport;
use tonic::transport::Channel;

use super::access::Transports;
use super::{CAUGHT_UP, LogStatus, MEMBERS, REQUEST_TIMEOUT};

/// Client of operator calls to one master.
pub(crate) type MasterClient = OperatorClient<Channel>;

/// Prefix of the loopback addresses of the masters.
const NETWORK: &str = "127.78.0";

/// Returns the API addresses, and the command of each master.
pub(super) fn specs(
    argosy: &Path,
    directory: &Path,
    transports: &Transports,
) -> Result<Vec<(String, ProcessSpec)>> {
    let mut addresses = Vec::with_capacity(MEMBERS);
    for number in 1..=MEMBERS {
        let host = format!("{NETWORK}.{number}");
        let free = free_addresses(&host, 2);
        addresses.push(free.with_context(|| format!("no free port on {host}"))?);
    }
    let peers: Vec<&str> = addresses.iter().map(|own| own[1].as_str()).collect();
    let peers = peers.join(",");
    let spec = |(number, own): (usize, &Vec<String>)| {
        let name = format!("master-{number}");
        let transport = transports.of_master(&name, &own[1])?;
        let flags = MasterFlags {
            listen: &own[0],
            peers: &peers,
            data_dir: &directory.join(&name),
            transport: &transport,
        };
        let spec = ProcessSpec {
            program: argosy.to_owned(),
            arguments: flags.arguments(&["--raft-listen", &own[1], "--log", "warn"]),
            log: directory.join(format!("{name}.log")),
            launch: LaunchMethod::WithParent,
            name,
        };
        Ok((own[0].clone(), spec))
    };
    (1..).zip(&addresses).map(spec).collect()
}

/// Returns the check that all masters follow one leader and have caught up.
pub(super) fn health_check(masters: Vec<String>, transport: ClientTransport) -> HealthCheck {
    HealthCheck {
        masters,
        agents: Vec::new(),
        lag_limit: CAUGHT_UP + 1,
        transport,
    }
}

pub(super) async fn log_status(channel: Channel) -> Result<LogStatus> {
    let cluster = read_cluster(channel, v1::Consistency::Local, REQUEST_TIMEOUT).await?;
    Ok(LogStatus {
        applied: cluster.applied_index,
        term: cluster.term,
        epoch: cluster.epoch,
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
