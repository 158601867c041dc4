//! Validation of limits and security options that are invalid on any agent, and of options that the
//! agent does not allow.

use std::collections::BTreeSet;

use crate::agent::Agent;
use crate::level::Level;
use crate::limits;
use crate::task::{ContainerNetwork, SizeExceeded, TaskLimits, TaskSpec};

/// The name of an invalid field, and a message that names the remedy.
type FieldError = (&'static str, String);

/// Validates a description independently of the agent.
pub(super) fn check(spec: &TaskSpec, level: Level) -> Result<(), FieldError> {
    let takes_read_only = level >= Level::RELEASE_0_2;
    let mut host_paths = spec.host_paths.iter();
    let writes = host_paths.any(|path| !(takes_read_only && path.read_only));
    if spec.container.security_options.changes_users() && writes {
        let text = match takes_read_only {
            true => {
                "with capabilities or new privileges it could write to host_paths as any user of the host: have them read_only, or leave one out"
            }
            false => {
                "with capabilities or new privileges it could write to host_paths as any user of the host: leave one out"
            }
        };
        return Err(("container.opt_outs", text.to_owned()));
    }
    if spec.container.security_options.host_network
        && spec.container.network != ContainerNetwork::AgentDefault
    {
        let text = "it cannot be in the host's network and in another one: name one of them";
        return Err(("container.network", text.to_owned()));
    }
    match &spec.limits {
        None => Ok(()),
        Some(limits) => check_limits(spec, limits),
    }
}

/// Validates the requests of a task against the options that its agent allows.
pub(super) fn check_allowed(spec: &TaskSpec, agent: &Agent) -> Result<(), FieldError> {
    check_sizes(spec, agent)?;
    let requested = &spec.container.security_options;
    match requested.first_not_allowed(&agent.report.info.allowed_security_options) {
        None => Ok(()),
        Some((what, flag)) => {
            let agent = agent.id;
            let text = format!(
                "{agent} does not allow {what}: leave it out, or have its operator start it with {flag}"
            );
            Err(("container.opt_outs", text))
        }
    }
}

fn check_sizes(spec: &TaskSpec, agent: &Agent) -> Result<(), FieldError> {
    let id = agent.id;
    match spec
        .container
        .sizes
        .first_exceeding(&agent.report.info.largest_sizes)
    {
        None => Ok(()),
        Some(SizeExceeded {
            field, most: None, ..
        }) => {
            let text = format!("{id} takes no {field}: leave it out, or use another agent");
            Err(("container.sizes", text))
        }
        Some(SizeExceeded {
            field,
            asked,
            most: Some(most),
            flag,
        }) => {
            let text = format!(
                "{field}: {asked} is more than the {most} of {id}: ask for less, or have its operator start it with {flag}"
            );
            Err(("container.sizes", text))
        }
    }
}

/// Validates limits of a task against its resources and the bounds of each limit.
pub(super) fn check_limits(spec: &TaskSpec, limits: &TaskLimits) -> Result<(), FieldError> {
    let wrong = |field, text: String| Err((field, text));
    let cpus = amount(spec, "cpus");
    if let Some(most) = limits.cpu_millis
        && (most == 0 || most < cpus)
    {
        let text = format!(
            "{most} thousandths of a processor are none, or less than the {cpus} that it asks for: raise the limit"
        );
        return wrong("limits.cpu_millis", text);
    }
    if let Some(most) = limits.memory_bytes {
        // The unit of the resource is a thousandth of a MiB.
        let requested = amount(spec, "mem").saturating_mul(1 << 20) / 1_000;
        if most == 0 || most < requested {
            let text = format!(
                "{most} bytes are none, or less than the {requested} that it asks for: raise the limit"
            );
            return wrong("limits.memory_bytes", text);
        }
    }
    if limits.pids == Some(0) {
        let text = "a task is at least one process: give at least 1".to_owned();
        return wrong("limits.pids", text);
    }
    if let Some(weight) = limits.io_weight
        && !(1..=10_000).contains(&weight)
    {
        let text = format!("{weight} is no share: give 1 to 10,000");
        return wrong("limits.io_weight", text);
    }
    if limits.exclusive_cpus && (cpus == 0 || !cpus.is_multiple_of(1_000)) {
        let text = format!(
            "it asks for {cpus} thousandths of a processor, and only whole ones are had alone: ask for cpus:1, cpus:2, …"
        );
        return wrong("limits.exclusive_cpus", text);
    }
    check_disks(limits)
}

fn check_disks(limits: &TaskLimits) -> Result<(), FieldError> {
    let wrong = |text: String| Err(("limits.io", text));
    if limits.io.len() > limits::DISK_LIMITS {
        let most = limits::DISK_LIMITS;
        return wrong(format!(
            "{} disks are limited; at most {most}",
            limits.io.len()
        ));
    }
    let mut seen = BTreeSet::new();
    for limit in &limits.io {
        let disk = &limit.disk;
        let plain = disk.is_empty() || (disk.starts_with("/dev/") && !disk.contains(['\0', '\n']));
        if !plain || disk.len() > limits::NAME_BYTES {
            let most = limits::NAME_BYTES;
            return wrong(format!(
                "{disk:?} names no disk: give its device, as /dev/sda, in at most {most} bytes, or nothing for that of the sandbox"
            ));
        }
        let bounds = [
            limit.read_bytes,
            limit.write_bytes,
            limit.read_operations,
            limit.write_operations,
        ];
        if bounds.contains(&Some(0)) || bounds.iter().all(Option::is_none) {
            return wrong(format!(
                "disk {disk:?} has no limit, or one of 0: give at least 1"
            ));
        }
        if !seen.insert(disk) {
            return wrong(format!("disk {disk:?} is limited twice"));
        }
    }
    Ok(())
}

/// Returns the amount of a scalar resource, in thousandths.
fn amount(spec: &TaskSpec, name: &str) -> u64 {
    u64::try_from(spec.resources.scalar_milli(name)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::agent::AgentInfo;
    use crate::command::{Command, CommandReply, RegisterAgent, Rejection};
    use crate::task::{DiskLimit, HostPath, LinuxCapability, SecurityOptions};
    use crate::testing::{self, World};

    fn limited(resources: &str, limits: TaskLimits) -> Option<&'static str> {
        let spec = TaskSpec {
            limits: Some(Box::new(limits)),
            ..testing::spec("t", resources)
        };
        check(&spec, Level::NEWEST).err().map(|(field, _)| field)
    }

    #[test]
    fn a_limit_is_never_below_the_requested_resources() {
        let cpus = |most| TaskLimits {
            cpu_millis: Some(most),
            ..TaskLimits::default()
        };
        assert_eq!(limited("cpus:1.5;mem:64", cpus(1_500)), None);
        assert_eq!(
            limited("cpus:1.5;mem:64", cpus(1_499)),
            Some("limits.cpu_millis")
        );
        assert_eq!(limited("mem:64", cpus(0)), Some("limits.cpu_millis"));
        let memory = |most| TaskLimits {
            memory_bytes: Some(most),
            ..TaskLimits::default()
        };
        assert_eq!(limited("mem:64", memory(64 << 20)), None);
        assert_eq!(
            limited("mem:64", memory((64 << 20) - 1)),
            Some("limits.memory_bytes")
        );
    }

    #[test]
    fn io_weights_process_counts_and_exclusive_cpus_have_bounds() {
        let weight = |weight| TaskLimits {
            io_weight: Some(weight),
            ..TaskLimits::default()
        };
        assert_eq!(limited("mem:1", weight(10_000)), None);
        assert_eq!(limited("mem:1", weight(10_001)), Some("limits.io_weight"));
        let none = TaskLimits {
            pids: Some(0),
            ..TaskLimits::default()
        };
        assert_eq!(limited("mem:1", none), Some("limits.pids"));
        let alone = TaskLimits {
            exclusive_cpus: true,
            ..TaskLimits::default()
        };
        assert_eq!(limited("cpus:2", alone.clone()), None);
        for resources in ["cpus:1.5", "mem:1"] {
            assert_eq!(
                limited(resources, alone.clone()),
                Some("limits.exclusive_cpus")
            );
        }
        let disk = |path: &str| DiskLimit {
            disk: path.to_owned(),
            write_bytes: Some(1),
            ..DiskLimit::default()
        };
        let disks = |io: Vec<DiskLimit>| {
            let limits = TaskLimits {
                io,
                ..TaskLimits::default()
            };
            limited("mem:1", limits)
        };
        assert_eq!(disks(vec![disk(""), disk("/dev/sda")]), None);
        let idle = DiskLimit::default();
        for io in [
            vec![disk(""), disk("")],
            vec![disk("sda")],
            vec![idle],
            vec![disk("/dev/d"); limits::DISK_LIMITS + 1],
        ] {
            assert_eq!(disks(io), Some("limits.io"));
        }
    }

    #[test]
    fn a_disallowed_option_is_refused_with_the_agents_flag() {
        let mut world = World::new();
        let framework = world.subscribe("web");
        let agent = world.register("cpus:4");
        let mut requested = testing::spec("t", "cpus:1");
        requested.container.security_options.capabilities = [LinuxCapability::Chown].into();
        let offers: Vec<_> = (0..2)
            .map(|_| world.offer(framework, agent, "cpus:1"))
            .collect();
        let applied = world.accept(framework, vec![offers[0].clone()], vec![requested.clone()]);
        let Ok(CommandReply::Call { refused, .. }) = applied.outcome else {
            panic!("the call itself is good: {:?}", applied.outcome);
        };
        let (_, Rejection::Invalid { field, text }) = &refused[0] else {
            panic!("{refused:?}");
        };
        assert_eq!(field, "container.opt_outs");
        assert!(
            text.contains("agent-1 does not allow capability CHOWN"),
            "{text}"
        );
        assert!(text.ends_with("--allow-capabilities CHOWN"), "{text}");
        // The agent returns and allows the option, so offers made before are outdated.
        let known = world.registry.agent(agent).unwrap().clone();
        let allowing = RegisterAgent {
            agent: Some(agent),
            nonce: known.nonce,
            confirmed: known.report.incarnation,
            tried: vec![known.report.incarnation],
            boot_id: known.report.boot_id.clone(),
            info: AgentInfo {
                allowed_security_options: requested.container.security_options.clone(),
                ..known.report.info.clone()
            },
            follows: None,
        };
        world
            .apply(Command::RegisterAgent(allowing))
            .outcome
            .unwrap();
        let applied = world.accept(framework, vec![offers[1].clone()], vec![requested.clone()]);
        assert!(matches!(applied.outcome, Err(Rejection::OfferOutdated(..))));
        let offer = world.offer(framework, agent, "cpus:1");
        let applied = world.accept(framework, vec![offer], vec![requested]);
        let Ok(CommandReply::Call { refused, .. }) = applied.outcome else {
            panic!("{:?}", applied.outcome);
        };
        assert_eq!(refused, []);
    }

    #[test]
    fn a_size_above_the_agents_maximum_is_rejected_with_both_values_and_the_flag() {
        let mut world = World::new();
        let agent = world.register("cpus:4");
        let mut agent = world.registry.agent(agent).unwrap().clone();
        let mut requested = testing::spec("t", "cpus:1");
        assert_eq!(check_allowed(&requested, &agent), Ok(()));
        requested.container.sizes.open_files = Some(5_000);
        let (field, text) = check_allowed(&requested, &agent).unwrap_err();
        assert_eq!(field, "container.sizes");
        assert!(text.contains("takes no open_files"), "{text}");
        Arc::make_mut(&mut agent.report)
            .info
            .largest_sizes
            .open_files = Some(4_999);
        let (_, text) = check_allowed(&requested, &agent).unwrap_err();
        let figures = "open_files: 5000 is more than the 4999 of agent-1";
        assert!(text.starts_with(figures), "{text}");
        assert!(text.ends_with("--max-open-files 5000"), "{text}");
        Arc::make_mut(&mut agent.report)
            .info
            .largest_sizes
            .open_files = Some(5_000);
        assert_eq!(check_allowed(&requested, &agent), Ok(()));
    }

    #[test]
    fn the_host_network_excludes_other_networks() {
        let mut spec = testing::spec("t", "mem:1");
        spec.container.security_options.host_network = true;
        assert_eq!(check(&spec, Level::NEWEST), Ok(()));
        for other in [ContainerNetwork::None, ContainerNetwork::Bridge(Vec::new())] {
            spec.container.network = other;
            assert_eq!(
                check(&spec, Level::NEWEST).unwrap_err().0,
                "container.network"
            );
        }
    }

    #[test]
    fn a_task_that_changes_users_has_read_only_host_paths() {
        let mut spec = testing::spec("t", "mem:1");
        spec.host_paths = vec![HostPath {
            host_path: "/srv".into(),
            container_path: "/srv".into(),
            read_only: false,
        }];
        assert_eq!(check(&spec, Level::NEWEST), Ok(()));
        spec.container.security_options = SecurityOptions {
            capabilities: [LinuxCapability::Setuid].into(),
            ..SecurityOptions::default()
        };
        assert_eq!(
            check(&spec, Level::NEWEST).unwrap_err().0,
            "container.opt_outs"
        );
        spec.host_paths[0].read_only = true;
        assert_eq!(check(&spec, Level::NEWEST), Ok(()));
        spec.host_paths.clear();
        assert_eq!(check(&spec, Level::NEWEST), Ok(()));
    }
}
