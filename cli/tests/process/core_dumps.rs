//! Core dumps: a master with keys in its memory leaves none. Agents have their own test, with the
//! processes that hold secrets of tasks.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use argosy_state::actor::PrincipalKind;
use argosy_testbed::certificates::ClusterCertificates;
use argosy_testbed::command_lines::{MasterFlags, MemberTransport};
use argosy_testbed::loopback::LoopbackNetwork;
use argosy_testbed::processes::remove_flag_variables;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::cluster::{argosy, wait_until};

const LONG: Duration = Duration::from_secs(60);
/// Starts a program without a limit of core files.
const WITH_CORE_FILES: &str = r#"ulimit -c unlimited && exec "$0" "$@""#;

/// Aborts a master with these flags once it listens, and returns whether the kernel has written its
/// memory to a core dump.
async fn leaves_core_dump(
    directory: &Path,
    address: Ipv4Addr,
    transport: &MemberTransport,
    more: &[&str],
) -> bool {
    let flags = MasterFlags {
        listen: &address.to_string(),
        peers: &format!("{address}:5052"),
        data_dir: &directory.join(address.to_string()),
        transport,
    };
    let mut command = Command::new("sh");
    remove_flag_variables(command.as_std_mut());
    command.args(["-c", WITH_CORE_FILES]).arg(argosy());
    command.args(flags.arguments(more)).current_dir(directory);
    let mut master = command.kill_on_drop(true).spawn().expect("sh starts");
    wait_until("the master listens", LONG, async || {
        TcpStream::connect((address, 5050)).await.ok()
    })
    .await;
    let pid = master.id().expect("it was not awaited yet");
    let pid = Pid::from_raw(pid.try_into().expect("a pid fits"));
    kill(pid, Signal::SIGABRT).expect("the master runs");
    let status = master.wait().await.expect("it is a child of this process");
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
    status.core_dumped()
}

#[tokio::test]
async fn a_master_with_keys_leaves_no_core_dump() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let network = LoopbackNetwork::next();
    let plaintext = MemberTransport::Plaintext;
    let address = network.address(1);
    let is_dumped = leaves_core_dump(directory.path(), address, &plaintext, &[]).await;
    assert!(
        is_dumped,
        "else this host writes no core dumps, and this shows nothing"
    );
    let secrets = directory.path().join("secrets.key");
    fs::write(&secrets, format!("k1:{}\n", "5a".repeat(32))).expect("the directory can be written");
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).expect("it is our file");
    let secrets = ["--secrets-key", &secrets.display().to_string()];
    let certificates = ClusterCertificates::create(&directory.path().join("tls"));
    let certificates = certificates.expect("the directory can be written");
    for (host, more) in [(2, &[][..]), (3, &secrets)] {
        let address = network.address(host);
        let files = certificates.issue(PrincipalKind::Master, "m", Some(address.into()));
        let files = MemberTransport::Tls(files.expect("the directory can be written"));
        assert!(
            !leaves_core_dump(directory.path(), address, &files, more).await,
            "{more:?}"
        );
    }
}
