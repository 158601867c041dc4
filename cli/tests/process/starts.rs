//! Masters and agents that must not start, each a row: how they are started, and the sentence that they
//! end with. The cluster beside them goes on.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use argosy_proto::v1;

use crate::cluster::{Cluster, argosy, until};

const LONG: Duration = Duration::from_secs(60);

/// Runs the executable until it ends by itself; its exit code and what it said.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let mut child = Command::new(argosy())
        .args(arguments)
        .env("ARGOSY_LOG", "info,openraft=error")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the executable starts");
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while child.try_wait().expect("it is our child").is_none() {
        if std::time::Instant::now() > deadline {
            child.kill().expect("it is our child");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("it has ended");
    (
        output.status.code(),
        [output.stdout, output.stderr]
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .concat(),
    )
}

/// What is started, on which directory, and what it says before it ends. Words in capitals stand for
/// addresses of the cluster beside it and of a stranger.
const ROWS: &[(&str, &str, &str)] = &[
    (
        "master start --listen OWN --peers PEERS",
        "master-9",
        "is taken by process",
    ),
    (
        "master start --listen STRANGER",
        "master-1",
        "is in use by process",
    ),
    (
        "master start --listen STRANGER --peers WIDER --bootstrap",
        "master-7",
        "would make a second cluster",
    ),
    (
        "master start --listen STRANGER --peers WIDER",
        "other",
        "belongs to another cluster",
    ),
    (
        "master start --listen STRANGER --peers PEERS",
        "master-8",
        "does not contain this one",
    ),
    (
        "master start --listen STRANGER",
        "master-6",
        "list all masters with --peers",
    ),
    (
        "agent start --listen AGENT --masters MASTERS --allow-missing-controllers",
        "agent-9",
        "is taken by process",
    ),
    (
        "agent start --listen STRANGER --masters MASTERS --allow-missing-controllers",
        "agent-1",
        "another agent, process",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_must_not_start_say_why() {
    let mut cluster = Cluster::start(1).await;
    let own = cluster.masters[0].address.to_string();
    let (network, _) = own.rsplit_once('.').expect("an address has dots");
    let peers: Vec<String> = (1..=3)
        .map(|host| format!("{network}.{host}:5052"))
        .collect();
    let peers = peers.join(",");
    let stranger = format!("{network}.50");
    let wider = format!("{peers},{stranger}:5052");
    let agent = cluster.agents[0].address.to_string();
    let own_masters = cluster.masters_list().to_string();
    let mut other = another_cluster(&cluster, &stranger).await;
    an_agent_of_another_cluster_is_refused(&mut cluster, &stranger).await;
    other.kill().expect("it is our child");
    other.wait().expect("it is our child");
    let places = [
        ("OWN", own.as_str()),
        ("STRANGER", &stranger),
        ("PEERS", &peers),
        ("WIDER", &wider),
        ("AGENT", &agent),
        ("MASTERS", &own_masters),
    ];
    for (line, folder, says) in ROWS {
        let folder = cluster.directory.path().join(folder).display().to_string();
        let word = |word: &'static str| {
            let place = places.iter().find(|(name, _)| *name == word);
            place.map_or(word, |(_, meant)| *meant)
        };
        let mut arguments: Vec<&str> = line.split(' ').map(word).collect();
        arguments.extend(["--data-dir", &folder]);
        let (code, said) = run(&arguments);
        assert!(
            !matches!(code, Some(0) | None) && said.contains(says),
            "{line}: {code:?} {said}"
        );
    }
    a_newer_directory_is_refused(&mut cluster, &own, &peers).await;
    a_wiped_master_is_a_stranger(&mut cluster).await;
}

/// Founds a cluster of one master, in the directory `other`.
async fn another_cluster(cluster: &Cluster, listen: &str) -> Child {
    let folder = cluster.directory.path().join("other");
    let child = Command::new(argosy())
        .args(["master", "start", "--bootstrap", "--listen", listen])
        .arg("--data-dir")
        .arg(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the executable starts");
    let ready = format!("http://{listen}:5050/readyz");
    until("the other cluster is there", LONG, async || {
        let answer = reqwest::get(&ready).await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    child
}

/// It goes on asking, for it may be the list of masters that is wrong, and changes nothing.
async fn an_agent_of_another_cluster_is_refused(cluster: &mut Cluster, stranger: &str) {
    let operator = cluster.operator();
    let list = async || operator.list_agents(v1::ListRequest::default()).await;
    let before = list().await.unwrap().agents;
    cluster.agents[0].kill();
    let data = cluster.directory.path().join("agent-1");
    let said = cluster.directory.path().join("lost-agent.log");
    let log = std::fs::File::create(&said).unwrap();
    let listen = cluster.agents[0].address.to_string();
    let mut lost = Command::new(argosy())
        .args(["agent", "start", "--allow-missing-controllers"])
        .args([
            "--listen",
            &listen,
            "--masters",
            &format!("{stranger}:5050"),
        ])
        .arg("--data-dir")
        .arg(&data)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("the executable starts");
    until("it says whose it is", LONG, async || {
        let text = std::fs::read_to_string(&said).unwrap();
        text.contains("belongs to").then_some(())
    })
    .await;
    lost.kill().expect("it is our child");
    lost.wait().expect("it is our child");
    cluster.agents[0].start();
    until("it is itself again", LONG, async || {
        let agents = list().await.ok()?.agents;
        let is_back = agents.len() == 1 && agents[0].connected;
        (is_back && agents[0].agent_id == before[0].agent_id).then_some(())
    })
    .await;
}

async fn a_newer_directory_is_refused(cluster: &mut Cluster, own: &str, peers: &str) {
    let data = cluster
        .directory
        .path()
        .join("master-1")
        .display()
        .to_string();
    // The first master's directory, as a newer release would have left it, then as it was.
    cluster.masters[0].kill();
    let format = cluster.directory.path().join("master-1/FORMAT");
    let kept = std::fs::read_to_string(&format).expect("the format is written down");
    std::fs::write(&format, kept.replace("format 1", "format 99")).unwrap();
    let (code, said) = run(&[
        "master",
        "start",
        "--listen",
        own,
        "--peers",
        peers,
        "--data-dir",
        &data,
    ]);
    assert!(
        code != Some(0) && said.contains("start a newer argosy"),
        "a newer format: {code:?} {said}"
    );
    std::fs::write(&format, kept).unwrap();
    cluster.masters[0].start();
    cluster.wait_caught_up().await;
}

async fn a_wiped_master_is_a_stranger(cluster: &mut Cluster) {
    // A wiped master under its old address is a stranger.
    cluster.masters[1].kill();
    std::fs::remove_dir_all(cluster.directory.path().join("master-2")).unwrap();
    cluster.masters[1].start();
    until("the wiped master says what to do", LONG, async || {
        cluster.masters[1]
            .log()
            .contains("argosy master join")
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unequal_lists_of_masters_form_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let network = format!("127.{}.{}", 100 + std::process::id() % 100, 250);
    let start = |host: u8, peers: String| {
        Command::new(argosy())
            .args([
                "master",
                "start",
                "--listen",
                &format!("{network}.{host}"),
                "--peers",
                &peers,
                "--data-dir",
            ])
            .arg(directory.path().join(host.to_string()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the executable starts")
    };
    let mut first = start(
        1,
        format!("{network}.1:5052,{network}.2:5052,{network}.3:5052"),
    );
    let second = start(2, format!("{network}.1:5052,{network}.2:5052"));
    let output = tokio::task::spawn_blocking(move || second.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    first.kill().expect("it is our child");
    first.wait().expect("it is our child");
    assert!(
        !output.status.success() && said.contains("the lists of masters differ"),
        "{said}"
    );
}
