//! The plan of a dev cluster: members, addresses and command lines. Pure.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use argosy_client::Masters;
use clap::ValueEnum;

use super::credentials::{self, Pair};
use crate::args::{Dev, OrphanTasks, TlsAnonymous, TlsMode};
use crate::parsers::{AGENT_PORT, API_PORT, ContextName, RAFT_PORT};

/// The address at which the client finds a dev cluster by default.
const USUAL_BASE: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);

const HOST_NETWORK: &str = "--allow-host-network";
const PLAINTEXT: &str = "--insecure-plaintext";

/// The kind of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberKind {
    Master,
    Agent,
}

/// One process of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DevMember {
    /// `master-1`, `agent-3`: the name of the process, not the registry's id.
    pub(super) name: String,
    pub(super) kind: MemberKind,
    pub(super) address: Ipv4Addr,
    /// The data directory.
    pub(super) directory: PathBuf,
    /// The file for standard output and error.
    pub(super) log: PathBuf,
    /// The pid file of the running process.
    pub(super) pid_file: PathBuf,
    /// The whole command line, which also serves for a manual restart.
    pub(super) argv: Vec<String>,
    /// Flags that `dev` itself adds, so that the member stops with `dev`.
    pub(super) dev_flags: Vec<String>,
}

/// The whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DevPlan {
    pub(super) members: Vec<DevMember>,
    base: Ipv4Addr,
}

impl DevPlan {
    pub(super) fn new(arguments: &Dev, home: &Path, executable: &Path) -> Self {
        let executable = executable.display().to_string();
        let masters = arguments.size.masters;
        let at = |index: u8| Ipv4Addr::from(u32::from(arguments.base) + u32::from(index));
        let peers: Vec<_> = (0..masters)
            .map(|index| format!("{}:{RAFT_PORT}", at(index)))
            .collect();
        let api: Vec<_> = (0..masters)
            .map(|index| format!("{}:{API_PORT}", at(index)))
            .collect();
        let mut members = Vec::new();
        for index in 0..masters {
            let mut member = member(MemberKind::Master, index + 1, at(index), home);
            member.argv = master_line(&executable, &member, &peers, arguments);
            member.argv.extend(security(arguments, home, &member));
            member.argv.extend(access(arguments));
            member.dev_flags = vec!["--stop-with-stdin".to_owned()];
            members.push(member);
        }
        for index in 0..arguments.size.agents {
            let mut member = member(MemberKind::Agent, index + 1, at(masters + index), home);
            member.argv = agent_line(&executable, &member, &api, arguments);
            member.argv.extend(security(arguments, home, &member));
            member.argv.extend(access(arguments));
            let tasks = if arguments.keep.is_some() {
                OrphanTasks::Leave
            } else {
                OrphanTasks::End
            };
            member.dev_flags = vec!["--stop-with-stdin".to_owned(), name_of(tasks)];
            members.push(member);
        }
        Self {
            members,
            base: arguments.base,
        }
    }

    /// Allows tasks to use the network of this host, as the default.
    pub(super) fn allow_host_network(&mut self) {
        let agents = self.members.iter_mut();
        for agent in agents.filter(|member| member.kind == MemberKind::Agent) {
            agent.argv.push(HOST_NETWORK.to_owned());
        }
    }

    /// Returns the API addresses of the masters.
    pub(super) fn masters(&self) -> Masters {
        let masters = self
            .members
            .iter()
            .filter(|member| member.kind == MemberKind::Master);
        Masters::new(masters.map(|member| format!("{}:{API_PORT}", member.address)))
            .expect("a plan has well-formed masters")
    }

    pub(super) fn count(&self, kind: MemberKind) -> usize {
        self.members
            .iter()
            .filter(|member| member.kind == kind)
            .count()
    }

    /// Returns every address to listen on, with the member's name.
    pub(super) fn addresses(&self) -> Vec<(String, String)> {
        let ports = |kind| match kind {
            MemberKind::Master => vec![API_PORT, RAFT_PORT],
            MemberKind::Agent => vec![AGENT_PORT],
        };
        let all = self.members.iter().flat_map(|member| {
            let named = move |port| (format!("{}:{port}", member.address), member.name.clone());
            ports(member.kind).into_iter().map(named)
        });
        all.collect()
    }

    /// Returns whether members use no TLS.
    pub(super) fn is_plaintext(&self) -> bool {
        let mut words = self.members.iter().flat_map(|member| &member.argv);
        words.any(|word| word == PLAINTEXT)
    }

    /// Returns the name of the cluster's context.
    pub(super) fn context(&self) -> ContextName {
        ContextName::of_dev((self.base != USUAL_BASE).then_some(self.base))
    }

    pub(super) fn size_text(&self) -> String {
        let of = |count: usize, noun: &str| {
            if count == 1 {
                format!("1 {noun}")
            } else {
                format!("{count} {noun}s")
            }
        };
        format!(
            "{}, {}",
            of(self.count(MemberKind::Master), "master"),
            of(self.count(MemberKind::Agent), "agent")
        )
    }
}

fn member(kind: MemberKind, number: u8, address: Ipv4Addr, home: &Path) -> DevMember {
    let noun = match kind {
        MemberKind::Master => "master",
        MemberKind::Agent => "agent",
    };
    let name = format!("{noun}-{number}");
    let directory = home.join(&name);
    DevMember {
        kind,
        address,
        directory: directory.join("data"),
        log: directory.join("log"),
        pid_file: directory.join("pid"),
        name,
        argv: Vec::new(),
        dev_flags: Vec::new(),
    }
}

fn name_of<T: ValueEnum>(value: T) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn millis(time: std::time::Duration) -> String {
    format!("{}ms", time.as_millis())
}

fn master_line(
    executable: &str,
    member: &DevMember,
    peers: &[String],
    arguments: &Dev,
) -> Vec<String> {
    let flags = [
        ("--listen", format!("{}:{API_PORT}", member.address)),
        ("--raft-listen", format!("{}:{RAFT_PORT}", member.address)),
        ("--peers", peers.join(",")),
        ("--data-dir", member.directory.display().to_string()),
        ("--pid-file", member.pid_file.display().to_string()),
        ("--agent-timeout", millis(arguments.agent_timeout)),
        ("--timing", name_of(arguments.timing)),
    ];
    let allowed = arguments.allow_hosts.iter();
    let allowed = allowed.map(|name| ("--allow-host", name.clone()));
    line(executable, "master", flags.into_iter().chain(allowed))
}

fn agent_line(
    executable: &str,
    member: &DevMember,
    masters: &[String],
    arguments: &Dev,
) -> Vec<String> {
    let mut flags = vec![
        ("--masters", masters.join(",")),
        ("--listen", format!("{}:{AGENT_PORT}", member.address)),
        ("--data-dir", member.directory.display().to_string()),
        ("--pid-file", member.pid_file.display().to_string()),
        ("--host-name", member.name.clone()),
        ("--task-address", member.address.to_string()),
        ("--resources", arguments.agent_resources.clone()),
    ];
    if let Some(isolation) = arguments.isolation {
        flags.push(("--isolation", name_of(isolation)));
    }
    for path in &arguments.host_paths {
        flags.push(("--host-path", path.display().to_string()));
    }
    for path in &arguments.fetch_dirs {
        flags.push(("--fetch-dir", path.display().to_string()));
    }
    for server in &arguments.fetch_allow {
        flags.push(("--fetch-allow", server.clone()));
    }
    for registry in &arguments.insecure_registries {
        flags.push(("--insecure-registry", registry.clone()));
    }
    for open in &arguments.task_allow {
        flags.push(("--task-allow", open.clone()));
    }
    for name in &arguments.allow_hosts {
        flags.push(("--allow-host", name.clone()));
    }
    if let Some(path) = &arguments.secret_dir {
        flags.push(("--secret-dir", path.display().to_string()));
    }
    let mut line = line(executable, "agent", flags);
    line.extend(arguments.allowed_security_options.flags());
    line.push("--allow-missing-controllers".to_owned());
    line
}

/// Returns the flags of TLS. Clients of masters without a certificate must be users of this host
/// that may access tasks. Agents accept others with a ticket: the process that fetches files of
/// tasks is another user without a certificate.
fn security(arguments: &Dev, home: &Path, member: &DevMember) -> Vec<String> {
    if arguments.insecure_plaintext {
        return vec![PLAINTEXT.to_owned()];
    }
    let Pair { certificate, key } = Pair::of_member(home, &member.name);
    let anonymous = match member.kind {
        MemberKind::Agent => TlsAnonymous::All,
        MemberKind::Master => TlsAnonymous::Local,
    };
    let flags = [
        ("--tls-cert", certificate.display().to_string()),
        ("--tls-key", key.display().to_string()),
        ("--tls-ca", credentials::ca(home).display().to_string()),
        ("--tls", name_of(TlsMode::Required)),
        ("--tls-anonymous", name_of(anonymous)),
    ];
    let secrets = (member.kind == MemberKind::Master).then(|| {
        let path = credentials::secrets_key(home);
        ("--secrets-key", path.display().to_string())
    });
    let words = flags.into_iter().chain(secrets);
    words
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
}

/// Returns the flags of the clients that may access tasks.
fn access(arguments: &Dev) -> Vec<String> {
    let users = arguments.api_users.iter();
    let mut flags: Vec<_> = users
        .flat_map(|user| ["--api-user".to_owned(), user.to_string()])
        .collect();
    if arguments.allow_files {
        flags.push("--allow-files".to_owned());
    }
    flags
}

fn line(
    executable: &str,
    noun: &str,
    flags: impl IntoIterator<Item = (&'static str, String)>,
) -> Vec<String> {
    let mut args = vec![executable.to_owned(), noun.to_owned(), "start".to_owned()];
    for (flag, value) in flags {
        args.push(flag.to_owned());
        args.push(value);
    }
    args
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use argosy_agent::TaskAllow;
    use argosy_state::task::LinuxCapability;
    use clap::Parser;

    use super::*;
    use crate::objects::{AgentCommand, MasterCommand};
    use crate::verbs::{Arguments, Verb};

    pub(in crate::dev) fn plan_of(args: &[&str]) -> DevPlan {
        plan_in(Path::new("/d"), args)
    }

    pub(in crate::dev) fn plan_in(home: &Path, args: &[&str]) -> DevPlan {
        let args = ["argosy", "dev"].iter().chain(args);
        let Verb::Dev(arguments) = Arguments::try_parse_from(args).unwrap().verb else {
            panic!("it is a dev");
        };
        DevPlan::new(&arguments, home, Path::new("/bin/argosy"))
    }

    #[test]
    fn every_member_has_a_unique_address_and_default_ports() {
        let plan = plan_of(&["--size", "3x2"]);
        let addresses: BTreeSet<_> = plan.members.iter().map(|member| member.address).collect();
        assert_eq!(addresses.len(), 5);
        assert_eq!(
            plan.masters().to_string(),
            "127.77.0.1:5050,127.77.0.2:5050,127.77.0.3:5050"
        );
        let all: Vec<_> = plan
            .addresses()
            .into_iter()
            .map(|(address, _)| address)
            .collect();
        assert_eq!(all[..2], ["127.77.0.1:5050", "127.77.0.1:5052"]);
        assert_eq!(all[6..], ["127.77.0.4:5051", "127.77.0.5:5051"]);
        assert_eq!(plan.context().to_string(), "dev");
        let other = plan_of(&["--base", "127.78.0.1"]);
        assert_eq!(other.context().to_string(), "dev-127.78.0.1");
    }

    const FLAGS: &[&str] = &[
        "--size",
        "1x1",
        "--host-path",
        "/srv",
        "--fetch-dir",
        "/srv/files",
        "--fetch-allow",
        "127.77.0.0/16",
        "--insecure-registry",
        "127.0.0.1:5000",
        "--task-allow",
        "5050",
        "--allow-host",
        "Dev.example.",
        "--allow-files",
        "--api-user",
        "1001",
        "--timing",
        "testing",
        "--isolation",
        "processes",
        "--allow-capabilities",
        "CHOWN",
        "--allow-new-privileges",
    ];

    #[test]
    fn a_recorded_command_line_restarts_its_member() {
        let plan = plan_of(FLAGS);
        for member in &plan.members {
            let bound = member.argv.iter().chain(&member.dev_flags);
            for line in [member.argv.iter().collect::<Vec<_>>(), bound.collect()] {
                let parsed =
                    Arguments::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
                match parsed.verb {
                    Verb::Master(master) => {
                        let MasterCommand::Start(start) = *master else {
                            panic!("it starts a master")
                        };
                        assert_eq!(start.data_dir, member.directory);
                        assert_eq!(start.tls.tls, TlsMode::Required);
                        assert_eq!(start.tls.tls_anonymous, TlsAnonymous::Local);
                        assert_eq!(start.allow_hosts, ["dev.example"]);
                        assert!(start.allow_files && !start.allow_exec);
                        assert_eq!(start.api_users, [1001]);
                    }
                    Verb::Agent(agent) => {
                        let AgentCommand::Start(start) = *agent else {
                            panic!("it starts an agent")
                        };
                        assert!(start.allow_missing_controllers);
                        // A ticket admits the process that fetches for tasks.
                        assert_eq!(start.tls.tls, TlsMode::Required);
                        assert_eq!(start.tls.tls_anonymous, TlsAnonymous::All);
                        let key = Some(PathBuf::from("/d/agent-1/tls/agent-1.key"));
                        assert_eq!(start.tls.tls_key, key);
                        assert!(start.allow_files && !start.allow_exec);
                        assert_eq!(start.api_users, [1001]);
                        let allowed = start.allowed_security_options.options();
                        assert_eq!(allowed.capabilities, [LinuxCapability::Chown].into());
                        assert!(allowed.new_privileges && !allowed.unconfined_seccomp);
                        assert_eq!(start.host_paths, [PathBuf::from("/srv")]);
                        assert_eq!(start.fetch_dirs, [PathBuf::from("/srv/files")]);
                        assert_eq!(start.fetch_allow, ["127.77.0.0/16".parse().unwrap()]);
                        let registry = "127.0.0.1:5000".parse().unwrap();
                        assert_eq!(start.insecure_registries, [registry]);
                        assert_eq!(start.task_allow, [TaskAllow::Port(5_050)]);
                        assert_eq!(start.allow_hosts, ["dev.example"]);
                        assert_eq!(start.task_address.as_deref(), Some("127.77.0.2"));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn plaintext_is_used_only_if_it_is_chosen() {
        let is_plain = |plan: DevPlan| {
            let mut members = plan.members.into_iter();
            members.all(|member| member.argv.iter().any(|word| word == PLAINTEXT))
        };
        assert!(is_plain(plan_of(&["--insecure-plaintext"])));
        assert!(!is_plain(plan_of(&[])));
    }

    #[test]
    fn cluster_sizes_are_described() {
        assert_eq!(
            plan_of(&["--size", "1x3"]).size_text(),
            "1 master, 3 agents"
        );
    }
}
