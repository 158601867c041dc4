//! Runs the commands of the page about access on a cluster.

use std::path::Path;

use crate::cluster::{DevCluster, argosy, executable};

const PAGE: &str = include_str!("../../../docs/operate/access.md");

/// Returns the blocks of the page of this kind.
fn blocks(kind: &str) -> Vec<&'static str> {
    let begin = format!("```{kind}\n");
    let parts = PAGE.split(begin.as_str()).skip(1);
    parts.filter_map(|part| part.split("```").next()).collect()
}

/// Runs a line of the page in a directory, and returns its output.
fn run(cluster: &DevCluster, directory: &Path, line: &str) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let program = executable();
    let programs = program.parent().unwrap().display();
    let mut shell = cluster.shell(line);
    let output = shell
        .current_dir(directory)
        .env("PATH", format!("{programs}:{path}"))
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{line}\n{stdout}\n{stderr}");
    stdout
}

#[test]
fn the_commands_of_the_page_about_access_work() {
    let cluster = DevCluster::start(95, "1x1", &[]);
    let home = tempfile::tempdir().unwrap();
    let directory = home.path();
    let rules = blocks("acl");
    assert_eq!(rules.len(), 1);
    std::fs::write(directory.join("rules.acl"), rules[0]).unwrap();
    let expected = blocks("acl-test");
    assert_eq!(expected.len(), 1);
    std::fs::write(directory.join("expected.acl"), expected[0]).unwrap();
    let ca = directory.join("ca");
    let ca = ca.to_str().unwrap();
    for words in [
        &["ca", "init", "--cluster", "prod", "--ca", ca][..],
        &["ca", "issue", "operator/bob", "--ca", ca],
    ] {
        let output = argosy(words).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }
    let lines: Vec<_> = blocks("sh").into_iter().flat_map(str::lines).collect();
    assert!(lines.len() >= 15, "{lines:?}");
    for line in lines {
        run(&cluster, directory, line);
    }
    let policy = run(&cluster, directory, "argosy acl show");
    assert!(
        policy.contains("allow group:oncall kill-task role:eng/%\n"),
        "{policy}"
    );
    let tokens = run(&cluster, directory, "argosy token list");
    assert!(tokens.contains("join agent, 20 left"), "{tokens}");
    assert!(!tokens.contains("operator/ci"), "it was revoked: {tokens}");
    let limits = run(&cluster, directory, "argosy limit list -o name");
    assert_eq!(limits, "framework/web\n");
    let token = std::fs::read_to_string(directory.join("ci.token")).unwrap();
    assert!(
        token.starts_with("argosy_") && token.len() == 7 + 16 + 1 + 64 + 1,
        "{}",
        token.len()
    );
}

#[test]
fn rules_that_are_added_at_the_same_time_are_all_kept() {
    let cluster = DevCluster::start(117, "1x1", &[]);
    let home = tempfile::tempdir().unwrap();
    let rules: Vec<String> = (0..6)
        .map(|number| format!("deny operator/o{number} exec *"))
        .collect();
    let add = |number: usize| {
        let file = home.path().join(format!("{number}.acl"));
        std::fs::write(&file, format!("{}\n", rules[number])).unwrap();
        loop {
            let (code, _, stderr) = cluster.run(&["acl", "add", file.to_str().unwrap()]);
            if code == 0 {
                return;
            }
            // Another one was faster. At each repetition, one of them succeeds.
            assert!(
                stderr.contains("have been changed since"),
                "{code}: {stderr}"
            );
        }
    };
    std::thread::scope(|scope| {
        for number in 0..rules.len() {
            let add = &add;
            scope.spawn(move || add(number));
        }
    });
    let (_, policy, _) = cluster.run(&["acl", "show"]);
    for rule in &rules {
        assert!(policy.contains(rule.as_str()), "{rule} is lost:\n{policy}");
    }
}

#[test]
fn a_policy_that_would_lock_out_its_caller_is_refused() {
    let cluster = DevCluster::start(96, "1x1", &[]);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("rules.acl");
    let name = file.to_str().unwrap();
    std::fs::write(&file, "group admin = operator/other\ngroup ops =\n").unwrap();
    let (code, _, stderr) = cluster.run(&["acl", "set", name]);
    assert_eq!(code, 4, "{stderr}");
    assert!(stderr.contains("lock out"), "{stderr}");
    std::fs::write(&file, "allow operator/other exec *\n").unwrap();
    let (code, _, stderr) = cluster.run(&["acl", "check", name]);
    assert_eq!(code, 1, "{stderr}");
    std::fs::write(&file, "group a =\nallow alice exec *\n").unwrap();
    let (code, _, stderr) = cluster.run(&["acl", "check", name]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("line 2"), "{stderr}");
    let (code, _, stderr) = cluster.run(&["token", "revoke", "00000000000000ff"]);
    assert_eq!(code, 3, "{stderr}");
}
