//! Tasks of an executor on a real cluster: through the crash of a leader and of an agent, with
//! logs, exec and messages.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use argosy_client::executor::{AgentEndpoint, ExecutorRunner};
use argosy_client::resources::resources;
use argosy_client::scheduler::{Scheduler, SchedulerConfig, SchedulerDriver};
use argosy_client::{Masters, scheduler};
use argosy_frameworks::shell_executor::ShellExecutor;
use argosy_proto::v1;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{DevCluster, executable, wait_for};

/// This program, called to run this one test, is the executor of the others.
const EXECUTOR: &str = "executors::the_test_program_runs_as_an_executor_if_an_agent_started_it";

#[test]
fn the_test_program_runs_as_an_executor_if_an_agent_started_it() {
    let Ok(meeting) = AgentEndpoint::from_environment(std::env::vars()) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let runner = ExecutorRunner::new(meeting);
    runtime
        .block_on(runner.run(&mut ShellExecutor::default()))
        .unwrap();
}

/// Creates a directory that agents may fetch from, with this program in it.
fn fetch_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), all).unwrap();
    let (own, path) = (
        std::env::current_exe().unwrap(),
        directory.path().join("program"),
    );
    // Copied if it is on another file system.
    if std::fs::hard_link(&own, &path).is_err() {
        std::fs::copy(&own, &path).unwrap();
    }
    directory
}

fn executor(served: &Path) -> v1::ExecutorSpec {
    v1::ExecutorSpec {
        executor_id: "shell".into(),
        resources: resources("cpus:0.1;mem:64").unwrap(),
        argv: ["./program", "--exact", EXECUTOR, "--nocapture"]
            .map(str::to_owned)
            .into(),
        uris: vec![v1::Uri {
            value: served.join("program").display().to_string(),
            executable: true,
            output_file: "program".into(),
            ..v1::Uri::default()
        }],
        ..v1::ExecutorSpec::default()
    }
}

/// Returns a task that prints a greeting and what it reads, and waits for its end.
fn task(served: &Path, id: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        task_id: id.to_owned(),
        shell: format!("echo {id} has begun; echo {id} > file-{id}; exec sleep 600"),
        resources: resources("cpus:0.1;mem:32").unwrap(),
        executor: Some(executor(served)),
        ..v1::TaskSpec::default()
    }
}

#[derive(Default)]
struct ReceivedEvents {
    /// Tasks to launch as soon as the agent offers resources.
    queue: Vec<v1::TaskSpec>,
    states: BTreeMap<String, v1::TaskStatus>,
    messages: Vec<Vec<u8>>,
}

struct EventRecorder(Arc<Mutex<ReceivedEvents>>);

impl Scheduler for EventRecorder {
    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        for offer in offers {
            let tasks = std::mem::take(&mut self.0.lock().unwrap().queue);
            match tasks.is_empty() {
                true => driver.decline(&offer, None),
                false => drop(driver.accept(&offer, tasks)),
            }
        }
    }

    fn update(&mut self, _: &SchedulerDriver, status: &v1::TaskStatus) {
        let mut events = self.0.lock().unwrap();
        events.states.insert(status.task_id.clone(), status.clone());
    }

    fn message(&mut self, _: &SchedulerDriver, message: &v1::ExecutorMessage) {
        let mut events = self.0.lock().unwrap();
        events.messages.push(message.data.clone());
    }
}

/// A framework in a separate thread.
struct TestFramework {
    events: Arc<Mutex<ReceivedEvents>>,
    driver: SchedulerDriver,
    thread: std::thread::JoinHandle<()>,
}

impl TestFramework {
    fn start(cluster: &DevCluster) -> Self {
        let masters = cluster.record["masters"].as_str().unwrap().split(',');
        let masters: Vec<_> = masters.map(str::to_owned).collect();
        let masters = Masters::new(&masters).unwrap();
        let config = SchedulerConfig {
            connector: cluster.connector(),
            ..SchedulerConfig::new(masters, "hosts")
        };
        let runner = scheduler::SchedulerRunner::new(config);
        let heard = Arc::new(Mutex::new(ReceivedEvents::default()));
        let (driver, mut listener) = (runner.driver(), EventRecorder(heard.clone()));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let ended = runner.run(&mut listener, tokio_util::sync::CancellationToken::new());
            runtime.block_on(ended).unwrap();
        });
        Self {
            events: heard,
            driver,
            thread,
        }
    }

    fn launch(&self, task: v1::TaskSpec) {
        self.events.lock().unwrap().queue.push(task);
        drop(self.driver.revive(Vec::new()));
    }

    fn wait_for_state(&self, task: &str, state: v1::TaskState) {
        wait_for(&format!("{task} to be {state:?}"), || {
            let events = self.events.lock().unwrap();
            let reported = events.states.get(task);
            reported.is_some_and(|reported| reported.state() == state)
        });
    }

    /// Checks that the executor echoes messages. Lost messages are sent again.
    fn exchange_message(&self, word: &str) {
        let agent = self.events.lock().unwrap().states["a"].agent_id.clone();
        wait_for(&format!("the executor to send {word} back"), || {
            self.driver.message(&agent, "shell", word.into());
            std::thread::sleep(std::time::Duration::from_millis(200));
            let events = self.events.lock().unwrap();
            events
                .messages
                .iter()
                .any(|output| output == word.as_bytes())
        });
    }
}

/// Checks what a user sees of a task, through this master.
fn is_reached(cluster: &DevCluster, task: &str, master: &str) {
    let (code, text, stderr) = cluster.run(&["logs", task, "--masters", master]);
    assert_eq!(code, 0, "{stderr}");
    let begun = format!("{task} has begun\n");
    assert!(text.contains(&begun), "{text}");
    assert!(stderr.contains("is run by executor shell"), "{stderr}");
    let line = format!("cat file-{task}");
    let words = ["exec", "--masters", master, task, "--", "sh", "-c", &line];
    let (code, text, stderr) = cluster.run(&words);
    assert_eq!((code, text), (0, format!("{task}\n")), "{stderr}");
    assert!(stderr.contains("is run by executor shell"), "{stderr}");
}

fn member(cluster: &DevCluster, is: impl Fn(&serde_json::Value) -> bool) -> &serde_json::Value {
    let mut members = cluster.members().iter();
    members.find(|member| is(member)).unwrap()
}

fn pid(member: &serde_json::Value) -> i32 {
    i32::try_from(member["pid"].as_i64().unwrap()).unwrap()
}

/// Returns the address of the leader, once it is not `dead`. A busy host may leave a cluster
/// without a leader for a moment.
pub(crate) fn leader_other_than(cluster: &DevCluster, dead: Option<&str>) -> String {
    let mut found = None;
    wait_for("a leader", || {
        found = leader(cluster).filter(|leads| Some(leads.as_str()) != dead);
        found.is_some()
    });
    found.expect("it was waited for")
}

fn leader(cluster: &DevCluster) -> Option<String> {
    let (_, page, _) = cluster.run(&["master", "list", "-o", "json"]);
    let page: serde_json::Value = serde_json::from_str(&page).ok()?;
    let mut masters = page["masters"].as_array()?.iter();
    let leader = masters.find(|master| master["role"] == "leader")?;
    Some(leader["apiAddress"].as_str()?.to_owned())
}

fn strings(pid: i32, file: &str) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let parts = text.split_terminator('\0');
    parts.map(str::to_owned).collect()
}

/// Kills the agent, and starts it again with its command line. It exits with its standard input.
fn restart(agent: &serde_json::Value) -> Child {
    let pid = pid(agent);
    let (words, variables) = (strings(pid, "cmdline"), strings(pid, "environ"));
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_for("the agent to be gone", || {
        // Its first thread may have exited before others, which hold its sockets and locks.
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
        let threads = threads.map_or(0, |threads| threads.count());
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        threads == 0 || threads == 1 && stat.is_ok_and(|stat| stat.contains(") Z "))
    });
    let variables = variables.iter().filter_map(|one| one.split_once('='));
    Command::new(executable())
        .args(&words[1..])
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn an_executors_tasks_survive_failures_of_leader_and_agent() {
    let served = fetch_directory();
    let flags = ["--fetch-dir", served.path().to_str().unwrap()];
    let mut cluster = DevCluster::start(43, "3x1", &flags);
    let framework = TestFramework::start(&cluster);
    framework.launch(task(served.path(), "a"));
    framework.wait_for_state("a", v1::TaskState::Running);
    framework.launch(task(served.path(), "b"));
    framework.wait_for_state("b", v1::TaskState::Running);
    let masters = cluster.record["masters"].as_str().unwrap().to_owned();
    for master in masters.split(',') {
        is_reached(&cluster, "a", master);
    }
    let (code, shown, stderr) = cluster.run(&["task", "show", "a"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        shown.contains("executor") && shown.contains("shell"),
        "{shown}"
    );
    framework.exchange_message("before");

    let dead = leader_other_than(&cluster, None);
    kill(
        Pid::from_raw(pid(member(&cluster, |one| one["api"] == dead.as_str()))),
        Signal::SIGKILL,
    )
    .unwrap();
    leader_other_than(&cluster, Some(&dead));
    framework.exchange_message("under another leader");
    framework.launch(task(served.path(), "c"));
    framework.wait_for_state("c", v1::TaskState::Running);

    let mut agent = restart(member(&cluster, |one| one["kind"] == "agent"));
    framework.exchange_message("after the agent's death");
    for task in ["a", "c"] {
        is_reached(&cluster, task, &leader_other_than(&cluster, None));
    }
    for task in ["a", "b"] {
        drop(framework.driver.kill(task, None));
        framework.wait_for_state(task, v1::TaskState::Killed);
    }
    // Its executor keeps running, and with it the files that it wrote.
    let (code, text, stderr) = cluster.run(&["logs", "-f", "a"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(text.contains("a has begun\n"), "{text}");
    drop(framework.driver.kill("c", None));
    framework.wait_for_state("c", v1::TaskState::Killed);
    let (code, text, stderr) = cluster.run(&["logs", "c"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(text.contains("c has begun\n"), "{text}");
    let (code, _, stderr) = cluster.run(&["exec", "c", "--", "true"]);
    assert_eq!(code, 4, "{stderr}");
    drop(framework.driver.teardown());
    framework.thread.join().unwrap();
    drop(agent.stdin.take());
    assert!(agent.wait().unwrap().success());
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");
}
