//! The time of one empty container, from the request until it is reaped and until it is removed,
//! compared with crun and runc on the same root.
//!
//! The three run in turn, so that a disturbance of the machine affects all. Argosy's containers
//! have the whole default profile. Those of crun and runc have what their own `spec` generates,
//! without a user namespace and without a seccomp filter.

mod ours;
mod runtimes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::arguments::Workload;
use crate::bench::{Bench, Measurements};
use crate::report::{Cell, RatioGoal, WorkloadReport, median, quantile};
use ours::ArgosyContainers;
use runtimes::Runtimes;

/// The only program of the root, which is statically linked.
const PROGRAM: &str = "/bin/busybox";
/// Containers of each kind that run before the measurement.
const WARM_UP: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContainerNetwork {
    Host,
    Own,
    /// As `Own`, but Argosy's network is created in advance, as an agent keeps some ready.
    Ready,
}

const NETS: [ContainerNetwork; 3] = [
    ContainerNetwork::Host,
    ContainerNetwork::Own,
    ContainerNetwork::Ready,
];

impl ContainerNetwork {
    fn name(self) -> &'static str {
        match self {
            Self::Host => "the host's network",
            Self::Own => "a network of its own",
            Self::Ready => "a network of its own, ours from a pool",
        }
    }
}

/// The measured kinds, in the order of each round.
const KINDS: [&str; 4] = ["argosy, host's programs", "argosy, image", "crun", "runc"];

/// Median processor time per container, of all processes that work for it.
const USED: &str = "processor time";

/// Intermediate times that are measured for Argosy.
const STAGES: [&str; 2] = ["until exec, p50", "until reaped, p50"];
/// The other runtimes, their rows in [`KINDS`], and the maximum ratio of Argosy's time until reaped
/// to theirs.
const PEERS: [(&str, usize, f64); 2] = [("crun", 2, 0.40), ("runc", 3, 0.15)];

/// Measures a container from the request to the exec, until the agent knows how it ended, and until
/// it is completely removed.
pub(crate) async fn measure(bench: &Bench) -> Result<WorkloadReport> {
    if !nix::unistd::geteuid().is_root() {
        bail!("start needs root: containers with the default profile do");
    }
    let starts = bench.extent.starts;
    let about = [
        format!("{starts} containers each of a static program that returns 0, one after the other, all kinds in turn: from the request until it is completely removed, or as named; medians of a run."),
        "crun and runc: `run` of the bundle that their `spec` makes, without resources, in a mount namespace with cgroup2 at /sys/fs/cgroup.".to_owned(),
        "processor time: for argosy that of the cgroups of launcher, supervisor and container and of the calling thread, for crun and runc that of themselves and their children. Kernel threads are in neither.".to_owned(),
        format!("controllers that this host delegates to containers: {}.", ours::controllers()),
    ];
    let about: Vec<&str> = about.iter().map(String::as_str).collect();
    let mut cells = Vec::new();
    for net in NETS {
        for kind in KINDS {
            cells.push(Cell::new(name(kind, net, "p50"), "ms", RatioGoal::None));
            cells.push(Cell::new(name(kind, net, "p99"), "ms", RatioGoal::None));
            cells.push(Cell::new(name(kind, net, USED), "core-us", RatioGoal::None));
        }
        for stage in STAGES {
            cells.push(Cell::new(name(KINDS[1], net, stage), "ms", RatioGoal::None));
        }
        for (peer, _, goal) in PEERS {
            let goal = RatioGoal::OwnAtMost(goal);
            cells.push(Cell::new(ratio("reaped", peer, net), "x", goal));
            cells.push(Cell::new(ratio("removed", peer, net), "x", RatioGoal::None));
        }
    }
    let mut report = bench.report(Workload::Start, &about, cells);
    let directory = bench.environment.directory.path();
    let argosy = &bench.environment.argosy;
    let work = async |_, findings: &mut Measurements| {
        let (argosy, directory) = (argosy.clone(), directory.to_owned());
        let round = move || all(&argosy, &directory, starts);
        let found = tokio::task::spawn_blocking(round)
            .await
            .context("timing containers panicked")??;
        for (cell, value) in found {
            findings.record(cell, value);
        }
        Ok(())
    };
    bench
        .run_alternately(&mut report, bench.extent.runs, work)
        .await?;
    Ok(report)
}

fn name(kind: &str, net: ContainerNetwork, what: &str) -> String {
    format!("{kind}, {}: {what}", net.name())
}

fn ratio(until: &str, peer: &str, net: ContainerNetwork) -> String {
    format!("argosy, image, until {until} / {peer}, {}", net.name())
}

/// Creates a root with one program in it.
fn root(directory: &Path) -> Result<PathBuf> {
    let root = directory.join("root");
    for dir in ["bin", "dev", "proc", "sys", "tmp", "etc", "sandbox"] {
        fs::create_dir_all(root.join(dir)).context("cannot make a root for containers")?;
    }
    let program = root.join("bin/true");
    fs::copy(PROGRAM, &program)
        .with_context(|| format!("cannot copy {PROGRAM}: install busybox-static"))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(root)
}

fn all(argosy: &Path, directory: &Path, starts: u32) -> Result<Vec<(String, f64)>> {
    let directory = tempfile::tempdir_in(directory).context("cannot make a directory")?;
    let root = root(directory.path())?;
    let mut ours = ArgosyContainers::start(argosy, directory.path(), &root)?;
    let mut found = Vec::new();
    for net in NETS {
        let runtimes = Runtimes::start(directory.path(), &root, net)?;
        let mut times: [Vec<f64>; 4] = Default::default();
        let mut used: [Vec<f64>; 4] = Default::default();
        let mut stages: [Vec<f64>; 2] = Default::default();
        for round in 0..WARM_UP + starts {
            let host = ours.time(false, net)?;
            let image = ours.time(true, net)?;
            let (crun, runc) = (runtimes.time("crun")?, runtimes.time("runc")?);
            let row = [
                host.until_removed_ms,
                image.until_removed_ms,
                crun.ms,
                runc.ms,
            ];
            let of_processors = [host.core_us, image.core_us, crun.core_us, runc.core_us];
            if round >= WARM_UP {
                let all = used.iter_mut().zip(of_processors);
                all.for_each(|(all, one)| all.push(one));
                times
                    .iter_mut()
                    .zip(row)
                    .for_each(|(all, one)| all.push(one));
                stages[0].push(image.until_exec_ms);
                stages[1].push(image.until_reaped_ms);
            }
        }
        for (kind, times) in KINDS.iter().zip(&times) {
            found.push((name(kind, net, "p50"), median(times)));
            found.push((name(kind, net, "p99"), quantile(times, 0.99)));
        }
        for (kind, used) in KINDS.iter().zip(&used) {
            found.push((name(kind, net, USED), median(used)));
        }
        for (stage, times) in STAGES.iter().zip(&stages) {
            found.push((name(KINDS[1], net, stage), median(times)));
        }
        for (peer, at, _) in PEERS {
            let peers = median(&times[at]);
            found.push((ratio("reaped", peer, net), median(&stages[1]) / peers));
            found.push((ratio("removed", peer, net), median(&times[1]) / peers));
        }
    }
    ours.end()?;
    Ok(found)
}
