//! The executables of a run, and the programs of the host that it needs.

use std::path::PathBuf;

use argosy_isolation::cgroup;

use crate::host_tools;

/// Programs that are always required.
const PROGRAMS: [&str; 3] = ["ip", "nft", "nsenter"];

/// The message for a command line that cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// The executables that a run starts.
pub struct TestPrograms {
    pub argosy: PathBuf,
    /// `argosy-chaos`, which has the schedulers and the services of tasks.
    pub chaos: PathBuf,
}

/// Returns the path of this executable.
///
/// # Errors
/// If it cannot be found.
pub fn own_executable() -> Result<PathBuf, UsageError> {
    std::env::current_exe()
        .map_err(|error| UsageError(format!("cannot find this executable: {error}")))
}

/// Returns the programs with which this host can run clusters in namespaces.
///
/// # Errors
/// If this host cannot, or an executable is missing.
pub fn find_programs(argosy: Option<&PathBuf>, chaos: PathBuf) -> Result<TestPrograms, UsageError> {
    let usage = |text: String| UsageError(text);
    if !nix::unistd::geteuid().is_root() {
        return Err(usage(
            "hosts are network namespaces, which only root can create: run it as root".to_owned(),
        ));
    }
    for program in PROGRAMS {
        if host_tools::find(program).is_none() {
            return Err(usage(format!(
                "{program} is not installed: install iproute2, nftables and util-linux"
            )));
        }
    }
    if cgroup::mount_point().is_err() {
        return Err(usage(
            "no cgroup2 file system is mounted on this host".to_owned(),
        ));
    }
    let default = chaos.with_file_name("argosy");
    let argosy = argosy.cloned().unwrap_or(default);
    if !argosy.is_file() {
        return Err(usage(format!(
            "there is no executable {}: name it with --argosy",
            argosy.display()
        )));
    }
    Ok(TestPrograms { argosy, chaos })
}
