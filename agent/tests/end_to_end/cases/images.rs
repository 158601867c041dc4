//! Tests of tasks whose root is an image: the image's settings for their execution.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use argosy_agent::Config;
use argosy_agent::images::PullPolicy;
use argosy_proto::v1;
use argosy_testing::skip;
use serde_json::json;

use super::volumes::with_disk;
use super::{code, runs, state};
use crate::host::TestHost;
use crate::layout;
use crate::master::{Master, kill, shell};
use crate::running::content;

super::cases!("images":
    a_changed_image_tag_is_detected_if_the_operator_configures_it,
    a_task_can_require_a_tag_lookup_at_each_start,
    a_kill_begins_with_the_stop_signal_of_the_image,
    a_container_with_a_copied_image_is_charged_for_its_disk_space,
    support_for_overlays_is_detected,
);

/// Returns a task of the image in the host's layouts.
pub(super) fn of_image(host: &TestHost, task: &str, line: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        container: Some(v1::ContainerSpec {
            image: format!("oci:{}", host.layouts().display()),
            ..v1::ContainerSpec::default()
        }),
        ..shell(task, line)
    }
}

pub(super) async fn a_changed_image_tag_is_detected_if_the_operator_configures_it() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    if !layout::write_with(&host.layouts(), &json!({"Env": ["PAGE=first"]})) {
        return skip("there is no /bin/busybox to make an image of");
    }
    let mut order = 0;
    for (policy, shown) in [
        (PullPolicy::Always, "first"),
        (PullPolicy::IfAbsent, "first"),
        (PullPolicy::Always, "second"),
    ] {
        let change = |config: &mut Config| {
            config.images.pull = policy;
            // On a disk that is nearly full, images would be kept only for tasks that use them.
            config.images.headroom_percent = 0;
        };
        let agent = host.agent_with(master.address, change).await;
        let (mut link, _) = master.registered(order > 0).await;
        order += 1;
        let task = format!("t{order}");
        link.launch(order, of_image(&host, &task, "echo $PAGE"))
            .await;
        let updates = link.end_of(&task).await;
        let end = updates.last().unwrap();
        assert_eq!(code(end), Some(v1::exit::How::Code(0)), "{}", end.text);
        let output = content(&host.sandbox(&task).join("stdout")).await;
        assert_eq!(output.trim_end(), shown, "{policy:?}");
        agent.stop().await;
        assert!(layout::write_with(
            &host.layouts(),
            &json!({"Env": ["PAGE=second"]})
        ));
    }
}

pub(super) async fn a_task_can_require_a_tag_lookup_at_each_start() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    if !layout::write_with(&host.layouts(), &json!({"Env": ["PAGE=first"]})) {
        return skip("there is no /bin/busybox to make an image of");
    }
    // On a disk that is nearly full, images would be kept only for tasks that use them.
    let change = |config: &mut Config| config.images.headroom_percent = 0;
    let agent = host.agent_with(master.address, change).await;
    let (mut link, _) = master.registered(true).await;
    for (order, pull, shown) in [
        (1, v1::ImagePull::Unspecified, "first"),
        (2, v1::ImagePull::IfAbsent, "first"),
        (3, v1::ImagePull::Unspecified, "first"),
        (4, v1::ImagePull::Always, "second"),
        (5, v1::ImagePull::IfAbsent, "second"),
    ] {
        let task = format!("t{order}");
        let mut spec = of_image(&host, &task, "echo $PAGE");
        spec.container.as_mut().unwrap().pull = pull.into();
        link.launch(order, spec).await;
        let end = link.end_of(&task).await.pop().unwrap();
        assert_eq!(code(&end), Some(v1::exit::How::Code(0)), "{}", end.text);
        let output = content(&host.sandbox(&task).join("stdout")).await;
        assert_eq!(output.trim_end(), shown, "{pull:?} at {order}");
        let moved = json!({"Env": ["PAGE=second"]});
        assert!(layout::write_with(&host.layouts(), &moved));
    }
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn a_kill_begins_with_the_stop_signal_of_the_image() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    if !layout::write_with(&host.layouts(), &json!({"StopSignal": "SIGUSR1"})) {
        return skip("there is no /bin/busybox to make an image of");
    }
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    // TERM would end it with 6, and without a signal it would be killed.
    let line = "trap 'exit 5' USR1; trap 'exit 6' TERM; echo set; while true; do sleep 0.01; done";
    link.launch(1, of_image(&host, "t", line)).await;
    link.until("t", runs).await;
    while content(&host.sandbox("t").join("stdout")).await != "set\n" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    link.order(2, kill("t", 60_000)).await;
    let updates = link.end_of("t").await;
    let end = updates.last().unwrap();
    assert_eq!(code(end), Some(v1::exit::How::Code(5)), "{}", end.text);

    // The task's setting takes precedence.
    let mut named = of_image(&host, "named", line);
    named.kill_policy = Some(v1::KillPolicy {
        signal: v1::KillSignal::Term.into(),
        ..v1::KillPolicy::default()
    });
    link.launch(3, named).await;
    link.until("named", runs).await;
    while content(&host.sandbox("named").join("stdout")).await != "set\n" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    link.order(4, kill("named", 60_000)).await;
    let end = link.end_of("named").await.pop().unwrap();
    assert_eq!(code(&end), Some(v1::exit::How::Code(6)), "{}", end.text);
    agent.is_clear().await;
    agent.stop().await;
}

/// Returns the changes that the only container of a host made to its image.
fn changes(host: &TestHost) -> PathBuf {
    let containers = host.directory().join("containers");
    let mut found = std::fs::read_dir(containers).unwrap();
    let container = found.next().expect("a container is there").unwrap();
    container.path().join("changes")
}

pub(super) async fn a_container_with_a_copied_image_is_charged_for_its_disk_space() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    if !layout::write(&host.layouts()) {
        return skip("there is no /bin/busybox to make an image of");
    }
    host.copies_images();
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;

    // It changes its own copy, in place, and no other's; no other user of the host can access it.
    let line = "echo changed > /bin/new; cat /bin/new; sleep 1000";
    link.launch(1, of_image(&host, "first", line)).await;
    link.until("first", runs).await;
    while content(&host.sandbox("first").join("stdout")).await != "changed\n" {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let changes = changes(&host);
    assert_eq!(content(&changes.join("root/bin/new")).await, "changed\n");
    let mode = std::fs::metadata(&changes).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    link.launch(2, of_image(&host, "second", "cat /bin/new || echo none"))
        .await;
    let updates = link.end_of("second").await;
    let end = updates.last().unwrap();
    assert_eq!(code(end), Some(v1::exit::How::Code(0)), "{}", end.text);
    assert_eq!(
        content(&host.sandbox("second").join("stdout")).await,
        "none\n"
    );
    link.order(3, kill("first", 0)).await;
    link.end_of("first").await;

    // Less than a shell needs.
    link.launch(4, with_disk(of_image(&host, "small", "sleep 1000"), 1))
        .await;
    let updates = link.end_of("small").await;
    let end = updates.last().unwrap();
    assert_eq!(state(end), v1::TaskState::Failed);
    assert_eq!(end.reason(), v1::Reason::LimitDisk, "{}", end.text);
    agent.is_clear().await;
    assert!(!changes.exists(), "the copy goes with its container");
    agent.stop().await;
}

pub(super) async fn support_for_overlays_is_detected() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    if !layout::write(&host.layouts()) {
        return skip("there is no /bin/busybox to make an image of");
    }
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    link.launch(1, of_image(&host, "t", "sleep 1000")).await;
    link.until("t", runs).await;
    let made = std::fs::read_dir(changes(&host)).unwrap();
    let mut names: Vec<_> = made.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["upper", "work"]);
    assert!(
        !host.directory().join("probe").exists(),
        "what was tried is gone"
    );
    link.order(2, kill("t", 0)).await;
    link.end_of("t").await;
    agent.is_clear().await;
    agent.stop().await;
}
