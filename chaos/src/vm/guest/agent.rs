//! The agent of the machine: the release executable with full isolation, its whole state on its own
//! disk, and the state of its tasks after a boot.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use argosy_proto::v1;
use argosy_testbed::command_lines::{AgentFlags, MemberTransport};
use argosy_testbed::processes::{LaunchMethod, ManagedProcess, ProcessSpec, last_lines};
use tokio::time::Instant;

use super::cluster::{self, POLL_INTERVAL};
use super::{AGENT_DISK, disks, images, show};

/// The name of its host, by which the registry's agents are distinguished: the load writes to
/// others.
pub(super) const HOST_NAME: &str = "host-with-tasks";
const ADDRESS: &str = "127.0.0.4:5051";
const LOG: &str = "/run/agent.log";
const LOG_TAIL_LINES: usize = 25;
const CGROUPS: &str = "/sys/fs/cgroup/argosy";

/// The agent. It is killed when this value is dropped.
pub(super) struct GuestAgent {
    process: ManagedProcess,
}

/// Returns the directory that all tasks share.
pub(super) fn shared() -> PathBuf {
    disks::directory(AGENT_DISK).join("shared")
}

/// Returns the file in which each task records its start.
pub(super) fn starts_file() -> PathBuf {
    shared().join("starts")
}

/// Returns the last output of the agent.
pub(super) fn log_tail() -> String {
    last_lines(Path::new(LOG), LOG_TAIL_LINES).replace('\n', " | ")
}

impl GuestAgent {
    /// Starts the agent on its disk.
    pub(super) fn start() -> anyhow::Result<Self> {
        prepare_shared().with_context(|| format!("cannot prepare {}", shared().display()))?;
        fs::create_dir_all(images::directory())?;
        let data_dir = disks::directory(AGENT_DISK).join("agent");
        let flags = AgentFlags {
            listen: ADDRESS,
            masters: &cluster::addresses(),
            data_dir: &data_dir,
            resources: "cpus:4;mem:512",
            transport: &MemberTransport::Plaintext,
        };
        let shared = shared().display().to_string();
        let images = images::directory().display().to_string();
        // There is no nft to give tasks networks.
        let more = [
            "--host-name",
            HOST_NAME,
            "--isolation",
            "full",
            "--allow-host-network",
            "--host-path",
            &shared,
            "--image-dir",
            &images,
        ];
        let mut process = ManagedProcess::new(ProcessSpec {
            name: "agent".into(),
            launch: LaunchMethod::Plain,
            program: "argosy".into(),
            arguments: flags.arguments(&more),
            log: LOG.into(),
        });
        process.start()?;
        Ok(Self { process })
    }

    /// Fails if the agent has ended.
    pub(super) fn check_running(&mut self) -> anyhow::Result<()> {
        match self.process.exit_status() {
            Some(status) => bail!("the agent has ended by itself ({status}): {}", log_tail()),
            None => Ok(()),
        }
    }

    /// Waits until the agent is connected to the leader. Returns its id in the registry.
    pub(super) async fn wait_until_connected(
        &mut self,
        timeout: Duration,
    ) -> anyhow::Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            self.check_running()?;
            let request = v1::ListRequest {
                filter: [("host_name".to_owned(), HOST_NAME.to_owned())].into(),
                consistency: v1::Consistency::Linearizable.into(),
                ..Default::default()
            };
            let page = cluster::client()?.list_agents(request).await?;
            if let Some(agent) = page.agents.into_iter().find(|agent| agent.connected) {
                return Ok(agent.agent_id);
            }
            if Instant::now() > deadline {
                bail!("the agent has not returned in time: {}", log_tail());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until all tasks have ended and nothing of them is left, or until the timeout. Returns
    /// the tasks, and what is left.
    pub(super) async fn wait_until_quiet(
        &mut self,
        agent_id: &str,
        timeout: Duration,
    ) -> anyhow::Result<(Vec<v1::Task>, Vec<String>)> {
        let deadline = Instant::now() + timeout;
        loop {
            self.check_running()?;
            let left = left(agent_id)?;
            let is_quiet = left.is_empty() && tasks(TaskScope::Live).await?.is_empty();
            if is_quiet || Instant::now() > deadline {
                if !is_quiet {
                    // The host reports the tasks that remain.
                    show(&format!("agent: {}", log_tail()));
                }
                return Ok((tasks(TaskScope::All).await?, left));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Creates the file of the starts, if it does not exist. Tasks of any user append to it.
fn prepare_shared() -> std::io::Result<()> {
    fs::create_dir_all(shared())?;
    fs::set_permissions(shared(), fs::Permissions::from_mode(0o777))?;
    let file = File::options()
        .create(true)
        .append(true)
        .open(starts_file())?;
    file.set_permissions(fs::Permissions::from_mode(0o666))?;
    file.sync_all()
}

/// Returns the ids of tasks in the file of starts, once for each start.
pub(super) fn starts() -> anyhow::Result<Vec<String>> {
    let file = starts_file();
    let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(complete_records(&bytes))
}

/// Returns the complete records. A record is `\nID;\n`. Of one that was not synced at a cut, a part
/// may be missing or zero.
fn complete_records(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let ids = text.lines().filter_map(|line| line.strip_suffix(';'));
    let is_id = |id: &&str| {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        id.split_once('-')
            .is_some_and(|(boot, number)| is_number(boot) && is_number(number))
    };
    ids.filter(is_id).map(str::to_owned).collect()
}

/// The tasks of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskScope {
    Live,
    All,
}

/// Returns tasks of the registry, from linearizable reads.
async fn tasks(scope: TaskScope) -> anyhow::Result<Vec<v1::Task>> {
    let client = cluster::client()?;
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let request = v1::ListRequest {
            page_token: token,
            consistency: v1::Consistency::Linearizable.into(),
            include_ended: scope == TaskScope::All,
            ..Default::default()
        };
        let page = client.list_tasks(request).await?;
        found.extend(page.tasks);
        token = page.next_page_token;
        if token.is_empty() {
            return Ok(found);
        }
    }
}

/// Returns the processes and cgroups of tasks.
fn left(agent_id: &str) -> anyhow::Result<Vec<String>> {
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // A process may end at any time, and those of the kernel have no environment.
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        if let Some(task) = variables.find(|variable| variable.starts_with(b"ARGOSY_TASK_ID=")) {
            let task = String::from_utf8_lossy(task);
            left.push(format!("process {} with {task}", path.display()));
        }
    }
    let container = format!("{agent_id}-");
    add_cgroups(Path::new(CGROUPS), &container, &mut left);
    Ok(left)
}

/// Adds the cgroups below a directory whose names begin with `container`.
fn add_cgroups(directory: &Path, container: &str, left: &mut Vec<String>) {
    // A cgroup may be removed at any time.
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.path().is_dir()) {
        if entry.file_name().to_string_lossy().starts_with(container) {
            left.push(format!("cgroup {}", entry.path().display()));
        }
        add_cgroups(&entry.path(), container, left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_records_of_starts_count() {
        let bytes = b"\n1-1;\n\n1-2;\n\0\0\0\0\n1-3;\n\0\x001-4;\n\n1-\n2-1;\n\n2-1;\n\n2-2";
        assert_eq!(complete_records(bytes), ["1-1", "1-2", "1-3", "2-1", "2-1"]);
    }

    #[test]
    fn cgroups_of_containers_are_found_at_any_depth() {
        let root = tempfile::tempdir().unwrap();
        for path in [
            "agent-0a1b/agent-3-7-1",
            "agent-0a1b/x/agent-3-8-1",
            "agent-0a1b/agent-31-7-1",
        ] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let mut left = Vec::new();
        add_cgroups(root.path(), "agent-3-", &mut left);
        assert_eq!(left.len(), 2, "{left:?}");
    }
}
