//! Tasks whose root is an image: what the image says of running it.

use argosy_proto::v1;
use argosy_testing::skip;
use serde_json::json;

use super::{code, runs};
use crate::host::{Host, content};
use crate::layout;
use crate::master::{Master, kill, shell};

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
    let spec = v1::TaskSpec {
        container: Some(v1::ContainerSpec {
            image: format!("oci:{}", host.layouts().display()),
            ..v1::ContainerSpec::default()
        }),
        ..shell("t", line)
    };
    link.launch(1, spec).await;
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
