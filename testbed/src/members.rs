//! The environment of a cluster under test, and the command lines of its members.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use argosy_state::actor::PrincipalKind;

use crate::arguments::ClusterSize;
use crate::certificates::ClusterCertificates;
use crate::command_lines::{AgentFlags, MasterFlags, MemberTransport};
use crate::network::Network;
use crate::processes::{LaunchMethod, ProcessSpec};
use crate::run_directory::RunDirectory;
use crate::schedulers::FrameworkBehaviour;

/// Silence after which agents are unreachable: short, so that faults exceed it.
pub const AGENT_TIMEOUT: Duration = Duration::from_secs(4);
/// Absence after which schedulers count as disconnected.
const FRAMEWORK_GRACE: &str = "4s";
const AGENT_RESOURCES: &str = "cpus:4;mem:2048;disk:2048";
/// Ports of each agent. No two agents have the same: their hosts share the records of published
/// ports, which are files of this machine.
const AGENT_PORTS: u64 = 100;
/// The first port of the first agent.
const FIRST_PORT: u64 = 31_000;
/// Resources of the agent whose attributes are the registers: too small for any task.
const REGISTER_RESOURCES: &str = "cpus:0.001;mem:1";
/// Host name of the agent whose attributes are the registers.
pub const REGISTER_HOST: &str = "register";

/// The environment of a cluster, created once.
#[derive(Debug, Clone)]
pub struct ClusterEnvironment {
    pub argosy: PathBuf,
    /// The executable of another release, if its members may change between both.
    pub other_release: Option<PathBuf>,
    pub chaos: PathBuf,
    pub directory: RunDirectory,
    pub size: ClusterSize,
    pub seed: u64,
    /// The behaviours of the frameworks, assigned in turn. Not empty.
    pub behaviours: &'static [FrameworkBehaviour],
    /// Monotonic clock at the beginning, in nanoseconds.
    pub started_ns: u64,
    /// The certificates of its members; `None` for plaintext.
    pub certificates: Option<Arc<ClusterCertificates>>,
}

impl ClusterEnvironment {
    /// Creates a key and a certificate for a member, if the cluster has TLS.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn issue(
        &self,
        kind: MemberKind,
        name: &str,
        address: Ipv4Addr,
    ) -> Result<MemberTransport> {
        let Some(certificates) = &self.certificates else {
            return Ok(MemberTransport::Plaintext);
        };
        let files = certificates.issue(kind.principal(), name, Some(address.into()))?;
        Ok(MemberTransport::Tls(files))
    }
}

/// The kind of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberKind {
    Master,
    Agent,
    Framework,
}

impl MemberKind {
    fn principal(self) -> PrincipalKind {
        match self {
            Self::Master => PrincipalKind::Master,
            Self::Agent => PrincipalKind::Agent,
            // Schedulers here need no rules of access: they may do everything.
            Self::Framework => PrincipalKind::Operator,
        }
    }
}

fn process_spec(
    environment: &ClusterEnvironment,
    network: &Network,
    name: &str,
    (program, arguments): (&Path, Vec<String>),
) -> ProcessSpec {
    let host = network
        .hosts()
        .iter()
        .find(|host| host.name == name)
        .expect("its host was just created");
    ProcessSpec {
        name: name.to_owned(),
        launch: LaunchMethod::InNamespace(host.namespace.clone()),
        program: program.to_owned(),
        arguments,
        log: environment.directory.logs().join(format!("{name}.log")),
    }
}

fn address(network: &Network, name: &str) -> Ipv4Addr {
    let host = network.hosts().iter().find(|host| host.name == name);
    host.expect("its host was just created").address
}

/// Returns the command of a master.
pub(crate) fn master(
    environment: &ClusterEnvironment,
    network: &Network,
    name: &str,
    peers: &str,
) -> Result<ProcessSpec> {
    let address = address(network, name);
    let flags = MasterFlags {
        listen: &address.to_string(),
        peers,
        data_dir: &environment.directory.data(name),
        transport: &environment.issue(MemberKind::Master, name, address)?,
    };
    let arguments = flags.arguments(&[
        "--agent-timeout",
        &format!("{}s", AGENT_TIMEOUT.as_secs()),
        "--framework-disconnect-timeout",
        FRAMEWORK_GRACE,
        "--log",
        "info,openraft=error",
    ]);
    let program = &environment.argosy;
    let command = (program.as_path(), arguments);
    Ok(process_spec(environment, network, name, command))
}

/// Returns the resources of the agent with this name, as "agent-2".
fn resources_of(name: &str) -> String {
    if name == REGISTER_HOST {
        return REGISTER_RESOURCES.to_owned();
    }
    let number = name
        .rsplit('-')
        .next()
        .and_then(|number| number.parse().ok());
    let first = FIRST_PORT + AGENT_PORTS * number.map_or(0, |number: u64| number - 1);
    let last = first + AGENT_PORTS - 1;
    format!("{AGENT_RESOURCES};ports:[{first}-{last}]")
}

/// Returns the command of an agent.
pub(crate) fn agent(
    environment: &ClusterEnvironment,
    network: &Network,
    name: &str,
    masters: &str,
) -> Result<ProcessSpec> {
    let address = address(network, name);
    let flags = AgentFlags {
        listen: &address.to_string(),
        masters,
        transport: &environment.issue(MemberKind::Agent, name, address)?,
        data_dir: &environment.directory.data(name),
        resources: &resources_of(name),
    };
    let inputs = environment.directory.inputs().display().to_string();
    let arguments = flags.arguments(&[
        "--host-name",
        name,
        "--image-dir",
        &inputs,
        "--fetch-dir",
        &inputs,
        "--secret-dir",
        &environment.directory.secrets().display().to_string(),
        "--host-path",
        &environment.directory.shared().display().to_string(),
        // The program with which services listen on their ports.
        "--host-path",
        &environment.chaos.display().to_string(),
        // Services listen on the ports that they are given.
        "--allow-host-network",
    ]);
    let program = &environment.argosy;
    let command = (program.as_path(), arguments);
    Ok(process_spec(environment, network, name, command))
}

/// Returns the command of a scheduler.
pub(crate) fn framework(
    environment: &ClusterEnvironment,
    network: &Network,
    name: &str,
    masters: &str,
    number: u8,
) -> Result<ProcessSpec> {
    let habit = environment.behaviours[usize::from(number - 1) % environment.behaviours.len()];
    let arguments = [
        "framework",
        "--masters",
        masters,
        "--name",
        name,
        "--dir",
        &environment.directory.path().display().to_string(),
        "--seed",
        &environment.seed.to_string(),
        "--began-ns",
        &environment.started_ns.to_string(),
        "--habit",
        habit.word(),
    ];
    let mut arguments = arguments.map(str::to_owned).to_vec();
    let address = address(network, name);
    if let MemberTransport::Tls(files) = environment.issue(MemberKind::Framework, name, address)? {
        arguments.extend(files.flags());
    }
    let program = &environment.chaos;
    let command = (program.as_path(), arguments);
    Ok(process_spec(environment, network, name, command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_agents_have_the_same_ports() {
        let ports = |name| resources_of(name).split("ports:").nth(1).map(str::to_owned);
        assert_eq!(ports("agent-1").as_deref(), Some("[31000-31099]"));
        assert_eq!(ports("agent-3").as_deref(), Some("[31200-31299]"));
        assert_eq!(ports(REGISTER_HOST), None);
    }
}
