//! Tests of the layers that stop each escape technique: with all layers disabled that are named for
//! it, it succeeds; with any one of them enabled, it fails.

use std::collections::{BTreeMap, BTreeSet};

use argosy_isolation::disable_layer::{self, LAYERS};
use argosy_isolation::{LaunchSpec, Network as Net, port_filter};
use argosy_network::why_no_ipv6;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::escapes::{AttemptUser, EscapeResults, ProtectedObjects, launch_as};
use crate::fixture::{RootFixture, TestCase};
use crate::profile::give_sandbox;
use crate::security_options::ROOT;

pub(crate) const CASES: &[TestCase] = &[
    (
        "each_escape_technique_works_for_an_unprivileged_user_without_its_layers",
        open_to_unprivileged,
    ),
    (
        "each_escape_technique_works_for_root_of_the_container_without_its_layers",
        open_to_root,
    ),
    (
        "each_escape_technique_works_with_all_security_options_without_its_layers",
        open_with_all_options,
    ),
    (
        "techniques_stopped_by_a_separate_network_work_without_it",
        open_apart,
    ),
    ("any_single_layer_of_an_escape_technique_stops_it", alone),
];

/// The argument with which a launcher disables layers.
pub(crate) const WITHOUT: &str = "without";

/// A layer: one that a launch request controls, or one that only tests disable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TestedLayer {
    /// The command is not root of the container.
    User,
    /// The seccomp filter.
    Calls,
    /// `no_new_privs`.
    Privileges,
    Landlock,
    /// The masked and read-only parts of `/proc`.
    Masks,
    /// Resource limits.
    Limits,
    /// A separate network.
    Network,
    Mandatory(disable_layer::MandatoryLayer),
}
use TestedLayer::{Calls, Landlock, Limits, Mandatory, Masks, Network, Privileges, User};
const CAPABILITIES: TestedLayer = Mandatory(disable_layer::MandatoryLayer::Capabilities);
const INIT: TestedLayer = Mandatory(disable_layer::MandatoryLayer::Init);
const READ_ONLY: TestedLayer = Mandatory(disable_layer::MandatoryLayer::ReadOnly);
const USERS: TestedLayer = Mandatory(disable_layer::MandatoryLayer::User);
const FILES: TestedLayer = Mandatory(disable_layer::MandatoryLayer::Files);

/// Techniques by the layers that each stop them.
type LayerTable = [(&'static [TestedLayer], &'static [&'static str])];
/// A row of it, as it is on this kernel.
type LayerRow = (&'static [TestedLayer], Vec<&'static str>);

/// In the host's network, where most layers are needed.
const LAYER_TABLE: &LayerTable = &[
    (
        &[Calls],
        &[
            "a call of 32-bit code",
            "a call of the x32 table",
            "a pair of sockets of TIPC",
            "a pair of sockets of the internet",
            "a pair of sockets of the internet by IPv6",
            "a pair of sockets to hypervisors",
            "a pair of sockets to the kernel's ciphers",
            "a pair of sockets to the kernel's tables",
            "a socket to hypervisors",
            "a socket to the audit log",
            "a socket to the kernel's ciphers",
            "call add_key",
            "call bpf",
            "call chroot",
            "call clock_adjtime",
            "call clock_settime",
            "call fsconfig",
            "call io_uring_setup",
            "call ioperm",
            "call iopl",
            "call kcmp",
            "call keyctl",
            "call listmount",
            "call lsm_set_self_attr",
            "call mbind",
            "call memfd_secret",
            "call migrate_pages",
            "call modify_ldt",
            "call mount",
            "call mount_setattr",
            "call move_pages",
            "call name_to_handle_at",
            "call nfsservctl",
            "call open_by_handle_at",
            "call perf_event_open",
            "call pidfd_getfd",
            "call process_madvise",
            "call process_vm_readv",
            "call process_vm_writev",
            "call quotactl",
            "call quotactl_fd",
            "call request_key",
            "call set_mempolicy",
            "call setns",
            "call settimeofday",
            "call statmount",
            "call sysfs",
            "call umount2",
            "call unshare",
            "call uselib",
            "call userfaultfd",
            "call ustat",
            "call vmsplice",
            "clone3",
            "typing into a terminal",
        ],
    ),
    (
        &[Calls, CAPABILITIES],
        &[
            "call fsmount",
            "call fsopen",
            "call fspick",
            "call move_mount",
            "call open_tree",
            "call pivot_root",
            "call reboot",
            "call setdomainname",
            "call sethostname",
            "clone into a new cgroup namespace",
            "clone into a new ipc namespace",
            "clone into a new mount namespace",
            "clone into a new net namespace",
            "clone into a new pid namespace",
            "clone into a new uts namespace",
        ],
    ),
    (
        &[Calls, CAPABILITIES, USERS],
        &[
            "a socket to the wire",
            "call acct",
            "call delete_module",
            "call fanotify_init",
            "call finit_module",
            "call init_module",
            "call kexec_file_load",
            "call kexec_load",
            "call lookup_dcookie",
            "call swapoff",
            "call swapon",
            "call syslog",
            "call vhangup",
        ],
    ),
    (
        &[Calls, Mandatory(disable_layer::MandatoryLayer::Nesting)],
        &["clone into a new user namespace"],
    ),
    (
        &[
            Calls,
            CAPABILITIES,
            Mandatory(disable_layer::MandatoryLayer::Root),
        ],
        &["the root before this one"],
    ),
    (&[CAPABILITIES], &["becoming root", "capabilities"]),
    (
        &[CAPABILITIES, USERS],
        &["a socket of raw packets", "a socket of raw packets of IPv6"],
    ),
    (
        &[
            CAPABILITIES,
            USERS,
            Mandatory(disable_layer::MandatoryLayer::Nodev),
            Mandatory(disable_layer::MandatoryLayer::Devices),
        ],
        &["a block device", "a device of memory"],
    ),
    (&[Privileges], &["set-user-id files"]),
    (&[Landlock], &[DENIED_BY_LANDLOCK_6]),
    (&[USERS, User], &["the host's passwords"]),
    (&[Masks], &["the kernel's interrupts", "the kernel's keys"]),
    (
        &[Masks, USERS, User],
        &[
            "the kernel's magic keys",
            "the kernel's settings",
            "the kernel's timers",
        ],
    ),
    (&[Masks, USERS, CAPABILITIES], &["the kernel's memory"]),
    (
        &[Limits],
        &["an image of its memory", "more files than are allowed"],
    ),
    (
        &[Mandatory(disable_layer::MandatoryLayer::Pid)],
        &["other processes"],
    ),
    (
        &[Mandatory(disable_layer::MandatoryLayer::Pid), User],
        &["signals to init"],
    ),
    (
        &[Mandatory(disable_layer::MandatoryLayer::Ipc)],
        &["the host's shared memory"],
    ),
    (
        &[Mandatory(disable_layer::MandatoryLayer::Uts)],
        &["the host's name"],
    ),
    (
        &[Mandatory(disable_layer::MandatoryLayer::Cgroup)],
        &["the host's control groups"],
    ),
    (
        &[Mandatory(disable_layer::MandatoryLayer::Noexec)],
        &["programs in /dev/shm", "programs in /tmp"],
    ),
    (
        &[FILES],
        &[
            "the host's data",
            "the host's firmware",
            "the host's sockets",
        ],
    ),
    (&[FILES, USERS, User], &["the homes of the host"]),
    (&[READ_ONLY, Landlock, User], &["a file in /"]),
    (
        &[READ_ONLY, Landlock, USERS, User],
        &[
            "a file in /dev",
            "a file in /etc",
            "a file in /usr",
            "a link that leads out",
            "its control group",
        ],
    ),
    (
        &[INIT, CAPABILITIES],
        &[
            "init's descriptors",
            "init's environment",
            "init's memory",
            "init's root",
            "tracing init",
        ],
    ),
    (&[INIT, CAPABILITIES, Landlock], &["init's executable"]),
    (
        &[Mandatory(disable_layer::MandatoryLayer::Descriptors)],
        &["descriptors that leaked"],
    ),
    (
        &[Mandatory(disable_layer::MandatoryLayer::Ports)],
        DENIED_BY_PORT_FILTER,
    ),
];

/// Techniques that only eBPF programs stop, for a command with ports of the host.
const DENIED_BY_PORT_FILTER: &[&str] = &[
    "a port of others",
    "a port of others by IPv6",
    "a socket of SCTP",
    "a socket of SCTP by IPv6",
    "a socket of UDP-Lite",
    "a socket of UDP-Lite by IPv6",
    "listening at no port of its own",
    "listening at no port of its own by IPv6",
];

/// Before Linux 6.11 this needs a capability on the host: more layers stop it there.
const LAYERS_BEFORE_6_11: &LayerTable = &[(&[Calls, CAPABILITIES, USERS], &[BY_HANDLE])];
const BY_HANDLE: &str = "call open_by_handle_at";

/// Returns the rows of [`LAYER_TABLE`], as they are on this kernel.
fn layer_rows() -> Vec<LayerRow> {
    if is_at_least(6, 11) {
        return rows_of(LAYER_TABLE).collect();
    }
    let but_that = |names: &[&'static str]| {
        let names = names.iter().filter(|name| **name != BY_HANDLE);
        names.copied().collect()
    };
    let rows = LAYER_TABLE
        .iter()
        .map(|(isolation_layers, names)| (*isolation_layers, but_that(names)));
    let rows = rows.chain(rows_of(LAYERS_BEFORE_6_11));
    rows.collect()
}

fn rows_of(table: &'static LayerTable) -> impl Iterator<Item = LayerRow> {
    table
        .iter()
        .map(|(isolation_layers, names)| (*isolation_layers, names.to_vec()))
}

const SEPARATE_NETWORK_TABLE: &LayerTable = &[
    (&[Network], &UNPREVENTED),
    (&[Network, Landlock], &[DENIED_BY_LANDLOCK_6]),
];

/// The kernel refuses this to every process, including host root, while the program runs.
const DENIED_BY_KERNEL: &str = "writing to its executable";
/// Access to the host that no layer stops in the host's network.
const UNPREVENTED: [&str; 3] = [
    "the host's ports",
    "the host's ports by IPv6",
    "the host's ports by a mapped IPv6 address",
];

/// Features that some kernels lack. Their errors follow.
const MAY_BE_ABSENT: [&str; 11] = [
    "a block device",
    "a call of the x32 table",
    "a device of memory",
    "a socket of SCTP",
    "a socket of SCTP by IPv6",
    "a socket of UDP-Lite",
    "a socket of UDP-Lite by IPv6",
    "a socket to hypervisors",
    "a socket to the kernel's ciphers",
    "the kernel's magic keys",
    "the kernel's memory",
];
const ABSENT: [&str; 7] = [
    "Address family not supported by protocol",
    "No such device",
    "No such device or address",
    "No such file or directory",
    "Protocol not supported",
    "Socket type not supported",
    "asked",
];
const NO_SUCH_CALL: &str = "Function not implemented";

fn is_absent(name: &str, answer: &str) -> bool {
    answer == NO_SUCH_CALL
        || MAY_BE_ABSENT.contains(&name) && ABSENT.contains(&answer)
        || name.contains("IPv6") && why_no_ipv6().is_some()
}

/// Returns the names of all techniques, in order.
pub(crate) fn names() -> Vec<&'static str> {
    let held = LAYER_TABLE
        .iter()
        .flat_map(|(_, names)| names.iter().copied());
    let mut all: Vec<_> = held.chain([DENIED_BY_KERNEL]).chain(UNPREVENTED).collect();
    all.sort_unstable();
    all
}

/// The user and the network of the attempts.
#[derive(Clone, Copy)]
struct AttemptContext {
    user: AttemptUser,
    network: fn() -> Net,
}

/// A network without any permitted port.
pub(crate) fn hosts_network() -> Net {
    let ports = Some(Vec::new());
    Net::Host { ports }
}

const fn in_hosts_network(who: AttemptUser) -> AttemptContext {
    AttemptContext {
        user: who,
        network: hosts_network,
    }
}

/// Checks that each technique succeeds when only the layers named for it are disabled; returns
/// those that this kernel does not support.
fn all_open(context: AttemptContext, rows: &[LayerRow]) -> BTreeSet<&'static str> {
    let (mut world, bait) = (RootFixture::new(), ProtectedObjects::new());
    let (mut shut, mut absent) = (Vec::new(), BTreeSet::new());
    for (isolation_layers, names) in rows {
        let gone = isolation_layers.iter().copied().collect();
        let answers = run_without(&mut world, &bait, context, &gone, names);
        for name in names {
            match &answers[*name] {
                (true, _) => println!("technique inside: {name}: open"),
                (false, answer) if is_absent(name, answer) => drop(absent.insert(*name)),
                (false, answer) => {
                    shut.push(format!("{name} without {isolation_layers:?}: {answer}"))
                }
            }
        }
    }
    assert_eq!(shut, [""; 0]);
    absent
}

fn report_absent(absent: &BTreeSet<&str>) {
    if !absent.is_empty() {
        let list: Vec<_> = absent.iter().copied().collect();
        println!("this kernel has nothing of: {}", list.join(", "));
    }
}

fn open_to_unprivileged() {
    report_absent(&all_open(
        in_hosts_network(AttemptUser::Unprivileged),
        &layer_rows(),
    ));
}

fn open_to_root() {
    all_open(in_hosts_network(AttemptUser::Root), &layer_rows());
}

fn open_with_all_options() {
    all_open(in_hosts_network(AttemptUser::Relaxed), &layer_rows());
}

/// The user `nobody` in a network of its container alone.
const APART: AttemptContext = AttemptContext {
    user: AttemptUser::Unprivileged,
    network: || Net::None,
};

fn open_apart() {
    let (mut world, bait) = (RootFixture::new(), ProtectedObjects::new());
    let names: Vec<_> = SEPARATE_NETWORK_TABLE
        .iter()
        .flat_map(|(_, names)| *names)
        .copied()
        .collect();
    let answers = run_without(&mut world, &bait, APART, &BTreeSet::new(), &names);
    assert!(answers.values().all(|(is_open, _)| !is_open), "{answers:?}");
    drop((world, bait));
    all_open(APART, &rows_of(SEPARATE_NETWORK_TABLE).collect::<Vec<_>>());
}

/// Checks that a technique fails while any of its layers is enabled.
fn alone() {
    let (mut world, bait) = (RootFixture::new(), ProtectedObjects::new());
    // One container tries several techniques that lack the same layers.
    let mut trials: BTreeMap<BTreeSet<TestedLayer>, Vec<&str>> = BTreeMap::new();
    for (isolation_layers, names) in layer_rows()
        .iter()
        .filter(|(isolation_layers, _)| isolation_layers.len() > 1)
    {
        for left in *isolation_layers {
            let gone = isolation_layers
                .iter()
                .copied()
                .filter(|wall| wall != left)
                .collect();
            trials.entry(gone).or_default().extend(names);
        }
    }
    let mut open = Vec::new();
    for (gone, names) in &trials {
        let answers = run_without(
            &mut world,
            &bait,
            in_hosts_network(AttemptUser::Unprivileged),
            gone,
            names,
        );
        let found = answers.iter().filter(|(_, (is_open, _))| *is_open);
        open.extend(found.map(|(name, (_, answer))| format!("{name} without {gone:?}: {answer}")));
    }
    assert_eq!(open, [""; 0]);
}

/// The technique that only Landlock 6, from Linux 6.12 on, denies a container in the host's
/// network.
const DENIED_BY_LANDLOCK_6: &str = "the host's abstract sockets";

/// Whether this kernel has no layer against the technique.
pub(crate) fn is_unprevented(name: &str) -> bool {
    name == DENIED_BY_LANDLOCK_6 && !has_landlock_6()
        || DENIED_BY_PORT_FILTER.contains(&name) && port_filter::supported().is_err()
}

pub(crate) fn has_landlock_6() -> bool {
    is_at_least(6, 12)
}

/// Whether this kernel is at least of this version.
fn is_at_least(major: u32, minor: u32) -> bool {
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// Disables layers. Called by the launcher before anything else. Containers can find the
/// descriptors that it has open.
pub(crate) fn disable_layers(names: &str) {
    let named = |wall: &&disable_layer::MandatoryLayer| {
        names.split(',').any(|name| name == format!("{wall:?}"))
    };
    let gone: Vec<_> = LAYERS.iter().filter(named).copied().collect();
    disable_layer::disable(gone).expect("a build with debug assertions");
    let leak = open("/dev/null", OFlag::O_RDONLY, Mode::empty()).expect("every host has it");
    std::mem::forget(leak);
}

/// Returns what a user finds of `wanted` with these layers disabled.
fn run_without(
    world: &mut RootFixture,
    bait: &ProtectedObjects,
    context: AttemptContext,
    disabled: &BTreeSet<TestedLayer>,
    techniques: &[&str],
) -> EscapeResults {
    let built = disabled.iter().filter_map(|wall| match wall {
        Mandatory(wall) => Some(*wall),
        _ => None,
    });
    let built: Vec<_> = built.collect();
    world.disable_layers(&built);
    let mut spec = launch_as(world, context.user);
    spec.network = (context.network)();
    disabled
        .iter()
        .for_each(|wall| disable_in_spec(&mut spec, *wall));
    bait.run(world, spec, techniques)
}

fn disable_in_spec(spec: &mut LaunchSpec, wall: TestedLayer) {
    let isolation_layers = &mut spec.profile.as_mut().expect("it has one").isolation_layers;
    match wall {
        User => {
            spec.user = Some(ROOT);
            give_sandbox(spec);
        }
        Calls => isolation_layers.system_calls = false,
        Privileges => isolation_layers.privileges = false,
        Landlock => isolation_layers.landlock = false,
        Masks => isolation_layers.masks = false,
        Limits => spec.resource_limits.clear(),
        Network => spec.network = hosts_network(),
        Mandatory(_) => {}
    }
}
