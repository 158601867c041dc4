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
    }
}

/// Asserts the verdict, and words in what is found; a finding that is not ok names a remedy.
fn expect(finding: &Finding, verdict: CheckStatus, words: &str) {
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    assert!(finding.found.contains(words), "{finding:?}");
    let is_ok = verdict == CheckStatus::Ok;
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
    expect(&quorum(&leaderless, &[]), Failed, "no leader");
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

/// Metrics of 1,000 syncs, as a master writes them.
fn metrics(sum: f64, quick: u64) -> String {
    format!(
        "# TYPE {SYNCS} histogram\n{SYNCS}_bucket{{le=\"0.01\"}} 3\n{SYNCS}_bucket{{le=\"0.25\"}} {quick}\n\
         {SYNCS}_bucket{{le=\"+Inf\"}} 1000\n{SYNCS}_sum {sum}\n{SYNCS}_count 1000\n{SYNCS}_other_sum 9\n"
    )
}

#[test]
fn slow_disks_are_named() {
    let with = |metrics: String| {
        let mut answer = answer(2, "0.2.0", (0, 1));
        answer.metrics = Ok(metrics);
        syncs(&[answer]).remove(0)
    };
    expect(&with(metrics(2.0, 1_000)), Fine, "2.0 ms on average");
    expect(&with(metrics(12.0, 1_000)), Warning, "12.0 ms");
    expect(&with(metrics(2.0, 990)), Warning, "1.0 % took 250 ms");
    expect(&with(String::new()), Fine, "reports no times");
    let broken = metrics(0.0, 0).replace("1000", "0");
    expect(&with(broken), Fine, "reports no times");
    let mut silent = answer(2, "0.2.0", (0, 1));
    silent.metrics = Err("refused".to_owned());
    expect(&syncs(&[silent.clone()])[0], Warning, "refused");
    silent.cluster = Err("refused".to_owned());
    assert!(syncs(&[silent]).is_empty());
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
