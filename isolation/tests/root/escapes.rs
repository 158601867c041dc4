//! Ways out of a container (`probe.py`): none is open behind the default profile, and nearly all are without it.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use argosy_isolation::{Outcome, Spec, User};

use crate::profile::{give_sandbox, profiled};
use crate::world::{Case, World, skip, stderr, stdout};

pub(crate) const CASES: &[Case] = &[
    ("no_way_out_is_open_to_nobody", nobody),
    ("no_way_out_is_open_to_root_of_the_container", root),
    ("the_ways_out_are_open_without_the_profile", control),
];

const PYTHON: &str = "/usr/bin/python3";

/// The kernel's answer at each way out, and whether it was open.
fn probed(world: &mut World, mut spec: Spec) -> BTreeMap<String, (bool, String)> {
    if !std::path::Path::new(PYTHON).exists() {
        skip(format!("needs {PYTHON}"));
    }
    if std::env::consts::ARCH != "x86_64" {
        skip("the probes know the system calls of x86-64 only".to_owned());
    }
    let name = format!("argosy-probe-{}-{}", std::process::id(), spec.id);
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    fs::write(spec.sandbox.join("probe.py"), include_str!("probe.py")).unwrap();
    let line = format!("{PYTHON} probe.py {name}");
    spec.program = argosy_isolation::Program::Shell(line);
    let exit = world.run(&spec);
    assert_eq!(exit.outcome, Outcome::Exited(0), "{}", stderr(&spec));
    let said = stdout(&spec);
    let answers = said.lines().map(|line| {
        let parts: Vec<_> = line.splitn(3, '\t').collect();
        let [verdict, name, answer] = parts[..] else {
            panic!("{line}")
        };
        (name.to_owned(), (verdict == "open", answer.to_owned()))
    });
    answers.collect()
}

fn open(answers: &BTreeMap<String, (bool, String)>) -> Vec<String> {
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

/// What a kernel may lack, or keep from root of the host too: that it is shut proves nothing.
const SHUT_TO_ROOT_TOO: &[&str] = &[
    "a block device",
    "a call of the x32 table",
    "a device of memory",
    "a socket to the kernel's ciphers",
    "descriptors that leaked",
    "init's environment",
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
