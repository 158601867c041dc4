//! Crash tests: launcher, supervisor, init and agent are each killed at every step of a container's
//! lifetime and of file operations for it. The next process must find the container or its exit
//! status, and nothing may be left on the host.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use argosy_host::remove_tree::remove_dir_all;
use argosy_host::{ContainerId, crash_points};
use argosy_isolation::profile::{COMMAND_ID, FIRST_HOST_ID, IsolationLayers};
use argosy_isolation::unpack::UnpackLimits;
use argosy_isolation::{
    Adoption, CgroupTree, CommandOutcome, Container, ContainerUser, Exit, Handle, Image, Isolation,
    IsolationProfile, LaunchSpec, Launcher, MountSpec, Namespaces, Network, RootFs, SecretFile,
    Volume, VolumeSource, adopt, cgroup, clean_up_abandoned, crash_steps, destroy, launcher,
};
use argosy_network::Networks;
use argosy_network::cni::{Cni, NetworkConfList};
use argosy_network::{InterContainerTraffic, NetworkConfig, Subnet};
use serde::{Deserialize, Serialize};

use crate::audit::{AuditScope, LeakAudit};
use crate::fixture::{TIMEOUT, TestCase, eventually, skip, spec_in};
use crate::host::{on_a_host, web};
use crate::profile::give_sandbox;
use crate::{disks, exec_confinement, networks, networks6, unpacking};

pub(crate) const CASES: &[TestCase] = &[
    (
        "every_step_can_be_the_last_of_a_launcher_a_supervisor_or_an_init",
        of_launchers,
    ),
    ("every_step_can_be_the_last_of_an_agent", of_agents),
    ("an_agent_with_networks_may_crash_at_any_step", of_networks),
    ("every_crash_point_is_exercised", all_driven),
];

/// The verb with which this program runs as an agent for one scenario.
pub(crate) const SCENARIO: &str = "scenario";
const BUSYBOX: &str = "/bin/busybox";
const SLEEP: &str = "exec sleep 1000";
/// A directory of the agent's that is to be removed.
const FILLED: &str = "filled";

/// The scenario of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum CrashScenario {
    /// A container in an image, with an exec session, adopted and killed.
    Imaged,
    /// A container that ends by itself.
    Brief,
    /// Plain processes, without a namespace or cgroup that ends the rest.
    Plain,
    /// In a user namespace, without a cgroup, as for an agent without root.
    Unprivileged,
    /// A container whose launch is cancelled before it starts.
    Void,
    /// A container whose supervisor was killed after an adoption.
    Orphaned,
    /// In a separate network, with a port of the host.
    Bridged,
    /// In a plugin's network. Nothing runs in it.
    Plugged,
    /// No container: a fetched archive is unpacked.
    Archived,
    /// No container: a layer of an image is unpacked.
    Layered,
    /// No container: a full directory is removed.
    Emptied,
}
use CrashScenario::{
    Archived, Bridged, Brief, Emptied, Imaged, Layered, Orphaned, Plain, Plugged, Unprivileged,
    Void,
};

/// The process that dies: copies of the launcher pass some steps, the agent passes others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum CrashTarget {
    Launcher,
    Agent,
}

/// The steps of a launcher and its copies, each with the scenarios that pass it.
const OF_LAUNCHERS: &[(&str, &[CrashScenario])] = &[
    ("launcher.request-read", &[Imaged, Archived]),
    ("launcher.supervisor-made", &[Imaged, Archived]),
    ("supervisor.begun", &[Imaged]),
    ("supervisor.request-read", &[Imaged]),
    ("start.network-entered", &[Bridged]),
    ("start.group-made", &[Imaged]),
    ("start.limits-written", &[Imaged]),
    ("start.outputs-made", &[Imaged, Plain]),
    ("start.secrets-locked", &[Imaged]),
    ("start.view-taken", &[Imaged]),
    ("start.init-made", &[Imaged, Plain, Unprivileged]),
    ("start.users-mapped", &[Imaged, Unprivileged]),
    ("start.owners-mapped", &[Imaged]),
    ("start.mapping-sent", &[Imaged, Unprivileged]),
    ("handoff.claim-drafted", &[Imaged, Plain, Unprivileged]),
    ("handoff.claimed", &[Imaged, Plain, Unprivileged]),
    ("start.leave-given", &[Imaged, Plain, Unprivileged, Bridged]),
    ("supervisor.start-sent", &[Imaged, Plain, Unprivileged]),
    ("supervisor.listening", &[Imaged]),
    ("supervisor.accepted", &[Imaged]),
    ("supervisor.ordered", &[Imaged, Plain, Bridged]),
    ("supervisor.killed-all", &[Imaged, Unprivileged]),
    ("ending.init-reaped", &[Imaged, Brief, Plain]),
    ("ending.rest-killed", &[Imaged, Plain]),
    ("ending.output-kept", &[Imaged]),
    ("ending.group-removed", &[Imaged]),
    ("handoff.exit-written", &[Imaged, Void]),
    ("ending.exit-sent", &[Imaged]),
    ("ending.control-removed", &[Imaged]),
    ("ending.refused", &[Void]),
    ("init.begun", &[Imaged, Plain, Unprivileged]),
    ("init.users-mapped", &[Imaged]),
    ("init.secrets-unlocked", &[Imaged]),
    ("init.volumes-shown", &[Imaged]),
    ("init.root-laid", &[Imaged, Brief]),
    ("init.host-left", &[Imaged, Brief]),
    ("init.view-entered", &[Imaged, Plain, Unprivileged]),
    ("init.descriptors-closed", &[Imaged, Plain]),
    ("init.domain-entered", &[Imaged]),
    ("init.user-found", &[Imaged]),
    ("init.leave-taken", &[Imaged, Plain, Unprivileged]),
    ("command.settled", &[Imaged, Plain]),
    ("init.command-made", &[Imaged, Plain, Unprivileged, Bridged]),
    ("init.start-sent", &[Imaged, Plain]),
    ("init.command-reaped", &[Brief]),
    ("init.end-sent", &[Brief]),
    ("init.entry-made", &[Imaged]),
    ("entry.begun", &[Imaged]),
    ("entry.command-made", &[Imaged]),
    ("entry.start-sent", &[Imaged]),
    ("unpack.begun", &[Archived]),
    ("unpack.files-received", &[Archived]),
    ("unpack.worker-made", &[Archived, Layered]),
    ("unpack.users-mapped", &[Archived, Layered]),
    ("unpack.leave-given", &[Archived, Layered]),
    ("unpack.leave-taken", &[Archived, Layered]),
    ("unpack.confined", &[Archived, Layered]),
    ("unpack.file-written", &[Archived, Layered]),
    ("unpack.ended", &[Archived, Layered]),
    ("unpack.worker-reaped", &[Archived]),
];

/// The steps of the agent itself.
const OF_AGENTS: &[(&str, &[CrashScenario])] = &[
    ("agent.request-sent", &[Imaged, Plain, Void]),
    ("adopt.claimed", &[Imaged]),
    ("adopt.connected", &[Imaged]),
    ("destroy.voided", &[Imaged, Orphaned]),
    ("destroy.group-killed", &[Imaged, Orphaned]),
    ("destroy.processes-ended", &[Imaged]),
    ("destroy.group-removed", &[Imaged, Orphaned]),
    ("destroy.control-removed", &[Orphaned]),
    ("agent.unpacking-asked", &[Archived, Layered]),
    ("disposal.moved-up", &[Emptied]),
    ("disposal.emptied", &[Emptied]),
];

const OF_NETWORKS: &[&str] = &[
    "network.forwarding-of-ipv6-set",
    "network.table-replaced",
    "network.address-taken",
    "network.namespace-made",
    "network.device-made",
    "network.connected",
    "network.assigned",
    "network.port-recorded",
    "network.published",
    "network.withdrawn",
    "network.port-returned",
    "network.address-returned",
    "network.devices-removed",
    "network.table-removed",
];

/// The steps of networks by plugins.
const OF_PLUGINS: &[(&str, &[CrashScenario])] = &[
    ("cni.recorded", &[Plugged]),
    ("cni.namespace-file-made", &[Plugged]),
    ("cni.namespace-bound", &[Plugged]),
    ("cni.plugin-added", &[Plugged]),
    ("cni.result-kept", &[Plugged]),
    ("cni.plugin-deleted", &[Plugged]),
    ("cni.namespace-removed", &[Plugged]),
    ("cni.record-removed", &[Plugged]),
];

/// Allocates by creating a file, and releases by removing it. Like the upstream plugins, it fails
/// for a file that is no namespace.
const PLUGIN: &str = r#"#!/bin/sh
held=$(dirname "$0")/../held/$CNI_CONTAINERID
cat > /dev/null
[ -z "$CNI_NETNS" ] || [ "$(stat -f -c %t "$CNI_NETNS")" = 6e736673 ] || exit 1
case $CNI_COMMAND in
  ADD) echo "$CNI_NETNS" > "$held"; echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.7/24"}]}' ;;
  DEL) rm -f "$held" ;;
esac
"#;
const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "blue", "plugins": [{"type": "wire"}]}"#;

/// The parameters of a run, in a file.
#[derive(Debug, Serialize, Deserialize)]
struct RunParameters {
    scenario: CrashScenario,
    whose: CrashTarget,
    step: String,
    /// The name of the agent's cgroup tree.
    agent: ContainerId,
    /// The agent's data directory.
    work: PathBuf,
    /// The only layer of the image.
    layer: PathBuf,
    witness: PathBuf,
}

/// Returns the directory of containers, separate from the agent's other data.
fn containers(work: &Path) -> PathBuf {
    work.join("containers")
}

fn settings(work: &Path) -> NetworkConfig {
    NetworkConfig {
        owner: work.to_owned(),
        directory: work.join("networks"),
        subnet: Subnet::DEFAULT,
        subnet6: Some(networks::PREFIX6.parse().unwrap()),
        pool_size: 1,
        traffic: InterContainerTraffic::Isolated,
        blocks_metadata: true,
        denied: Vec::new(),
    }
}

impl RunParameters {
    fn tree(&self) -> CgroupTree {
        CgroupTree::create(&cgroup::default_parent().unwrap(), &self.agent).unwrap()
    }

    fn launcher(&self, tree: &CgroupTree) -> Launcher {
        let mut command = launcher::own_executable().unwrap();
        command.arg("launcher");
        if self.whose == CrashTarget::Launcher {
            command.arg(&self.step).arg(&self.witness);
        }
        Launcher::spawn(&command, Some(tree)).unwrap()
    }

    fn spec(&self, tree: &CgroupTree, name: &str) -> LaunchSpec {
        let line = if self.scenario == Brief {
            "exit 7"
        } else {
            SLEEP
        };
        let mut spec = spec_in(&containers(&self.work), name, line);
        spec.cgroup = Some(tree.group(&spec.id).path().to_owned());
        spec.user = Some(ContainerUser {
            uid: COMMAND_ID,
            gid: COMMAND_ID,
            groups: Vec::new(),
        });
        match self.scenario {
            Plain => {
                spec.isolation = Isolation::Processes;
                spec.namespaces = Namespaces::NONE;
                (spec.cgroup, spec.user) = (None, None);
            }
            Unprivileged => {
                spec.isolation = Isolation::UserNamespaces;
                (spec.cgroup, spec.user) = (None, None);
            }
            Imaged | Brief | Void | Orphaned | Bridged | Plugged | Archived | Layered | Emptied => {
                spec.profile = Some(self.profile(&spec));
                give_sandbox(&spec);
            }
        }
        match self.scenario {
            Imaged => (spec.user, spec.image_user) = (None, Some(String::new())),
            Bridged => spec.network = Network::Joined,
            Brief | Plain | Unprivileged | Void | Orphaned | Plugged | Archived | Layered
            | Emptied => {}
        }
        spec
    }

    /// Returns one volume of each kind, where their mount points can be created.
    fn volumes(&self) -> Vec<Volume> {
        if self.scenario != Imaged {
            return Vec::new();
        }
        let directory = self.layer.with_file_name("secrets");
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&directory)
            .unwrap();
        fs::write(directory.join("key"), "s3cret").unwrap();
        let secret = VolumeSource::Secret(SecretFile {
            directory,
            name: "key".into(),
        });
        let volumes = [
            ("/data", VolumeSource::Sandbox("data".into())),
            ("/scratch", VolumeSource::Tmpfs { bytes: 65_536 }),
            ("/secrets/key", secret),
        ];
        let volume = |(path, source): (&str, VolumeSource)| Volume {
            path: path.into(),
            read_only: false,
            source,
        };
        volumes.map(volume).into()
    }

    fn profile(&self, spec: &LaunchSpec) -> IsolationProfile {
        let [upper, work] = ["upper", "work"].map(|name| spec.directory.join(name));
        let root = if self.scenario == Imaged {
            for dir in [&upper, &work] {
                fs::create_dir(dir).unwrap();
            }
            RootFs::Image(Image {
                layers: vec![self.layer.clone()],
                upper,
                work,
            })
        } else {
            RootFs::Host
        };
        IsolationProfile {
            first_host_id: FIRST_HOST_ID,
            view: MountSpec {
                root,
                host_paths: Vec::new(),
                volumes: self.volumes(),
                tmp_bytes: 1 << 20,
                shm_bytes: 1 << 20,
            },
            isolation_layers: IsolationLayers::ALL,
        }
    }

    fn cni(&self) -> Cni {
        Cni {
            plugins: vec![self.layer.with_file_name("plugins")],
            records: self.work.join("cni/records"),
            namespaces: self.work.join("cni/namespaces"),
            timeout: TIMEOUT,
        }
    }

    fn list(&self) -> NetworkConfList {
        let list = self.layer.with_file_name("blue.conflist");
        fs::write(&list, LIST).unwrap();
        NetworkConfList::read(&list).unwrap()
    }

    /// Runs the scenario to its end, or to the first error after a process has died.
    fn live(&self) -> Result<()> {
        let tree = self.tree();
        let mut launcher = self.launcher(&tree);
        let spec = self.spec(&tree, "first");
        let group = spec.cgroup.as_deref();
        match self.scenario {
            Imaged | Orphaned => {
                let mut container = launcher.launch(&spec)?;
                let handle = started(&mut container)?;
                exec(&container)?;
                drop(container);
                let mut container = adopted(&spec)?;
                if self.scenario == Orphaned {
                    drop(container);
                    nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(handle.supervisor.pid),
                        nix::sys::signal::SIGKILL,
                    )?;
                } else {
                    ended(&mut container)?;
                }
            }
            Brief => drop(launcher.launch(&spec)?.wait(TIMEOUT)?),
            Plain | Unprivileged => {
                let mut container = launcher.launch(&spec)?;
                started(&mut container)?;
                ended(&mut container)?;
            }
            Void => {
                let Adoption::Gone { .. } = adopt(&spec.directory)? else {
                    bail!("what was never launched is found");
                };
                launcher.launch(&spec)?.wait(TIMEOUT)?;
            }
            Bridged => {
                let networks = Networks::open(settings(&self.work), &BTreeSet::new())?;
                let given = networks.acquire(&spec.id, &[web(8080)])?;
                let mut container = launcher.launch_joined(&spec, given.namespace.as_fd())?;
                drop(given);
                started(&mut container)?;
                ended(&mut container)?;
                destroy(&spec.directory, group, TIMEOUT)?;
                networks.release(&spec.id)?;
                networks.remove()?;
            }
            Plugged => {
                let cni = self.cni();
                drop(cni.add(&spec.id, &self.list(), &[])?);
                cni.delete(&spec.id)?;
            }
            Archived => unpacking::keep(&mut launcher, &self.work, UnpackLimits::archive())?,
            Layered => unpacking::keep(&mut launcher, &self.work, UnpackLimits::layer())?,
            Emptied => fill_and_remove(&self.work.join(FILLED))?,
        }
        destroy(&spec.directory, group, TIMEOUT)?;
        Ok(())
    }

    /// Recovers as the next agent does, whatever it finds.
    fn recover(&self, bridged: bool) {
        let tree = self.tree();
        let known = fs::read_dir(containers(&self.work))
            .into_iter()
            .flatten()
            .flatten();
        for dir in known.map(|entry| entry.path()) {
            if let Adoption::Running(mut container) = adopt(&dir).unwrap() {
                ended(&mut container).unwrap();
            }
            let id = ContainerId::new(dir.file_name().unwrap().to_str().unwrap()).unwrap();
            destroy(&dir, Some(tree.group(&id).path()), TIMEOUT).unwrap();
            // A supervisor whose start is cancelled by now may still be writing its error there.
            eventually("the directory is removed", || {
                fs::remove_dir_all(&dir).is_ok() || !dir.exists()
            });
        }
        clean_up_abandoned(&tree, &BTreeSet::new(), TIMEOUT).unwrap();
        self.cni().sweep(&BTreeSet::new()).unwrap();
        if bridged {
            let networks = Networks::open(settings(&self.work), &BTreeSet::new()).unwrap();
            networks.remove().unwrap();
        }
        // The next agent continues to work.
        let after = Self {
            scenario: Brief,
            whose: CrashTarget::Agent,
            ..self.again()
        };
        let mut launcher = after.launcher(&tree);
        match self.scenario {
            Archived => unpacking::recover(&mut launcher, &self.work, UnpackLimits::archive()),
            Layered => unpacking::recover(&mut launcher, &self.work, UnpackLimits::layer()),
            Emptied => remove_dir_all(&self.work.join(FILLED)).unwrap(),
            Imaged | Brief | Plain | Unprivileged | Void | Orphaned | Bridged | Plugged => {}
        }
        // No agent reuses a container id: a late launch must not meet the new container.
        let spec = after.spec(&tree, "next");
        let exit = launcher.launch(&spec).unwrap().wait(TIMEOUT).unwrap();
        assert_eq!(exit.outcome, CommandOutcome::Exited(7), "{}", exit.reason);
        destroy(&spec.directory, spec.cgroup.as_deref(), TIMEOUT).unwrap();
        drop(launcher);
        eventually("every supervisor ends", || tree.remove().is_ok());
        // State of plugins is not among these.
        for name in ["containers", "networks", "cni"] {
            // The others exist only where there were networks.
            let _ = fs::remove_dir_all(self.work.join(name));
        }
    }

    fn again(&self) -> Self {
        Self {
            step: self.step.clone(),
            agent: self.agent.clone(),
            work: self.work.clone(),
            layer: self.layer.clone(),
            witness: self.witness.clone(),
            ..*self
        }
    }
}

fn started(container: &mut Container) -> Result<Handle> {
    let started = container.wait_started(TIMEOUT)?;
    started.map_err(|exit| anyhow::anyhow!("it has not started: {exit}"))
}

fn adopted(spec: &LaunchSpec) -> Result<Container> {
    match adopt(&spec.directory)? {
        Adoption::Running(container) => Ok(container),
        other => bail!("it is gone: {other:?}"),
    }
}

/// Runs an exec command that does not end before its session does.
fn exec(container: &Container) -> Result<()> {
    let mut session = container.exec(&exec_confinement::request(SLEEP))?;
    session.wait(TIMEOUT).context("it cannot be entered")?;
    // A process that has reported the start passes this point before the end.
    session.signal(9)?;
    session.wait(TIMEOUT).context("it does not end")?;
    Ok(())
}

/// Fills a directory and removes it.
fn fill_and_remove(directory: &Path) -> Result<()> {
    for inner in ["a/b/c", "d/e"] {
        fs::create_dir_all(directory.join(inner))?;
        fs::write(directory.join(inner).join("file"), "")?;
    }
    Ok(remove_dir_all(directory)?)
}

fn ended(container: &mut Container) -> Result<Exit> {
    container.kill(0)?;
    Ok(container.wait(TIMEOUT)?)
}

/// The agent's side: a separate program that may be killed.
pub(crate) fn run_scenario(arguments: &[String]) -> ExitCode {
    let script: RunParameters = serde_json::from_slice(&fs::read(&arguments[0]).unwrap()).unwrap();
    if script.whose == CrashTarget::Agent {
        crash_points::arm(&script.step, 1, &script.witness).unwrap();
    }
    match script.live() {
        Ok(()) => ExitCode::SUCCESS,
        // Not a failure by itself: a process has died.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Creates an image's only layer: a shell and what it needs.
fn layer(directory: &Path) -> PathBuf {
    let (layer, programs) = (directory.join("layer"), directory.join("layer/bin"));
    fs::create_dir_all(&programs).unwrap();
    if fs::copy(BUSYBOX, programs.join("busybox")).is_err() {
        skip("needs the package busybox-static".to_owned());
    }
    for tool in ["sh", "sleep"] {
        std::os::unix::fs::symlink("busybox", programs.join(tool)).unwrap();
    }
    layer
}

/// Runs one scenario in which a process dies, and the recovery after it.
fn crash_at(step: &str, scenario: CrashScenario, target: CrashTarget) {
    let directory = tempfile::tempdir().unwrap();
    let work = directory.path().join("work");
    fs::create_dir_all(&work).unwrap();
    let script = RunParameters {
        scenario,
        whose: target,
        step: step.to_owned(),
        agent: ContainerId::new(format!("crash-{}", std::process::id())).unwrap(),
        layer: layer(directory.path()),
        witness: directory.path().join("witness"),
        work: work.clone(),
    };
    let tree = cgroup::default_parent()
        .unwrap()
        .join("argosy")
        .join(script.agent.as_str());
    let held = directory.path().join("held");
    fs::create_dir(&held).unwrap();
    let audit = LeakAudit::begin(AuditScope {
        directories: vec![work.clone()],
        emptied: vec![work, held],
        groups: vec![tree],
        holders: vec![std::process::id()],
        alone_in_network: scenario == Bridged,
        ..AuditScope::default()
    });
    let plugins = directory.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::write(plugins.join("wire"), PLUGIN).unwrap();
    fs::set_permissions(plugins.join("wire"), fs::Permissions::from_mode(0o755)).unwrap();
    let file = directory.path().join("script");
    fs::write(&file, serde_json::to_vec(&script).unwrap()).unwrap();
    let mut agent = Command::new("/proc/self/exe")
        .arg(SCENARIO)
        .arg(&file)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    eventually(
        &format!("the agent exits after the crash at {step}"),
        || agent.try_wait().unwrap().is_some(),
    );
    // Printed for the case that a wait below times out.
    eprintln!("a crash at {step}, in scenario {scenario:?}");
    // Some continue for a moment after the agent's exit.
    eventually(
        &format!("a process passes {step} in scenario {scenario:?}"),
        || crash_points::passes(&script.witness).is_ok_and(|passes| passes > 0),
    );
    script.recover(scenario == Bridged);
    audit.expect_nothing_left(&format!(
        "after a crash at {step}, in scenario {scenario:?}"
    ));
}

fn crash_at_each(steps: &[(&str, &[CrashScenario])], target: CrashTarget, on_a_host: bool) {
    if !crash_points::IS_ON {
        skip("this build has no crash points".to_owned());
    }
    let begun = Instant::now();
    let mut runs = 0;
    for (step, of_step) in steps {
        for scenario in of_step
            .iter()
            .filter(|scenario| (**scenario == Bridged) == on_a_host)
        {
            crash_at(step, *scenario, target);
            runs += 1;
        }
    }
    println!("{runs} scenarios in {} ms", begun.elapsed().as_millis());
}

fn of_launchers() {
    crash_at_each(OF_LAUNCHERS, CrashTarget::Launcher, false);
}

fn of_agents() {
    crash_at_each(OF_AGENTS, CrashTarget::Agent, false);
    crash_at_each(OF_PLUGINS, CrashTarget::Agent, false);
}

fn of_networks() {
    on_a_host(|_| {
        crash_at_each(OF_LAUNCHERS, CrashTarget::Launcher, true);
        let steps: Vec<_> = OF_NETWORKS
            .iter()
            .map(|step| (*step, &[Bridged][..]))
            .collect();
        let before = networks6::forwarding_settings();
        crash_at_each(&steps, CrashTarget::Agent, true);
        assert_eq!(networks6::forwarding_settings(), before);
    });
}

/// Checks that every crash point of the product is tested here.
fn all_driven() {
    let mut driven: Vec<_> = OF_LAUNCHERS
        .iter()
        .chain(OF_AGENTS)
        .map(|(step, _)| *step)
        .collect();
    driven.extend(OF_NETWORKS);
    driven.extend(disks::OF_FILE_SYSTEMS);
    driven.extend(disks::OF_QUOTAS);
    driven.extend(OF_PLUGINS.iter().map(|(step, _)| *step));
    driven.sort_unstable();
    let mut listed = crash_steps::STEPS.to_vec();
    listed.sort_unstable();
    assert_eq!(driven, listed);
}
