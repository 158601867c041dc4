//! Ways out of a container (`probe.py`): none is open behind the default profile, and nearly all are without it.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use argosy_isolation::profile::Walls;
use argosy_isolation::{Capabilities, Outcome, Spec, User};

use crate::opt_outs::behind;
use crate::profile::{give_sandbox, profiled};
use crate::world::{Case, World, skip, stderr, stdout};

pub(crate) const CASES: &[Case] = &[
    ("no_way_out_is_open_to_nobody", nobody),
    ("no_way_out_is_open_to_root_of_the_container", root),
    ("no_way_out_is_open_to_what_enters", entered),
    (
        "no_way_out_is_open_to_root_with_every_capability_and_new_privileges",
        capable,
    ),
    ("no_way_out_is_open_to_root_with_every_opt_out", let_off),
    ("the_ways_out_are_open_without_the_profile", control),
];

const PYTHON: &str = "/usr/bin/python3";

/// The kernel's answer at each way out, and whether it was open.
type Answers = BTreeMap<String, (bool, String)>;

/// What the container's own command finds.
fn probed(world: &mut World, mut spec: Spec) -> Answers {
    let (line, _listener) = lay_out(&spec);
    spec.program = argosy_isolation::Program::Shell(line);
    let exit = world.run(&spec);
    assert_eq!(exit.outcome, Outcome::Exited(0), "{}", stderr(&spec));
    read(&stdout(&spec))
}

/// Puts the probes into the sandbox; returns the line that tries them, and what they look for on the host.
fn lay_out(spec: &Spec) -> (String, UnixListener) {
    if !std::path::Path::new(PYTHON).exists() {
        skip(format!("needs {PYTHON}"));
    }
    if std::env::consts::ARCH != "x86_64" {
        skip("the probes know the system calls of x86-64 only".to_owned());
    }
    let name = format!("argosy-probe-{}-{}", std::process::id(), spec.id);
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    fs::write(spec.sandbox.join("probe.py"), include_str!("probe.py")).unwrap();
    (format!("{PYTHON} probe.py {name}"), listener)
}

/// What a container in the host's network is kept from by Landlock 6 alone, which came with Linux 6.12.
const KEPT_BY_LANDLOCK_6: &str = "the host's abstract sockets";

fn has_landlock_6() -> bool {
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(12))
}

fn read(said: &str) -> Answers {
    let lines = said.lines();
    let lines = lines.filter(|line| has_landlock_6() || !line.contains(KEPT_BY_LANDLOCK_6));
    let answers = lines.map(|line| {
        let parts: Vec<_> = line.splitn(3, '\t').collect();
        let [verdict, name, answer] = parts[..] else {
            panic!("{line}")
        };
        (name.to_owned(), (verdict == "open", answer.to_owned()))
    });
    answers.collect()
}

fn open(answers: &Answers) -> Vec<String> {
    let open = answers.iter().filter(|(_, (is_open, _))| *is_open);
    open.map(|(name, (_, answer))| format!("{name}: {answer}"))
        .collect()
}

fn nobody() {
    let mut world = World::new();
    let spec = profiled(&mut world, "");
    let answers = probed(&mut world, spec);
    assert!(answers.len() >= 100, "{}", answers.len());
    assert_eq!(open(&answers), [""; 0]);
}

fn root() {
    let mut world = World::new();
    let mut spec = profiled(&mut world, "");
    spec.user = Some(User {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    });
    give_sandbox(&spec);
    let answers = probed(&mut world, spec);
    assert_eq!(open(&answers), ["becoming root: done"], "which it is");
}

fn entered() {
    let mut world = World::new();
    let spec = profiled(&mut world, "exec sleep 1000");
    let (container, _) = world.start(&spec);
    let (line, _listener) = lay_out(&spec);
    let answers = read(&crate::entry::output(&container, &line));
    assert!(answers.len() >= 100, "{}", answers.len());
    assert_eq!(open(&answers), [""; 0]);
    crate::entry::end(container);
}

/// What is open because it was asked for, and leads nowhere: name, and why.
type Granted = [(&'static str, &'static str)];

/// To who keeps all capabilities that can be kept, and may gain privileges.
const CAPABLE: &Granted = &[
    ("becoming root", "which it is"),
    ("capabilities", "of its own user namespace"),
    ("set-user-id files", "of its own image"),
    ("call chroot", "SYS_CHROOT: within its own view"),
];

/// To who besides makes any system call, and user namespaces.
const LET_OFF: &Granted = &[
    ("a call of 32-bit code", "it is the filter that ends it"),
    ("a socket to hypervisors", "it reaches none of this host's"),
    (
        "a socket to the audit log",
        "what it says needs a capability on the host",
    ),
    ("clone into a new user namespace", "asked for by name"),
    ("clone3", "which makes what clone makes"),
];
/// The filter's own probes, to who has none: each asks whether the kernel gets to see a call, and with arguments of which
/// nothing can come. What such calls could do is for the other probes to find.
const SEEN_BY_KERNEL: &str = "call ";

/// Whatever is open and was not granted.
fn beyond(answers: &Answers, granted: &[&Granted]) -> Vec<String> {
    let is_granted = |name: &str| {
        granted
            .iter()
            .flat_map(|list| list.iter())
            .any(|(known, _)| *known == name)
    };
    let open = answers
        .iter()
        .filter(|(name, (is_open, _))| *is_open && !is_granted(name));
    open.map(|(name, (_, answer))| format!("{name}: {answer}"))
        .collect()
}

fn capable() {
    let mut world = World::new();
    let walls = Walls {
        capabilities: Capabilities::all(),
        privileges: false,
        ..Walls::ALL
    };
    let spec = behind(&mut world, walls, "");
    let answers = probed(&mut world, spec);
    assert!(answers.len() >= 100, "{}", answers.len());
    assert_eq!(beyond(&answers, &[CAPABLE]), [""; 0]);
}

fn let_off() {
    let mut world = World::new();
    let walls = Walls {
        capabilities: Capabilities::all(),
        privileges: false,
        system_calls: false,
        user_namespaces: false,
        ..Walls::ALL
    };
    let spec = behind(&mut world, walls, "");
    let answers = probed(&mut world, spec);
    assert!(answers.len() >= 100, "{}", answers.len());
    let mut open = beyond(&answers, &[CAPABLE, LET_OFF]);
    open.retain(|answer| !answer.starts_with(SEEN_BY_KERNEL));
    assert_eq!(open, [""; 0]);
}

/// What a kernel may lack, or keep from root of the host too: that it is shut proves nothing.
const SHUT_TO_ROOT_TOO: &[&str] = &[
    "a block device",
    "a call of the x32 table",
    "a device of memory",
    "a socket to the kernel's ciphers",
    "descriptors that leaked",
    "init's environment",
    "killing init",
    "other processes",
    "the kernel's magic keys",
    "the kernel's memory",
    "writing to its executable",
];

fn control() {
    let mut world = World::new();
    let spec = world.spec("");
    let answers = probed(&mut world, spec);
    let shut = answers.iter().filter(|(name, (is_open, answer))| {
        let absent = answer == "Function not implemented";
        !is_open && !absent && !SHUT_TO_ROOT_TOO.contains(&name.as_str())
    });
    let shut: Vec<_> = shut
        .map(|(name, (_, answer))| format!("{name}: {answer}"))
        .collect();
    assert_eq!(shut, [""; 0]);
}
