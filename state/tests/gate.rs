//! Tests of the scripts that run the stages of the gate and report skipped tests.

#![allow(
    clippy::unwrap_used,
    reason = "a failed expectation must panic at its line, with its values"
)]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "times of files are what one of the scripts restores"
)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

fn stage(target: &Path, arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Command::new(root.join("scripts/stage"))
        .args(arguments)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .unwrap()
}

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_stage_over_its_budget_is_reported_and_only_failed_or_hung_ones_fail() {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("stages");
    let _ = std::fs::remove_dir_all(&target);
    assert!(!stage(&target, &["summary"]).status.success(), "none yet");
    for state in ["cold", "warm"] {
        let slow = stage(&target, &["slow", "1/1", "sleep", "2"]);
        assert!(slow.status.success(), "{}", output_text(&slow));
        assert!(output_text(&slow).contains(state), "{}", output_text(&slow));
    }
    let failed = stage(&target, &["failing", "9/9", "false"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(output_text(&failed).contains("repeat it with: false"));
    // Warm, and yet with the time of a cold run: all crates may have changed.
    assert!(stage(&target, &["hung", "1/3", "true"]).status.success());
    let hung = stage(&target, &["hung", "1/3", "sleep", "60"]);
    assert_eq!(hung.status.code(), Some(124));
    assert!(output_text(&hung).contains("did not end within 9 s"));
    let hung = stage(&target, &["hung", "9/9/1", "sleep", "60"]);
    assert_eq!(hung.status.code(), Some(124));
    assert!(output_text(&hung).contains("did not end within 1 s"));
    let summary = output_text(&stage(&target, &["summary"]));
    let lines: Vec<&str> = summary.lines().collect();
    assert_eq!(lines.len(), 3, "{summary}");
    assert!(lines[0].starts_with("slow") && lines[0].ends_with("over its budget"));
    assert!(lines[1].starts_with("failing") && lines[1].ends_with("FAILED"));
    assert!(lines[2].starts_with("hung") && lines[2].ends_with("FAILED"));
}

/// Returns the output of `scripts/skips` for this input, and whether it succeeds.
fn check_skips(output: &str) -> (bool, String) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = Command::new(root.join("scripts/skips"))
        .env_remove("CARGO_TARGET_DIR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    command
        .stdin
        .take()
        .unwrap()
        .write_all(output.as_bytes())
        .unwrap();
    let ended = command.wait_with_output().unwrap();
    let reported = [ended.stdout, ended.stderr].concat();
    (ended.status.success(), String::from_utf8(reported).unwrap())
}

#[test]
fn skipped_tests_need_an_allowed_reason_and_stay_within_its_limit() {
    let skip = |reason: &str| format!("test some::test ... SKIPPED: {reason}\n");
    let (passes, output) = check_skips("test some::test ... ok\n");
    assert!(passes && output.ends_with("skipped: 0 tests\n"), "{output}");
    let kernel = skip("this kernel has no loop devices: mknod: Operation not permitted");
    let (passes, output) = check_skips(&kernel);
    assert!(
        passes && output.contains("\nskipped: 1 tests\n"),
        "{output}"
    );
    let (passes, output) = check_skips(&kernel.repeat(1_000));
    assert!(
        !passes && output.contains("1000 tests were skipped, at most"),
        "{output}"
    );
    for reason in ["needs root because everything is broken", "it is late"] {
        let (passes, output) = check_skips(&skip(reason));
        assert!(
            !passes && output.contains("some::test may not be skipped"),
            "{output}"
        );
    }
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let (passes, output) = check_skips(&skip("needs root"));
    assert_eq!(passes, !is_root, "{output}");
}

/// Runs `scripts/source-times` in this checkout.
fn source_times(checkout: &Path, target: &Path, action: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(root.join("scripts/source-times"))
        .arg(action)
        .env("CARGO_TARGET_DIR", target)
        .current_dir(checkout)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output_text(&output)
}

/// Creates a checkout of two files with this time, the second with the given content.
fn checkout(path: &Path, second: &str, time: SystemTime) {
    let _ = std::fs::remove_dir_all(path);
    std::fs::create_dir_all(path).unwrap();
    let git = |arguments: &[&str]| {
        let command = Command::new("git")
            .args(arguments)
            .current_dir(path)
            .output();
        assert!(command.unwrap().status.success(), "{arguments:?}");
    };
    git(&["init", "-q", "."]);
    for (name, content) in [("first", "same"), ("second", second)] {
        let mut file = std::fs::File::create(path.join(name)).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file.set_modified(time).unwrap();
    }
    git(&["add", "."]);
}

#[test]
fn a_clone_gets_the_times_of_the_same_contents_unless_something_was_built_later() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("source-times");
    let (clone, target) = (directory.join("clone"), directory.join("target"));
    let _ = std::fs::remove_dir_all(&directory);
    let modified = |name: &str| clone.join(name).metadata().unwrap().modified().unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let new = old + Duration::from_secs(86_400);
    checkout(&clone, "before", old);
    let output = source_times(&clone, &target, "restore");
    assert!(output.contains("there is no record"), "{output}");
    source_times(&clone, &target, "record");

    checkout(&clone, "after", new);
    source_times(&clone, &target, "restore");
    assert_eq!((modified("first"), modified("second")), (old, new));
    // A change that is not in the index.
    std::fs::write(clone.join("first"), "changed").unwrap();
    let changed = modified("first");
    source_times(&clone, &target, "restore");
    assert_eq!(modified("first"), changed);

    let built = target.join("debug/.fingerprint/some-crate");
    std::fs::create_dir_all(&built).unwrap();
    std::fs::write(built.join("lib"), "").unwrap();
    let later = SystemTime::now() + Duration::from_secs(60);
    std::fs::File::open(built.join("lib"))
        .unwrap()
        .set_modified(later)
        .unwrap();
    checkout(&clone, "before", new);
    let output = source_times(&clone, &target, "restore");
    assert!(output.contains("built after the record"), "{output}");
    assert_eq!((modified("first"), modified("second")), (new, new));
}

fn script(name: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    Command::new(root.join("scripts").join(name))
}

#[test]
fn a_test_program_runs_only_in_the_chosen_packages() {
    let packages = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("packages");
    for package in ["chaos", "chaos-2"] {
        std::fs::create_dir_all(packages.join(package)).unwrap();
    }
    let runs = |package: &str, choice: &str| {
        let output = script("in-packages")
            .args([choice, "state,chaos", "echo", "it runs"])
            .current_dir(packages.join(package))
            .output()
            .unwrap();
        assert!(output.status.success());
        output_text(&output) == "it runs\n"
    };
    assert!(runs("chaos", "only") && !runs("chaos", "except"));
    assert!(!runs("chaos-2", "only") && runs("chaos-2", "except"));
    let failing = script("in-packages")
        .args(["except", "state", "false"])
        .current_dir(packages.join("chaos"))
        .status();
    assert_eq!(failing.unwrap().code(), Some(1));
}

#[test]
fn an_idle_command_has_the_lowest_priority_and_ends_with_its_script() {
    let idle = |line: &str| script("idle").args(["sh", "-c", line]).output().unwrap();
    let scheduled = output_text(&idle("chrt --pid $$"));
    assert!(scheduled.contains("SCHED_IDLE"), "{scheduled}");
    assert_eq!(idle("exit 7").status.code(), Some(7));
    let mut child = script("idle")
        .args(["sh", "-c", "echo started; sleep 1000; echo over"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    let pid = child.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    // Ends only if all processes that hold the output have ended.
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert!(!child.wait().unwrap().success());
}

/// Returns the packages that cargo builds, each with its features.
fn built(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "--prefix",
            "none",
            "--format",
            "{p} {f}",
        ])
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = output_text(&output);
    let packages = lines
        .lines()
        .map(|line| line.trim_end_matches(" (*)").trim_end());
    let packages = packages.filter(|package| !package.is_empty());
    packages.map(ToOwned::to_owned).collect()
}

/// With a feature that only tests enable, the stage `process` would build the crates below the
/// command line a second time, and test another executable than the shipped one.
#[test]
fn tests_of_processes_use_the_packages_of_the_shipped_executables() {
    let shipped = ["--package", "argosy-cli", "--package", "argosy-frameworks"];
    let shipped = built(&[&shipped[..], &["--edges", "no-dev"]].concat());
    assert!(shipped.len() > 100, "{shipped:?}");
    let tested = built(&["--package", "argosy-cli", "--edges", "normal,build,dev"]);
    let others: Vec<_> = shipped.difference(&tested).collect();
    assert!(others.is_empty(), "{others:?}");
}
