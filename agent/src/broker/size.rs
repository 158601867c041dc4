//! The amount of code that a broker runs as root.

use std::fs;
use std::path::{Path, PathBuf};

/// Files that read, check and dispatch an agent's requests.
const OWN: [&str; 7] = [
    "broker/folders.rs",
    "broker/guard.rs",
    "broker/link.rs",
    "broker/operations.rs",
    "broker/operations/perform.rs",
    "broker/request.rs",
    "broker/server.rs",
];
/// The files of the agent's end.
const OF_THE_AGENT: [&str; 8] = [
    "broker/client.rs",
    "broker/connections.rs",
    "broker/containers.rs",
    "broker/heartbeat.rs",
    "broker/layers.rs",
    "broker/mod.rs",
    "broker/networks.rs",
    "broker/size.rs",
];
/// Files of this crate with functions that requests call.
const CALLED: [&str; 21] = [
    "core/facts.rs",
    "disk/mod.rs",
    "disk/pass.rs",
    "disk/quota.rs",
    "disk/scan.rs",
    "disk/unlinked.rs",
    "executors/directory.rs",
    "gc/mod.rs",
    "gc/removal.rs",
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
/// Files of `isolation` that other processes run: the launcher and its children, and the content
/// service. All others count.
const OF_OTHERS: [&str; 20] = [
    "attachment.rs",
    "command.rs",
    "device_filter.rs",
    "drop_privileges.rs",
    "exec",
    "exec.rs",
    "image",
    "image.rs",
    "init.rs",
    "lib.rs",
    "mounts",
    "mounts.rs",
    "oom.rs",
    "output",
    "output.rs",
    "port_filter.rs",
    "supervisor",
    "supervisor.rs",
    "termination.rs",
    "unpack",
];

/// Returns the lines of a file or directory up to its tests.
fn lines(path: &Path) -> usize {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap().flatten();
        return entries.map(|entry| lines(&entry.path())).sum();
    }
    if path.ends_with("tests.rs") {
        return 0;
    }
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
    code.lines().count()
}

#[test]
fn a_broker_reads_and_judges_requests_in_less_than_3000_lines_and_what_it_calls_is_documented() {
    let room = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (own_room, isolation) = (room.join("src"), room.join("../isolation/src"));
    let listed =
        |files: &[&str]| -> usize { files.iter().map(|file| lines(&own_room.join(file))).sum() };
    let own = listed(&OWN);
    assert!((1_000..3_000).contains(&own), "{own} lines");
    // A new file of the broker is counted.
    let mut found: Vec<_> = ["broker", "broker/operations"]
        .into_iter()
        .flat_map(|folder| fs::read_dir(own_room.join(folder)).unwrap().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.is_file() && !path.ends_with("tests.rs"))
        .map(|path| path.strip_prefix(&own_room).unwrap().display().to_string())
        .collect();
    found.sort();
    let mut known: Vec<_> = OWN
        .into_iter()
        .chain(OF_THE_AGENT)
        .map(str::to_owned)
        .collect();
    known.sort();
    assert_eq!(found, known);
    let entries = fs::read_dir(&isolation).unwrap().flatten();
    let called: usize = entries
        .filter(|entry| !OF_OTHERS.iter().any(|other| entry.file_name() == *other))
        .map(|entry| lines(&entry.path()))
        .sum();
    let all = own + listed(&CALLED) + called;
    assert!((10_000..20_000).contains(&all), "{all} lines");
    for page in ["docs/adr/0053-an-agent-gives-up-root.md", "SECURITY.md"] {
        let text = fs::read_to_string(room.join("..").join(page)).unwrap();
        let words: Vec<_> = text.split_whitespace().collect();
        let text = words.join(" ");
        for said in ["fewer than 3,000", "fewer than 20,000 lines"] {
            assert!(text.contains(said), "{page} does not say {said:?}");
        }
    }
}
