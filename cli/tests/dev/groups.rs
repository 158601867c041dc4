//! Task groups: launched by a framework with the public SDK, and by a user from a file.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use argosy_client::Masters;
use argosy_client::resources::resources;
use argosy_client::scheduler::{
    CallOutcome, CallResult, Scheduler, SchedulerConfig, SchedulerDriver, run,
};
use argosy_proto::v1;
use argosy_testing::skip;
use tokio_util::sync::CancellationToken;

use crate::cluster::{DevCluster, STEP_TIMEOUT, wait_for};
use crate::web::{on_a_host, port_of_examples};

/// Launches first a group that is too large for the agent, then one that fits, of which one task is
/// killed.
#[derive(Default)]
struct GroupScheduler {
    is_refused: bool,
    refused: Vec<v1::Refused>,
    states: BTreeMap<String, v1::TaskStatus>,
    is_killed: bool,
}

fn task(id: &str, line: &str, amounts: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        task_id: id.to_owned(),
        shell: line.to_owned(),
        resources: resources(amounts).unwrap(),
        ..v1::TaskSpec::default()
    }
}

impl GroupScheduler {
    fn are_all(&self, state: v1::TaskState) -> bool {
        let alike = self
            .states
            .values()
            .filter(|reported| reported.state() == state);
        alike.count() == 2
    }
}

impl Scheduler for GroupScheduler {
    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        for offer in offers {
            let waits = "exec sleep 600";
            if !self.is_refused {
                self.is_refused = true;
                let tasks = vec![
                    task("small", waits, "cpus:0.1"),
                    task("large", waits, "cpus:99"),
                ];
                driver.launch_group(&offer, "pod", tasks);
            } else if self.states.is_empty() {
                let writes = "echo hello > $ARGOSY_GROUP_DIR/word; exec sleep 600";
                let reads =
                    "until [ -s $ARGOSY_GROUP_DIR/word ]; do sleep 0.05; done; exec sleep 600";
                let tasks = vec![
                    task("a", writes, "cpus:0.1;mem:32"),
                    task("b", reads, "cpus:0.1;mem:32"),
                ];
                driver.launch_group(&offer, "pod", tasks);
                self.states
                    .insert("a".to_owned(), v1::TaskStatus::default());
            } else {
                driver.decline(&offer, None);
            }
        }
    }

    fn answered(&mut self, _: &SchedulerDriver, answer: &CallResult) {
        if let CallOutcome::Done { refused, .. } = &answer.outcome {
            self.refused.extend(refused.clone());
        }
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        self.states.insert(status.task_id.clone(), status.clone());
        if self.are_all(v1::TaskState::Running) && !self.is_killed {
            self.is_killed = true;
            driver.kill("a", None);
        }
        if self.are_all(v1::TaskState::Killed) {
            driver.teardown();
        }
    }
}

#[test]
fn a_group_is_launched_together_and_killed_through_one_task() {
    let mut cluster = DevCluster::start(24, "1x1", &[]);
    let masters = cluster.record["masters"].as_str().unwrap().split(',');
    let masters: Vec<_> = masters.map(str::to_owned).collect();
    let config = SchedulerConfig {
        connector: cluster.connector(),
        ..SchedulerConfig::new(Masters::new(&masters).unwrap(), "pod")
    };
    let mut pod = GroupScheduler::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = runtime.block_on(async {
        tokio::time::timeout(
            STEP_TIMEOUT,
            run(&mut pod, config, CancellationToken::new()),
        )
        .await
    });
    ended
        .unwrap_or_else(|_| panic!("it went no further than {:?}", pod.states))
        .unwrap();
    let reported: Vec<_> = pod
        .refused
        .iter()
        .map(|refused| (refused.position, &*refused.code))
        .collect();
    assert_eq!(
        reported,
        [(0, "task-group-invalid"), (1, "task-group-invalid")]
    );
    assert!(
        pod.refused[0].message.contains("task large"),
        "{reported:?}"
    );
    let along = &pod.states["b"];
    let why = "its group ended because task a";
    assert!(along.message.starts_with(why), "{}", along.message);
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");
}

/// Returns the status line of the page at the port of the example.
fn page() -> Option<String> {
    let mut stream = TcpStream::connect("127.0.0.1:31080").ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /?from=test HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.lines().next().map(str::to_owned)
}

#[test]
fn the_group_example_serves_pages_and_reads_its_log() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let _port = port_of_examples();
    on_a_host(|| {
        let mut cluster = DevCluster::start(44, "1x1", &[]);
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/site.json");
        let mut run = cluster.argosy(&["group", "run", example]);
        let run = run.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut run = run.spawn().unwrap();
        wait_for("the page", || {
            page().is_some_and(|line| line.contains("200"))
        });
        let mut output = BufReader::new(run.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("from=test") {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "it has ended");
        }
        assert!(line.starts_with("reader | "), "{line}");
        let (_, listed, _) = cluster.run(&["task", "list"]);
        for part in ["GROUP", "site", "web", "reader"] {
            assert!(listed.contains(part), "{listed}");
        }
        let (_, listed, _) = cluster.run(&["group", "list"]);
        assert!(listed.contains("web running, reader running"), "{listed}");
        let (code, _, stderr) = cluster.run(&["group", "kill", "site"]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("/site has ended"), "{stderr}");
        assert_eq!(run.wait().unwrap().code(), Some(128 + 15));
        let (_, listed, _) = cluster.run(&["group", "list"]);
        assert_eq!(listed, "");
        let (_, listed, _) = cluster.run(&["group", "list", "--all"]);
        assert!(listed.contains("web killed, reader killed"), "{listed}");
        a_task_that_fails_ends_its_group_and_gives_the_code(&cluster);
        let (code, text) = cluster.stop();
        assert_eq!(code, 0, "{text}");
    });
}

fn a_task_that_fails_ends_its_group_and_gives_the_code(cluster: &DevCluster) {
    let text = r#"{"group": "pod", "tasks": [
        {"name": "waits", "command": ["sleep", "600"]},
        {"name": "fails", "command": ["sh", "-c", "echo so; exit 7"]}
    ]}"#;
    let mut run = cluster.argosy(&["group", "run", "-"]);
    let run = run.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut run = run.stderr(Stdio::piped()).spawn().unwrap();
    let mut input = run.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let ran = crate::cluster::split(run.wait_with_output().unwrap());
    assert_eq!(ran.0, 7, "{}", ran.2);
    assert!(ran.1.contains("fails | so\n"), "{}", ran.1);
    assert!(
        ran.2.contains("waits") && ran.2.contains("killed"),
        "{}",
        ran.2
    );
    let unread = cluster.run(&["group", "run", "/nonexistent.json"]);
    assert_eq!(unread.0, 2, "{}", unread.2);
}
