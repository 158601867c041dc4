//! Tests of task groups in real containers: one network, one directory, one end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_proto::v1::network::Mode;
use argosy_testing::skip;

use super::volumes::with_disk;
use super::{on_a_host_of_its_own, reason, runs, state};
use crate::host::TestHost;
use crate::master::{AgentStream, FRAMEWORK, Master, TIMEOUT, is_terminal, kill, shell};
use crate::running::{Agent, content};

super::cases!("groups":
    tasks_of_a_group_without_a_network_communicate_over_loopback,
    tasks_of_a_group_share_the_network_of_the_first_task,
    tasks_of_a_group_share_the_group_directory,
    a_failed_task_ends_its_group_in_reverse_order,
    a_group_directory_counts_as_disk_of_its_first_task,
    a_group_directory_is_measured_after_its_first_task_and_a_restart,
    a_group_of_which_one_task_cannot_be_prepared_never_starts,
    a_group_that_failed_while_its_agent_was_down_is_killed_after_the_restart,
);

/// Answers each caller with one line, at a port that is reachable only within its network.
const SERVER: &str = r#"exec perl -MIO::Socket::INET -e '
    my $door = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1", LocalPort => 80, Proto => "tcp") or die $!;
    while (my $caller = $door->accept) { print $caller "hello neighbour\n"; close $caller; }'"#;
/// Calls it, and writes the answer to the group directory.
const CALLER: &str = r#"until bash -c 'exec 3<>/dev/tcp/127.0.0.1/80 && cat <&3' > "$ARGOSY_GROUP_DIR/draft" 2>/dev/null
    do sleep 0.05; done
    mv "$ARGOSY_GROUP_DIR/draft" "$ARGOSY_GROUP_DIR/heard"; exec sleep 600"#;

/// Launches these as one group under the orders from `first` on.
async fn launch(link: &mut AgentStream, first: u64, network: Option<Mode>, tasks: &[(&str, &str)]) {
    let size = u32::try_from(tasks.len()).unwrap();
    for (place, (task, line)) in (0_u32..).zip(tasks) {
        let named = network.clone().filter(|_| place == 0);
        let spec = v1::TaskSpec {
            container: named.map(|mode| v1::ContainerSpec {
                network: Some(v1::Network { mode: Some(mode) }),
                ..v1::ContainerSpec::default()
            }),
            ..member(shell(task, line), place, size)
        };
        link.launch(first + u64::from(place), spec).await;
    }
}

/// Returns a task of the group "pod".
pub(super) fn member(spec: v1::TaskSpec, place: u32, size: u32) -> v1::TaskSpec {
    let group_id = "pod".into();
    v1::TaskSpec {
        group: Some(v1::TaskGroup {
            group_id,
            place,
            size,
        }),
        ..spec
    }
}

/// Returns the directory of the only group.
fn directory(host: &TestHost) -> PathBuf {
    let above = host
        .directory
        .path()
        .join("agent/groups")
        .join(FRAMEWORK)
        .join("pod");
    let mut found = std::fs::read_dir(above).unwrap().flatten();
    found.next().expect("the group has a directory").path()
}

/// Counts the links that record resources of this host's agent.
fn held(host: &TestHost, records: &str) -> usize {
    let own = host.directory.path().join("agent");
    let links = std::fs::read_dir(records).into_iter().flatten().flatten();
    let targets = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let is_own = |target: &PathBuf| {
        let text = target.to_string_lossy();
        text.strip_prefix(own.to_str().unwrap())
            .is_some_and(|rest| rest.starts_with('#') && rest != "#")
    };
    targets.filter(is_own).count()
}

/// Waits until no host resources are held for containers and groups of them.
async fn holds_nothing(host: &TestHost) {
    let deadline = Instant::now() + TIMEOUT;
    for records in ["/run/argosy/ids", "/run/argosy/networks/addresses"] {
        while held(host, records) > 0 {
            assert!(Instant::now() < deadline, "something is held in {records}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn finish(agent: Agent, host: &TestHost) {
    agent.is_clear().await;
    holds_nothing(host).await;
    agent.stop().await;
}

/// Checks that two tasks communicate over the loopback device of this network and share a
/// directory, and that the end of one ends the other.
async fn talk(network: Mode) {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let tasks = [("server", SERVER), ("caller", CALLER)];
    launch(&mut link, 1, Some(network), &tasks).await;
    link.until("server", runs).await;
    link.until("caller", runs).await;
    assert_eq!(
        content(&directory(&host).join("heard")).await,
        "hello neighbour\n"
    );
    assert_eq!(
        held(&host, "/run/argosy/ids"),
        1,
        "they have the same users"
    );
    link.order(3, kill("server", 1_000)).await;
    for task in ["server", "caller"] {
        let updates = link.end_of(task).await;
        assert_eq!(state(updates.last().unwrap()), v1::TaskState::Killed);
    }
    finish(agent, &host).await;
}

pub(super) async fn tasks_of_a_group_without_a_network_communicate_over_loopback() {
    if nix::unistd::geteuid().is_root() {
        talk(Mode::None(v1::NoNetwork {})).await;
    } else {
        skip("needs root");
    }
}

pub(super) async fn tasks_of_a_group_share_the_network_of_the_first_task() {
    on_a_host_of_its_own(|| talk(Mode::Bridge(v1::BridgeNetwork::default()))).await;
}

pub(super) async fn tasks_of_a_group_share_the_group_directory() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let write = r#"cd "$ARGOSY_GROUP_DIR" && umask 077 && echo mine > file && mv file given
        until [ -e taken ]; do sleep 0.02; done"#;
    // By the variable's former name.
    let read = r#"cd "$ARGOSY_GROUP_FOLDER" && until [ -e given ]; do sleep 0.02; done
        echo "$ARGOSY_GROUP_ID" >> given && cp given taken"#;
    launch(&mut link, 1, None, &[("a", write), ("b", read)]).await;
    for task in ["a", "b"] {
        let updates = link.end_of(task).await;
        assert_eq!(state(updates.last().unwrap()), v1::TaskState::Finished);
    }
    let directory = directory(&host);
    assert_eq!(content(&directory.join("taken")).await, "mine\npod\n");
    finish(agent, &host).await;
    assert!(directory.exists(), "it stays as long as their sandboxes");
}

pub(super) async fn a_failed_task_ends_its_group_in_reverse_order() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    // Each records when it was killed; the last one delays its end.
    let reported = r#"trap 'echo NAME >> "$ARGOSY_GROUP_DIR/told"; sleep PAUSE; exit 0' TERM
        echo > "$ARGOSY_GROUP_DIR/NAME"; while :; do sleep 0.02; done"#;
    let [first, last] = [("a", "0"), ("c", "0.3")]
        .map(|(name, pause)| reported.replace("NAME", name).replace("PAUSE", pause));
    let fails =
        r#"cd "$ARGOSY_GROUP_DIR"; until [ -e a ] && [ -e c ]; do sleep 0.02; done; exit 7"#;
    launch(
        &mut link,
        1,
        None,
        &[("a", &first), ("b", fails), ("c", &last)],
    )
    .await;
    let updates = link.end_of("b").await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Failed);
    for task in ["a", "c"] {
        let updates = link.end_of(task).await;
        let update = updates.last().unwrap();
        assert_eq!(
            (state(update), reason(update)),
            (v1::TaskState::Killed, v1::Reason::TaskKilled)
        );
        let why = "its group ended because task b failed: ";
        assert!(update.text.starts_with(why), "{}", update.text);
    }
    assert_eq!(content(&directory(&host).join("told")).await, "c\na\n");
    finish(agent, &host).await;
}

/// Many files in the group directory, none of them large.
const FILL: &str =
    r#"cd "$ARGOSY_GROUP_DIR"; n=0; while n=$((n+1)); do head -c 1000000 /dev/zero > f$n; done"#;

pub(super) async fn a_group_directory_counts_as_disk_of_its_first_task() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let first = with_disk(shell("a", "exec sleep 600"), 4);
    link.launch(1, member(first, 0, 2)).await;
    link.launch(2, member(shell("b", FILL), 1, 2)).await;
    let updates = link.end_of("a").await;
    let end = updates.last().unwrap();
    assert_eq!(
        (state(end), reason(end)),
        (v1::TaskState::Failed, v1::Reason::LimitDisk)
    );
    assert!(end.text.contains(" of 4 MiB"), "{}", end.text);
    let updates = link.end_of("b").await;
    let end = updates.last().unwrap();
    assert_eq!(state(end), v1::TaskState::Killed);
    assert!(end.text.contains("task a failed: out of"), "{}", end.text);
    finish(agent, &host).await;
}

pub(super) async fn a_group_directory_is_measured_after_its_first_task_and_a_restart() {
    for restarts in [false, true] {
        let (host, mut master) = (TestHost::new(), Master::start().await);
        let mut agent = host.agent(master.address).await;
        let (mut link, _) = master.registered(true).await;
        let fills = format!("until [ -e go ]; do sleep 0.02; done; {FILL}");
        link.launch(1, member(with_disk(shell("a", "true"), 4), 0, 2))
            .await;
        link.launch(2, member(shell("b", &fills), 1, 2)).await;
        link.until("b", runs).await;
        let updates = link.end_of("a").await;
        assert_eq!(state(updates.last().unwrap()), v1::TaskState::Finished);
        if restarts {
            agent.stop().await;
            agent = host.agent(master.address).await;
            link = master.registered(true).await.0;
        }
        std::fs::write(host.sandbox("b").join("go"), "").unwrap();
        let updates = link.end_of("b").await;
        let end = updates.last().unwrap();
        assert_eq!(reason(end), v1::Reason::LimitDisk, "{}", end.text);
        let why = "a part of the disk of a, which has ended: out of disk: used ";
        assert!(end.text.contains(why), "{}", end.text);
        finish(agent, &host).await;
    }
}

pub(super) async fn a_group_of_which_one_task_cannot_be_prepared_never_starts() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let missing = host.directory.path().join("missing");
    for (place, uris) in [Vec::new(), vec![missing]].into_iter().enumerate() {
        let uris = uris.iter().map(|path: &PathBuf| v1::Uri {
            value: path.to_string_lossy().into_owned(),
            ..v1::Uri::default()
        });
        let spec = v1::TaskSpec {
            uris: uris.collect(),
            ..shell(["a", "b"][place], "echo > ran; exec sleep 600")
        };
        let spec = member(spec, u32::try_from(place).unwrap(), 2);
        link.launch(1 + place as u64, spec).await;
    }
    for task in ["a", "b"] {
        let updates = link.end_of(task).await;
        let update = updates.last().unwrap();
        assert_eq!(
            (state(update), reason(update)),
            (v1::TaskState::Failed, v1::Reason::FetchFailed),
            "{task}"
        );
        assert!(!host.sandbox(task).join("ran").exists());
    }
    finish(agent, &host).await;
}

pub(super) async fn a_group_that_failed_while_its_agent_was_down_is_killed_after_the_restart() {
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let fails = "until [ -e go ]; do sleep 0.01; done; echo > gone; exit 3";
    let tasks = [("a", "exec sleep 600"), ("b", fails), ("c", "exit 0")];
    launch(&mut link, 1, None, &tasks).await;
    link.until("a", runs).await;
    link.until("b", runs).await;
    link.end_of("c").await;
    agent.stop().await;
    std::fs::write(host.sandbox("b").join("go"), "").unwrap();
    content(&host.sandbox("b").join("gone")).await;
    let again = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let updates = link.until("b", is_terminal).await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Failed);
    let updates = link.end_of("a").await;
    let update = updates.last().unwrap();
    assert_eq!(state(update), v1::TaskState::Killed);
    assert!(update.text.contains("task b failed"), "{}", update.text);
    finish(again, &host).await;
}
