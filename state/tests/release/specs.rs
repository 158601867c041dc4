//! Valid and invalid descriptions of tasks, agents and frameworks, with every field that release
//! 0.1.0 has.

use std::collections::BTreeSet;

use argosy_state::command::{CallAction, Command, OfferOperation};
use argosy_state::limits;
use argosy_state::task::{
    Check, CheckKind, CniNetwork, CommandSpec, ContainerNetwork, HealthCheck, HostPath, ImagePull,
    KillSignal, LinuxCapability, PublishedPort, Scheme, TaskSpec, TaskVolume, Uri, VolumeSource,
};

use crate::rng::TestRng;

/// Adds fields to some of a command's descriptions.
pub(crate) fn vary(dice: &mut TestRng, command: &mut Command) {
    match command {
        Command::Call(call) => match &mut call.action {
            CallAction::Accept(accept) => {
                for spec in accept
                    .operations
                    .iter_mut()
                    .flat_map(OfferOperation::tasks_mut)
                {
                    for _ in 0..dice.below(3) {
                        vary_spec(dice, spec);
                    }
                }
            }
            CallAction::Update(info) if dice.percent(30) => {
                info.labels
                    .insert("team".to_owned(), "a".repeat(dice.below(100)));
            }
            _ => {}
        },
        Command::Subscribe(subscribe) if dice.percent(30) => {
            let value = "b".repeat(dice.below(1_000));
            subscribe.info.labels.insert("team".to_owned(), value);
        }
        Command::RegisterAgent(register) if dice.percent(30) => {
            let info = &mut register.info;
            info.capabilities.insert("limits".to_owned());
            info.largest_sizes.open_files = Some(4_096);
            info.allowed_security_options.host_network = true;
            let allowed = &mut info.allowed_security_options.capabilities;
            allowed.extend([LinuxCapability::Chown, LinuxCapability::Setuid]);
            info.attributes.insert("rack".to_owned(), "r1".to_owned());
        }
        _ => {}
    }
}

fn vary_spec(dice: &mut TestRng, spec: &mut TaskSpec) {
    match dice.below(16) {
        0 => spec.host_paths.push(host_path(dice)),
        1 => spec.host_paths.extend([host_path(dice), host_path(dice)]),
        2 => drop(
            spec.container
                .security_options
                .capabilities
                .insert(LinuxCapability::Setuid),
        ),
        3 => spec.container.security_options.new_privileges = true,
        4 => spec.volumes.push(volume(dice)),
        5 => spec.volumes.extend([volume(dice), volume(dice)]),
        6 => spec.run = run(dice),
        7 => {
            let bytes = dice.pick(&[1, 1_000, 131_069, 131_070, 140_000]).unwrap();
            spec.environment.insert("A".to_owned(), "v".repeat(bytes));
        }
        8 => {
            let value = "l".repeat(dice.below(2_000));
            spec.labels.insert(format!("l{}", dice.below(3)), value);
        }
        9 => spec.uris.push(Uri {
            value: "https://example.org/a".to_owned(),
            output_file: "a".to_owned(),
            sha256: String::new(),
            extract: dice.percent(50),
            executable: false,
            cache: true,
        }),
        10 => spec.health_check = Some(Box::new(HealthCheck::of(check(dice)))),
        11 => spec.readiness_check = Some(Box::new(check(dice))),
        12 => {
            spec.container.image = ["web:1", "a b", ""][dice.below(3)].to_owned();
            spec.container.network = network(dice);
        }
        13 => spec.name = "n".repeat(dice.below(3_000)),
        14 => (spec.tty, spec.stdin) = (dice.percent(50), dice.percent(50)),
        _ => newer(dice, spec),
    }
}

/// Adds fields that only level 3 has. A leader refuses them before they are proposed.
fn newer(dice: &mut TestRng, spec: &mut TaskSpec) {
    match dice.below(4) {
        0 => spec.kill_signal = Some(KillSignal::Int),
        1 => spec.container.sizes.open_files = Some(4_096),
        2 => spec.container.pull = Some(ImagePull::Always),
        _ => spec.container.security_options.host_network = true,
    }
}

fn host_path(dice: &mut TestRng) -> HostPath {
    let host = ["/srv", "/srv/data", "/etc", "srv"][dice.below(4)];
    let own = ["/srv", "data", "/conf", "/proc/x", "/conf/x"][dice.below(5)];
    HostPath {
        host_path: host.to_owned(),
        container_path: own.to_owned(),
        read_only: dice.percent(50),
    }
}

fn volume(dice: &mut TestRng) -> TaskVolume {
    let path = ["/cache", "/cache/x", "/srv", "/data", "/conf", "/dev/x"][dice.below(6)];
    TaskVolume {
        container_path: path.to_owned(),
        read_only: dice.percent(30),
        source: match dice.below(3) {
            0 => VolumeSource::Sandbox("data".to_owned()),
            1 => VolumeSource::Tmpfs {
                bytes: 1 << (10 + dice.below(20)),
            },
            _ => VolumeSource::Secret("key".to_owned()),
        },
    }
}

fn run(dice: &mut TestRng) -> CommandSpec {
    let long =
        |dice: &mut TestRng| "x".repeat(dice.pick(&[0, 10, 2_000, 131_071, 131_072]).unwrap());
    match dice.below(4) {
        0 => CommandSpec::Image,
        1 => CommandSpec::Shell(long(dice)),
        2 => CommandSpec::Argv(vec![long(dice), long(dice)]),
        _ => CommandSpec::Argv(vec!["true\0".to_owned()]),
    }
}

fn check(dice: &mut TestRng) -> Check {
    let mut check = Check::of(match dice.below(4) {
        0 => CheckKind::Shell("true".to_owned()),
        1 => CheckKind::Argv(vec![String::new()]),
        2 => CheckKind::Http {
            scheme: Scheme::Https,
            port: 1,
            path: "/".to_owned(),
            statuses: BTreeSet::from([200]),
        },
        _ => CheckKind::Tcp { port: 0 },
    });
    if dice.percent(20) {
        check.interval_ms = limits::CHECK_INTERVAL_MS - 1;
    }
    check
}

fn network(dice: &mut TestRng) -> ContainerNetwork {
    let port = PublishedPort {
        host: 1,
        container: 80,
        udp: false,
    };
    match dice.below(4) {
        0 => ContainerNetwork::AgentDefault,
        1 => ContainerNetwork::None,
        2 => ContainerNetwork::Bridge(vec![port]),
        _ => ContainerNetwork::Cni(CniNetwork {
            name: ["net", "a b"][dice.below(2)].to_owned(),
            published: vec![port],
        }),
    }
}
