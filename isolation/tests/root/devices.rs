//! Tests of extra devices, and of the device filter.

use std::path::{Path, PathBuf};
use std::process::Command;

use argosy_isolation::{CommandOutcome, LaunchSpec, device_filter};

use crate::exec_confinement::end;
use crate::fixture::{RootFixture, TestCase, skip, stderr, stdout};
use crate::profile::profiled;

pub(crate) const CASES: &[TestCase] = &[
    ("a_device_of_a_container_can_be_used_by_its_user", own),
    ("a_path_that_is_not_a_device_is_rejected_by_name", no_device),
    (
        "the_device_filter_denies_devices_of_other_containers",
        filtered,
    ),
];

/// Devices that hosts may have, and that are safe to open.
const HARMLESS: [&str; 4] = [
    "/dev/fuse",
    "/dev/net/tun",
    "/dev/loop-control",
    "/dev/vhost-net",
];

fn device() -> PathBuf {
    let found = HARMLESS
        .map(Path::new)
        .into_iter()
        .find(|path| path.exists());
    match found {
        Some(path) => path.to_owned(),
        None => skip(format!("needs one of {HARMLESS:?}")),
    }
}

fn output_of(world: &mut RootFixture, spec: &LaunchSpec) -> String {
    let exit = world.run(spec);
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(0),
        "{} {}",
        exit.reason,
        stderr(spec)
    );
    stdout(spec)
}

fn own() {
    let mut world = RootFixture::new();
    let device = device();
    let line = format!(
        "stat -c '%F %a' {0}; (: < {0}) && echo opened; ls -A /dev | grep -cxF .own || true; touch /dev/more 2>/dev/null || echo no more",
        device.display()
    );
    let mut spec = profiled(&mut world, &line);
    spec.devices = vec![device.clone()];
    assert_eq!(
        output_of(&mut world, &spec),
        "character special file 666\nopened\n0\nno more\n"
    );
    let without = profiled(
        &mut world,
        &format!("test -e {} || echo none", device.display()),
    );
    assert_eq!(output_of(&mut world, &without), "none\n");
}

fn no_device() {
    let mut world = RootFixture::new();
    for (path, words) in [
        ("/dev/no-such-device", "use the device /dev/no-such-device"),
        (
            "/dev/stdin-of-nobody/x",
            "use the device /dev/stdin-of-nobody/x",
        ),
    ] {
        let mut spec = profiled(&mut world, "true");
        spec.devices = vec![path.into()];
        let exit = world.run(&spec);
        assert_eq!(exit.outcome, CommandOutcome::NotStarted);
        assert!(exit.reason.contains(words), "{}", exit.reason);
    }
    for path in [
        "/etc/passwd",
        "/dev/../etc/passwd",
        "/dev/null",
        "/dev",
        "/dev/pts/0",
    ] {
        let mut spec = profiled(&mut world, "true");
        spec.devices = vec![path.into()];
        let refused = spec.check().unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("devices {path:?}")),
            "{refused}"
        );
    }
}

fn filtered() {
    if let Err(error) = device_filter::supported() {
        skip(format!("needs device filters: {error}"));
    }
    let mut world = RootFixture::new();
    let device = device();
    for (own, expected) in [(false, "refused"), (true, "opened")] {
        let mut spec = profiled(&mut world, "exec sleep 1000");
        if own {
            spec.devices = vec![device.clone()];
        }
        let (container, handle) = world.start(&spec);
        assert_eq!(handle.missing.controllers, [""; 0]);
        // Host root, which may open and create any device, except for the cgroup that it is in.
        let line = "echo $$ > $1/cgroup.procs; (: < /dev/null) && echo null; \
            (: < $2) 2>/dev/null && echo opened || echo refused; mknod $3 c 1 3 2>/dev/null || echo no node";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line, "sh"]);
        command.arg(spec.cgroup.as_ref().unwrap());
        command.arg(&device).arg(world.work().join("node"));
        let output = command.output().unwrap();
        let found = String::from_utf8(output.stdout).unwrap();
        assert_eq!(found, format!("null\n{expected}\nno node\n"));
        end(container);
    }
}
