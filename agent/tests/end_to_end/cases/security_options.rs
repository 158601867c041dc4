//! Tests of security options of tasks, and of their limits, as their agent allows.

use argosy_agent::TaskAllow;
use argosy_network::why_no_ipv6;
use argosy_proto::v1;
use argosy_state::task::{LinuxCapability, SecurityOptions};
use argosy_testing::skip;

use super::{code, reason, state};
use crate::host::TestHost;
use crate::master::{FRAMEWORK, Master, in_hosts_network, shell};
use crate::running::content;

super::cases!("opt_outs":
    a_task_gets_only_the_security_options_that_its_agent_allows,
    the_host_network_is_used_only_where_the_agent_allows_it,
    a_task_cannot_reach_the_api_of_its_agent,
    a_limit_that_the_host_cannot_enforce_is_rejected_with_a_message,
);

/// A program that is started as root, gives its files away and becomes their owner.
const SERVE: &str = "touch mine && chown 33:34 mine && stat -c %u:%g mine && setpriv --reuid 33 --regid 34 --clear-groups id -u";

fn asking(task: &str, capabilities: &[&str]) -> v1::TaskSpec {
    v1::TaskSpec {
        user: "root".into(),
        container: Some(v1::ContainerSpec {
            opt_outs: Some(v1::OptOuts {
                capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
                ..v1::OptOuts::default()
            }),
            ..v1::ContainerSpec::default()
        }),
        ..shell(task, SERVE)
    }
}

pub(super) async fn a_task_gets_only_the_security_options_that_its_agent_allows() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let allowed = SecurityOptions {
        capabilities: [
            LinuxCapability::Chown,
            LinuxCapability::Setuid,
            LinuxCapability::Setgid,
        ]
        .into(),
        ..SecurityOptions::default()
    };
    let agent = host
        .agent_with(master.address, |config| {
            config.allowed_security_options = allowed
        })
        .await;
    let (mut link, hello) = master.registered(true).await;
    let info = hello.info.unwrap();
    let reported = info.allowed_opt_outs.unwrap();
    assert_eq!(reported.capabilities, ["CHOWN", "SETGID", "SETUID"]);
    link.launch(1, asking("let-off", &["CHOWN", "SETUID", "SETGID"]))
        .await;
    let last = link.end_of("let-off").await.pop().unwrap();
    assert_eq!(state(&last), v1::TaskState::Finished, "{}", last.text);
    let path = format!("/v1/files/read?path=tasks/{FRAMEWORK}/let-off/stdout");
    assert_eq!(agent.get(&path).await, (200, "33:34\n33\n".into()));
    link.launch(2, asking("held", &[])).await;
    let last = link.end_of("held").await.pop().unwrap();
    assert_eq!(code(&last), Some(v1::exit::How::Code(1)), "{}", last.text);
    link.launch(3, asking("greedy", &["CHOWN", "KILL"])).await;
    let last = link.end_of("greedy").await.pop().unwrap();
    assert_eq!(state(&last), v1::TaskState::Error);
    assert_eq!(reason(&last), v1::Reason::TaskInvalid);
    assert!(
        last.text.contains("capability KILL") && last.text.contains("--allow-capabilities KILL"),
        "{}",
        last.text
    );
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_limit_that_the_host_cannot_enforce_is_rejected_with_a_message() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let limited = |task: &str, limits: v1::Limits| v1::TaskSpec {
        resources: argosy_client::resources::resources("cpus:64;mem:32").unwrap(),
        limits: Some(limits),
        ..shell(task, "true")
    };
    let alone = v1::Limits {
        exclusive_cpus: true,
        ..v1::Limits::default()
    };
    link.launch(1, limited("alone", alone)).await;
    let last = link.end_of("alone").await.pop().unwrap();
    assert_eq!(state(&last), v1::TaskState::Failed);
    assert!(last.text.contains("limits.exclusive_cpus"), "{}", last.text);
    let disk = v1::Limits {
        io: vec![v1::DiskLimit {
            disk: "/dev/null".into(),
            read_bytes: Some(1 << 20),
            ..v1::DiskLimit::default()
        }],
        ..v1::Limits::default()
    };
    link.launch(2, limited("disk", disk)).await;
    let last = link.end_of("disk").await.pop().unwrap();
    assert_eq!(state(&last), v1::TaskState::Failed);
    assert!(
        last.text.contains("/dev/null: it is not a disk"),
        "{}",
        last.text
    );
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn the_host_network_is_used_only_where_the_agent_allows_it() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let reported = "ls /proc/self/ns/net -l | tr -d '\n'; echo \" at $ARGOSY_ADDRESS and $ARGOSY_ADDRESS6\"; cat /etc/hosts";
    link.launch(1, shell("unnamed", reported)).await;
    link.end_of("unnamed").await;
    let output = content(&host.sandbox("unnamed").join("stdout")).await;
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    assert!(!output.contains(own.to_str().unwrap()), "{output}");
    assert!(output.contains(" at 10.183."), "{output}");
    if why_no_ipv6().is_none() {
        let address = output.lines().find_map(|line| line.rsplit_once(" and "));
        let address = address.unwrap().1;
        let prefix = std::fs::read_to_string(host.directory().join("network-prefix6")).unwrap();
        let (prefix, _) = prefix.split_once("/64").unwrap();
        assert!(address.starts_with(prefix), "{output}");
        assert!(
            output.contains(&format!("{address}\tunnamed\n")),
            "{output}"
        );
    }
    link.launch(2, in_hosts_network(shell("refused", reported)))
        .await;
    let last = link.end_of("refused").await.pop().unwrap();
    assert_eq!(state(&last), v1::TaskState::Failed);
    assert!(last.text.contains("--allow-host-network"), "{}", last.text);
    agent.stop().await;
    let agent = host.agent_that_opens(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(3, in_hosts_network(shell("allowed", reported)))
        .await;
    link.end_of("allowed").await;
    let output = content(&host.sandbox("allowed").join("stdout")).await;
    assert!(output.contains(own.to_str().unwrap()), "{output}");
    agent.is_clear().await;
    agent.stop().await;
}

/// Opens a connection to this port; prints the error.
fn connecting(task: &str, port: u16) -> v1::TaskSpec {
    let line = format!("exec bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port} && echo connected' 2>&1");
    in_hosts_network(shell(task, &line))
}

pub(super) async fn a_task_cannot_reach_the_api_of_its_agent() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent_that_opens(master.address).await;
    let (mut link, _) = master.registered(true).await;
    for (number, (task, port)) in [
        ("to-agent", agent.api.port()),
        ("to-master", master.address.port()),
    ]
    .into_iter()
    .enumerate()
    {
        link.launch(number as u64 + 1, connecting(task, port)).await;
        link.end_of(task).await;
        let output = content(&host.sandbox(task).join("stdout")).await;
        assert!(
            output.contains("Operation not permitted"),
            "{task}: {output}"
        );
    }
    agent.stop().await;
    let opened = master.address.port();
    let agent = host
        .agent_with(master.address, |config| {
            config.task_allow = vec![TaskAllow::Port(opened)];
            config.allowed_security_options.host_network = true;
        })
        .await;
    let (mut link, _) = master.registered(true).await;
    link.launch(3, connecting("allowed", opened)).await;
    link.end_of("allowed").await;
    let output = content(&host.sandbox("allowed").join("stdout")).await;
    assert_eq!(output, "connected\n");
    agent.stop().await;
}
