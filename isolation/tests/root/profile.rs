//! Tests of the default profile: what a command has, sees, may write and may call.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use argosy_isolation::profile::{COMMAND_ID, FIRST_HOST_ID, IsolationLayers};
use argosy_isolation::{
    CommandOutcome, ContainerUser, IsolationProfile, LaunchSpec, MountSpec, RootFs,
};

use crate::fixture::{RootFixture, TestCase, stderr, stdout};

pub(crate) const CASES: &[TestCase] = &[
    (
        "a_command_is_unprivileged_on_the_host_and_cannot_change_its_user",
        unprivileged,
    ),
    (
        "a_command_has_no_capabilities_and_cannot_gain_any",
        no_capabilities,
    ),
    (
        "a_command_sees_programs_and_its_sandbox_but_no_data_of_the_host",
        files,
    ),
    (
        "a_command_can_write_only_to_its_sandbox_and_scratch_directories",
        writes,
    ),
    ("a_container_has_six_devices", devices),
    ("host_information_in_proc_is_masked", masked),
    ("unlisted_system_calls_are_denied", calls),
];

/// Returns a launch of this line with the default profile.
pub(crate) fn profiled(world: &mut RootFixture, line: &str) -> LaunchSpec {
    let mut spec = world.spec(line);
    spec.user = Some(ContainerUser {
        uid: COMMAND_ID,
        gid: COMMAND_ID,
        groups: Vec::new(),
    });
    spec.profile = Some(IsolationProfile {
        first_host_id: FIRST_HOST_ID,
        view: MountSpec {
            root: RootFs::Host,
            host_paths: Vec::new(),
            volumes: Vec::new(),
            tmp_bytes: 1 << 20,
            shm_bytes: 1 << 20,
        },
        isolation_layers: IsolationLayers::ALL,
    });
    give_sandbox(&spec);
    spec
}

/// Makes the command's user the owner of its sandbox.
pub(crate) fn give_sandbox(spec: &LaunchSpec) {
    let owner = spec.host_user().expect("its user is named");
    chown(&spec.sandbox, Some(owner.uid), Some(owner.gid)).unwrap();
}

/// Returns the output of the line, which must succeed.
fn output_of(world: &mut RootFixture, line: &str) -> String {
    let spec = profiled(world, line);
    let exit = world.run(&spec);
    assert_eq!(
        exit.outcome,
        CommandOutcome::Exited(0),
        "{line}: {} {}{}",
        exit.reason,
        stdout(&spec),
        stderr(&spec)
    );
    stdout(&spec)
}

fn unprivileged() {
    let mut world = RootFixture::new();
    let spec = profiled(
        &mut world,
        "id -u; id -g; id -G; cat /proc/self/uid_map; echo > mine; setpriv --reuid 0 true || echo refused",
    );
    assert_eq!(
        world.run(&spec).outcome,
        CommandOutcome::Exited(0),
        "{}",
        stderr(&spec)
    );
    let lines = stdout(&spec);
    let lines: Vec<_> = lines
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let map = format!("0 {FIRST_HOST_ID} 65536");
    assert_eq!(lines, ["65534", "65534", "65534", &map, "refused"]);
    let owner = std::fs::metadata(spec.sandbox.join("mine")).unwrap().uid();
    assert_eq!(owner, FIRST_HOST_ID + COMMAND_ID);
}

fn no_capabilities() {
    let mut world = RootFixture::new();
    let status = output_of(
        &mut world,
        "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t'",
    );
    let none = "0000000000000000";
    let expected = format!(
        "CapInh:{none}\nCapPrm:{none}\nCapEff:{none}\nCapBnd:{none}\nCapAmb:{none}\nNoNewPrivs:1\nSeccomp:2\n"
    );
    assert_eq!(status, expected);
}

fn files() {
    let mut world = RootFixture::new();
    let root = output_of(&mut world, "ls /; pwd; ls; test -x /usr/bin/env");
    let hosts: Vec<_> = ["bin", "etc", "lib", "lib32", "lib64", "opt", "sbin", "usr"]
        .into_iter()
        .filter(|name| PathBuf::from("/").join(name).exists())
        .collect();
    let mut expected = [hosts, vec!["dev", "proc", "sandbox", "sys", "tmp"]].concat();
    expected.sort_unstable();
    let lines: Vec<_> = root.lines().collect();
    let (directories, rest) = lines.split_at(expected.len());
    assert_eq!(directories, expected);
    assert_eq!(rest, ["/sandbox", "stderr", "stdout"]);
    let mounts = output_of(&mut world, "cut -d' ' -f5,6 /proc/self/mountinfo");
    for line in mounts.lines() {
        assert!(line.contains("nosuid"), "{line}");
        let (place, attributes) = line.split_once(' ').unwrap();
        let covers = place.starts_with("/dev/") || place.starts_with("/proc/");
        assert!(
            covers || place == "/dev" || attributes.contains("nodev"),
            "{line}"
        );
        let writable = [
            "/sandbox",
            "/tmp",
            "/dev/shm",
            "/dev/mqueue",
            "/dev/pts",
            "/proc",
        ];
        assert!(
            attributes.starts_with("ro")
                || (covers && place.starts_with("/dev"))
                || writable.contains(&place),
            "{line}"
        );
    }
}

fn writes() {
    let mut world = RootFixture::new();
    let tried = output_of(&mut world, "for place in / /usr /etc /dev /proc /proc/sys/kernel /sys/fs/cgroup /sandbox /tmp /dev/shm; do
        (echo x > $place/probe) 2>/dev/null && echo $place; done; true");
    assert_eq!(tried, "/sandbox\n/tmp\n/dev/shm\n");
    let full = output_of(
        &mut world,
        "head -c 2000000 /dev/zero 2>/dev/null > /tmp/large; wc -c < /tmp/large",
    );
    assert_eq!(full, "1048576\n");
    let executed = output_of(
        &mut world,
        "cp /bin/true /tmp/true; /tmp/true 2>/dev/null && echo executed; cp /bin/true here; ./here && echo here",
    );
    assert_eq!(executed, "here\n");
}

fn devices() {
    let mut world = RootFixture::new();
    let found = output_of(
        &mut world,
        "ls -p /dev | tr '\\n' ' '; echo; head -c 3 /dev/zero | wc -c; echo > /dev/null; head -c 1 /dev/urandom | wc -c; mknod mine b 8 0 2>/dev/null || echo refused; echo > /dev/full 2>/dev/null || echo full",
    );
    assert_eq!(
        found,
        "fd full mqueue/ null ptmx pts/ random shm/ stderr stdin stdout tty urandom zero \n3\n1\nrefused\nfull\n"
    );
}

fn masked() {
    let mut world = RootFixture::new();
    let found = output_of(
        &mut world,
        "for file in kcore keys timer_list sysrq-trigger interrupts; do wc -c < /proc/$file; done 2>/dev/null | sort -u; set -- /proc/[0-9]*; echo $#; hostname -I >/dev/null 2>&1; (echo 1 > /proc/sysrq-trigger) 2>/dev/null; cat /proc/1/environ 2>/dev/null || echo hidden",
    );
    assert_eq!(found, "0\n1\nhidden\n");
}

fn calls() {
    let mut world = RootFixture::new();
    let refused = output_of(
        &mut world,
        "unshare -U true 2>/dev/null || echo no user namespace; unshare -m true 2>/dev/null || echo no mount namespace; mount -t tmpfs none /tmp 2>/dev/null || echo no mount; dmesg >/dev/null 2>&1 || echo no kernel log; nsenter -t 1 -m true 2>/dev/null || echo no other namespace",
    );
    assert_eq!(
        refused,
        "no user namespace\nno mount namespace\nno mount\nno kernel log\nno other namespace\n"
    );
}
