//! Argosy's containers, made as an agent makes them: by a launcher, with the default profile.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use argosy_host::ContainerId;
use argosy_isolation::profile::{COMMAND_ID, CONTAINER_IDS, END_HOST_ID, IsolationLayers};
use argosy_isolation::{
    Cgroup, CgroupTree, CommandOutcome, Container, ContainerUser, Image, IsolationProfile,
    LaunchSpec, Launcher, Limits, MissingPolicy, MountSpec, Network, Program, RootFs, cgroup,
    destroy,
};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{Gid, Uid};

use super::ContainerNetwork;

/// Timeout of any step.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// First of the user ids that the agents of this host use last.
const FIRST_HOST_ID: u32 = END_HOST_ID - CONTAINER_IDS;
const MIB: u64 = 1 << 20;

/// The times of one container, in milliseconds.
pub(super) struct ContainerTimes {
    /// Until the agent receives the report that the command was executed.
    pub(super) until_exec_ms: f64,
    /// Until the agent receives the result: none of its processes is running then.
    pub(super) until_reaped_ms: f64,
    /// Until all of it is removed, including its supervisor and its cgroup.
    pub(super) until_removed_ms: f64,
    /// Processor time in microseconds, of all processes that work for it.
    pub(super) core_us: f64,
}

/// A launcher, and the cgroup tree and directory of its containers.
pub(super) struct ArgosyContainers {
    launcher: Launcher,
    tree: CgroupTree,
    directory: PathBuf,
    layer: PathBuf,
    count: u32,
}

/// Returns the controllers of the host, as text.
pub(super) fn controllers() -> String {
    let found = cgroup::default_parent().and_then(|parent| {
        let name = ContainerId::new("bench").expect("letters make a name");
        let tree = CgroupTree::create(&parent, &name)?;
        let missing = tree.missing(&limits())?;
        tree.remove()?;
        Ok(missing.controllers)
    });
    match found {
        Ok(missing) if missing.is_empty() => "all that are requested".to_owned(),
        Ok(missing) => format!("none of {}", missing.join(", ")),
        Err(error) => format!("none ({error})"),
    }
}

fn limits() -> Limits {
    Limits {
        cpu_weight: Some(10),
        memory_max_bytes: Some(32 * MIB),
        pids_max: Some(512),
        ..Limits::default()
    }
}

impl ArgosyContainers {
    pub(super) fn start(argosy: &Path, directory: &Path, layer: &Path) -> Result<Self> {
        let parent = cgroup::default_parent().context("no place for control groups")?;
        let name = ContainerId::new(format!("bench-{}", std::process::id()))
            .expect("letters and digits make a name");
        let tree = CgroupTree::create(&parent, &name).context("cannot make a control group")?;
        // As an agent does.
        let program = argosy.with_file_name("argosy-launcher");
        let launcher = Launcher::spawn(&Command::new(program), Some(&tree))
            .context("cannot start a launcher: build it with argosy")?;
        Ok(Self {
            launcher,
            tree,
            directory: directory.to_owned(),
            layer: layer.to_owned(),
            count: 0,
        })
    }

    /// Times one container, from the request until only its directory is left.
    pub(super) fn time(&mut self, of_image: bool, net: ContainerNetwork) -> Result<ContainerTimes> {
        let spec = self.spec(of_image, net)?;
        let namespace = match net {
            ContainerNetwork::Host | ContainerNetwork::Own => None,
            ContainerNetwork::Ready => Some(new_network()?),
        };
        let used = self.used_us()?;
        let started = Instant::now();
        let mut container = match &namespace {
            Some(namespace) => self.launcher.launch_joined(&spec, namespace.as_fd())?,
            None => self.launcher.launch(&spec)?,
        };
        let until_exec_ms = until_exec(&mut container, started)?;
        let exit = container.wait(STEP_TIMEOUT)?;
        let until_reaped_ms = started.elapsed().as_secs_f64() * 1e3;
        destroy(&spec.directory, spec.cgroup.as_deref(), STEP_TIMEOUT)?;
        let until_removed_ms = started.elapsed().as_secs_f64() * 1e3;
        let core_us = self.used_us()? - used;
        if exit.outcome != CommandOutcome::Exited(0) {
            bail!("a container ended with {}", exit.reason);
        }
        Ok(ContainerTimes {
            until_exec_ms,
            until_reaped_ms,
            until_removed_ms,
            core_us,
        })
    }

    /// Returns the processor time that the cgroup tree and this thread have used so far.
    fn used_us(&self) -> Result<f64> {
        let tree = Cgroup::at(self.tree.root()).stats().cpu_us;
        let tree = tree.context("the control group does not count processor time")?;
        Ok(tree as f64 + processor_us(UsageWho::RUSAGE_THREAD)?)
    }

    /// Creates its directories before the measured time. Agents create them, and crun's bundle
    /// exists in advance too.
    fn spec(&mut self, of_image: bool, net: ContainerNetwork) -> Result<LaunchSpec> {
        self.count += 1;
        let id = ContainerId::new(format!("c{}", self.count)).expect("letters make a name");
        let place = self.directory.join(id.as_str());
        let (hand_off, sandbox, changes) = (
            place.join("own"),
            place.join("sandbox"),
            place.join("changes"),
        );
        let user = if of_image { 0 } else { COMMAND_ID };
        let (upper, work) = (changes.join("upper"), changes.join("work"));
        for dir in [&hand_off, &sandbox, &upper, &work] {
            fs::create_dir_all(dir).context("cannot create directories of a container")?;
        }
        let owner = FIRST_HOST_ID + user;
        nix::unistd::chown(
            &sandbox,
            Some(Uid::from_raw(owner)),
            Some(Gid::from_raw(owner)),
        )?;
        let program = if of_image {
            "/bin/true"
        } else {
            "/usr/bin/true"
        };
        let program = Program::Arguments(vec![program.to_owned()]);
        let mut spec = LaunchSpec::new(id, &hand_off, &sandbox, program);
        spec.user = Some(ContainerUser {
            uid: user,
            gid: user,
            groups: Vec::new(),
        });
        let root = if of_image {
            RootFs::Image(Image {
                layers: vec![self.layer.clone()],
                upper,
                work,
            })
        } else {
            RootFs::Host
        };
        spec.profile = Some(IsolationProfile {
            first_host_id: FIRST_HOST_ID,
            view: MountSpec {
                root,
                host_paths: Vec::new(),
                volumes: Vec::new(),
                tmp_bytes: 64 * MIB,
                shm_bytes: 64 * MIB,
            },
            isolation_layers: IsolationLayers::ALL,
        });
        match net {
            ContainerNetwork::Host => {}
            ContainerNetwork::Own => spec.network = Network::None,
            ContainerNetwork::Ready => spec.network = Network::Joined,
        }
        spec.cgroup = Some(self.tree.group(&spec.id).path().to_owned());
        spec.limits = limits();
        spec.missing = MissingPolicy::AllowMissing;
        Ok(spec)
    }

    /// Removes everything from the host.
    pub(super) fn end(self) -> Result<()> {
        drop(self.launcher);
        let deadline = Instant::now() + STEP_TIMEOUT;
        while let Err(error) = self.tree.remove() {
            if Instant::now() > deadline {
                return Err(error).context("a control group of the bench stays");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// Returns an empty network namespace, created by a thread that ends.
fn new_network() -> Result<File> {
    let make = || -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        File::open("/proc/thread-self/ns/net").context("cannot open a network namespace")
    };
    std::thread::scope(|scope| scope.spawn(make).join()).expect("making one does not panic")
}

/// Returns the processor time of this thread, or of reaped children, in microseconds.
pub(super) fn processor_us(who: UsageWho) -> Result<f64> {
    let usage = getrusage(who)?;
    let times = [usage.user_time(), usage.system_time()];
    Ok(times
        .map(|time| time.num_microseconds() as f64)
        .iter()
        .sum())
}

fn until_exec(container: &mut Container, started: Instant) -> Result<f64> {
    match container.wait_started(STEP_TIMEOUT)? {
        Ok(_) => Ok(started.elapsed().as_secs_f64() * 1e3),
        Err(exit) => bail!("a container did not start: {}", exit.reason),
    }
}
