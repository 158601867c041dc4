//! Benchmark of container starts and ends: p50, p99 and processor time of one at a time, and the
//! rate with several in flight.
//!
//! `cargo run --release -p argosy-isolation --example starts -- [COUNT [MODE [SLOTS,…]]]` as root;
//! MODE is the prefix of a line of the table, SLOTS are numbers in flight (2,16; an empty list:
//! none).
//!
//! Processor time is that of the cgroup tree: launcher, supervisors, inits and commands. It does
//! not include the agent's side, nor work in kernel threads.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use argosy_host::ContainerId;
use argosy_isolation::profile::{COMMAND_ID, CONTAINER_IDS, FIRST_HOST_ID, IsolationLayers};
use argosy_isolation::{
    Cgroup, CgroupTree, CommandOutcome, Container, ContainerUser, Isolation, IsolationProfile,
    LaunchSpec, Launcher, MountSpec, Namespaces, Network, Program, RootFs, cgroup, launcher,
};

const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("launcher") {
        return Ok(launcher::run_from_fd()?);
    }
    let count = argument.map_or(Ok(2000), |text| text.parse())?;
    let only = std::env::args().nth(2).unwrap_or_default();
    let slots = std::env::args().nth(3).unwrap_or("2,16".to_owned());
    let slots = slots.split(',').filter(|text| !text.is_empty());
    let slots: Vec<usize> = slots.map(str::parse).collect::<Result<_, _>>()?;
    let agent = ContainerId::new(format!("starts-{}", std::process::id()))?;
    let tree = CgroupTree::create(&cgroup::default_parent()?, &agent)?;
    let work = std::env::temp_dir().join(agent.as_str());
    let mut command = launcher::own_executable()?;
    command.arg("launcher");
    let mut bench = Bench {
        launcher: Launcher::spawn(&command, Some(&tree))?,
        tree,
        work,
        next: 0,
    };
    println!(
        "{:32} {:>9} {:>9} {:>10} {:>10}",
        "/bin/true", "p50 ms", "p99 ms", "starts/s", "core-us"
    );
    for kind in KINDS {
        let name = kind.name;
        if !name.starts_with(&only) {
            continue;
        }
        let used = bench.used_us()?;
        let (p50, p99) = bench.one_by_one(count, kind)?;
        let used = (bench.used_us()? - used) / count as u64;
        let rate = 1000.0 / p50;
        println!("{name:32} {p50:>9.2} {p99:>9.2} {rate:>10.0} {used:>10}");
        for &slots in &slots {
            let used = bench.used_us()?;
            let rate = bench.in_flight(count, slots, kind)?;
            let used = (bench.used_us()? - used) / count as u64;
            let name = format!("{name}, {slots} slots");
            println!("{name:32} {:>9} {:>9} {rate:>10.0} {used:>10}", "", "");
        }
    }
    bench.report_memory()?;
    drop(bench.launcher);
    std::fs::remove_dir_all(&bench.work)?;
    std::thread::sleep(Duration::from_millis(50));
    bench.tree.remove()?;
    Ok(())
}

/// A row of the table.
#[derive(Clone, Copy)]
struct BenchCase {
    name: &'static str,
    isolation: Isolation,
    /// Whether it joins a network namespace that was created before the start, like those in an
    /// agent's pool.
    joins_network: bool,
}

const KINDS: [BenchCase; 3] = [
    BenchCase {
        name: "full profile",
        isolation: Isolation::Full,
        joins_network: false,
    },
    BenchCase {
        name: "networked full profile",
        isolation: Isolation::Full,
        joins_network: true,
    },
    BenchCase {
        name: "plain processes",
        isolation: Isolation::Processes,
        joins_network: false,
    },
];

struct Bench {
    launcher: Launcher,
    tree: CgroupTree,
    work: std::path::PathBuf,
    next: u64,
}

impl Bench {
    /// Returns the processor time of the whole tree so far.
    fn used_us(&self) -> Result<u64> {
        let used = Cgroup::at(self.tree.root()).stats().cpu_us;
        used.context("the tree's group does not count processor time")
    }

    fn launch(&mut self, program: &str, kind: BenchCase) -> Result<(Container, Instant)> {
        self.next += 1;
        let id = ContainerId::new(format!("c{}", self.next))?;
        let directory = self.work.join(id.as_str());
        let sandbox = directory.join("sandbox");
        std::fs::create_dir_all(&sandbox)?;
        let program = Program::Arguments(program.split(' ').map(str::to_owned).collect());
        let mut spec = LaunchSpec::new(id, &directory, &sandbox, program);
        spec.isolation = kind.isolation;
        if kind.isolation == Isolation::Processes {
            spec.namespaces = Namespaces::NONE;
        } else {
            spec.cgroup = Some(self.tree.group(&spec.id).path().to_owned());
            let first_host_id = FIRST_HOST_ID + (self.next as u32 % 1000) * CONTAINER_IDS;
            let view = MountSpec {
                root: RootFs::Host,
                host_paths: Vec::new(),
                volumes: Vec::new(),
                tmp_bytes: 1 << 20,
                shm_bytes: 1 << 20,
            };
            spec.profile = Some(IsolationProfile {
                first_host_id,
                view,
                isolation_layers: IsolationLayers::ALL,
            });
            let (uid, gid, groups) = (COMMAND_ID, COMMAND_ID, Vec::new());
            spec.user = Some(ContainerUser { uid, gid, groups });
            let owner = Some(first_host_id + COMMAND_ID);
            std::os::unix::fs::chown(&sandbox, owner, owner)?;
        }
        spec.nonce = self.next;
        if !kind.joins_network {
            let start = Instant::now();
            return Ok((self.launcher.launch(&spec)?, start));
        }
        spec.network = Network::Joined;
        let namespace = new_network()?;
        let start = Instant::now();
        let launched = self.launcher.launch_joined(&spec, namespace.as_fd())?;
        Ok((launched, start))
    }

    fn one_by_one(&mut self, count: usize, kind: BenchCase) -> Result<(f64, f64)> {
        let mut times = Vec::new();
        for _ in 0..count {
            let (mut container, start) = self.launch("/bin/true", kind)?;
            finish(&mut container)?;
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        Ok((times[count / 2], times[count * 99 / 100]))
    }

    fn in_flight(&mut self, count: usize, slots: usize, kind: BenchCase) -> Result<f64> {
        let start = Instant::now();
        let mut running = VecDeque::new();
        for _ in 0..count {
            if running.len() == slots {
                let mut oldest: Container = running.pop_front().context("slots is not 0")?;
                finish(&mut oldest)?;
            }
            running.push_back(self.launch("/bin/true", kind)?.0);
        }
        for mut container in running {
            finish(&mut container)?;
        }
        Ok(count as f64 / start.elapsed().as_secs_f64())
    }

    fn report_memory(&mut self) -> Result<()> {
        let (mut container, _) = self.launch("/bin/sleep 1000", KINDS[0])?;
        let handle = container
            .wait_started(TIMEOUT)?
            .map_err(|exit| anyhow::anyhow!(exit.reason))?;
        for (name, pid) in [
            ("supervisor", handle.supervisor.pid),
            ("init", handle.init.pid),
        ] {
            println!("{name} private memory: {} KiB", private_kib(pid)?);
        }
        println!(
            "launcher private memory: {} KiB",
            private_kib(self.launcher.pid() as i32)?
        );
        container.destroy(TIMEOUT)?;
        Ok(())
    }
}

/// Creates a network namespace without devices.
fn new_network() -> Result<File> {
    let make = || -> Result<File> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?)
    };
    // In a separate thread: this process stays in the host's namespace.
    std::thread::scope(|scope| scope.spawn(make).join()).expect("making one does not panic")
}

fn finish(container: &mut Container) -> Result<()> {
    let exit = container.wait(TIMEOUT)?;
    ensure!(exit.outcome == CommandOutcome::Exited(0), "{}", exit.reason);
    Ok(())
}

fn private_kib(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(Path::new(&path)).context(path)?;
    let private = text.lines().filter(|line| line.starts_with("Private_"));
    Ok(private
        .filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok())
        .sum())
}
