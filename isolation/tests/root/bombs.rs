//! Abusive tasks (bombs), each next to a neighbour that must answer all the time: contained, and
//! removed without a trace.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use argosy_host::remove_tree::remove_dir_all;
use argosy_isolation::disk::FileSystem;
use argosy_isolation::profile::{CONTAINER_IDS, FIRST_HOST_ID};
use argosy_isolation::{
    Cgroup, CommandOutcome, Container, Handle, LaunchSpec, OomScope, OutputLimits, ResourceLimit,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::audit::{AuditScope, LeakAudit};
use crate::bomb_programs::{DONE, VERB};
use crate::fixture::{RootFixture, TIMEOUT, TestCase, eventually, skip, stdout};
use crate::profile::{give_sandbox, profiled};

pub(crate) const CASES: &[TestCase] = &[
    ("a_bomb_of_processes_is_contained", forks),
    ("a_bomb_of_threads_is_contained", threads),
    ("a_bomb_of_memory_ends_only_itself", memory),
    ("a_bomb_of_descriptors_is_contained", descriptors),
    ("a_bomb_of_files_in_scratch_places_is_contained", files),
    ("a_filler_of_scratch_directories_is_contained", fillers),
    ("a_filler_of_its_own_disk_is_contained", disk_filler),
    ("a_flood_of_output_is_contained", flood),
    (
        "a_thousand_zombies_are_removed_with_their_container",
        zombies,
    ),
    (
        "daemons_in_separate_sessions_end_with_their_command",
        daemons,
    ),
    (
        "a_storm_of_signals_from_inside_ends_no_process_outside",
        storm_inside,
    ),
    (
        "a_storm_of_signals_to_its_supervisor_has_no_effect",
        storm_outside,
    ),
    ("a_container_that_ignores_sigterm_is_removed", ignores_term),
    ("a_deep_and_full_sandbox_can_be_removed", deep),
];

const MIB: u64 = 1 << 20;
/// The process limit of a bomb.
const PROCESSES: u64 = 150;
/// The interval at which the neighbour is queried.
const INTERVAL: Duration = Duration::from_millis(10);
/// The minimum number of answers during a bomb.
const MIN_ANSWERS: u64 = 25;
/// Echoes each line. It opens both ends, so that it continues while no query comes.
const ECHO: &str = "while read line; do echo $line >&3; done 0<> ask 3<> answer";

/// A fixture with a neighbour that serves, and an audit of its host.
struct NeighbourFixture {
    world: RootFixture,
    neighbour: Container,
    spec: LaunchSpec,
    audit: LeakAudit,
}

/// The neighbour's answers.
#[derive(Default)]
struct Neighbour {
    answers: AtomicU64,
    slowest_us: AtomicU64,
    is_over: AtomicBool,
}

impl NeighbourFixture {
    fn new() -> Self {
        let mut world = RootFixture::new();
        let mut spec = profiled(&mut world, ECHO);
        // The next range of host ids.
        spec.profile.as_mut().unwrap().first_host_id = FIRST_HOST_ID + CONTAINER_IDS;
        give_sandbox(&spec);
        for name in ["ask", "answer"] {
            let path = spec.sandbox.join(name);
            mkfifo(&path, Mode::S_IRWXU).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        }
        let (neighbour, _) = world.start(&spec);
        let scope = AuditScope {
            directories: vec![world.work().to_owned()],
            emptied: vec![world.work().to_owned()],
            groups: vec![world.tree.root().to_owned()],
            holders: vec![std::process::id(), world.launcher.as_ref().unwrap().pid()],
            alone_in_network: false,
            ..AuditScope::default()
        };
        let audit = LeakAudit::begin(scope);
        Self {
            world,
            neighbour,
            spec,
            audit,
        }
    }

    /// Returns a bomb, confined like an agent's tasks, and with separate limits where the host has
    /// the controllers.
    fn bomb(&mut self, arguments: &str) -> LaunchSpec {
        let line = format!("exec ./inside {VERB} {arguments}");
        let mut spec = profiled(&mut self.world, &line);
        let inside = self.world.work().join("inside");
        if !inside.exists() {
            fs::copy("/proc/self/exe", &inside).unwrap();
        }
        fs::hard_link(&inside, spec.sandbox.join("inside")).unwrap();
        spec.resource_limits = [("core", 0), ("nofile", 4_096), ("nproc", PROCESSES)]
            .map(|(name, most)| ResourceLimit::at_most(name, most))
            .into();
        if self.has("pids") {
            spec.limits.pids_max = Some(PROCESSES);
        }
        if self.has("memory") {
            spec.limits.memory_max_bytes = Some(256 * MIB);
        }
        spec
    }

    fn has(&self, controller: &str) -> bool {
        let file = self.world.tree.supervisors().join("cgroup.controllers");
        let present = fs::read_to_string(file).unwrap();
        present.split_whitespace().any(|name| name == controller)
    }

    /// Runs `act` while the neighbour is queried every ten milliseconds, and until it has answered
    /// often enough.
    fn during<T>(&mut self, act: impl FnOnce(&mut RootFixture) -> T) -> T {
        let service = Neighbour::default();
        let [ask, answer] = ["ask", "answer"].map(|name| self.spec.sandbox.join(name));
        std::thread::scope(|scope| {
            scope.spawn(|| service.watch(&ask, &answer));
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let done = act(&mut self.world);
                let enough = service.answers.load(Ordering::SeqCst) + MIN_ANSWERS;
                eventually("the neighbour continues to serve", || {
                    service.answers.load(Ordering::SeqCst) >= enough
                });
                done
            }));
            service.is_over.store(true, Ordering::SeqCst);
            match done {
                Ok(done) => done,
                Err(cause) => std::panic::resume_unwind(cause),
            }
        })
    }

    /// Starts a bomb and waits until it has reported its end.
    fn start_bomb(&mut self, spec: &LaunchSpec) -> (Container, Handle) {
        self.during(|world| {
            let (container, handle) = world.start(spec);
            eventually("it does its worst", || {
                stdout(spec).lines().any(|line| line == DONE)
            });
            (container, handle)
        })
    }

    /// Removes a bomb, and checks that it has left nothing; the neighbour still runs then. The
    /// caller has checked that the bomb reached its limit, or did all its work where no limit stops
    /// it: this is its control. `scripts/techniques` counts these calls.
    fn remove_bomb(mut self, spec: &LaunchSpec, container: Container, name: &str) {
        println!("technique of a bomb: {name}: open");
        self.during(|_| container.destroy(TIMEOUT).unwrap());
        drop(container);
        remove_dir_all(&spec.directory).unwrap();
        // The program of all bombs.
        fs::remove_file(self.world.work().join("inside")).unwrap();
        self.audit.expect_nothing_left("after a bomb");
        assert_eq!(
            self.neighbour.notice().unwrap(),
            None,
            "the neighbour lives"
        );
        self.neighbour.kill(0).unwrap();
        self.neighbour.wait(TIMEOUT).unwrap();
        // Its supervisor exits a moment later; the next test's audit must not see it.
        self.neighbour.destroy(TIMEOUT).unwrap();
        println!("technique of a bomb: {name}: shut");
    }
}

impl Neighbour {
    fn watch(&self, ask: &Path, answer: &Path) {
        let mut both = File::options();
        let mut asked = both.read(true).write(true).open(ask).unwrap();
        let answered = both.open(answer).unwrap();
        let waited = answered.try_clone().unwrap();
        let mut lines = BufReader::new(answered).lines();
        for number in 0_u64.. {
            if self.is_over.load(Ordering::SeqCst) {
                break;
            }
            let begun = Instant::now();
            writeln!(asked, "{number}").unwrap();
            let mut watched = [PollFd::new(waited.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut watched, PollTimeout::try_from(TIMEOUT).unwrap());
            assert_eq!(ready, Ok(1), "the neighbour does not answer");
            assert_eq!(lines.next().unwrap().unwrap(), number.to_string());
            let took = u64::try_from(begun.elapsed().as_micros()).unwrap();
            self.slowest_us.fetch_max(took, Ordering::SeqCst);
            self.answers.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(INTERVAL);
        }
        println!(
            "the neighbour has answered {} times, after {} us at most",
            self.answers.load(Ordering::SeqCst),
            self.slowest_us.load(Ordering::SeqCst)
        );
    }
}

/// Returns the number of processes in its group.
fn population(spec: &LaunchSpec) -> usize {
    let processes = spec.cgroup.as_ref().unwrap().join("cgroup.procs");
    fs::read_to_string(processes).unwrap().lines().count()
}

/// Returns the number that it wrote at its end.
fn figure(spec: &LaunchSpec) -> u64 {
    let received = stdout(spec);
    received.lines().next().unwrap().parse().unwrap()
}

fn forks() {
    let mut street = NeighbourFixture::new();
    let spec = street.bomb("forks");
    let (container, _) = street.start_bomb(&spec);
    let count = population(&spec);
    // Init does not count as a user of the container.
    assert!(
        (50..=PROCESSES as usize + 2).contains(&count),
        "{count} processes"
    );
    street.remove_bomb(&spec, container, "processes");
}

fn threads() {
    let mut street = NeighbourFixture::new();
    let spec = street.bomb("threads");
    let (container, _) = street.start_bomb(&spec);
    let threads = spec.cgroup.as_ref().unwrap().join("cgroup.threads");
    let count = fs::read_to_string(threads).unwrap().lines().count();
    assert!(
        (50..=PROCESSES as usize + 2).contains(&count),
        "{count} threads"
    );
    street.remove_bomb(&spec, container, "threads");
}

fn memory() {
    let mut street = NeighbourFixture::new();
    if !street.has("memory") {
        street.neighbour.kill(0).unwrap();
        skip("needs the cgroup controller memory".to_owned());
    }
    let spec = street.bomb("memory");
    let (container, exit) = street.during(|world| {
        let mut container = world.launch(&spec);
        let exit = container.wait(TIMEOUT).unwrap();
        (container, exit)
    });
    assert_eq!(exit.outcome, CommandOutcome::Signaled(9), "{exit:?}");
    assert_eq!(exit.memory_shortage.unwrap().of, OomScope::Container);
    street.remove_bomb(&spec, container, "memory");
}

fn descriptors() {
    let mut street = NeighbourFixture::new();
    let spec = street.bomb("descriptors");
    let (container, _) = street.start_bomb(&spec);
    assert!(stdout(&spec).starts_with("409"), "{}", stdout(&spec));
    street.remove_bomb(&spec, container, "descriptors");
}

fn files() {
    for place in ["/tmp", "/dev/shm"] {
        let mut street = NeighbourFixture::new();
        let spec = street.bomb(&format!("files {place}"));
        let (container, _) = street.start_bomb(&spec);
        // The minimum number of files, as its scratch file systems are small; one file is the
        // directory itself.
        assert_eq!(figure(&spec), 1_023, "in {place}");
        street.remove_bomb(&spec, container, &format!("files in {place}"));
    }
}

fn fillers() {
    for place in ["/tmp", "/dev/shm"] {
        let mut street = NeighbourFixture::new();
        let spec = street.bomb(&format!("fill {place}"));
        let (container, _) = street.start_bomb(&spec);
        assert_eq!(figure(&spec), MIB, "in {place}");
        street.remove_bomb(&spec, container, &format!("bytes in {place}"));
    }
}

/// Fills its sandbox with one file, then with names; reports how many bytes and how many names.
const FILL_DISK: &str = "cat /dev/zero > fill; stat -c %s fill; rm fill
made=0; while true > name-$made; do made=$((made + 1)); done
echo $made; echo done; exec sleep 1000";
/// The disk limit.
const DISK: u64 = 16 * MIB;

fn disk_filler() {
    let mut street = NeighbourFixture::new();
    if let Err(why) = FileSystem::supported() {
        street.neighbour.kill(0).unwrap();
        skip(format!("this kernel has no loop devices: {why}"));
    }
    let mut spec = street.bomb("sleep");
    spec.program = argosy_isolation::Program::Shell(FILL_DISK.to_owned());
    let disks = street.world.work().join("disks");
    let system = FileSystem::at(&disks.join("bomb"));
    system.make(DISK, &spec.sandbox).unwrap();
    give_sandbox(&spec);
    let (mut container, _) = street.start_bomb(&spec);
    let bytes = figure(&spec);
    assert!((DISK * 8 / 10..=DISK).contains(&bytes), "{bytes} bytes");
    let received = stdout(&spec);
    let names = received.lines().nth(1).unwrap().parse::<u64>().unwrap();
    let most = system.usage().unwrap().files_limit;
    assert!((500..=most).contains(&names), "{names} names of {most}");
    street.during(|_| {
        container.kill(0).unwrap();
        container.wait(TIMEOUT).unwrap();
        system.remove(&spec.sandbox).unwrap();
    });
    remove_dir_all(&disks).unwrap();
    street.remove_bomb(&spec, container, "its own disk");
}

fn flood() {
    let mut street = NeighbourFixture::new();
    let mut spec = street.bomb("flood");
    spec.output = OutputLimits {
        file_bytes: MIB,
        files: 3,
        bytes_per_second: 16 * MIB,
    };
    let container = street.during(|world| {
        let (container, _) = world.start(&spec);
        eventually("it was rotated out", || {
            spec.sandbox.join("stdout.2").exists()
        });
        container
    });
    let files = ["stdout", "stdout.1", "stdout.2", "stdout.3"].map(|name| spec.sandbox.join(name));
    let kept = files.iter().filter_map(|file| fs::metadata(file).ok());
    let kept: u64 = kept.map(|file| file.len()).sum();
    // A rotation may be in progress, and a note about dropped output.
    assert!(kept <= 4 * MIB, "{kept} bytes");
    street.remove_bomb(&spec, container, "output");
}

fn zombies() {
    let mut street = NeighbourFixture::new();
    let mut spec = street.bomb("zombies");
    spec.resource_limits.retain(|limit| limit.name != "nproc");
    spec.limits.pids_max = None;
    let (container, _) = street.start_bomb(&spec);
    street.remove_bomb(&spec, container, "zombies");
}

fn daemons() {
    let mut street = NeighbourFixture::new();
    let spec = street.bomb("daemons");
    let (container, exit) = street.during(|world| {
        let mut container = world.launch(&spec);
        let exit = container.wait(TIMEOUT).unwrap();
        (container, exit)
    });
    assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", stdout(&spec));
    assert!(
        !spec.cgroup.as_ref().unwrap().exists(),
        "they went with their command"
    );
    street.remove_bomb(&spec, container, "daemons");
}

fn storm_inside() {
    let mut street = NeighbourFixture::new();
    let spec = street.bomb("signals");
    let (container, exit) = street.during(|world| {
        let mut container = world.launch(&spec);
        let exit = container.wait(TIMEOUT).unwrap();
        (container, exit)
    });
    assert_eq!(exit.outcome, CommandOutcome::Exited(7), "{}", exit.reason);
    street.remove_bomb(&spec, container, "signals from inside");
}

fn storm_outside() {
    let mut street = NeighbourFixture::new();
    let spec = street.bomb("sleep");
    let (mut container, handle) = street.world.start(&spec);
    let pids = [handle.supervisor.pid, handle.init.pid].map(|pid| pid.to_string());
    street.during(|_| {
        // By number, because the last ones have no names here; without the two that cannot be
        // handled.
        let signals = (1..=64).filter(|signal| ![9, 19, 32, 33].contains(signal));
        for signal in signals.cycle().take(600) {
            let mut kill = std::process::Command::new("/bin/kill");
            let reported = kill.arg(format!("-{signal}")).args(&pids).status().unwrap();
            assert!(reported.success(), "signal {signal}");
        }
    });
    assert_eq!(container.notice().unwrap(), None, "it lives");
    container.kill(60_000).unwrap();
    assert_eq!(
        container.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Signaled(15)
    );
    street.remove_bomb(&spec, container, "signals to its supervisor");
}

fn ignores_term() {
    let mut street = NeighbourFixture::new();
    let mut spec = street.bomb("sleep");
    let line = "trap '' TERM HUP INT QUIT; echo done; while :; do sleep 0.01; done";
    spec.program = argosy_isolation::Program::Shell(line.to_owned());
    let (mut container, _) = street.start_bomb(&spec);
    container.kill(50).unwrap();
    assert_eq!(
        container.wait(TIMEOUT).unwrap().outcome,
        CommandOutcome::Signaled(9)
    );
    street.remove_bomb(&spec, container, "ignored signals");
}

fn deep() {
    let mut street = NeighbourFixture::new();
    let spec = street.bomb("deep");
    let (container, exit) = street.during(|world| {
        let mut container = world.launch(&spec);
        let exit = container.wait(TIMEOUT).unwrap();
        (container, exit)
    });
    assert_eq!(exit.outcome, CommandOutcome::Exited(0), "{}", exit.reason);
    assert!(!Cgroup::at(spec.cgroup.as_ref().unwrap()).path().exists());
    street.remove_bomb(&spec, container, "a deep sandbox");
}
