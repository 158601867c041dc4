//! Attacks from outside a container: by another user of the host, another task, a web page, a
//! hostile registry and a hostile file server. Each is rejected for the reason that is named here,
//! and the same succeeds for an authorized caller, so that a rejection for another reason shows.
//! `scripts/techniques` counts them.

mod fetches;
mod files;
mod pages;
mod registries;
mod servers;
mod tasks;
mod users;

use std::process::Command;

use argosy_testing::{refused, skip};

use crate::cluster::{DevCluster, wait_for};
use crate::web::on_a_host;

/// The result of an attempt: what it got, or why it got nothing.
type Attempt = Result<String, String>;

/// Checks that an attack fails with a text that contains `because`, and that its control succeeds.
#[track_caller]
fn attack(attacker: &str, technique: &str, because: &str, attack: Attempt, control: Attempt) {
    match attack {
        Err(why) => assert!(
            why.contains(because),
            "{attacker}: {technique} fails, but with: {why}"
        ),
        Ok(got) => panic!("{attacker}: {technique} succeeds: {got}"),
    }
    if let Err(why) = control {
        panic!("{attacker}: {technique} shows nothing, its control fails: {why}");
    }
    refused(attacker, technique);
}

/// Returns the output of a command that succeeds, else its errors.
fn attempt(command: &mut Command) -> Attempt {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{}{}", text(&output.stdout), text(&output.stderr))),
    }
}

/// Runs a task of this cluster, and returns its result.
fn run(cluster: &DevCluster, words: &[&str]) -> Attempt {
    let words = [&["run", "--quiet", "--timeout", "30s"], words].concat();
    let attempted = attempt(&mut cluster.argosy(&words));
    attempted.map_err(|reported| match reported.is_empty() {
        true => "it failed without a word".to_owned(),
        false => reported,
    })
}

/// Calls `body` with a cluster in a separate network namespace, which has a host's address.
fn against_a_cluster(
    number: u32,
    flags: Vec<String>,
    body: impl FnOnce(&DevCluster) + Send + 'static,
) {
    against_a_host(move || {
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        with_cluster(DevCluster::start(number, "1x1", &flags), body);
    });
}

/// Calls `body` with the cluster, and ends it.
fn with_cluster(mut cluster: DevCluster, body: impl FnOnce(&DevCluster)) {
    body(&cluster);
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");
}

/// Tries each of these concurrently. An answer that may come from a bad connection is retried for a
/// while.
fn at_once<T: Sync>(each: &[T], trial: impl Fn(&T) -> Attempt + Sync) -> Vec<Attempt> {
    std::thread::scope(|scope| {
        let trial = &trial;
        let trials = each.iter().map(|one| scope.spawn(move || trial(one)));
        let trials: Vec<_> = trials.collect();
        let ended = trials.into_iter().map(|trial| trial.join().unwrap());
        ended.collect()
    })
}

fn against_a_host(body: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    on_a_host(body);
}

fn words(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}

/// Returns the address of the API of a member of this kind.
fn api(cluster: &DevCluster, kind: &str) -> String {
    let mut members = cluster.members().iter();
    let member = members.find(|member| member["kind"] == kind).unwrap();
    member["api"].as_str().unwrap().to_owned()
}

/// Starts a task that runs until the cluster ends, and waits until it runs.
fn start_victim(cluster: &DevCluster, words: &[&str]) {
    let words = [&["run", "--detach", "--name", "victim"], words].concat();
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
    wait_for("the victim to run", || {
        cluster.run(&["ps"]).1.contains("running")
    });
}
