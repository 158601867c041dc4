//! Tests of escape techniques (`probe.py`): all fail with the default profile, for every user and
//! with every security option. `layers.rs` tests the layers that stop each of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use argosy_isolation::profile::IsolationLayers;
use argosy_isolation::{Capabilities, CommandOutcome, LaunchSpec, Program, ResourceLimit};

use crate::fixture::{RootFixture, TestCase, skip, stderr, stdout};
use crate::layers;
use crate::profile::{give_sandbox, profiled};
use crate::security_options::ROOT;

pub(crate) const CASES: &[TestCase] = &[
    (
        "no_escape_technique_works_for_an_unprivileged_user",
        unprivileged,
    ),
    ("no_escape_technique_works_for_root_of_the_container", root),
    ("no_escape_technique_works_for_an_exec_session", entered),
    (
        "no_escape_technique_works_for_root_with_all_capabilities_and_new_privileges",
        capable,
    ),
    (
        "no_escape_technique_works_for_root_with_all_security_options",
        with_all_options,
    ),
];

pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// Creates shared memory with the key in its argument, reports that, and keeps it until its input
/// ends.
const KEEP_MEMORY: &str = "import ctypes, sys
libc = ctypes.CDLL(None)
made = libc.shmget(int(sys.argv[1]), 4096, 0o1666)
print('made', flush=True)
sys.stdin.read()
libc.shmctl(made, 0, None)";

/// The kernel's answer to each technique, and whether it succeeded.
pub(crate) type EscapeResults = BTreeMap<String, (bool, String)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptUser {
    Unprivileged,
    Root,
    /// Root of the container with all security options except system calls and namespaces.
    Capable,
    /// Root of the container with all security options.
    Relaxed,
}

/// Objects on the host that must not be reachable from inside.
pub(crate) struct ProtectedObjects {
    name: String,
    _abstract: UnixListener,
    port: TcpListener,
    /// The same by IPv6; `None` on a host without.
    port6: Option<TcpListener>,
    key: u32,
    memory: Child,
    device: String,
}

impl ProtectedObjects {
    pub(crate) fn new() -> Self {
        if !Path::new(PYTHON).exists() {
            skip("needs the package python3".to_owned());
        }
        if std::env::consts::ARCH != "x86_64" {
            skip("the probes know the system calls of x86-64 only".to_owned());
        }
        let name = format!("argosy-probe-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let key = std::process::id() | 0x4152_0000;
        let mut memory = Command::new(PYTHON)
            .args(["-I", "-S", "-c", KEEP_MEMORY, &key.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut reported = String::new();
        let mut output = BufReader::new(memory.stdout.take().unwrap());
        output.read_line(&mut reported).unwrap();
        assert_eq!(reported, "made\n");
        Self {
            name,
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            port: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            port6: TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok(),
            key,
            memory,
            device: block_device(),
        }
    }

    /// Copies the probes into the sandbox; returns the line that runs them: all, if none is named.
    pub(crate) fn line(&self, spec: &LaunchSpec, wanted: &[&str]) -> String {
        fs::set_permissions(&spec.sandbox, fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(spec.sandbox.join("probe.py"), include_str!("probe.py")).unwrap();
        if !wanted.is_empty() {
            fs::write(spec.sandbox.join("wanted"), wanted.join("\n")).unwrap();
        }
        let (name, key, device) = (&self.name, self.key, &self.device);
        let number = |port: &TcpListener| port.local_addr().unwrap().port();
        let port = number(&self.port);
        // No server listens at 0.
        let port6 = self.port6.as_ref().map_or(0, number);
        format!("exec {PYTHON} -I -S probe.py {name} {port} {key} {device} {port6}")
    }

    /// Returns what the container's main command finds.
    pub(crate) fn run(
        &self,
        world: &mut RootFixture,
        mut spec: LaunchSpec,
        wanted: &[&str],
    ) -> EscapeResults {
        spec.program = Program::Shell(self.line(&spec, wanted));
        let exit = world.run(&spec);
        let reported = || format!("{} {}", exit.reason, stderr(&spec));
        assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", reported());
        read(&stdout(&spec))
    }
}

impl Drop for ProtectedObjects {
    fn drop(&mut self) {
        drop(self.memory.stdin.take());
        // It ends with its input.
        let _ = self.memory.wait();
    }
}

/// Returns major and minor number of a device that this host's root may open.
fn block_device() -> String {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut opened = devices.filter(|device| {
        let node = Path::new("/dev").join(device.file_name());
        fs::File::open(node).is_ok()
    });
    let numbers = opened
        .next()
        .map(|device| fs::read_to_string(device.path().join("dev")).unwrap());
    // The kernel reports that there is no such device.
    numbers.map_or("0:0".to_owned(), |numbers| numbers.trim().to_owned())
}

/// Returns a launch with the default profile and an agent's other settings, by this user.
pub(crate) fn launch_as(world: &mut RootFixture, who: AttemptUser) -> LaunchSpec {
    let mut spec = profiled(world, "");
    spec.hostname = Some("contained".to_owned());
    spec.network = layers::hosts_network();
    let limits = [("core", 0), ("memlock", 65_536), ("nofile", 4_096)];
    spec.resource_limits = limits
        .map(|(name, most)| ResourceLimit::at_most(name, most))
        .into();
    if who != AttemptUser::Unprivileged {
        spec.user = Some(ROOT);
        give_sandbox(&spec);
    }
    let isolation_layers = &mut spec.profile.as_mut().unwrap().isolation_layers;
    if matches!(who, AttemptUser::Capable | AttemptUser::Relaxed) {
        isolation_layers.capabilities = Capabilities::all();
        isolation_layers.privileges = false;
    }
    if who == AttemptUser::Relaxed {
        *isolation_layers = IsolationLayers {
            system_calls: false,
            user_namespaces: false,
            ..*isolation_layers
        };
    }
    spec
}

fn read(output: &str) -> EscapeResults {
    let answers = output.lines().map(|line| {
        let parts: Vec<_> = line.splitn(3, '\t').collect();
        let [state, name, answer] = parts[..] else {
            panic!("{line}")
        };
        assert!(matches!(state, "open" | "shut"), "not tried: {line}");
        (name.to_owned(), (state == "open", answer.to_owned()))
    });
    answers.collect()
}

/// Techniques that succeed but give no access: name, and why.
type HarmlessTechniques = [(&'static str, &'static str)];

/// For all in the host's network.
const HARMLESS_NETWORK: &HarmlessTechniques = &[
    ("the host's ports", LET_IN),
    ("the host's ports by IPv6", LET_IN),
    ("the host's ports by a mapped IPv6 address", LET_IN),
];
const LET_IN: &str = "it was let into the host's network";

/// For root of the container.
const TO_ROOT: &HarmlessTechniques = &[("becoming root", "which it is")];

/// For commands that keep all capabilities that can be kept, and may gain privileges.
const CAPABLE: &HarmlessTechniques = &[
    ("capabilities", "of its own user namespace"),
    ("set-user-id files", "of its own image"),
    ("call chroot", "SYS_CHROOT: within its own view"),
];

/// For commands that may also make any system call, and create user namespaces.
const RELAXED: &HarmlessTechniques = &[
    ("a call of 32-bit code", "it is the filter that ends it"),
    ("a socket to hypervisors", "it reaches none of this host's"),
    (
        "a socket to the audit log",
        "its message needs a capability on the host",
    ),
    ("a socket to the kernel's ciphers", "asked for by name"),
    (
        "a pair of sockets of TIPC",
        "asked for by name, if the host has its module",
    ),
    ("a pair of sockets of the internet", "there are none"),
    (
        "a pair of sockets of the internet by IPv6",
        "there are none",
    ),
    ("a pair of sockets to hypervisors", "there are none"),
    (
        "a pair of sockets to the kernel's ciphers",
        "there are none",
    ),
    ("a pair of sockets to the kernel's tables", "there are none"),
    ("a call of the x32 table", "a number like any other"),
    ("typing into a terminal", "its own"),
    ("clone into a new user namespace", "asked for by name"),
    ("clone3", "which makes what clone makes"),
];
/// The probes of the seccomp filter itself, for commands without one: each tests whether a call
/// reaches the kernel, with harmless arguments. The other probes test what such calls could do.
const SEEN_BY_KERNEL: &str = "call ";

/// Returns the techniques that succeeded and were not granted.
fn not_granted(answers: &EscapeResults, granted: &[&HarmlessTechniques]) -> Vec<String> {
    let all = layers::names();
    let tried: Vec<_> = answers.keys().map(String::as_str).collect();
    assert_eq!(tried, all, "the table of layers names each technique");
    let is_granted = |name: &str| {
        let mut granted = granted.iter().flat_map(|list| list.iter());
        layers::is_unprevented(name) || granted.any(|(known, _)| *known == name)
    };
    let open = answers
        .iter()
        .filter(|(name, (is_open, _))| *is_open && !is_granted(name));
    for (name, _) in answers.iter().filter(|(_, (is_open, _))| !is_open) {
        println!("technique inside: {name}: shut");
    }
    open.map(|(name, (_, answer))| format!("{name}: {answer}"))
        .collect()
}

/// Returns what this user finds in a run of all techniques.
fn attempt_as(who: AttemptUser, granted: &[&HarmlessTechniques]) -> Vec<String> {
    let mut world = RootFixture::new();
    world.disable_layers(&[]);
    let bait = ProtectedObjects::new();
    let spec = launch_as(&mut world, who);
    not_granted(&bait.run(&mut world, spec, &[]), granted)
}

fn unprivileged() {
    assert_eq!(
        attempt_as(AttemptUser::Unprivileged, &[HARMLESS_NETWORK]),
        [""; 0]
    );
}

fn root() {
    assert_eq!(
        attempt_as(AttemptUser::Root, &[HARMLESS_NETWORK, TO_ROOT]),
        [""; 0]
    );
}

fn capable() {
    let granted = [HARMLESS_NETWORK, TO_ROOT, CAPABLE];
    assert_eq!(attempt_as(AttemptUser::Capable, &granted), [""; 0]);
}

fn with_all_options() {
    let granted = [HARMLESS_NETWORK, TO_ROOT, CAPABLE, RELAXED];
    let mut open = attempt_as(AttemptUser::Relaxed, &granted);
    open.retain(|answer| !answer.starts_with(SEEN_BY_KERNEL));
    assert_eq!(open, [""; 0]);
}

fn entered() {
    let mut world = RootFixture::new();
    world.disable_layers(&[]);
    let bait = ProtectedObjects::new();
    let mut spec = launch_as(&mut world, AttemptUser::Unprivileged);
    spec.program = Program::Shell("exec sleep 1000".to_owned());
    let (container, _) = world.start(&spec);
    let line = bait.line(&spec, &[]);
    let answers = read(&crate::exec_confinement::output(&container, &line));
    assert_eq!(not_granted(&answers, &[HARMLESS_NETWORK]), [""; 0]);
    crate::exec_confinement::end(container);
}
