//! How fast containers start and end: p50 and p99 of one at a time, and the rate with several in flight.
//!
//! `cargo run --release -p argosy-isolation --example starts -- [COUNT [MODE]]` as root; MODE is the beginning
//! of one line of the table.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use argosy_isolation::profile::{COMMAND_ID, CONTAINER_IDS, FIRST_HOST_ID, Walls};
use argosy_isolation::{
    Container, ContainerId, Isolation, Launcher, Namespaces, Outcome, Profile, Program, Root, Spec,
    Tree, User, View, cgroup, launcher,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("launcher") {
        return Ok(launcher::run_from_fd()?);
    }
    let count = argument.map_or(Ok(2000), |text| text.parse())?;
    let only = std::env::args().nth(2).unwrap_or_default();
    let agent = ContainerId::new(format!("starts-{}", std::process::id()))?;
    let tree = Tree::create(&cgroup::default_parent()?, &agent)?;
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
        "{:28} {:>9} {:>9} {:>10}",
        "/bin/true", "p50 ms", "p99 ms", "starts/s"
    );
    for kind in KINDS {
        let name = kind.name;
        if !name.starts_with(&only) {
            continue;
        }
        let (p50, p99) = bench.one_by_one(count, kind)?;
        println!("{:28} {p50:>9.2} {p99:>9.2} {:>10.0}", name, 1000.0 / p50);
        for slots in [2, 16] {
            let rate = bench.in_flight(count, slots, kind)?;
            let name = format!("{name}, {slots} slots");
            println!("{name:28} {:>9} {:>9} {rate:>10.0}", "", "");
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
struct Kind {
    name: &'static str,
    isolation: Isolation,
    namespaces: Namespaces,
    profile: bool,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "full profile",
        isolation: Isolation::Full,
        namespaces: Namespaces::ALL,
        profile: true,
    },
    Kind {
        name: "5 namespaces + cgroup",
        isolation: Isolation::Full,
        namespaces: Namespaces::ALL,
        profile: false,
    },
    Kind {
        name: "cgroup only",
        isolation: Isolation::Full,
        namespaces: Namespaces::NONE,
        profile: false,
    },
    Kind {
        name: "plain processes",
        isolation: Isolation::Processes,
        namespaces: Namespaces::NONE,
        profile: false,
    },
];

struct Bench {
    launcher: Launcher,
    tree: Tree,
    work: std::path::PathBuf,
    next: u64,
}

impl Bench {
    fn launch(&mut self, program: &str, kind: Kind) -> Result<(Container, Instant)> {
        self.next += 1;
        let id = ContainerId::new(format!("c{}", self.next))?;
        let folder = self.work.join(id.as_str());
        let sandbox = folder.join("sandbox");
        std::fs::create_dir_all(&sandbox)?;
        let program = Program::Arguments(program.split(' ').map(str::to_owned).collect());
        let mut spec = Spec::new(id, &folder, &sandbox, program);
        spec.isolation = kind.isolation;
        spec.namespaces = kind.namespaces;
        if kind.profile {
            let first_host_id = FIRST_HOST_ID + (self.next as u32 % 1000) * CONTAINER_IDS;
            let view = View {
                root: Root::Host,
                host_paths: Vec::new(),
                volumes: Vec::new(),
                tmp_bytes: 1 << 20,
                shm_bytes: 1 << 20,
            };
            spec.profile = Some(Profile {
                first_host_id,
                view,
                walls: Walls::ALL,
            });
            let (uid, gid, groups) = (COMMAND_ID, COMMAND_ID, Vec::new());
            spec.user = Some(User { uid, gid, groups });
            let owner = Some(first_host_id + COMMAND_ID);
            std::os::unix::fs::chown(&sandbox, owner, owner)?;
        }
        spec.nonce = self.next;
        if kind.isolation == Isolation::Full {
            spec.cgroup = Some(self.tree.group(&spec.id).path().to_owned());
        }
        let start = Instant::now();
        Ok((self.launcher.launch(&spec)?, start))
    }

    fn one_by_one(&mut self, count: usize, kind: Kind) -> Result<(f64, f64)> {
        let mut times = Vec::new();
        for _ in 0..count {
            let (mut container, start) = self.launch("/bin/true", kind)?;
            finish(&mut container)?;
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        Ok((times[count / 2], times[count * 99 / 100]))
    }

    fn in_flight(&mut self, count: usize, slots: usize, kind: Kind) -> Result<f64> {
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
            .wait_started(PATIENCE)?
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
        container.destroy(PATIENCE)?;
        Ok(())
    }
}

fn finish(container: &mut Container) -> Result<()> {
    let exit = container.wait(PATIENCE)?;
    ensure!(exit.outcome == Outcome::Exited(0), "{}", exit.reason);
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
