//! Each check, with an answer that passes and one that does not.

use super::*;

fn master(number: u64, last_contact_ms: Option<u64>, lag: u64) -> v1::Master {
    v1::Master {
        node_id: format!("master-{number}"),
        api_address: format!("10.0.0.{number}:5050"),
        voter: true,
        last_contact_ms,
        lag: Some(lag),
        newest_level: Some(3),
        ..Default::default()
    }
}

fn cluster(contacts: &[u64]) -> v1::Cluster {
    let others = (2..).zip(contacts).map(|(at, ms)| master(at, Some(*ms), 0));
    let mut masters = vec![master(1, None, 0)];
    masters.extend(others);
    v1::Cluster {
        leader: "master-1".to_owned(),
        feature_level: 3,
        masters,
        ..Default::default()
    }
}

fn answer(number: u64, release: &str, offset: (i64, i64)) -> MasterAnswer {
    let protocol = v1::Protocol {
        release: release.to_owned(),
        ..Default::default()
    };
    MasterAnswer {
        name: format!("master-{number} (10.0.0.{number}:5050)"),
        cluster: Ok(v1::Cluster {
            protocol: Some(protocol),
            ..Default::default()
        }),
        offset: Some(offset),
        metrics: Ok(String::new()),
        later_metrics: None,
    }
}

/// Asserts the status, and words in what is found; a finding that is not ok names a remedy.
fn expect(finding: &Finding, status: CheckStatus, words: &str) {
    assert_eq!(finding.status, status, "{finding:?}");
    assert!(finding.found.contains(words), "{finding:?}");
    let is_ok = status == CheckStatus::Ok;
    assert_eq!(finding.fix.is_empty(), is_ok, "{finding:?}");
    assert!(!finding.fix.contains('\n'), "{finding:?}");
}

use CheckStatus::{Failed, Ok as Fine, Warning};

#[test]
fn a_quorum_that_one_loss_ends_is_reported() {
    expect(&quorum(&cluster(&[10, 10]), &[]), Fine, "3 of 3");
    expect(&quorum(&cluster(&[10, 9_000]), &[]), Warning, "one more");
    expect(&quorum(&cluster(&[]), &[]), Warning, "1 master");
    let leaderless = v1::Cluster {
        leader: String::new(),
        ..cluster(&[10, 10])
    };
    // The contacts of the former leader are out of date: only answers count.
    let found = "no leader: 0 of 3 masters answer, 2 are needed";
    expect(&quorum(&leaderless, &[]), Failed, found);
    let one = [answer(2, "0.2.0", (0, 1))];
    let lonely = quorum(&leaderless, &one);
    let found = "no leader: 1 of 3 masters answers, 2 are needed";
    expect(&lonely, Failed, found);
    assert_eq!(lonely.fix, "start master-1, master-3");
    let all = [1, 2, 3].map(|number| answer(number, "0.2.0", (0, 1)));
    let found = "no leader, although 3 of 3 masters answer";
    expect(&quorum(&leaderless, &all), Failed, found);
    let new = v1::Cluster::default();
    expect(&quorum(&new, &[]), Failed, "have not found each other");
    // Without a leader's contacts, their answers to this program count.
    let mut unknown = cluster(&[10, 10]);
    for master in &mut unknown.masters {
        master.last_contact_ms = None;
    }
    let answers = [answer(2, "0.2.0", (0, 1)), answer(3, "0.2.0", (0, 1))];
    expect(&quorum(&unknown, &answers), Fine, "3 of 3");
    expect(&quorum(&unknown, &answers[..1]), Warning, "2 of 3");
}

#[test]
fn masters_that_do_not_answer_or_are_behind_are_named() {
    let mut answers = [answer(1, "0.2.0", (0, 1)), answer(2, "0.2.0", (0, 1))];
    expect(&reachable(&answers), Fine, "2");
    answers[1].cluster = Err("refused".to_owned());
    let found = "master-2 (10.0.0.2:5050): refused";
    expect(&reachable(&answers), Failed, found);
    let mut cluster = cluster(&[10, 10]);
    expect(&followers(&cluster), Fine, "none");
    cluster.masters[2] = master(3, Some(10), 20_000);
    expect(&followers(&cluster), Warning, "master-3 is 20000");
}

#[test]
fn clocks_are_compared_within_the_precision_of_the_measurement() {
    let answers = |offset: (i64, i64)| {
        let fixed = answer(1, "0.2.0", (-20, 2));
        [fixed, answer(2, "0.2.0", offset)]
    };
    expect(&clocks(&answers((30, 2))), Fine, "50 ms");
    let found = "the clock of master-2 (10.0.0.2:5050) is 2020 ms ahead of that of master-1";
    expect(&clocks(&answers((2_000, 2))), Warning, found);
    let found = "is 1980 ms ahead of that of master-2";
    expect(&clocks(&answers((-2_000, 2))), Warning, found);
    // A slow answer proves nothing.
    expect(&clocks(&answers((2_000, 3_000))), Fine, "3002 ms");
    expect(&clocks(&[]), Warning, "no master");
}

#[test]
fn releases_and_levels_that_differ_are_reported() {
    let answers = |other| [answer(1, "0.2.0", (0, 1)), answer(2, other, (0, 1))];
    expect(&releases(&answers("0.2.0")), Fine, "0.2.0");
    expect(&releases(&answers("0.1.0")), Warning, "0.1.0 on master-2");
    expect(&level(&cluster(&[1, 1])), Fine, "3");
    let lower = v1::Cluster {
        feature_level: 2,
        ..cluster(&[1, 1])
    };
    expect(&level(&lower), Warning, "2, and all masters support 3");
}

/// Metrics of this many syncs, as a master writes them.
fn sync_metrics(count: u64, sum: f64, quick: u64) -> String {
    let name = disks::SYNCS;
    format!(
        "# TYPE {name} histogram\n{name}_bucket{{le=\"0.01\"}} 3\n{name}_bucket{{le=\"0.25\"}} {quick}\n\
         {name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}\n{name}_other_sum 9\n"
    )
}

const PASSED: Duration = Duration::from_secs(2);

#[test]
fn slow_disks_are_named() {
    let with = |first: String, later: Option<String>| {
        let mut answer = answer(2, "0.2.0", (0, 1));
        answer.metrics = Ok(first);
        answer.later_metrics = later;
        disks::syncs(&[answer], PASSED).remove(0)
    };
    let idle = |metrics: String| with(metrics.clone(), Some(metrics));
    let found = "2.0 ms on average since its start, 0.0 %";
    expect(&idle(sync_metrics(1_000, 2.0, 1_000)), Fine, found);
    expect(&idle(sync_metrics(1_000, 12.0, 1_000)), Warning, "12.0 ms");
    // These stalls may be long over.
    let found = "1.0 % took 250 ms";
    expect(&idle(sync_metrics(1_000, 2.0, 990)), Fine, found);
    expect(&idle(String::new()), Fine, "reports no times");
    let broken = sync_metrics(0, 0.0, 0);
    expect(&idle(broken), Fine, "reports no times");
    expect(&idle(sync_metrics(5, f64::NAN, 5)), Fine, "reports no");
    let before = || sync_metrics(1_000, 2.0, 1_000);
    let found = "3.0 ms on average in the last 2 s, 0.0 %";
    let now = sync_metrics(1_100, 2.3, 1_100);
    expect(&with(before(), Some(now)), Fine, found);
    let now = sync_metrics(1_100, 2.3, 1_099);
    expect(&with(before(), Some(now)), Warning, "1.0 % took 250 ms");
    let now = sync_metrics(1_100, 4.0, 1_100);
    expect(&with(before(), Some(now)), Warning, "20.0 ms on average in");
    // A restarted master counts from 0, and one that has stopped has no second page.
    let now = sync_metrics(100, 0.1, 100);
    expect(&with(before(), Some(now)), Fine, "1.0 ms on average in");
    expect(&with(before(), None), Fine, "2.0 ms on average since");
    let mut silent = answer(2, "0.2.0", (0, 1));
    silent.metrics = Err("refused".to_owned());
    let found = disks::syncs(&[silent.clone()], PASSED);
    expect(&found[0], Warning, "refused");
    silent.cluster = Err("refused".to_owned());
    assert!(disks::syncs(&[silent], PASSED).is_empty());
}

#[test]
fn disks_that_are_full_or_soon_full_are_named() {
    let member = |name: &str, free: &str, total: &str| MemberMetrics {
        name: name.to_owned(),
        metrics: Ok(format!(
            "# TYPE argosy_disk_free_bytes gauge\nargosy_disk_free_bytes {free}\n\
             argosy_disk_total_bytes {total}\nargosy_disk_total_bytes_x 7\n"
        )),
    };
    let check = |more: &[(&str, &str, &str)], is_cut| {
        let more = more.iter();
        let more = more.map(|(name, free, total)| member(name, free, total));
        let all: Vec<_> = [member("master-1", "4e+11", "1e+12")]
            .into_iter()
            .chain(more)
            .collect();
        disks::space(&all, is_cut)
    };
    let found = "at least 40 % is free on 1 member";
    expect(&check(&[], false), Fine, found);
    let large = ("node2", "9e+10", "1e+12");
    let found = "free: node2 has 83.8 GiB (9 %)";
    expect(&check(&[large], false), Warning, found);
    let full = ("node3", "1e+09", "1e+12");
    let found = "free: node3 has 954 MiB (0 %), node2 has 83.8 GiB (9 %)";
    expect(&check(&[large, full], false), Failed, found);
    // A small share of a large disk is much, and of a small one it may be little.
    let huge = ("node4", "1e+11", "1e+13");
    expect(&check(&[huge], false), Warning, "node4 has 93.1 GiB (1 %)");
    let found = "first 100 agents";
    expect(&check(&[], true), Fine, found);
    for broken in [
        ("node5", "NaN", "1"),
        ("node5", "1", "0"),
        ("node5", "", ""),
    ] {
        expect(&check(&[broken], false), Warning, "unknown of node5");
    }
    let silent = MemberMetrics {
        name: "node6".to_owned(),
        metrics: Err("refused".to_owned()),
    };
    let found = "unknown of node6 (refused)";
    expect(&disks::space(&[silent], false), Warning, found);
    expect(&disks::space(&[], false), Warning, "no member");
}

#[tokio::test]
async fn a_refused_connection_is_an_answer() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap().to_string();
    drop(gone);
    // A retry until this timeout would not end.
    let timeout = Duration::from_secs(86_400);
    let transport = ClientTransport::plaintext();
    let http = ProbeClient::new(&transport, timeout);
    let master = v1::Master {
        node_id: "master-1".to_owned(),
        api_address: address.clone(),
        ..Default::default()
    };
    let named = Masters::new([&address]).unwrap();
    let client = ClusterClient::to(named.clone(), timeout, transport.clone());
    let answer = ask(&client, &http, &master, timeout).await;
    assert_eq!(answer.cluster.unwrap_err(), "refused");
    let failure = all(&named, timeout, transport).await.unwrap_err();
    assert_eq!(
        failure.message,
        format!("no master answers: {address} refused")
    );
}

#[test]
fn agents_without_connection_controllers_or_the_release_are_named() {
    let agent = |number: u64, missing: &[&str], version: &str| v1::Agent {
        agent_id: format!("agent-{number}"),
        connected: true,
        info: Some(v1::AgentInfo {
            host_name: format!("node{number}"),
            missing_controllers: missing.iter().map(ToString::to_string).collect(),
            version: version.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut agents: Vec<_> = (1..=7).map(|at| agent(at, &[], "0.2.0")).collect();
    expect(&connections(&agents), Fine, "7");
    expect(&controllers(&agents), Fine, "all limits");
    expect(&agent_releases(&agents, "0.2.0"), Fine, "masters");
    agents[2].connected = false;
    expect(&connections(&agents), Failed, "not connected: node3");
    agents[3] = agent(4, &["memory", "io"], "0.1.0");
    let found = "not enforced: io on node4; memory on node4";
    expect(&controllers(&agents), Warning, found);
    expect(&agent_releases(&agents, "0.2.0"), Warning, "0.2.0: node4");
    let all: Vec<_> = (1..=7).map(|at| agent(at, &["io"], "0.2.0")).collect();
    expect(&controllers(&all), Warning, "node5 and 2 more");
}
