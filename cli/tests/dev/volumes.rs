//! Volumes of tasks and their disk limit, by `argosy run` on a real cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cluster::DevCluster;

/// Returns all files below a directory that contain this text, without following links.
pub(crate) fn find_files(directory: &Path, text: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(find_files(&entry.path(), text));
        } else if kind.is_file()
            && let Ok(bytes) = fs::read(entry.path())
            && bytes.windows(text.len()).any(|window| window == text)
        {
            found.push(entry.path());
        }
    }
    found
}

/// Starts a cluster whose agents have a secret of the role `*`.
fn with_secret(number: u32, directory: &Path, text: &str) -> DevCluster {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    fs::create_dir(directory.join("*")).unwrap();
    fs::write(directory.join("*/db"), text).unwrap();
    let more = ["--secret-dir", directory.to_str().unwrap()];
    DevCluster::start(number, "1x1", &more)
}

#[test]
fn a_run_has_its_volumes_and_its_secret_is_not_exposed() {
    let canary = format!(
        "canary-{}-{:?}",
        std::process::id(),
        std::time::Instant::now()
    );
    let directory = tempfile::tempdir().unwrap();
    let cluster = with_secret(11, directory.path(), &canary);
    let line = "read -r key < /run/secrets/db; echo ${#key}; echo kept > /data/file; cat data/file; \
        (head -c 2000000 /dev/zero > /fast/large) 2>/dev/null || echo full; stat -c %a /run/secrets/db";
    let words = [
        "run",
        "--name",
        "web",
        "--tmpfs",
        "/fast:1M",
        "--secret",
        "db:/run/secrets/db",
        "--volume",
        "data:/data",
        "--",
        "sh",
        "-c",
        line,
    ];
    let (code, stdout, stderr) = cluster.run(&words);
    let expected = format!("{}\nkept\nfull\n400\n", canary.len());
    assert_eq!((code, stdout), (0, expected), "{stderr}");
    // Masters show the name of a secret while its task runs, and never its content.
    let keeper = ["run", "--detach", "--name", "keeper", "--secret", "db:/key"];
    let (code, _, stderr) = cluster.run(&[&keeper[..], &["--", "sleep", "1000"]].concat());
    assert_eq!(code, 0, "{stderr}");
    let (code, stdout, stderr) = cluster.run(&["ps", "--all", "-o", "json"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("\"db\"") && !stdout.contains(&canary),
        "{stdout}"
    );
    let (code, _, stderr) = cluster.run(&["task", "kill", "keeper"]);
    assert_eq!(code, 0, "{stderr}");
    // Registry, journals, logs, sandboxes, state directories.
    let nowhere: [PathBuf; 0] = [];
    assert_eq!(find_files(&cluster.directory(), canary.as_bytes()), nowhere);
    check_volume_errors(&cluster);
}

fn check_volume_errors(cluster: &DevCluster) {
    let (code, _, stderr) = cluster.run(&["run", "--secret", "other:/key", "--", "true"]);
    assert_ne!(code, 0);
    assert!(
        stderr.contains("the secret \"other\" of role \"*\""),
        "{stderr}"
    );
    for (volume, field) in [
        (["--tmpfs", "/proc/x:1M"], "volumes[0].container_path"),
        (["--tmpfs", "/x:64M"], "counts as memory"),
        (["--volume", "../up:/x"], "volumes[0].sandbox"),
    ] {
        let words = [&["run"], &volume[..], &["--mem", "32M", "--", "true"]].concat();
        let (code, _, stderr) = cluster.run(&words);
        assert_ne!(code, 0);
        assert!(stderr.contains(field), "{stderr}");
    }
}

#[test]
fn a_run_that_exceeds_its_disk_limit_reports_limit_and_usage() {
    let cluster = DevCluster::start(12, "1x1", &[]);
    let line = "n=0; while n=$((n+1)); do head -c 1000000 /dev/zero > f$n; done";
    let (code, _, stderr) = cluster.run(&["run", "--disk", "4M", "--", "sh", "-c", line]);
    assert_ne!(code, 0);
    assert!(stderr.contains("out of disk: used "), "{stderr}");
    assert!(stderr.contains(" of 4 MiB"), "{stderr}");
}
