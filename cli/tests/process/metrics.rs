//! Metrics of real masters and agents: Prometheus' own check accepts them, the list has all of
//! them, and those of the leader move with leadership.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use argosy_proto::metric_list;
use argosy_proto::v1;

use crate::cluster::{Cluster, TestMember, wait_until};
use crate::test_framework::{TestFramework, task};

const LONG: Duration = Duration::from_secs(60);
/// Series that only the active leader has.
const OF_LEADER: [&str; 6] = [
    "argosy_frameworks{state=\"connected\"}",
    "argosy_offers_outstanding",
    "argosy_raft_follower_lag_entries{node=\"master-",
    "argosy_raft_voters_in_contact",
    "argosy_allocator_oldest_demand_seconds",
    "argosy_resources{resource=\"cpus\",use=\"offered\"}",
];
/// Beginnings of the former names of metrics, which masters and agents show for one more release.
const FORMER_NAMES: [&str; 4] = [
    "argosy_agent_checkpoint_",
    "argosy_agent_journal_damages_",
    "argosy_agent_fetch_cache_passed_by_",
    "argosy_raft_in_office",
];

async fn text_of(member: &TestMember, port: u16) -> Option<String> {
    let url = format!("http://{}:{port}/metrics", member.address);
    reqwest::get(&url).await.ok()?.text().await.ok()
}

fn has(text: &str, series: &str) -> bool {
    text.lines().any(|line| line.starts_with(series))
}

/// Waits until exactly one master has the series of the leader. Returns its position and all texts.
async fn one_leader(cluster: &Cluster) -> (usize, Vec<String>) {
    wait_until(
        "one master has the series of the leader",
        LONG,
        async || {
            let mut texts = Vec::new();
            for master in &cluster.masters {
                texts.push(text_of(master, 5050).await?);
            }
            let leader = cluster.leader().await;
            let only_there = |series: &&str| {
                let mut masters = texts.iter().enumerate();
                masters.all(|(at, text)| has(text, series) == (at == leader))
            };
            OF_LEADER.iter().all(only_there).then_some((leader, texts))
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn series_of_the_leader_move_with_leadership() {
    let cluster = Cluster::start(1).await;
    let framework = TestFramework::start(cluster.masters_list(), "holder").await;
    framework.hold_offers(true);
    framework
        .wait_for_event("an offer", LONG, |events| {
            events.offers.values().next().cloned()
        })
        .await;
    let (former, texts) = one_leader(&cluster).await;
    for (at, text) in texts.iter().enumerate() {
        assert!(
            has(text, "argosy_agents{state=\"registered\"} 1"),
            "{at}: {text}"
        );
    }
    let to = (former + 1) % cluster.masters.len();
    let address = cluster.masters[to].api();
    let operator = cluster.operator();
    let members = operator.get_cluster(v1::GetClusterRequest::default());
    let members = members.await.unwrap().masters;
    let wanted = members.iter().find(|member| member.api_address == address);
    let node_id = wanted.expect("it is a member").node_id.clone();
    let transfer = v1::TransferLeaderRequest { node_id };
    operator.transfer_leader(transfer).await.unwrap();
    // A framework that connects twice presents its offer twice.
    let none = "argosy_offers_revalidated_total{result=\"kept\"} 0";
    let (leader, texts) = wait_until("the series move, and the offer is kept", LONG, async || {
        let (leader, texts) = one_leader(&cluster).await;
        (leader != former && !has(&texts[leader], none)).then_some((leader, texts))
    })
    .await;
    let kept = "argosy_offers_revalidated_total{result=\"kept\"} ";
    assert!(has(&texts[leader], kept));
    let changes = "argosy_raft_leader_changes_total ";
    assert!(has(&texts[leader], changes) && has(&texts[former], changes));
    // What the former leader has counted stays true.
    assert!(has(&texts[former], "argosy_offers_made_total "));
}

/// Checks a text with `promtool check metrics`.
fn check_with_promtool(who: &str, text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is in the package prometheus, which make setup installs");
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    let found = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && found.is_empty(),
        "{who}: {found}"
    );
}

/// Checks types and labels against the list, and returns the names that were found.
fn check_against_list<'a>(who: &str, text: &'a str, processes: &[&str]) -> Vec<&'a str> {
    let mut types = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            types.insert(name, kind);
        }
        let Some((series, _)) = line.rsplit_once(' ').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let name = series.split('{').next().unwrap_or_default();
        let (base, listed) = ["", "_bucket", "_sum", "_count"]
            .into_iter()
            .find_map(|suffix| {
                let base = name.strip_suffix(suffix)?;
                Some((base, metric_list::find(base)?))
            })
            .unwrap_or_else(|| panic!("{who}: {name} is not listed"));
        assert_eq!(types[base], listed.kind.name(), "{who}: {base}");
        assert!(processes.contains(&listed.process), "{who}: {base}");
        for part in series.split("=\"").filter(|_| series.contains('{')) {
            let label = part.rsplit(['{', ',']).next().unwrap_or_default();
            let is_label = !label.is_empty() && !label.ends_with('}');
            let is_listed = listed.labels.contains(&label) || label == "le";
            assert!(
                !is_label || is_listed || label.contains('"'),
                "{who}: {series}"
            );
        }
    }
    types.into_keys().collect()
}

/// Series of a leader whose framework has a running task and an ended one. All masters have the
/// first.
const OF_WORK: &[&str] = &[
    "argosy_disk_free_bytes ",
    "argosy_task_terminal_total{state=\"finished\",reason=\"",
    "argosy_task_start_duration_seconds_count ",
    "argosy_framework_calls_total{framework=\"steady\",call=\"accept\"}",
    "argosy_framework_events_total{framework=\"steady\",event=\"update\"}",
    "argosy_offers_total{outcome=\"accepted\"}",
    "argosy_tasks{state=\"running\"} 1",
    "argosy_store_bytes{family=\"registry\"}",
    "argosy_raft_append_sync_duration_seconds_count",
    "argosy_raft_proposal_duration_seconds_count",
];

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_accepts_the_metrics_and_the_list_has_them() {
    let cluster = Cluster::start(1).await;
    let framework = TestFramework::start(cluster.masters_list(), "steady").await;
    framework.launch([task("short", "true"), task("long", "sleep 1000")]);
    framework
        .wait_for_event("a task ends and one runs", LONG, |events| {
            let ended = events.states("short").contains(&v1::TaskState::Finished);
            let runs = events.states("long").contains(&v1::TaskState::Running);
            (ended && runs).then_some(())
        })
        .await;
    let leader = cluster.leader().await;
    let mut names = Vec::new();
    for (at, master) in cluster.masters.iter().enumerate() {
        // The owner samples the registry ten times a second, and the disk more rarely.
        let expected = if at == leader { OF_WORK } else { &OF_WORK[..1] };
        let text = wait_until("the samples have the work", LONG, async || {
            let text = text_of(master, 5050).await?;
            let mut expected = expected.iter();
            expected.all(|series| has(&text, series)).then_some(text)
        })
        .await;
        assert!(!text.contains("NaN"), "{text}");
        let present: String = without_former_names(&text);
        let who = format!("master {at}");
        check_with_promtool(&who, &text);
        let found = check_against_list(&who, &present, &["every", "master", "leader"]);
        names.extend(found.into_iter().map(str::to_owned));
        if at == leader {
            // An agent may report the end of the short task together with its start.
            let not_started = "argosy_task_start_duration_seconds_count 0";
            assert!(!has(&text, not_started), "{text}");
        }
    }
    let text = text_of(&cluster.agents[0], 5051).await.unwrap();
    check_with_promtool("agent", &text);
    let present = without_former_names(&text);
    check_against_list("agent", &present, &["every", "agent", "task"]);
    // A master shows nearly all of its metrics in ordinary use. Here the leader never changes.
    names.sort();
    names.dedup();
    let listed = metric_list::all().iter();
    let missing: Vec<_> = listed
        .filter(|metric| matches!(metric.process, "master" | "leader"))
        .filter(|metric| !names.iter().any(|name| name == metric.name))
        .map(|metric| metric.name)
        .collect();
    assert!(missing.len() <= 13, "{missing:?}");
}

fn without_former_names(text: &str) -> String {
    let is_former = |line: &str| {
        let name = line
            .trim_start_matches("# HELP ")
            .trim_start_matches("# TYPE ");
        FORMER_NAMES.iter().any(|former| name.starts_with(former))
    };
    let kept = text.lines().filter(|line| !is_former(line));
    kept.flat_map(|line| [line, "\n"]).collect()
}
