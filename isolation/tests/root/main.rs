//! Tests with real containers, as root: skipped, with the reason counted, where that is not
//! possible.
//!
//! The same executable is test program, launcher and, for crash tests, agent.

mod adoption;
mod attachments;
mod audit;
mod blocked_destinations;
mod bomb_programs;
mod bombs;
mod cni;
mod confinement;
mod conntrack;
mod crashes;
mod devices;
mod disks;
mod escapes;
mod exec_confinement;
mod fixture;
mod host;
mod host_paths;
mod images;
mod layers;
mod lifecycle;
mod limits;
mod look;
mod mount_namespaces;
mod networks;
mod networks6;
mod output;
mod ports;
mod profile;
mod removal;
mod security_options;
mod seen;
mod services;
mod sessions;
mod sharing;
mod statistics;
#[path = "../tls/server.rs"]
mod tls;
mod unpacking;
mod volumes;

use std::path::Path;
use std::process::ExitCode;

use argosy_host::crash_points;
use fixture::{SkipTest, TestCase, agent, skip};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("launcher") => {
            let each: Vec<_> = arguments.iter().map(String::as_str).collect();
            if let [_, layers::WITHOUT, gone] = &each[..] {
                layers::disable_layers(gone);
            } else if let [_, step, witness] = &arguments[..] {
                let armed = crash_points::arm(step, 1, Path::new(witness));
                armed.expect("the test has made a directory for the witness");
            }
            if let Err(error) = argosy_isolation::launcher::run_from_fd() {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Some("agent") => agent(&arguments[1..]),
        Some(seen::VERB) => {
            look::main();
            ExitCode::SUCCESS
        }
        Some(cni::VERB) => {
            cni::main(&arguments[1..]);
            ExitCode::SUCCESS
        }
        Some(confinement::DETECT) => confinement::print_profile(),
        Some(services::VERB) => services::main(),
        Some(bomb_programs::VERB) => bomb_programs::main(&arguments[1..]),
        Some(disks::MAKER) => disks::run_maker(&arguments[1..]),
        Some(crashes::SCENARIO) => crashes::run_scenario(&arguments[1..]),
        _ => run(&arguments),
    }
}

fn all() -> Vec<TestCase> {
    [
        confinement::CASES,
        lifecycle::CASES,
        output::CASES,
        ports::CASES,
        blocked_destinations::CASES,
        limits::CASES,
        statistics::CASES,
        networks::CASES,
        networks6::CASES,
        conntrack::CASES,
        cni::CASES,
        profile::CASES,
        host_paths::CASES,
        security_options::CASES,
        devices::CASES,
        escapes::CASES,
        layers::CASES,
        exec_confinement::CASES,
        sessions::CASES,
        attachments::CASES,
        sharing::CASES,
        images::CASES,
        adoption::CASES,
        removal::CASES,
        crashes::CASES,
        bombs::CASES,
        seen::CASES,
        services::CASES,
        unpacking::CASES,
        volumes::CASES,
        disks::CASES,
        mount_namespaces::CASES,
    ]
    .concat()
}

/// With this argument each filter must match a test: for test names in scripts.
const EACH_MATCHES: &str = "--each-matches";

/// The names after this argument filter the tests that are not run.
const SKIP: &str = "--skip";

/// The command line that `cargo test` expects of a test program: names filter, `--list` lists.
fn run(arguments: &[String]) -> ExitCode {
    let mut parts = arguments.splitn(2, |argument| argument == SKIP);
    let mut names = || {
        let part = parts.next().unwrap_or_default().iter();
        part.filter(|argument| !argument.starts_with('-')).collect()
    };
    let (filters, omitted): (Vec<_>, Vec<_>) = (names(), names());
    let is_in =
        |names: &[&String], case: &TestCase| names.iter().any(|name| case.0.contains(*name));
    let wanted =
        |case: &&TestCase| (filters.is_empty() || is_in(&filters, case)) && !is_in(&omitted, case);
    let all = all();
    let cases: Vec<_> = all.iter().filter(wanted).collect();
    let is_strict = arguments.iter().any(|argument| argument == EACH_MATCHES);
    let is_vain = |filter: &&&String| !all.iter().any(|case| case.0.contains(**filter));
    if let Some(filter) = filters
        .iter()
        .chain(&omitted)
        .find(is_vain)
        .filter(|_| is_strict)
    {
        println!("no test has a name with {filter}");
        return ExitCode::FAILURE;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        cases.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", cases.len());
    let impossible = fixture::possible().err();
    let (mut failed, mut skipped) = (Vec::new(), 0);
    for (name, case) in &cases {
        let ended = std::panic::catch_unwind(|| match &impossible {
            Some(reason) => skip(reason.clone()),
            None => case(),
        });
        match ended.map_err(|cause| cause.downcast::<SkipTest>()) {
            Ok(()) => println!("test {name} ... ok"),
            Err(Ok(skip)) => {
                println!("test {name} ... SKIPPED: {}", skip.0);
                skipped += 1;
            }
            Err(Err(_)) => {
                println!("test {name} ... FAILED");
                failed.push(*name);
            }
        }
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    let passed = cases.len() - failed.len() - skipped;
    println!(
        "\ntest result: {result}. {passed} passed; {} failed; {skipped} skipped",
        failed.len()
    );
    failed.iter().for_each(|name| println!("    {name}"));
    ExitCode::from(u8::from(!failed.is_empty()))
}
