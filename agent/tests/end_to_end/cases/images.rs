//! Tasks whose root is an image: what the image says of running it.

use argosy_agent::Config;
use argosy_agent::images::PullPolicy;
use argosy_proto::v1;
use argosy_testing::skip;
use serde_json::json;

use super::{code, runs};
use crate::host::{Host, content};
use crate::layout;
use crate::master::{Master, kill, shell};

/// A task of the image in the host's layouts.
fn of_image(host: &Host, task: &str, line: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        container: Some(v1::ContainerSpec {
            image: format!("oci:{}", host.layouts().display()),
            ..v1::ContainerSpec::default()
        }),
        ..shell(task, line)
    }
}

pub(super) async fn an_image_that_has_changed_under_its_name_is_noticed_if_the_operator_wants_so() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (Host::new(), Master::start().await);
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
            // On a disk that is nearly full nothing would be kept that no task uses.
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
        let said = content(&host.sandbox(&task).join("stdout")).await;
        assert_eq!(said.trim_end(), shown, "{policy:?}");
        agent.stop().await;
        assert!(layout::write_with(
            &host.layouts(),
            &json!({"Env": ["PAGE=second"]})
        ));
    }
}

pub(super) async fn a_kill_begins_with_the_signal_that_the_image_names() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (Host::new(), Master::start().await);
    if !layout::write_with(&host.layouts(), &json!({"StopSignal": "SIGUSR1"})) {
        return skip("there is no /bin/busybox to make an image of");
    }
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    // By TERM it would end with 6, and without any it would be killed.
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
    agent.is_clear().await;
    agent.stop().await;
}
