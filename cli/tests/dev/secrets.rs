//! Secrets of the registry, by commands on a real cluster: they reach the tasks that may use them,
//! and no file, list or log.

use std::fs;
use std::path::PathBuf;

use crate::cluster::DevCluster;
use crate::volumes::find_files;

/// Sets a secret from a file.
fn set(cluster: &DevCluster, name: &str, value: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("value");
    fs::write(&file, value).unwrap();
    let words = ["secret", "set", name, "--file", file.to_str().unwrap()];
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
    assert!(!stderr.contains(value), "{stderr}");
}

/// Runs a task that prints the length and the last letters of a secret.
fn read(cluster: &DevCluster, secret: &str) -> (i32, String, String) {
    let volume = format!("{secret}:/run/secrets/db");
    let line = "read -r key < /run/secrets/db; echo ${#key} ${key##*-}; stat -c %a /run/secrets/db";
    cluster.run(&["run", "--secret", &volume, "--", "sh", "-c", line])
}

#[test]
fn a_secret_of_the_registry_reaches_its_task_and_no_file() {
    let cluster = DevCluster::start(80, "1x1", &[]);
    let canary = format!("registry-canary-{}", std::process::id());
    set(&cluster, "*/db", &format!("{canary}-one"));
    set(&cluster, "ops/key", &format!("{canary}-ops"));
    let length = canary.len() + 4;
    let (code, stdout, stderr) = read(&cluster, "*/db");
    assert_eq!(
        (code, stdout),
        (0, format!("{length} one\n400\n")),
        "{stderr}"
    );
    // The next task gets the next value.
    set(&cluster, "*/db", &format!("{canary}-two"));
    let (code, stdout, stderr) = read(&cluster, "*/db");
    assert_eq!(
        (code, stdout),
        (0, format!("{length} two\n400\n")),
        "{stderr}"
    );
    // It stays while its task runs.
    let keeper = [
        "run",
        "--detach",
        "--name",
        "keeper",
        "--secret",
        "*/db:/key",
    ];
    let (code, _, stderr) = cluster.run(&[&keeper[..], &["--", "sleep", "1000"]].concat());
    assert_eq!(code, 0, "{stderr}");
    let (code, stdout, stderr) = cluster.run(&["exec", "keeper", "--", "cat", "/key"]);
    assert_eq!((code, stdout), (0, format!("{canary}-two")), "{stderr}");
    check_lists(&cluster, &canary);
    check_refusals(&cluster);
    check_bundle(&cluster, &canary);
    let (code, _, stderr) = cluster.run(&["task", "kill", "keeper"]);
    assert_eq!(code, 0, "{stderr}");
    // Registry, snapshots, journals, logs, sandboxes, state directories. The name is in some.
    let nowhere: [PathBuf; 0] = [];
    assert_ne!(find_files(&cluster.directory(), b"*/db"), nowhere);
    assert_eq!(find_files(&cluster.directory(), canary.as_bytes()), nowhere);
}

fn check_lists(cluster: &DevCluster, canary: &str) {
    let (code, stdout, stderr) = cluster.run(&["secret", "list"]);
    assert_eq!(code, 0, "{stderr}");
    let words: Vec<Vec<&str>> = stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let bytes = (canary.len() + 4).to_string();
    assert_eq!(
        words[1..],
        [
            ["*/db", "2", &bytes, "dev"],
            ["ops/key", "1", &bytes, "dev"]
        ]
    );
    let (code, stdout, stderr) = cluster.run(&["secret", "list", "ops", "-o", "json"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("ops/key") && !stdout.contains("*/db"),
        "{stdout}"
    );
    let (code, stdout, stderr) = cluster.run(&["ps", "--all", "-o", "json"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("*/db") && !stdout.contains(canary),
        "{stdout}"
    );
    // The only key seals everything already.
    let (code, _, stderr) = cluster.run(&["secret", "reseal"]);
    assert!(code == 0 && stderr.contains("sealed 0 secrets"), "{stderr}");
    let (code, _, stderr) = cluster.run(&["secret", "reseal", "--all"]);
    assert!(code == 0 && stderr.contains("sealed 2 secrets"), "{stderr}");
}

fn check_refusals(cluster: &DevCluster) {
    let (code, _, stderr) = read(cluster, "ops/key");
    assert_ne!(code, 0);
    assert!(
        stderr.contains("ops/key is for tasks of the role ops"),
        "{stderr}"
    );
    let (code, _, stderr) = read(cluster, "*/none");
    assert_ne!(code, 0);
    assert!(
        stderr.contains("the registry has no secret */none"),
        "{stderr}"
    );
    let (code, _, stderr) = cluster.run(&["secret", "remove", "ops/key"]);
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = cluster.run(&["secret", "remove", "ops/key"]);
    assert_ne!(code, 0);
    assert!(stderr.contains("there is no secret ops/key"), "{stderr}");
}

/// An archive for reports has no value.
fn check_bundle(cluster: &DevCluster, canary: &str) {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("bundle.tar.gz");
    let words = ["debug", "bundle", "--file", archive.to_str().unwrap()];
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
    let bytes = fs::read(&archive).unwrap();
    let mut unpacked = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
    unpacked.unpack(directory.path()).unwrap();
    let nowhere: [PathBuf; 0] = [];
    assert_eq!(find_files(directory.path(), canary.as_bytes()), nowhere);
    assert_ne!(find_files(directory.path(), b"keeper"), nowhere);
}

#[test]
fn without_tls_no_secret_is_sent() {
    let cluster = DevCluster::start(81, "1x1", &["--insecure-plaintext"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("value");
    fs::write(&file, "x").unwrap();
    let words = ["secret", "set", "*/db", "--file", file.to_str().unwrap()];
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("a secret is not sent without TLS"),
        "{stderr}"
    );
}
