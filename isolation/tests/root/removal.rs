//! Tests of removal: nothing is left, wherever it stopped.

use std::collections::BTreeSet;
use std::fs;

use argosy_isolation::{CommandOutcome, LaunchSpec, clean_up_abandoned, destroy};

use crate::fixture::{RootFixture, TIMEOUT, TestCase, eventually, plain, processes_with};

pub(crate) const CASES: &[TestCase] = &[
    (
        "double_forked_processes_in_separate_sessions_die_at_destroy",
        double_forks,
    ),
    ("destroying_a_container_is_idempotent", twice),
    (
        "a_container_that_was_never_launched_can_be_destroyed",
        never_launched,
    ),
    ("a_sweep_removes_only_unknown_containers", sweeps),
    ("a_fork_bomb_dies_at_destroy", fork_bomb),
    ("cgroups_created_by_a_container_are_removed_with_it", nested),
    (
        "a_supervisor_killed_at_any_moment_leaves_nothing",
        killed_anywhere,
    ),
    ("two_hundred_quick_starts_leave_nothing", quick_starts),
    (
        "a_cgroup_that_another_process_creates_or_removes_can_be_removed",
        removed_by_two,
    ),
];

fn modes(world: &mut RootFixture, line: &str) -> [LaunchSpec; 3] {
    let mut no_pid_namespace = world.spec(line);
    no_pid_namespace.namespaces.pid = false;
    [world.spec(line), no_pid_namespace, plain(world.spec(line))]
}

fn double_forks() {
    let mut world = RootFixture::new();
    let mark = format!("823.{}", std::process::id());
    let line = format!(
        "setsid sh -c 'setsid sleep {mark} & setsid sleep {mark} &' & \
         (trap '' TERM HUP; setsid nohup sleep {mark} &) & exec sleep {mark}"
    );
    for spec in modes(&mut world, &line) {
        let (mut container, _) = world.start(&spec);
        eventually("all four sleep", || processes_with(&mark) >= 4);
        container.destroy(TIMEOUT).unwrap();
        assert_eq!(processes_with(&mark), 0);
        assert!(spec.cgroup.is_none_or(|group| !group.exists()));
        assert_eq!(
            container.wait(TIMEOUT).unwrap().outcome,
            CommandOutcome::Signaled(9)
        );
    }
}

fn twice() {
    let mut world = RootFixture::new();
    for spec in modes(&mut world, "exec sleep 1000") {
        let (container, _) = world.start(&spec);
        for _ in 0..3 {
            container.destroy(TIMEOUT).unwrap();
        }
        fs::remove_dir_all(&spec.directory).unwrap();
        container.destroy(TIMEOUT).unwrap();
    }
}

fn never_launched() {
    let mut world = RootFixture::new();
    let spec = world.spec("echo > ran");
    destroy(&spec.directory, spec.cgroup.as_deref(), TIMEOUT).unwrap();
    assert_eq!(
        world.run(&spec).outcome,
        CommandOutcome::NotStarted,
        "nor can it be, later"
    );
    assert!(!spec.sandbox.join("ran").exists());
}

fn sweeps() {
    let mut world = RootFixture::new();
    let (known, unknown) = (world.spec("exec sleep 1000"), world.spec("exec sleep 1000"));
    let (mut kept, _) = world.start(&known);
    let (mut swept, _) = world.start(&unknown);
    let group = unknown.cgroup.clone().unwrap();
    fs::create_dir_all(group.join("a/b")).unwrap();
    let removed =
        clean_up_abandoned(&world.tree, &BTreeSet::from([known.id.clone()]), TIMEOUT).unwrap();
    assert_eq!(removed, [unknown.id]);
    assert!(!group.exists(), "nor what the container made below it");
    assert_eq!(
        swept.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Signaled(9)
    );
    assert_eq!(kept.notice().unwrap(), None);
    assert_eq!(world.tree.containers().unwrap(), [known.id]);
    kept.destroy(TIMEOUT).unwrap();
    assert_eq!(
        kept.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Signaled(9)
    );
}

fn fork_bomb() {
    let mut world = RootFixture::new();
    // Each generation starts two, up to a hundred at a time: enough to outrun any list of process
    // ids.
    let line = "ulimit -u 400; bomb() { bomb & bomb & sleep 0.02; }; bomb; sleep 1000";
    let mut spec = world.spec(line);
    spec.namespaces.pid = false;
    spec.resource_limits = vec![argosy_isolation::ResourceLimit {
        name: "cpu".into(),
        soft: 20,
        hard: 20,
    }];
    let (container, _) = world.start(&spec);
    std::thread::sleep(std::time::Duration::from_millis(100));
    container.destroy(TIMEOUT).unwrap();
    assert!(!spec.cgroup.unwrap().exists());
}

fn nested() {
    let mut world = RootFixture::new();
    let spec = world.spec("exec sleep 1000");
    let (container, _) = world.start(&spec);
    let group = spec.cgroup.clone().unwrap();
    fs::create_dir_all(group.join("a/b")).unwrap();
    container.destroy(TIMEOUT).unwrap();
    assert!(!group.exists());
}

fn killed_anywhere() {
    let mut world = RootFixture::new();
    let mark = format!("824.{}", std::process::id());
    let mut before_the_start = 0;
    for step in 0..120 {
        let mut spec = world.spec(&format!("exec sleep {mark}"));
        match step % 3 {
            0 => {}
            1 => spec.namespaces.pid = false,
            _ => spec = plain(spec),
        }
        let mut container = world.launch(&spec);
        let supervisor = world.supervisor_of(&spec.id);
        // From its very first steps to a running command: a start takes about two milliseconds.
        std::thread::sleep(std::time::Duration::from_micros(step * 25));
        if step >= 117 {
            // One of each kind: a busy machine may need longer for every start.
            container.wait_started(TIMEOUT).unwrap().unwrap();
        }
        assert!(supervisor.kill(TIMEOUT).unwrap(), "it has ended");
        before_the_start += u32::from(!spec.directory.join("handle.json").exists());
        container.destroy(TIMEOUT).unwrap();
        eventually("no process is left", || processes_with(&mark) == 0);
        assert!(
            spec.cgroup.is_none_or(|group| !group.exists()),
            "step {step}"
        );
    }
    assert!(before_the_start > 0, "both sides of the start were met");
}

fn quick_starts() {
    let mut world = RootFixture::new();
    let mounts = || {
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count()
    };
    let before = mounts();
    let mut running = Vec::new();
    for _ in 0..200 {
        let spec = world.spec("exit 9");
        running.push((world.launch(&spec), spec));
    }
    for (container, spec) in &mut running {
        assert_eq!(
            container.wait(TIMEOUT).unwrap().outcome,
            CommandOutcome::Exited(9)
        );
        container.destroy(TIMEOUT).unwrap();
        let left = fs::read_dir(&spec.directory).unwrap().flatten();
        let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["exit.json", "handle.json", "sandbox"]);
    }
    assert_eq!(world.tree.containers().unwrap(), []);
    assert_eq!(mounts(), before);
    let supervisors = argosy_isolation::Cgroup::at(&world.tree.supervisors());
    world.launcher = None;
    eventually("no supervisor is left", || {
        !supervisors.is_populated().unwrap()
    });
}

/// A supervisor that is killed in the middle of a system call may still create its cgroup, or
/// remove the files of it, which precedes the removal of the directory.
fn removed_by_two() {
    let world = RootFixture::new();
    let group = argosy_isolation::Cgroup::at(&world.tree.root().join("shared"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::create_dir(group.path());
                let _ = fs::remove_dir(group.path());
            }
        });
        let results: Result<Vec<()>, _> = (0..20_000)
            .map(|_| group.kill().and_then(|()| group.remove(TIMEOUT)))
            .collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        results.unwrap();
    });
    group.remove(TIMEOUT).unwrap();
}
