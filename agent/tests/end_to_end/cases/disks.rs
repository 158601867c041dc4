//! Tests of disk limits that the kernel enforces.

use std::fs;
use std::path::{Path, PathBuf};

use argosy_agent::{Config, DiskEnforcement, IsolationMode};
use argosy_isolation::disk::FileSystem;
use argosy_proto::v1;
use argosy_testing::skip;

use super::crashes::audit;
use super::groups::member;
use super::volumes::with_disk;
use super::{code, runs, state};
use crate::host::TestHost;
use crate::layout;
use crate::master::{FRAMEWORK, Master, shell};
use crate::running::{Agent, content};

super::cases!("disks":
    a_task_that_fills_its_file_system_continues_also_after_an_agent_restart,
    fetched_files_must_fit_into_the_file_system_of_the_sandbox,
    changes_of_the_image_count_in_the_file_system_of_the_sandbox,
    a_group_directory_is_on_the_file_system_of_its_first_task,
    an_agent_refuses_to_start_if_its_host_cannot_enforce_disk_limits,
);

const MIB: u64 = 1 << 20;

pub(super) fn looped(config: &mut Config) {
    config.disk_enforcement = DiskEnforcement::Loop;
}

/// Returns the reason why this host has no file systems for tasks, if there is one.
pub(super) fn impossible() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let why = FileSystem::supported().err()?;
    Some(format!("this kernel has no loop devices: {why}"))
}

/// Removes sandboxes with their file systems, without waiting for their retention time.
pub(super) fn remove_all(host: &TestHost) {
    let entries = fs::read_dir(host.directory().join("disks"));
    for dir in entries.into_iter().flatten().flatten() {
        let tasks = host.directory().join("sandboxes").join(FRAMEWORK);
        let sandboxes = fs::read_dir(tasks).unwrap().flatten();
        let mut sandboxes = sandboxes.map(|task| task.path().join(dir.file_name()));
        let sandbox = sandboxes.find(|path| path.is_dir());
        let sandbox: PathBuf = sandbox.expect("each file system is shown in a sandbox");
        FileSystem::at(&dir.path()).remove(&sandbox).unwrap();
    }
}

async fn usage(agent: &Agent) -> serde_json::Value {
    agent.containers().await[0]["usage"]["disk"].clone()
}

/// Waits until a file ends with this text.
async fn ends_with(path: &Path, words: &str) {
    while !content(path).await.ends_with(words) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

pub(super) async fn a_task_that_fills_its_file_system_continues_also_after_an_agent_restart() {
    if let Some(why) = impossible() {
        return skip(&why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let audit = audit(&host);
    let agent = host.agent_with(master.address, looped).await;
    let (mut link, _) = master.registered(true).await;
    let line = "head -c 100000000 /dev/zero > fill; echo full; while ! test -e go; do sleep 0.05; done; \
                rm fill; echo x > after && exit 7";
    link.launch(1, with_disk(shell("t", line), 16)).await;
    link.until("t", runs).await;
    let sandbox = host.sandbox("t");
    ends_with(&sandbox.join("stdout"), "full\n").await;
    assert!(
        content(&sandbox.join("stderr"))
            .await
            .contains("No space left on device")
    );
    let has = usage(&agent).await;
    let [used, limit] = ["used_bytes", "limit_bytes"].map(|name| has[name].as_u64().unwrap());
    assert!(
        (14 * MIB..=16 * MIB).contains(&limit) && used > limit / 10 * 9,
        "{has}"
    );
    let (_, text) = agent.get("/metrics").await;
    assert!(text.contains("argosy_task_disk_limit_bytes{"), "{text}");
    agent.stop().await;
    // The existing file system counts, whatever the setting.
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    assert_eq!(usage(&agent).await["limit_bytes"], limit);
    fs::remove_file(sandbox.join("fill")).unwrap();
    fs::write(sandbox.join("go"), "").unwrap();
    let updates = link.end_of("t").await;
    let end = updates.last().unwrap();
    assert_eq!(code(end), Some(v1::exit::How::Code(7)), "{}", end.text);
    agent.is_clear().await;
    assert!(
        sandbox.join("after").exists(),
        "it stays for people to read"
    );
    agent.stop().await;
    remove_all(&host);
    audit.expect_nothing_left("after a task with a file system of its own");
}

pub(super) async fn fetched_files_must_fit_into_the_file_system_of_the_sandbox() {
    if let Some(why) = impossible() {
        return skip(&why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent_with(master.address, looped).await;
    let (mut link, _) = master.registered(true).await;
    let file = host.serve("file", vec![1; 8 * MIB as usize]);
    let uri = v1::Uri {
        value: file.display().to_string(),
        ..v1::Uri::default()
    };
    let spec = v1::TaskSpec {
        uris: vec![uri],
        ..shell("large", "true")
    };
    link.launch(1, with_disk(spec, 4)).await;
    let updates = link.end_of("large").await;
    let end = updates.last().unwrap();
    assert_eq!(state(end), v1::TaskState::Failed);
    assert!(end.text.contains("No space left on device"), "{}", end.text);
    agent.is_clear().await;
    agent.stop().await;
    remove_all(&host);
}

pub(super) async fn changes_of_the_image_count_in_the_file_system_of_the_sandbox() {
    if let Some(why) = impossible() {
        return skip(&why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    if !layout::write(&host.layouts()) {
        return skip("there is no /bin/busybox to make an image of");
    }
    let audit = audit(&host);
    let agent = host.agent_with(master.address, looped).await;
    let (mut link, _) = master.registered(true).await;
    let line = "cat /dev/zero > /fill; : > /fill; echo x > /sandbox/after && exit 7";
    let spec = v1::TaskSpec {
        container: Some(v1::ContainerSpec {
            image: format!("oci:{}", host.layouts().display()),
            ..v1::ContainerSpec::default()
        }),
        ..with_disk(shell("t", line), 16)
    };
    link.launch(1, spec).await;
    let updates = link.end_of("t").await;
    let end = updates.last().unwrap();
    assert_eq!(code(end), Some(v1::exit::How::Code(7)), "{}", end.text);
    let output = content(&host.sandbox("t").join("stderr")).await;
    assert!(output.contains("No space left on device"), "{output}");
    agent.is_clear().await;
    agent.stop().await;
    remove_all(&host);
    audit.expect_nothing_left("after an image on a file system of its task's own");
}

pub(super) async fn a_group_directory_is_on_the_file_system_of_its_first_task() {
    if let Some(why) = impossible() {
        return skip(&why);
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let audit = audit(&host);
    let agent = host.agent_with(master.address, looped).await;
    let (mut link, _) = master.registered(true).await;
    // The first has no other files on its disk, and has ended before it is filled.
    let fills = r#"until [ -e go ]; do sleep 0.02; done; cd "$ARGOSY_GROUP_DIR"
        head -c 100000000 /dev/zero > fill; echo full; rm fill; echo x > after && exit 7"#;
    link.launch(1, member(with_disk(shell("a", "true"), 8), 0, 2))
        .await;
    link.launch(2, member(with_disk(shell("b", fills), 64), 1, 2))
        .await;
    link.until("b", runs).await;
    link.end_of("a").await;
    fs::write(host.sandbox("b").join("go"), "").unwrap();
    let updates = link.end_of("b").await;
    let end = updates.last().unwrap();
    assert_eq!(code(end), Some(v1::exit::How::Code(7)), "{}", end.text);
    let output = content(&host.sandbox("b").join("stderr")).await;
    assert!(output.contains("No space left on device"), "{output}");
    let of_first = host.sandbox("a");
    let of_first = of_first.file_name().unwrap();
    let dir = host
        .directory()
        .join("disks")
        .join(of_first)
        .join("root/group");
    assert!(dir.join("after").exists());
    agent.is_clear().await;
    agent.stop().await;
    remove_all(&host);
    audit.expect_nothing_left("after a group's directory on a task's own file system");
}

pub(super) async fn an_agent_refuses_to_start_if_its_host_cannot_enforce_disk_limits() {
    let (host, master) = (TestHost::new(), Master::start().await);
    let without_users = |config: &mut Config| {
        config.isolation = IsolationMode::Processes;
        looped(config);
    };
    let agent = host.agent_with(master.address, without_users).await;
    let why = agent.ended().await.unwrap_err().to_string();
    assert!(
        why.contains("--disk-enforcement \"loop\"") && why.contains("--isolation full"),
        "{why}"
    );
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    if argosy_isolation::disk::project::supported(host.directory.path()).is_ok() {
        return skip("this kernel has no file system without quotas for temporary files");
    }
    let quotas = |config: &mut Config| config.disk_enforcement = DiskEnforcement::Quota;
    let agent = host.agent_with(master.address, quotas).await;
    let why = agent.ended().await.unwrap_err().to_string();
    assert!(
        why.contains("--disk-enforcement \"quota\"") && why.contains("prjquota"),
        "{why}"
    );
}
