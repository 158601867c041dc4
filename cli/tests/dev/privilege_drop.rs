//! The release executable as root: an agent gives up root, and a broker keeps it, where all
//! directories above are open.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use argosy_isolation::division::HostUser;
use argosy_testing::skip;
use nix::sys::stat::{Mode, umask};

use crate::cluster::DevCluster;
use crate::lifecycle::children;

/// Directories for temporary files.
const PLACES: [&str; 4] = ["/tmp", "/var/tmp", "/run", "/dev/shm"];

/// Creates a directory that the user of agents can traverse, as it can those that members create in
/// it, whatever the umask and the environment of the test run.
pub(crate) fn open_directory() -> tempfile::TempDir {
    // It applies to this whole process; no test needs another.
    umask(Mode::from_bits_truncate(0o022));
    let passable = |path: &Path| {
        let mode = |above: &Path| fs::metadata(above).map(|found| found.permissions().mode());
        path.ancestors()
            .all(|above| mode(above).is_ok_and(|mode| mode & 0o1 != 0))
    };
    let usual = std::env::temp_dir();
    let mut places = [usual].into_iter().chain(PLACES.map(PathBuf::from));
    let place = places.find(|place| passable(place));
    let place = place.expect("a directory for temporary files is open to all users");
    let directory = tempfile::tempdir_in(place).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    directory
}

/// Returns a line of `/proc/PID/status`.
fn status(pid: i64, field: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let words = line.unwrap().split_whitespace();
    words.map(str::to_owned).collect()
}

/// Returns the agents of a cluster, and the brokers of each.
fn agents(cluster: &DevCluster) -> Vec<(i64, Vec<i64>)> {
    let members = cluster.members().iter();
    let agents = members.filter(|member| member["kind"] == "agent");
    let agents = agents.map(|agent| {
        let pid = agent["pid"].as_i64().unwrap();
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        assert!(words.contains("argosy agent start "), "{words}");
        let is_broker = |process: &Path| {
            let name = fs::read_to_string(process.join("comm"));
            name.unwrap_or_default().trim() == "argosy-broker"
        };
        let brokers = children(pid).into_iter();
        let brokers = brokers.filter(|(_, process)| is_broker(process));
        (pid, brokers.map(|(pid, _)| pid).collect())
    });
    agents.collect()
}

/// Checks that each agent runs as the user of agents, without a group or a right of root on the
/// host, and has one broker, which is root.
#[track_caller]
pub(crate) fn gives_up_root(cluster: &DevCluster) {
    let own = HostUser::agent();
    let agents = agents(cluster);
    assert!(!agents.is_empty());
    for (agent, brokers) in agents {
        for (field, number) in [("Uid:", own.uid), ("Gid:", own.gid)] {
            assert_eq!(status(agent, field), vec![number.to_string(); 4]);
        }
        assert!(own.uid > 0 && status(agent, "Groups:").is_empty());
        let users = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
        assert_ne!(users(&agent.to_string()), users("self"));
        let [broker] = brokers[..] else {
            panic!("brokers of {agent}: {brokers:?}");
        };
        assert_eq!(status(broker, "Uid:"), ["0"; 4]);
        assert_eq!(users(&broker.to_string()), users("self"));
    }
}

#[test]
fn an_agent_started_by_root_drops_root_only_if_its_directory_is_accessible() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let directory = open_directory();
    let home = directory.path().join("kept");
    let keep = ["--keep", home.to_str().unwrap()];
    let mut cluster = DevCluster::start(50, "1x1", &keep);
    gives_up_root(&cluster);
    let (code, stdout, stderr) = cluster.run(&["run", "--", "sh", "-c", "echo out; exit 7"]);
    assert_eq!((code, stdout.as_str()), (7, "out\n"), "{stderr}");
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");

    // Only the mode of a directory above decides it.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let mut cluster = DevCluster::start(50, "1x1", &keep);
    for (agent, brokers) in agents(&cluster) {
        assert_eq!(status(agent, "Uid:"), ["0"; 4]);
        assert_eq!(brokers, [0; 0]);
    }
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");
}
