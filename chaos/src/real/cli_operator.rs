//! An operator that calls the program `argosy` about services, as the workloads of commands and of
//! logs do.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use argosy_testbed::cluster::Cluster;
use argosy_testbed::members::MemberKind;
use tokio::process::Command;

use super::framework::FrameworkProgress;
use super::framework::tasks::has_executor;
use crate::rng::Rng;

pub(super) struct CliOperator {
    argosy: PathBuf,
    /// The flags of masters and transport.
    reach: Vec<String>,
    progress_files: Vec<PathBuf>,
    pub(super) rng: Rng,
}

impl CliOperator {
    pub(super) fn new(cluster: &Cluster, rng: Rng) -> Self {
        let masters = cluster.voters.iter().map(|place| cluster.api(*place));
        let masters: Vec<String> = masters.collect();
        let mut reach = vec!["--masters".to_owned(), masters.join(",")];
        if let Some(certificates) = &cluster.environment.certificates {
            reach.extend(certificates.files("harness").flags());
        }
        let frameworks = cluster.hosts_of(MemberKind::Framework).into_iter();
        Self {
            reach,
            progress_files: frameworks
                .map(|place| cluster.data(place).join("progress"))
                .collect(),
            ..Self::of(cluster.environment.argosy.clone(), rng)
        }
    }

    /// Returns the operator of no cluster.
    pub(super) fn of(argosy: PathBuf, rng: Rng) -> Self {
        Self {
            argosy,
            reach: Vec::new(),
            progress_files: Vec::new(),
            rng,
        }
    }

    /// Returns a random running service, as FRAMEWORK/TASK.
    pub(super) fn any_service(&mut self) -> Option<String> {
        let file = self.rng.pick(&self.progress_files)?.clone();
        let all = services(&file);
        self.rng.pick(&all).cloned()
    }

    /// Returns all running services.
    pub(super) fn all_services(&self) -> Vec<String> {
        let files = self.progress_files.iter();
        files.flat_map(|file| services(file)).collect()
    }

    /// Returns one running service of each framework that has any.
    pub(super) fn one_of_each(&self) -> Vec<String> {
        let files = self.progress_files.iter();
        files
            .filter_map(|file| services(file).into_iter().next())
            .collect()
    }

    /// Returns a command of `argosy` on this cluster. It is killed if its caller drops it.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.argosy);
        command
            .args(words)
            .args(&self.reach)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

/// Returns the running services of the framework that writes this file, as FRAMEWORK/TASK, except
/// those of executors: commands and outputs of these are their executor's.
fn services(progress_file: &Path) -> Vec<String> {
    let progress = FrameworkProgress::read(progress_file);
    let all = progress.services.iter().filter(|task| !has_executor(task));
    all.map(|task| format!("{}/{task}", progress.framework_id))
        .collect()
}
