//! Tests of what a command can see and do.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode};

use argosy_isolation::{
    CommandOutcome, ContainerUser, Limits, MissingPolicy, Namespaces, Program, ResourceLimit,
    detect,
};

use crate::fixture::{Agent, RootFixture, TestCase, eventually, plain, skip, spec_in, stdout};

pub(crate) const CASES: &[TestCase] = &[
    (
        "a_container_has_five_namespaces_and_shares_the_host_network",
        namespaces_differ,
    ),
    (
        "without_namespaces_a_command_has_those_of_the_host",
        namespaces_same,
    ),
    (
        "a_container_sees_only_its_own_processes_cgroup_and_host_name",
        own_view,
    ),
    (
        "the_agents_environment_and_descriptors_do_not_leak",
        no_leak,
    ),
    (
        "a_command_has_default_signal_handlers_and_its_own_session",
        signals,
    ),
    ("a_command_runs_as_the_requested_user", user),
    ("resource_limits_hold", resource_limits),
    (
        "a_missing_controller_refuses_the_start_unless_allowed",
        controllers,
    ),
    (
        "an_unprivileged_agent_gets_user_namespaces",
        user_namespaces,
    ),
    ("in_a_chroot_the_profile_is_rejected_at_start", chroot),
    (
        "plain_processes_run_without_cgroup_and_namespaces",
        plain_processes,
    ),
];

const KINDS: [&str; 6] = ["pid", "mnt", "ipc", "uts", "cgroup", "net"];

fn own_namespaces() -> BTreeMap<&'static str, String> {
    let link = |kind| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    let text = |kind| link(kind).to_string_lossy().into_owned();
    KINDS.into_iter().map(|kind| (kind, text(kind))).collect()
}

fn namespaces_seen(output: &str) -> BTreeMap<&str, String> {
    KINDS
        .into_iter()
        .zip(output.lines().map(str::to_owned))
        .collect()
}

const SHOW_NAMESPACES: &str =
    "for kind in pid mnt ipc uts cgroup net; do readlink /proc/self/ns/$kind; done";

fn namespaces_differ() {
    let mut world = RootFixture::new();
    let output = world.output(SHOW_NAMESPACES);
    let (seen, own) = (namespaces_seen(&output), own_namespaces());
    for kind in KINDS {
        assert_eq!(
            seen[kind] == own[kind],
            kind == "net",
            "{kind}: {}",
            seen[kind]
        );
    }
}

fn namespaces_same() {
    let mut world = RootFixture::new();
    let mut spec = world.spec(SHOW_NAMESPACES);
    spec.namespaces = Namespaces::NONE;
    assert_eq!(world.run(&spec).outcome, CommandOutcome::Exited(0));
    assert_eq!(namespaces_seen(&stdout(&spec)), own_namespaces());
}

fn own_view() {
    let mut world = RootFixture::new();
    let mut spec = world.spec("echo /proc/[0-9]*; hostname; cat /proc/self/cgroup | tail -1; pwd");
    spec.hostname = Some("calm-heron".into());
    assert_eq!(world.run(&spec).outcome, CommandOutcome::Exited(0));
    let written = stdout(&spec);
    let lines: Vec<_> = written.lines().collect();
    assert_eq!(lines[0], "/proc/1 /proc/2", "init and the shell");
    assert_eq!(lines[1], "calm-heron");
    assert_eq!(lines[2], "0::/");
    assert_eq!(lines[3], spec.sandbox.to_str().unwrap());
    assert_ne!(nix::unistd::gethostname().unwrap(), "calm-heron");
}

fn no_leak() {
    let mut world = RootFixture::new();
    let mut spec = world.spec("");
    spec.program = Program::Arguments(vec!["env".into()]);
    spec.environment = vec![("GIVEN".into(), "a b=c".into())];
    assert_eq!(
        world.run(&spec).outcome,
        CommandOutcome::Exited(0),
        "found without a PATH"
    );
    assert_eq!(stdout(&spec), "GIVEN=a b=c\n");
    let init = world.output("tr '\\0' '\\n' < /proc/1/environ");
    assert_eq!(init, "", "nor by way of init");
    let descriptors = world.output("ls /proc/$$/fd; readlink /proc/$$/fd/0");
    assert_eq!(descriptors, "0\n1\n2\n/dev/null\n");
}

fn signals() {
    let mut world = RootFixture::new();
    let output = world.output("grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; cat /proc/self/stat");
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[0], "SigBlk:\t0000000000000000");
    assert_eq!(lines[1], "SigIgn:\t0000000000000000");
    let fields: Vec<_> = lines[3].split(' ').collect();
    let (session, terminal) = (fields[5], fields[6]);
    assert_eq!(session, "2", "the command leads its session");
    assert_eq!(terminal, "0");
}

fn user() {
    let mut world = RootFixture::new();
    let mut spec = world.spec("id -u; id -g; id -G; echo > mine; grep CapEff /proc/self/status");
    let nobody = ContainerUser::named("nobody").unwrap();
    std::os::unix::fs::chown(&spec.sandbox, Some(nobody.uid), Some(nobody.gid)).unwrap();
    for dir in [world.work(), &spec.directory] {
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    spec.user = Some(nobody.clone());
    assert_eq!(world.run(&spec).outcome, CommandOutcome::Exited(0));
    let expected = format!(
        "{0}\n{1}\n{1}\nCapEff:\t0000000000000000\n",
        nobody.uid, nobody.gid
    );
    assert_eq!(stdout(&spec), expected);
    let owner = |name: &str| fs::metadata(spec.sandbox.join(name)).unwrap().uid();
    assert_eq!((owner("mine"), owner("stdout")), (nobody.uid, 0));
    let unknown = ContainerUser::named("no-such-user")
        .unwrap_err()
        .to_string();
    assert!(unknown.contains("no-such-user"), "{unknown}");
}

fn resource_limits() {
    let mut world = RootFixture::new();
    let mut spec = world.spec("ulimit -Sn; ulimit -Hn");
    spec.resource_limits = vec![ResourceLimit {
        name: "nofile".into(),
        soft: 100,
        hard: 200,
    }];
    assert_eq!(world.run(&spec).outcome, CommandOutcome::Exited(0));
    assert_eq!(stdout(&spec), "100\n200\n");
}

fn controllers() {
    let mut world = RootFixture::new();
    let limits = Limits {
        memory_max_bytes: Some(64 << 20),
        pids_max: Some(100),
        ..Limits::default()
    };
    let missing = world.tree.missing(&limits).unwrap();
    let mut spec = world.spec("true");
    spec.limits = limits.clone();
    let exit = world.run(&spec);
    if missing.controllers.is_empty() {
        assert_eq!(exit.outcome, CommandOutcome::Exited(0));
    } else {
        assert_eq!(exit.outcome, CommandOutcome::NotStarted);
        let names = missing.controllers.join(", ");
        assert!(exit.reason.contains(&names), "{}", exit.reason);
        assert!(
            exit.reason.contains("allow missing controllers"),
            "{}",
            exit.reason
        );
    }
    let mut spec = world.spec("true");
    spec.limits = limits;
    spec.missing = MissingPolicy::AllowMissing;
    let (mut container, handle) = world.start(&spec);
    assert_eq!(
        handle.missing, missing,
        "the handle lists what is not enforced"
    );
    assert_eq!(
        container.wait(crate::fixture::TIMEOUT).unwrap().outcome,
        CommandOutcome::Exited(0)
    );
}

fn user_namespaces() {
    if let Err(reason) = detect().user_namespaces {
        skip(reason);
    }
    let uid = ContainerUser::named("nobody").unwrap().uid;
    let work = tempfile::tempdir().unwrap();
    let line = format!("id -u; echo /proc/[0-9]*; hostname; {SHOW_NAMESPACES}; exec sleep 1000");
    let mut spec = spec_in(work.path(), "c", &line);
    spec.isolation = argosy_isolation::Isolation::UserNamespaces;
    spec.hostname = Some("calm-heron".into());
    for dir in [work.path(), &spec.directory, &spec.sandbox] {
        std::os::unix::fs::chown(dir, Some(uid), None).unwrap();
    }
    let agent = Agent::launching(&spec, None, Some(uid));
    assert_eq!(Agent::outcome(&spec), "started");
    eventually("everything is written", || {
        stdout(&spec).lines().count() == 9
    });
    let written = stdout(&spec);
    let lines: Vec<_> = written.lines().collect();
    assert_eq!(lines[0], uid.to_string());
    assert_eq!(lines[1], "/proc/1 /proc/2");
    assert_eq!(lines[2], "calm-heron");
    let own = own_namespaces();
    for (kind, seen) in KINDS.into_iter().zip(&lines[3..]) {
        assert_eq!(own[kind] == **seen, kind == "net", "{kind}");
    }
    agent.kill();
    argosy_isolation::destroy(&spec.directory, None, crate::fixture::TIMEOUT).unwrap();
    let exit = match argosy_isolation::adopt(&spec.directory).unwrap() {
        argosy_isolation::Adoption::Exited(exit) => exit,
        other => panic!("{other:?}"),
    };
    assert_eq!(exit.outcome, CommandOutcome::Signaled(9));
}

/// The argument with which this executable prints whether the default profile is available.
pub(crate) const DETECT: &str = "detect";

pub(crate) fn print_profile() -> ExitCode {
    match detect().full {
        Ok(()) => println!("possible"),
        Err(why) => println!("{why}"),
    }
    ExitCode::SUCCESS
}

fn chroot() {
    let root = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let profile_after = |enter: &str| {
        let line = format!("mount --rbind / \"$1\" && {enter} \"$2\" {DETECT}");
        let ran = Command::new("unshare")
            .args(["--mount", "sh", "-c", &line, "sh"])
            .args([root.path(), &this])
            .output()
            .unwrap();
        assert!(ran.status.success(), "{ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    assert_eq!(profile_after("exec"), "possible\n");
    let why = profile_after("exec chroot \"$1\"");
    assert!(why.contains("chroot"), "{why}");
}

fn plain_processes() {
    let mut world = RootFixture::new();
    let spec = plain(world.spec(SHOW_NAMESPACES));
    assert_eq!(world.run(&spec).outcome, CommandOutcome::Exited(0));
    assert_eq!(namespaces_seen(&stdout(&spec)), own_namespaces());
}
