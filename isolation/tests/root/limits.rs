//! Tests of enforced limits, and of the reports about their effects. Each case needs controllers,
//! which the host's cgroup2 may lack; the microVM has all.

use std::fs;
use std::time::{Duration, Instant};

use argosy_isolation::limits::IoMax;
use argosy_isolation::{
    CgroupStats, CommandOutcome, Container, Exit, LaunchSpec, Limits, MissingPolicy, OomScope,
};

use crate::adoption::exited;
use crate::fixture::{Agent, RootFixture, TIMEOUT, TestCase, eventually, skip, stdout};

pub(crate) const CASES: &[TestCase] = &[
    ("an_oom_kill_is_reported_with_usage_and_limit", oom),
    (
        "an_oom_kill_while_the_agent_is_down_keeps_usage_and_limit",
        oom_without_agent,
    ),
    (
        "above_memory_high_a_container_is_throttled_and_not_killed",
        memory_high,
    ),
    ("memory_usage_is_reported_by_kind", memory_kinds),
    ("processes_beyond_the_limit_are_rejected_and_counted", pids),
    ("throttling_by_cpu_max_is_counted", throttled),
    ("io_max_limits_a_disk_and_reads_are_counted", io_max),
    ("a_cpuset_restricts_a_container_to_its_processors", cpuset),
    (
        "limits_can_be_repeated_and_changed_while_a_container_runs",
        changed,
    ),
    (
        "a_limit_lowered_below_the_usage_kills_the_container_with_the_figures",
        lowered,
    ),
    (
        "limits_that_replace_others_lift_unnamed_ones_and_kill_nothing",
        replaced,
    ),
    (
        "memory_is_protected_up_to_the_protection_of_the_tree",
        protected,
    ),
    ("no_container_gets_huge_pages", huge_pages),
];

const MIB: u64 = 1 << 20;
/// Allocates 24 MiB and reports that: `dd` has read its whole block when the first byte arrives. It
/// takes little processor time, because it also runs in an emulated machine.
const HOLD: &str = "dd if=/dev/zero bs=25165824 count=1 2> /dev/null |
    { head -c 1 > /dev/null; echo holds; sleep 1000; }";

/// Returns a fixture whose containers have these controllers.
fn world_with(controllers: &[&str]) -> RootFixture {
    let world = RootFixture::new();
    let present = fs::read_to_string(world.tree.supervisors().join("cgroup.controllers")).unwrap();
    for controller in controllers {
        if !present.split_whitespace().any(|name| name == *controller) {
            skip(format!("needs the cgroup controller {controller}"));
        }
    }
    world
}

fn start(world: &mut RootFixture, line: &str, limits: Limits) -> (LaunchSpec, Container) {
    let mut spec = world.spec(line);
    spec.limits = limits;
    let (container, handle) = world.start(&spec);
    assert!(handle.missing.controllers.is_empty());
    (spec, container)
}

fn end(mut container: Container) -> Exit {
    container.kill(0).unwrap();
    container.wait(TIMEOUT).unwrap()
}

fn memory(bytes: u64) -> Limits {
    Limits {
        memory_max_bytes: Some(bytes),
        ..Limits::default()
    }
}

fn apply(spec: &LaunchSpec, limits: &Limits) {
    let group = spec.cgroup.as_ref().unwrap();
    let missing = limits.apply(group, MissingPolicy::RequireAll).unwrap();
    assert!(missing.controllers.is_empty());
}

fn file(spec: &LaunchSpec, name: &str) -> String {
    let path = spec.cgroup.as_ref().unwrap().join(name);
    fs::read_to_string(path).unwrap().trim().to_owned()
}

fn is_out_of_memory(exit: &Exit, limit: u64) {
    assert_eq!(exit.outcome, CommandOutcome::Signaled(9), "{exit:?}");
    assert!(exit.out_of_memory);
    let shortage = exit.memory_shortage.expect("its figures are reported");
    assert_eq!(shortage.of, OomScope::Container);
    assert_eq!(shortage.limit_bytes, Some(limit));
    assert!(shortage.killed >= 1, "{shortage:?}");
    assert!(
        exit.reason.contains(&shortage.to_string()),
        "{}",
        exit.reason
    );
}

fn oom() {
    let mut world = world_with(&["memory"]);
    let mut spec = world.spec("tail /dev/zero");
    spec.limits = memory(32 * MIB);
    let exit = world.run(&spec);
    is_out_of_memory(&exit, 32 * MIB);
    let used = exit.memory_shortage.unwrap().used_bytes.unwrap();
    assert!((31 * MIB..=33 * MIB).contains(&used), "{exit:?}");
    assert_eq!(exit.usage.peak_memory_bytes, Some(used));
    assert!(exit.reason.contains("MiB of 32 MiB; "), "{}", exit.reason);
}

fn oom_without_agent() {
    let mut world = world_with(&["memory"]);
    let mut spec = world.spec("until [ -e go ]; do sleep 0.01; done; tail /dev/zero");
    spec.limits = memory(32 * MIB);
    let agent = Agent::launching(&spec, Some(&world.tree), None);
    assert_eq!(Agent::outcome(&spec), "started");
    agent.kill();
    fs::write(spec.sandbox.join("go"), "").unwrap();
    eventually("the supervisor writes the status", || {
        spec.directory.join("exit.json").exists()
    });
    is_out_of_memory(&exited(&spec), 32 * MIB);
}

fn memory_high() {
    let mut world = world_with(&["memory"]);
    let line = "dd if=/dev/zero of=/dev/null bs=24M count=1 2>&1; echo done; sleep 1000 & wait";
    let limits = Limits {
        memory_high_bytes: Some(16 * MIB),
        ..memory(64 * MIB)
    };
    let (spec, container) = start(&mut world, line, limits);
    eventually("it continues above the limit", || {
        stdout(&spec).ends_with("done\n")
    });
    let stats = container.stats();
    assert!(stats.memory_high_events > Some(0), "{stats:?}");
    assert!(stats.memory_peak_bytes > Some(16 * MIB), "{stats:?}");
    assert_eq!(stats.out_of_memory_kills, Some(0));
    assert!(!end(container).out_of_memory);
}

fn memory_kinds() {
    let mut world = world_with(&["memory"]);
    let (spec, container) = start(&mut world, HOLD, memory(64 * MIB));
    eventually("it holds its memory", || stdout(&spec) == "holds\n");
    let stats = container.stats();
    assert_eq!(stats.memory_limit_bytes, Some(64 * MIB));
    assert!(stats.memory_anonymous_bytes >= Some(24 * MIB), "{stats:?}");
    assert!(stats.memory_bytes >= stats.memory_anonymous_bytes);
    assert!(stats.memory_peak_bytes >= stats.memory_bytes);
    assert!(stats.memory_kernel_bytes > Some(0), "{stats:?}");
    assert!(stats.memory_file_bytes.is_some());
    end(container);
}

fn pids() {
    let mut world = world_with(&["pids"]);
    let line = "(for i in $(seq 40); do sleep 1000 & done) 2> /dev/null; echo tried; sleep 1000 & wait; sleep 1000";
    let limits = Limits {
        pids_max: Some(20),
        ..Limits::default()
    };
    let (_, container) = start(&mut world, line, limits);
    let mut seen = CgroupStats::default();
    eventually("it is refused a process", || {
        seen = container.stats();
        seen.pids_max_events > Some(0)
    });
    assert!(seen.pids > Some(10) && seen.pids <= Some(20), "{seen:?}");
    end(container);
}

fn throttled() {
    let mut world = world_with(&["cpu"]);
    let limits = Limits {
        cpu_max_millis: Some(200),
        ..Limits::default()
    };
    let (_, container) = start(&mut world, "while :; do :; done", limits);
    let mut seen = CgroupStats::default();
    eventually("it is held back", || {
        seen = container.stats();
        seen.cpu_throttled_periods >= Some(10)
    });
    assert!(seen.cpu_periods >= seen.cpu_throttled_periods, "{seen:?}");
    // Ten periods of 100 ms, of which it may use a fifth.
    assert!(seen.cpu_throttled_us > Some(300_000), "{seen:?}");
    assert!(seen.cpu_us < seen.cpu_throttled_us, "{seen:?}");
    end(container);
}

/// Returns a disk of this host, with its device numbers.
fn disk() -> Option<(String, u32, u32)> {
    let disks = fs::read_dir("/sys/block").ok()?.flatten();
    disks
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let numbers = fs::read_to_string(entry.path().join("dev")).ok()?;
            let (major, minor) = numbers.trim().split_once(':')?;
            let is_disk = ["vd", "sd", "nvme"]
                .iter()
                .any(|kind| name.starts_with(kind));
            let numbers = (major.parse().ok()?, minor.parse().ok()?);
            is_disk.then_some((format!("/dev/{name}"), numbers.0, numbers.1))
        })
        .min()
}

fn io_max() {
    let mut world = world_with(&["io"]);
    let Some((device, major, minor)) = disk() else {
        skip("needs a disk".to_owned());
    };
    // Past the page cache, and without writing.
    let line = format!(
        "dd if={device} of=/dev/null bs=4096 count=40 iflag=direct 2>&1; echo done; sleep 1000 & wait"
    );
    let limits = Limits {
        io_max: vec![IoMax {
            major,
            minor,
            rbps: None,
            wbps: None,
            riops: Some(20),
            wiops: None,
        }],
        ..Limits::default()
    };
    let began = Instant::now();
    let (spec, container) = start(&mut world, &line, limits);
    eventually("it has read", || stdout(&spec).ends_with("done\n"));
    // 40 operations at 20 per second; the kernel lets the first few pass immediately.
    assert!(began.elapsed() > Duration::from_millis(1_200));
    let stats = container.stats();
    let io = stats.io.unwrap();
    assert!(io.read_bytes >= 40 * 4096, "{io:?} {}", stdout(&spec));
    assert!(io.reads >= 40, "{io:?}");
    assert!(file(&spec, "io.max").contains("riops=20"));
    end(container);
}

fn cpuset() {
    let mut world = world_with(&["cpuset"]);
    let line = "grep Cpus_allowed_list /proc/self/status; until [ -e go ]; do sleep 0.01; done; \
                grep Cpus_allowed_list /proc/self/status";
    let on = |processor| Limits {
        cpuset: vec![processor],
        ..Limits::default()
    };
    let (spec, mut container) = start(&mut world, line, on(0));
    eventually("it prints its processors", || stdout(&spec).ends_with('\n'));
    assert_eq!(stdout(&spec), "Cpus_allowed_list:\t0\n");
    let last = std::thread::available_parallelism().unwrap().get() as u32 - 1;
    apply(&spec, &on(last));
    fs::write(spec.sandbox.join("go"), "").unwrap();
    assert_eq!(
        container.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Exited(0)
    );
    assert_eq!(
        stdout(&spec),
        format!("Cpus_allowed_list:\t0\nCpus_allowed_list:\t{last}\n")
    );
}

fn changed() {
    let mut world = world_with(&["cpu", "memory", "pids"]);
    let limits = |mib: u64, pids| Limits {
        cpu_max_millis: Some(mib * 10),
        cpu_weight: Some(mib),
        memory_low_bytes: Some(mib * MIB / 4),
        memory_high_bytes: Some(mib * MIB / 2),
        memory_max_bytes: Some(mib * MIB),
        pids_max: Some(pids),
        ..Limits::default()
    };
    let (spec, mut container) = start(&mut world, "exec sleep 1000", limits(64, 100));
    for (mib, pids) in [(64, 100), (16, 1), (16, 1), (128, 50), (16, 10)] {
        apply(&spec, &limits(mib, pids));
        assert_eq!(file(&spec, "memory.max"), (mib * MIB).to_string());
        assert_eq!(file(&spec, "memory.high"), (mib * MIB / 2).to_string());
        assert_eq!(file(&spec, "memory.low"), (mib * MIB / 4).to_string());
        assert_eq!(file(&spec, "pids.max"), pids.to_string());
        assert_eq!(file(&spec, "cpu.max"), format!("{} 100000", mib * 1_000));
        assert_eq!(container.notice().unwrap(), None, "it lives");
    }
    let exit = end(container);
    assert!(!exit.out_of_memory, "{exit:?}");
}

fn lowered() {
    let mut world = world_with(&["memory"]);
    let (spec, mut container) = start(&mut world, HOLD, memory(64 * MIB));
    eventually("it holds its memory", || stdout(&spec) == "holds\n");
    // Down to its own memory, only page cache can be reclaimed.
    apply(&spec, &memory(48 * MIB));
    assert_eq!(container.notice().unwrap(), None, "it lives");
    apply(&spec, &memory(8 * MIB));
    let exit = container.wait(TIMEOUT).unwrap();
    is_out_of_memory(&exit, 8 * MIB);
    let used = exit.memory_shortage.unwrap().used_bytes;
    assert!(used >= Some(24 * MIB), "what it had before: {exit:?}");
}

fn replaced() {
    let mut world = world_with(&["cpu", "memory", "pids"]);
    let limits = Limits {
        cpu_max_millis: Some(500),
        memory_high_bytes: Some(60 * MIB),
        pids_max: Some(20),
        ..memory(64 * MIB)
    };
    let (spec, mut container) = start(&mut world, HOLD, limits);
    eventually("it holds its memory", || stdout(&spec) == "holds\n");
    let group = spec.cgroup.as_ref().unwrap();
    let replace = |limits: &Limits| limits.replace(group, MissingPolicy::RequireAll);
    let smaller = Limits {
        memory_high_bytes: Some(44 * MIB),
        ..memory(48 * MIB)
    };
    replace(&smaller).unwrap();
    assert_eq!(file(&spec, "memory.max"), (48 * MIB).to_string());
    assert_eq!(file(&spec, "cpu.max"), "max 100000");
    assert_eq!(file(&spec, "pids.max"), "max");
    let refused = replace(&memory(8 * MIB)).unwrap_err().to_string();
    assert!(refused.contains("would be 8 MiB"), "{refused}");
    assert_eq!(file(&spec, "memory.max"), (48 * MIB).to_string());
    assert_eq!(file(&spec, "memory.high"), (44 * MIB).to_string());
    assert_eq!(container.notice().unwrap(), None, "it lives");
    let exit = end(container);
    assert!(!exit.out_of_memory, "{exit:?}");
}

fn protected() {
    let mut world = world_with(&["memory"]);
    let limits = Limits {
        memory_low_bytes: Some(8 * MIB),
        ..memory(64 * MIB)
    };
    let (spec, container) = start(&mut world, "exec sleep 1000", limits);
    assert_eq!(file(&spec, "memory.low"), (8 * MIB).to_string());
    world.tree.protect(8 * MIB).unwrap();
    let tree = world.tree.root().to_owned();
    let low = |path: &std::path::Path| -> u64 {
        let text = fs::read_to_string(path.join("memory.low")).unwrap();
        text.trim().parse().unwrap()
    };
    assert_eq!(low(&tree), 8 * MIB);
    assert!(low(tree.parent().unwrap()) >= 8 * MIB);
    world.tree.protect(0).unwrap();
    assert_eq!(low(&tree), 0);
    end(container);
}

fn huge_pages() {
    let world = RootFixture::new();
    let root = world.tree.root();
    let names = fs::read_dir(root).unwrap().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    let limits: Vec<_> = names
        .filter(|name| name.starts_with("hugetlb.") && name.ends_with(".max"))
        .collect();
    if limits.is_empty() {
        skip("needs the cgroup controller hugetlb".to_owned());
    }
    for name in limits {
        let limit = fs::read_to_string(root.join(&name)).unwrap();
        assert_eq!(limit, "0\n", "{name}");
    }
}
