//! The actual state of a host (task processes, cgroups, mounts), compared with the registry.
//!
//! It reads the kernel and the registry, and relies on neither agents nor frameworks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use argosy_client::OperatorClient;
use argosy_host::ProcessId;
use argosy_isolation::cgroup;
use argosy_proto::v1;
use argosy_state::ids::{AgentId, FrameworkId, TaskId, TaskKey};
use argosy_state::task::TaskState;
use argosy_testbed::run_directory::RunDirectory;

use crate::history::FinalTask;

/// Maximum number of records in one page.
const PAGE: u32 = 10_000;

/// A process of a task, as reported by the kernel. The first one of a task is its oldest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskProcess {
    pub(crate) task: TaskKey,
    pub(crate) agent: Option<AgentId>,
    pub(crate) start_ticks: u64,
    /// Not the order of starts: numbers begin again.
    pub(crate) pid: i32,
}

/// Returns the processes of all tasks of a run: those in its agents' cgroups, and those that name a
/// sandbox in its directory, in any cgroup.
pub(crate) fn task_processes(directory: &RunDirectory) -> Vec<TaskProcess> {
    let mount = cgroup::mount_point().unwrap_or_default();
    let trees = directory.cgroups();
    let trees: Vec<&Path> = trees
        .iter()
        .filter_map(|tree| tree.strip_prefix(&mount).ok())
        .collect();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let found = pids.filter_map(|pid| task_process(pid, directory.path(), &trees));
    let mut found: Vec<TaskProcess> = found.collect();
    found.sort();
    found
}

fn task_process(pid: i32, directory: &Path, trees: &[&Path]) -> Option<TaskProcess> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let variables: BTreeMap<&str, &str> = text
        .split('\0')
        .filter_map(|word| word.split_once('='))
        .collect();
    let is_named = Path::new(variables.get("ARGOSY_SANDBOX")?).starts_with(directory);
    if !is_named && !is_in(pid, trees) {
        return None;
    }
    let process = ProcessId::of(pid).ok()?;
    if !argosy_testbed::leftovers::is_alive(process) {
        return None;
    }
    Some(TaskProcess {
        task: TaskKey {
            framework: variables
                .get("ARGOSY_FRAMEWORK_ID")?
                .parse::<FrameworkId>()
                .ok()?,
            task: TaskId::new(variables.get("ARGOSY_TASK_ID")?).ok()?,
        },
        agent: variables
            .get("ARGOSY_AGENT_ID")
            .and_then(|id| id.parse().ok()),
        pid,
        start_ticks: process.start_ticks,
    })
}

/// Whether a process is in one of these cgroups or below one.
fn is_in(pid: i32, trees: &[&Path]) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mut own = groups.lines().filter_map(|line| line.strip_prefix("0::/"));
    own.any(|own| trees.iter().any(|tree| Path::new(own).starts_with(tree)))
}

/// Returns every task of the registry that has not ended.
pub(crate) async fn live_tasks(operator: &OperatorClient) -> Result<Vec<v1::Task>> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListRequest {
            page_size: PAGE,
            page_token,
            ..Default::default()
        };
        let page = operator
            .list_tasks(request)
            .await
            .context("cannot list tasks")?;
        all.extend(page.tasks);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        page_token = page.next_page_token;
    }
}

/// Returns a task as a history records it; `None` if it has ended.
pub(crate) fn final_task(task: &v1::Task) -> Option<FinalTask> {
    use v1::TaskState as Wire;
    let state = match task.state() {
        Wire::Staging => TaskState::Staging,
        Wire::Starting => TaskState::Starting,
        Wire::Running => TaskState::Running,
        Wire::Killing => TaskState::Killing,
        Wire::Unreachable => TaskState::Unreachable,
        // These have ended, and the list holds none of them.
        _ => return None,
    };
    Some(FinalTask {
        task: TaskKey {
            framework: task.framework_id.parse::<FrameworkId>().ok()?,
            task: TaskId::new(&task.task_id).ok()?,
        },
        agent: task.agent_id.parse().ok()?,
        state,
    })
}

/// Returns the cgroups of containers in these trees.
pub(crate) fn container_groups(trees: &BTreeSet<PathBuf>) -> Vec<String> {
    let mut found = Vec::new();
    for tree in trees {
        for entry in fs::read_dir(tree).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_container = path.is_dir() && !path.ends_with("supervisors");
            if is_container {
                found.push(format!("cgroup {}", path.display()));
            }
        }
    }
    found
}
