//! Tests of volumes of tasks, and of their disk limits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use argosy_agent::Config;
use argosy_proto::v1;
use argosy_proto::v1::task_volume::Source;
use argosy_testing::skip;

use super::{code, reason, runs, state};
use crate::host::TestHost;
use crate::master::{Master, shell};
use crate::running::{Agent, content};

super::cases!("volumes":
    a_task_has_its_volumes_and_its_secret_is_not_exposed,
    a_missing_secret_fails_the_task_with_a_message,
    an_agent_without_mount_support_rejects_volumes,
    a_task_over_its_disk_limit_fails_with_both_sizes_and_others_continue,
    a_task_without_a_disk_request_has_the_agents_default,
    unlinked_open_files_of_a_task_count_as_its_disk,
    a_file_that_reaches_the_size_limit_ends_its_task,
    a_restarted_agent_measures_the_disk_of_its_tasks,
);

fn volume(path: &str, source: Source) -> v1::TaskVolume {
    v1::TaskVolume {
        container_path: path.into(),
        read_only: false,
        source: Some(source),
    }
}

fn secret(path: &str, name: &str) -> v1::TaskVolume {
    volume(path, Source::Secret(name.into()))
}

/// Creates an operator's directory with a secret of the role `*`.
fn secrets(host: &TestHost, text: &str) -> PathBuf {
    let directory = host.directory.path().join("secrets");
    fs::create_dir_all(directory.join("*")).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(directory.join("*/db"), text).unwrap();
    directory
}

/// Returns all files below a directory that contain this text; links are not followed.
fn files_with(directory: &Path, text: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), text));
        } else if kind.is_file()
            && let Ok(bytes) = fs::read(entry.path())
            && bytes.windows(text.len()).any(|window| window == text)
        {
            found.push(entry.path());
        }
    }
    found
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

async fn finish(agent: Agent) {
    agent.end_tasks.cancel();
    agent.ended().await.unwrap();
}

pub(super) async fn a_task_has_its_volumes_and_its_secret_is_not_exposed() {
    if !is_root() {
        return skip("needs root");
    }
    let canary = format!(
        "canary-{}-{:?}",
        std::process::id(),
        std::time::Instant::now()
    );
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let directory = secrets(&host, &canary);
    let agent = host.agent_with(master.address, |config| config.secret_dir = Some(directory));
    let agent = agent.await;
    let (mut link, _) = master.registered(true).await;
    let volumes = vec![
        volume("/data", Source::Sandbox("data".into())),
        volume("/fast", Source::Tmpfs(v1::Tmpfs { bytes: 1 << 20 })),
        secret("/run/secrets/db", "db"),
    ];
    let line = "read -r key < /run/secrets/db; echo ${#key} > /data/length; echo x > /fast/x; env; exec sleep 600";
    let spec = v1::TaskSpec {
        volumes,
        ..shell("t", line)
    };
    link.launch(1, spec).await;
    link.until("t", runs).await;
    let length = content(&host.sandbox("t").join("data/length")).await;
    assert_eq!(length.trim(), canary.len().to_string());
    // Journal, state directories, sandboxes, logs; then the agent's responses.
    let operators = host.directory.path().join("secrets/*/db");
    assert_eq!(
        files_with(host.directory.path(), canary.as_bytes()),
        [operators]
    );
    for path in ["/v1/containers", "/v1/agent", "/metrics"] {
        let (_, text) = agent.get(path).await;
        assert!(!text.contains(&canary), "{path}");
    }
    finish(agent).await;
}

pub(super) async fn a_missing_secret_fails_the_task_with_a_message() {
    if !is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let directory = secrets(&host, "x");
    let agent = host.agent_with(master.address, |config| config.secret_dir = Some(directory));
    let agent = agent.await;
    let (mut link, _) = master.registered(true).await;
    let spec = v1::TaskSpec {
        volumes: vec![secret("/key", "other")],
        ..shell("t", "true")
    };
    link.launch(1, spec).await;
    let updates = link.end_of("t").await;
    let end = updates.last().unwrap();
    assert_eq!(state(end), v1::TaskState::Failed);
    assert_eq!(reason(end), v1::Reason::ContainerLaunchFailed);
    assert!(
        end.text.contains("the secret \"other\" of role \"*\""),
        "{}",
        end.text
    );
    assert!(end.text.contains("keeps it in"), "{}", end.text);
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn an_agent_without_mount_support_rejects_volumes() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent_with(master.address, |config| {
        config.isolation = argosy_agent::IsolationMode::Processes;
    });
    let agent = agent.await;
    let (mut link, _) = master.registered(true).await;
    let spec = v1::TaskSpec {
        volumes: vec![volume("/data", Source::Sandbox("data".into()))],
        ..shell("t", "true")
    };
    link.launch(1, spec).await;
    let updates = link.end_of("t").await;
    let end = updates.last().unwrap();
    assert_eq!(state(end), v1::TaskState::Failed);
    assert!(end.text.contains("--isolation full"), "{}", end.text);
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) fn with_disk(mut spec: v1::TaskSpec, mebibytes: i64) -> v1::TaskSpec {
    spec.resources.push(v1::Resource {
        name: "disk".into(),
        value: Some(v1::resource::Value::ScalarMilli(mebibytes * 1_000)),
        ..v1::Resource::default()
    });
    spec
}

/// Many files, none of them large.
const FILL: &str = "n=0; while n=$((n+1)); do head -c 1000000 /dev/zero > f$n; done";

pub(super) async fn a_task_over_its_disk_limit_fails_with_both_sizes_and_others_continue() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, with_disk(shell("good", "exec sleep 600"), 4))
        .await;
    link.launch(2, with_disk(shell("bad", FILL), 4)).await;
    let updates = link.end_of("bad").await;
    let end = updates.last().unwrap();
    assert_eq!(
        (state(end), reason(end)),
        (v1::TaskState::Failed, v1::Reason::LimitDisk)
    );
    assert!(end.text.starts_with("out of disk: used "), "{}", end.text);
    assert!(end.text.contains(" of 4 MiB"), "{}", end.text);
    // The end is reported before the container is removed.
    let containers = agent.containers().await.into_iter();
    let running: Vec<_> = containers.filter(|one| one["state"] == "running").collect();
    assert_eq!(running.len(), 1, "{running:?}");
    assert_eq!(running[0]["task_id"], "good");
    finish(agent).await;
}

pub(super) async fn a_task_without_a_disk_request_has_the_agents_default() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let small = |config: &mut Config| config.default_disk_bytes = 4 << 20;
    let agent = host.agent_with(master.address, small).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, with_disk(shell("asked", "exec sleep 600"), 64))
        .await;
    link.launch(2, shell("bad", FILL)).await;
    let updates = link.end_of("bad").await;
    let end = updates.last().unwrap();
    assert_eq!(reason(end), v1::Reason::LimitDisk, "{}", end.text);
    assert!(end.text.contains(" of 4 MiB"), "{}", end.text);
    assert_eq!(agent.containers().await[0]["task_id"], "asked");
    finish(agent).await;
}

pub(super) async fn unlinked_open_files_of_a_task_count_as_its_disk() {
    if !is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    // Each is below the limit of one file.
    let line = "for n in 3 4 5; do eval \"exec $n> f\"; rm f; head -c 2000000 /dev/zero >&$n; done; exec sleep 600";
    link.launch(1, with_disk(shell("t", line), 4)).await;
    let updates = link.end_of("t").await;
    assert_eq!(reason(updates.last().unwrap()), v1::Reason::LimitDisk);
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_file_that_reaches_the_size_limit_ends_its_task() {
    if !is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let line = "exec head -c 100000000 /dev/zero > file";
    link.launch(1, with_disk(shell("t", line), 4)).await;
    let updates = link.end_of("t").await;
    let end = updates.last().unwrap();
    assert_eq!(
        (state(end), reason(end)),
        (v1::TaskState::Failed, v1::Reason::LimitDisk)
    );
    assert!(code(end).is_some(), "{}", end.text);
    let length = fs::metadata(host.sandbox("t").join("file")).unwrap().len();
    assert!(length <= 4 << 20, "{length}");
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_restarted_agent_measures_the_disk_of_its_tasks() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let line = format!("while ! test -e go; do sleep 0.05; done; {FILL}");
    link.launch(1, with_disk(shell("t", &line), 4)).await;
    link.until("t", runs).await;
    agent.stop().await;
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    fs::write(host.sandbox("t").join("go"), "").unwrap();
    let updates = link.end_of("t").await;
    assert_eq!(reason(updates.last().unwrap()), v1::Reason::LimitDisk);
    agent.is_clear().await;
    agent.stop().await;
}
