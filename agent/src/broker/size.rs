//! The amount of code that a broker runs as root.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that read, check and dispatch an agent's requests.
const OWN: [&str; 9] = [
    "broker/content_process.rs",
    "broker/directories.rs",
    "broker/guard.rs",
    "broker/operations.rs",
    "broker/operations/descriptors.rs",
    "broker/operations/perform.rs",
    "broker/server.rs",
    "broker_client/link.rs",
    "broker_client/request.rs",
];
/// Files that are not run by a broker.
const NOT_RUN: [&str; 2] = ["broker/mod.rs", "broker/size.rs"];
/// Files of this crate with functions that requests call.
const CALLED: [&str; 21] = [
    "core/facts.rs",
    "disk/mod.rs",
    "disk/pass.rs",
    "disk/quota.rs",
    "disk/scan.rs",
    "disk/unlinked.rs",
    "executors/directory.rs",
    "gc/removal.rs",
    "host.rs",
    "paths.rs",
    "reach.rs",
    "runner/bridges.rs",
    "runner/cni.rs",
    "runner/description.rs",
    "runner/groups.rs",
    "runner/host_ids.rs",
    "runner/launcher_process.rs",
    "runner/roots.rs",
    "runner/volumes.rs",
    "sandbox.rs",
    "start.rs",
];
/// The crates below this one whose functions requests call.
const CALLED_CRATES: [&str; 3] = ["host/src", "isolation/src", "network/src"];
/// Files of these crates that other processes run (the launcher and its children, the content
/// service, and the agent, which writes the audit log and has the values of secrets), files that
/// only list modules, and test hooks, which releases do not compile. All others count.
const OF_OTHERS: [&str; 33] = [
    "host/src/audit",
    "host/src/crash_points.rs",
    "host/src/lib.rs",
    "host/src/processes/mod.rs",
    "host/src/secret_value.rs",
    "isolation/src/cgroup/mod.rs",
    "isolation/src/cgroup/oom.rs",
    "isolation/src/confinement/device_filter.rs",
    "isolation/src/confinement/drop_privileges.rs",
    "isolation/src/confinement/mod.rs",
    "isolation/src/confinement/port_filter.rs",
    "isolation/src/fuzzing.rs",
    "isolation/src/lib.rs",
    "isolation/src/rootfs/image",
    "isolation/src/rootfs/image.rs",
    "isolation/src/rootfs/mod.rs",
    "isolation/src/rootfs/mount_calls.rs",
    "isolation/src/rootfs/mounts",
    "isolation/src/rootfs/mounts.rs",
    "isolation/src/runtime/attachment.rs",
    "isolation/src/runtime/command.rs",
    "isolation/src/runtime/exec",
    "isolation/src/runtime/exec.rs",
    "isolation/src/runtime/init.rs",
    "isolation/src/runtime/mod.rs",
    "isolation/src/runtime/output",
    "isolation/src/runtime/output.rs",
    "isolation/src/runtime/supervisor",
    "isolation/src/runtime/supervisor.rs",
    "isolation/src/runtime/termination.rs",
    "isolation/src/testing",
    "isolation/src/unpack",
    "network/src/cni/fuzzing.rs",
];

/// Returns the lines of a file up to its tests.
fn lines(path: &Path) -> usize {
    if path.ends_with("tests.rs") {
        return 0;
    }
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    code.lines().count()
}

/// Returns the lines of a directory below the root of the tree, without the files of other
/// processes.
fn lines_of_broker(root: &Path, directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().flatten();
    let paths = entries.map(|entry| entry.path());
    let counted = paths.filter(|path| {
        let mut others = OF_OTHERS.iter();
        !others.any(|other| *path == root.join(other))
    });
    counted
        .map(|path| match path.is_dir() {
            true => lines_of_broker(root, &path),
            false => lines(&path),
        })
        .sum()
}

#[test]
fn a_broker_has_less_than_3000_lines_and_its_callees_are_documented() {
    let krate = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (own_sources, root) = (krate.join("src"), krate.join(".."));
    let listed = |files: &[&str]| -> usize {
        files
            .iter()
            .map(|file| lines(&own_sources.join(file)))
            .sum()
    };
    let own = listed(&OWN);
    assert!((1_000..3_000).contains(&own), "{own} lines");
    // A new file of the broker is counted.
    let mut found: Vec<_> = ["broker", "broker/operations"]
        .into_iter()
        .flat_map(|directory| fs::read_dir(own_sources.join(directory)).unwrap().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && !path.ends_with("tests.rs"))
        .map(|path| {
            path.strip_prefix(&own_sources)
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    found.sort();
    let mut known: Vec<_> = OWN
        .into_iter()
        .filter(|file| file.starts_with("broker/"))
        .chain(NOT_RUN)
        .map(str::to_owned)
        .collect();
    known.sort();
    assert_eq!(found, known);
    for other in OF_OTHERS {
        assert!(root.join(other).exists(), "no file {other}");
        if other.ends_with("mod.rs") {
            let text = fs::read_to_string(root.join(other)).unwrap();
            assert!(!text.contains("fn "), "{other} lists more than modules");
        }
    }
    let called = CALLED_CRATES.map(|sources| lines_of_broker(&root, &root.join(sources)));
    let all = own + listed(&CALLED) + called.iter().sum::<usize>();
    assert!((10_000..21_200).contains(&all), "{all} lines");
    for page in ["docs/adr/0053-an-agent-gives-up-root.md", "SECURITY.md"] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let words: Vec<_> = text.split_whitespace().collect();
        let text = words.join(" ");
        for output in ["fewer than 3,000", "fewer than 21,200 lines"] {
            assert!(text.contains(output), "{page} does not contain {output:?}");
        }
    }
}
