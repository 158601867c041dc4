//! Tests of container sizes that tasks request, within the limits of their agent.

use argosy_proto::v1;
use argosy_state::task::Sizes;
use argosy_testing::skip;

use super::{code, reason, state};
use crate::host::TestHost;
use crate::master::{Master, shell};
use crate::running::content;

super::cases!("sizes":
    a_task_has_its_requested_sizes_up_to_the_agents_maximum,
);

/// Prints its sizes: the limit of open files, soft and hard, and the MiB of the two file systems.
const LOOK: &str = "ulimit -Sn; ulimit -Hn; df -m --output=size /dev/shm /tmp | grep -v [B-z]";

/// Fills `/dev/shm`, and opens as many files as it can.
const FILL: &str = "head -c 90000000 /dev/zero > /dev/shm/a && echo fits; \
    head -c 30000000 /dev/zero > /dev/shm/b || echo full; \
    perl -e 'while (open(my $f, \"<\", \"/dev/null\")) { push @all, $f } \
        print scalar(@all) > 8100 && scalar(@all) < 8192 ? \"bounded\\n\" : scalar(@all)'";

/// Returns a value beyond each of these sizes, the figures of its refusal, and the flag that would
/// allow it.
fn beyond(most: v1::ContainerSizes) -> [(v1::ContainerSizes, &'static str, &'static str); 3] {
    let files = v1::ContainerSizes {
        open_files: Some(8_193),
        ..most
    };
    let shm = v1::ContainerSizes {
        shm_bytes: Some(101 << 20),
        ..most
    };
    let tmp = v1::ContainerSizes {
        tmp_bytes: Some(51 << 20),
        ..most
    };
    [
        (
            files,
            "8193 is more than this agent's 8192",
            "--max-open-files 8193",
        ),
        (
            shm,
            "105906176 is more than this agent's 104857600",
            "--max-shm-size 101M",
        ),
        (
            tmp,
            "53477376 is more than this agent's 52428800",
            "--max-tmp-size 51M",
        ),
    ]
}

fn sized(task: &str, sizes: v1::ContainerSizes) -> v1::TaskSpec {
    v1::TaskSpec {
        resources: argosy_client::resources::resources("cpus:0.1;mem:256").unwrap(),
        container: Some(v1::ContainerSpec {
            sizes: Some(sizes),
            ..v1::ContainerSpec::default()
        }),
        ..shell(task, LOOK)
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

pub(super) async fn a_task_has_its_requested_sizes_up_to_the_agents_maximum() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let largest = Sizes {
        open_files: Some(8_192),
        shm_bytes: Some(100 << 20),
        tmp_bytes: Some(50 << 20),
    };
    let agent = host
        .agent_with(master.address, |config| config.largest_sizes = largest)
        .await;
    let (mut link, hello) = master.registered(true).await;
    let all = v1::ContainerSizes {
        open_files: Some(8_192),
        shm_bytes: Some(100 << 20),
        tmp_bytes: Some(50 << 20),
    };
    assert_eq!(hello.info.unwrap().largest_sizes, Some(all));

    link.launch(1, shell("usual", LOOK)).await;
    link.launch(2, sized("sized", all)).await;
    let few = v1::ContainerSizes {
        open_files: Some(100),
        ..v1::ContainerSizes::default()
    };
    link.launch(3, sized("few", few)).await;
    for (task, shown) in [
        ("usual", ["4096", "4096", "64", "64"]),
        ("sized", ["8192", "8192", "100", "50"]),
        ("few", ["100", "100", "64", "64"]),
    ] {
        let last = link.end_of(task).await.pop().unwrap();
        assert_eq!(code(&last), Some(v1::exit::How::Code(0)), "{}", last.text);
        let output = content(&host.sandbox(task).join("stdout")).await;
        assert_eq!(words(&output), shown, "{task}");
    }

    // The sizes are enforced: larger files do not fit, and one file more cannot be opened.
    let mut fills = sized("fills", all);
    fills.shell = FILL.into();
    link.launch(4, fills).await;
    let last = link.end_of("fills").await.pop().unwrap();
    assert_eq!(code(&last), Some(v1::exit::How::Code(0)), "{}", last.text);
    let output = content(&host.sandbox("fills").join("stdout")).await;
    assert_eq!(words(&output), ["fits", "full", "bounded"]);

    for (order, (asked, figures, flag)) in (5..).zip(beyond(all)) {
        let task = format!("greedy-{order}");
        link.launch(order, sized(&task, asked)).await;
        let last = link.end_of(&task).await.pop().unwrap();
        assert_eq!(state(&last), v1::TaskState::Error);
        assert_eq!(reason(&last), v1::Reason::TaskInvalid);
        assert!(last.text.contains(figures), "{}", last.text);
        assert!(last.text.contains(flag), "{}", last.text);
    }
    agent.is_clear().await;
    agent.stop().await;
}
