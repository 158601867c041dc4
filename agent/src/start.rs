//! Startup of an agent: detection and preparation before its loop runs.

use argosy_host::crash_point;
use argosy_isolation::{
    Cgroup, CgroupTree, Isolation, Limits, OutputLimits, RemovalError, cgroup, clean_up_abandoned,
};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argosy_isolation::division::HostUser;
use argosy_proto::clock::WallClock;
use argosy_state::agent::AgentInfo;
use argosy_state::capability::AgentCapability;
use argosy_state::ids::Timestamp;
use argosy_state::task::SecurityOptions;

use crate::config::{Config, ContainerSettings, DefaultLimits};
use crate::core::{AgentState, CoreConfig, DiskDefault};
use crate::error::RunError;
use crate::host::HostFeatures;
use crate::journal::JournalContents;
use crate::paths::Paths;
use crate::reach::EgressRules;
use crate::runner::Runner;
use crate::runner::sizes::largest;

impl HostFeatures {
    pub(crate) fn detect(config: &Config, paths: &Paths) -> Result<Self, RunError> {
        let isolation = config.isolation()?;
        crate::runner::check_devices(&config.devices).map_err(|remedy| RunError::Config {
            flag: "--device",
            value: config
                .devices
                .keys()
                .cloned()
                .collect::<Vec<_>>()
                .join(", "),
            remedy,
        })?;
        crate::disk::check(config.disk_enforcement, isolation, paths.root()).map_err(|remedy| {
            RunError::Config {
                flag: "--disk-enforcement",
                value: config.disk_enforcement.name().to_owned(),
                remedy,
            }
        })?;
        let limits = Limits {
            cpu_weight: Some(1),
            memory_max_bytes: Some(1),
            pids_max: Some(1),
            ..Limits::default()
        };
        let nowhere = |missing| Self {
            isolation,
            tree: None,
            missing,
            task_subnets: None,
        };
        let name = paths.tree_name();
        let tree = cgroup::parent_of(&name).and_then(|parent| CgroupTree::create(&parent, &name));
        let tree = match tree {
            Ok(tree) => tree,
            Err(error) if isolation == Isolation::Full => return Err(error.into()),
            // Without root a cgroup may be unavailable: then nothing is limited, which must be
            // allowed too.
            Err(_) => {
                let missing = limits.missing(&[]).controllers;
                return Self::check_missing(
                    config,
                    nowhere(missing),
                    PathBuf::from("/sys/fs/cgroup"),
                );
            }
        };
        let missing = tree.missing(&limits)?.controllers;
        protect(&tree, config, &missing);
        let group = tree.root().to_owned();
        let host = Self {
            isolation,
            tree: Some(group.clone()),
            missing,
            task_subnets: None,
        };
        let mut host = Self::check_missing(config, host, group)?;
        host.log_filters(&tree, &EgressRules::new(config, None));
        Ok(host)
    }

    /// Adds filters that are second isolation layers: without them tasks run all the same, and they
    /// are reported like missing controllers.
    fn log_filters(&mut self, tree: &CgroupTree, reach: &EgressRules) {
        let closed = reach.blocked().closed().apply(tree.root());
        let content = reach.blocked_for_content().closed();
        if let Err(error) = closed.and_then(|()| content.apply(&tree.content())) {
            tracing::warn!(%error, "this host allows no filter of the cluster's ports and of metadata services for tasks");
            self.missing.push(crate::metrics::EGRESS.to_owned());
        }
        if self.isolation != Isolation::Full {
            return;
        }
        if let Err(error) = argosy_isolation::port_filter::supported() {
            let ports = argosy_isolation::port_filter::unenforced_name(true);
            tracing::warn!(%error, ports, "this host allows no port filter for tasks in its network");
            self.missing.push(ports.to_owned());
        }
        if let Err(error) = argosy_isolation::device_filter::supported() {
            tracing::warn!(%error, "this host allows no device filter; containers see only their own devices");
            self.missing.push("devices".to_owned());
        }
    }

    fn check_missing(config: &Config, host: Self, group: PathBuf) -> Result<Self, RunError> {
        if host.missing.is_empty() || config.allow_missing_controllers {
            return Ok(host);
        }
        Err(RunError::MissingControllers {
            controllers: host.missing.join(", "),
            group,
        })
    }
}

/// Protects the requested memory of tasks from reclaim by other processes: as far as their tree is
/// protected.
fn protect(tree: &CgroupTree, config: &Config, missing: &[String]) {
    if missing.iter().any(|name| name == "memory") {
        return;
    }
    let milli = config.resources.scalar_milli("mem");
    let bytes = u64::try_from(milli).unwrap_or(0).saturating_mul(1 << 20) / 1_000;
    if let Err(error) = tree.protect(bytes) {
        let why = crate::error::error_chain(&error);
        tracing::warn!(why, "the requested memory of tasks is not protected");
    }
}

/// Removes the cgroup tree of the agent of `directory`, and ends all processes in it. Only while no
/// agent uses the directory. It is no error if there is no tree.
///
/// # Errors
/// If processes do not end within `timeout`, or a group cannot be removed.
pub fn remove_tree(directory: &Path, timeout: Duration) -> Result<(), RemovalError> {
    let name = Paths::new(directory).tree_name();
    let Ok(parent) = cgroup::parent_of(&name) else {
        return Ok(());
    };
    if !parent.join("argosy").join(name.as_str()).is_dir() {
        return Ok(());
    }
    let tree = CgroupTree::create(&parent, &name)?;
    clean_up_abandoned(&tree, &BTreeSet::new(), timeout)?;
    Cgroup::at(&tree.supervisors()).remove(timeout)?;
    Cgroup::at(&tree.content()).remove(timeout)?;
    Ok(tree.remove()?)
}

/// Checks that the user of a divided agent can search all directories above its own.
pub(crate) fn is_reachable(directory: &Path, user: HostUser) -> Result<(), RunError> {
    let failed = |source| RunError::Directory {
        path: directory.to_owned(),
        source,
    };
    let whole = std::fs::canonicalize(directory).map_err(failed)?;
    let owner = std::fs::metadata(&whole).map_err(failed)?.uid();
    if owner != 0 {
        let why = format!("it belongs to user {owner}; give it to root");
        return Err(failed(std::io::Error::other(why)));
    }
    for above in whole.ancestors().skip(1) {
        let found = std::fs::metadata(above).map_err(failed)?;
        let shift = match (found.uid() == user.uid, found.gid() == user.gid) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        if (found.mode() >> shift) & 1 == 0 {
            return Err(RunError::Unreachable {
                directory: directory.to_owned(),
                closed: above.to_owned(),
                user: user.uid,
            });
        }
    }
    Ok(())
}

pub(crate) fn log_damage(contents: &JournalContents, paths: &Paths) {
    let journal = paths.journal();
    let damages = contents.damage.len() + usize::from(contents.head_repaired);
    metrics::counter!("argosy_agent_journal_corruptions_total").increment(damages as u64);
    if contents.head_repaired {
        tracing::error!(
            journal = %journal.display(),
            "one bit of the journal's head is wrong: the journal is written again with the right one, and nothing is lost"
        );
    }
    for damage in &contents.damage {
        tracing::error!(
            journal = %journal.display(),
            offset = damage.offset,
            bytes = damage.bytes,
            "a part of the journal is damaged: its records are lost, the masters repair what they can"
        );
    }
    for instance in &contents.lost {
        tracing::error!(
            journal = %journal.display(),
            order = instance.order.0,
            "the record of this order's launch is lost: its container is ended, and its master reports it as gone"
        );
    }
    if contents.torn_bytes > 0 {
        let bytes = contents.torn_bytes;
        tracing::info!(journal = %journal.display(), bytes, "an incomplete write of a crash is dropped");
    }
}

pub(crate) fn clear_orphans(runner: &Runner, facts: &AgentState) -> Result<(), RunError> {
    let known = facts.known_containers();
    let removed = runner
        .clear_orphans(&known)
        .map_err(|source| RunError::Orphans { source })?;
    crash_point!("begin.orphans-cleared");
    if removed > 0 {
        tracing::warn!(removed, "orphans were ended");
    }
    Ok(())
}

pub(crate) fn seed(config: &Config) -> Result<u64, RunError> {
    if config.seed != 0 {
        return Ok(config.seed);
    }
    let path = PathBuf::from("/dev/urandom");
    let mut bytes = [0; 8];
    let read = File::open(&path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|source| RunError::Host { path, source })?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Returns the offset from the boot clock, which shows `now`, to the time of day, in milliseconds.
pub(crate) fn wall_offset_ms(wall: &WallClock, now: Timestamp) -> i64 {
    let boot_ms = i64::try_from(now.0).unwrap_or(i64::MAX);
    wall.now_ms().saturating_sub(boot_ms)
}

pub(crate) fn core_config(
    config: &Config,
    host: &HostFeatures,
    boot_id: String,
    contents: &JournalContents,
    seed: u64,
    wall_offset_ms: i64,
) -> CoreConfig {
    CoreConfig {
        info: AgentInfo {
            host_name: config.host_name.clone(),
            address: config.address.clone(),
            resources: config.resources.clone(),
            attributes: config.attributes.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            missing_controllers: host.missing.clone(),
            isolation: host.isolation.name().to_owned(),
            changes_limits: true,
            capabilities: AgentCapability::announced(),
            allowed_security_options: permitted_options(config, host.isolation),
            largest_sizes: largest(config.largest_sizes, host.isolation),
        },
        boot_id,
        journal_damaged: !contents.damage.is_empty(),
        executor_timeout_ms: config.executor_registration_timeout_ms,
        disk_default: DiskDefault(config.default_disk_bytes),
        adoption: config.adoption,
        seed,
        wall_offset_ms,
    }
}

/// Returns the permitted security options: without full isolation, only that of the host network.
fn permitted_options(config: &Config, isolation: Isolation) -> SecurityOptions {
    if isolation == Isolation::Full {
        return config.allowed_security_options.clone();
    }
    SecurityOptions {
        host_network: config.allowed_security_options.host_network,
        ..SecurityOptions::default()
    }
}

pub(crate) fn container_settings(
    config: &Config,
    host: &HostFeatures,
    seed: u64,
) -> ContainerSettings {
    ContainerSettings {
        address: config.address.clone(),
        task_address: config.task_address(),
        isolation: host.isolation,
        allow_missing_controllers: config.allow_missing_controllers,
        secret_dir: config.secret_dir.clone(),
        allowed_security_options: config.allowed_security_options.clone(),
        largest_sizes: largest(config.largest_sizes, host.isolation),
        devices: config.devices.clone(),
        defaults: DefaultLimits {
            pids_max: config.pids_max,
            memory_bytes: config.default_memory_bytes,
        },
        disk_default: DiskDefault(config.default_disk_bytes),
        disk_floor_bytes: config.disk_floor_bytes,
        output: OutputLimits {
            file_bytes: config.log_file_bytes,
            files: config.log_files,
            ..OutputLimits::DEFAULT
        },
        seed,
    }
}
