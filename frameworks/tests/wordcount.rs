//! A whole word count on fake masters. The test acts as the agents, runs every task for real, and
//! serves the outputs, while leaders change, replies are lost and tasks fail.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use argosy_client::Masters;
use argosy_client::scheduler::{SchedulerConfig, SchedulerRunner};
use argosy_fakes::{CallFault, FakeCluster};
use argosy_frameworks::arguments::TlsArguments;
use argosy_frameworks::paths::collect as collect_inputs;
use argosy_frameworks::progress::ProgressFormat;
use argosy_frameworks::wordcount::WordCount;
use argosy_frameworks::wordcount::collect::collect;
use argosy_frameworks::wordcount::held_offer::OfferHold;
use argosy_frameworks::wordcount::job::{Job, TaskSettings};
use argosy_frameworks::wordcount::split::split;
use argosy_proto::v1;
use argosy_proto::v1::TaskState;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

const MAPPER: &str = env!("CARGO_BIN_EXE_argosy-wordmap");

/// Sandboxes, and a file API for them.
struct FakeAgent {
    directory: PathBuf,
    address: String,
}

impl FakeAgent {
    fn start(dir: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let root = dir.clone();
        // Ends with the test program.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &root);
            }
        });
        Self {
            directory: dir,
            address,
        }
    }

    fn file(&self, url: &str) -> PathBuf {
        let path = url.split_once("path=tasks/").unwrap().1;
        self.directory.join(path)
    }

    /// Runs a task as an agent would: sandbox, files, witness link, process.
    fn run(&self, spec: &v1::TaskSpec, witness: &Path) -> TaskState {
        let sandbox = self.directory.join("framework-1").join(&spec.task_id);
        fs::create_dir_all(&sandbox).unwrap();
        std::os::unix::fs::symlink(witness, sandbox.join("witness")).unwrap();
        for uri in &spec.uris {
            let from = match uri.value.starts_with("http") {
                true => self.file(&uri.value),
                false => PathBuf::from(&uri.value),
            };
            fs::copy(from, sandbox.join(&uri.output_file)).unwrap();
        }
        let mut command = Command::new(sandbox.join(&spec.argv[0]));
        command
            .args(&spec.argv[1..])
            .current_dir(&sandbox)
            .env("ARGOSY_TASK_ID", &spec.task_id);
        if command.status().unwrap().success() {
            TaskState::Finished
        } else {
            TaskState::Failed
        }
    }
}

fn serve(stream: std::net::TcpStream, root: &Path) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().unwrap().unwrap();
    while !lines.next().unwrap().unwrap().is_empty() {}
    let url = request.split(' ').nth(1).unwrap();
    let body = fs::read(root.join(url.split_once("path=tasks/").unwrap().1)).unwrap();
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(&body).unwrap();
}

fn by_coreutils(directory: &Path) -> String {
    let script = "find -P \"$1\" -type f -print0 | LC_ALL=C sort -zu | \
        LC_ALL=C xargs -0 grep -Iah '' | LC_ALL=C tr -cs A-Za-z '\\n' | LC_ALL=C tr A-Z a-z | \
        grep . | LC_ALL=C sort | LC_ALL=C uniq -c | awk '{print $2 \"\\t\" $1}' | LC_ALL=C sort";
    let output = Command::new("bash")
        .args(["-c", script, "bash"])
        .arg(directory)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn make_input(directory: &Path) {
    fs::create_dir_all(directory.join("sub")).unwrap();
    for number in 0..20 {
        let text =
            format!("File {number} says: the Quick brown fox's {number}th jump, no newline at end");
        fs::write(
            directory.join(format!("sub/{number:02}")),
            text.repeat(number * 40 + 1),
        )
        .unwrap();
    }
}

/// Runs the launched tasks until the scheduler is done, while faults are injected.
async fn be_the_cluster(
    cluster: &FakeCluster,
    agent: &FakeAgent,
    witness: &Path,
    is_done: impl Fn() -> bool,
) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut ran, mut changes) = (0, 0);
    let mut failed: BTreeMap<String, u32> = BTreeMap::new();
    while !is_done() {
        assert!(Instant::now() < deadline, "not done after {ran} tasks");
        for spec in cluster.take_launched() {
            cluster.update(&spec.task_id, TaskState::Running);
            let piece = spec.task_id.rsplit_once('-').unwrap().0.to_owned();
            // Every seventh task fails the first time.
            let fails = ran % 7 == 3 && failed.insert(piece, 1).is_none();
            let state = if fails {
                TaskState::Failed
            } else {
                agent.run(&spec, witness)
            };
            cluster.update(&spec.task_id, state);
            ran += 1;
        }
        if changes < 3 && ran >= (changes + 1) * 6 {
            changes += 1;
            cluster.fault(CallFault::LostReply, 1);
            cluster.change_leader();
        }
        if cluster.open_offers().len() < 3 {
            cluster.offer("agent-1", "cpus:0.3;mem:1024");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_counted_correctly_despite_failures_and_failovers() {
    let directory = tempfile::tempdir().unwrap();
    let input = directory.path().join("input");
    let output = directory.path().join("counts.tsv");
    make_input(&input);
    let agent = FakeAgent::start(directory.path().join("sandboxes"));
    let cluster = FakeCluster::start(3).await;
    cluster.set_agent_address(&agent.address);
    let settings = TaskSettings {
        mapper: MAPPER.into(),
        witness: Some(directory.path().display().to_string()),
        resources: "cpus:0.1;mem:32".parse().unwrap(),
        max_failures: 5,
        ..Default::default()
    };
    let inputs = collect_inputs(std::slice::from_ref(&input), u64::MAX).unwrap();
    let job = Job::new(settings, split(&inputs, 24), 4);
    let (sender, outcome) = oneshot::channel();
    let hold = OfferHold::new(Some(8_000));
    let mut scheduler = WordCount::new(job, hold, 0, ProgressFormat::None, sender);
    let masters = Masters::new(cluster.addresses()).unwrap();
    let mut config = SchedulerConfig::new(masters, "wordcount");
    config.tick = Duration::from_millis(20);
    let runner = SchedulerRunner::new(config);
    let driver = runner.driver();
    let path = output.clone();
    let agents = TlsArguments::default().agents().unwrap();
    let writer = tokio::spawn(async move {
        let written = collect(&outcome.await.unwrap().unwrap().urls, &path, &agents).await;
        driver.teardown();
        written
    });
    let run = tokio::spawn(async move {
        let result = runner.run(&mut scheduler, CancellationToken::new()).await;
        (result, scheduler)
    });
    be_the_cluster(&cluster, &agent, directory.path(), || run.is_finished()).await;
    let (result, scheduler) = run.await.unwrap();
    assert_eq!(result, Ok(()));
    writer.await.unwrap().unwrap();
    assert_eq!(fs::read_to_string(&output).unwrap(), by_coreutils(&input));
    assert!(
        scheduler.progress().retries > 0,
        "some tasks failed and were tried again"
    );
    assert!(
        !scheduler.crossings().is_empty(),
        "an offer outlived the leader that made it"
    );
    assert!(cluster.launches().iter().all(|(_, times)| *times == 1));
    let witness = fs::read_to_string(directory.path().join("witness")).unwrap();
    let mut tasks: Vec<&str> = witness
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let starts = tasks.len();
    tasks.sort_unstable();
    tasks.dedup();
    assert_eq!(tasks.len(), starts, "no task started twice");
}
