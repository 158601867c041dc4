//! Tests of host paths of tasks: their mount points, their permissions, and the protection against
//! links.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use argosy_proto::v1;
use argosy_testing::skip;
use serde_json::json;

use super::images::of_image;
use super::{code, state};
use crate::host::TestHost;
use crate::layout;
use crate::master::{Master, shell};
use crate::running::content;

super::cases!("host_paths":
    host_paths_are_mounted_at_other_paths_and_writable_only_if_allowed,
    root_of_an_image_has_no_more_rights_on_a_host_path_than_any_user,
);

fn path(host: &Path, container: &str, read_only: bool) -> v1::HostPath {
    v1::HostPath {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        read_only,
    }
}

/// Creates directories that tasks may see: one with a file that all may read, one that all may
/// write to.
fn directories(host: &TestHost) -> (std::path::PathBuf, std::path::PathBuf) {
    let (conf, data) = (host.shared().join("conf"), host.shared().join("data"));
    for directory in [&conf, &data] {
        fs::create_dir(directory).unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let file = conf.join("app.conf");
    fs::write(&file, "on\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    (conf, data)
}

const LOOK: &str = "cat /conf/app.conf; (echo no > /conf/app.conf) 2>/dev/null || echo kept; \
    (echo no > /conf/new) 2>/dev/null || echo kept";

pub(super) async fn host_paths_are_mounted_at_other_paths_and_writable_only_if_allowed() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let (conf, data) = directories(&host);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let line = format!(
        "{LOOK}; cat /one config/app.conf; (echo no > config/app.conf) 2>/dev/null || echo kept; \
            echo made > /data/file; cat /data/file"
    );
    let mut task = shell("t", &line);
    task.host_paths = vec![
        path(&conf, "/conf", true),
        path(&conf.join("app.conf"), "/one", true),
        path(&conf, "config", true),
        path(&data, "/data", false),
    ];
    link.launch(1, task).await;
    let last = link.end_of("t").await.pop().unwrap();
    assert_eq!(code(&last), Some(v1::exit::How::Code(0)), "{}", last.text);
    let output = content(&host.sandbox("t").join("stdout")).await;
    assert_eq!(output, "on\nkept\nkept\non\non\nkept\nmade\n");
    assert_eq!(content(&data.join("file")).await, "made\n");
    assert_eq!(content(&conf.join("app.conf")).await, "on\n");

    // A link in a permitted directory gives no access to other directories.
    symlink("/etc", host.shared().join("out")).unwrap();
    let shared = host.shared();
    let sneaky = [
        ("out", "--host-path"),
        ("out/passwd", "--host-path"),
        ("none", "No such file"),
    ];
    for (order, (name, refusal)) in (2..).zip(sneaky) {
        let task = format!("t{order}");
        let mut sneaky = shell(&task, "cat /x");
        sneaky.host_paths = vec![path(&shared.join(name), "/x", true)];
        link.launch(order, sneaky).await;
        let last = link.end_of(&task).await.pop().unwrap();
        assert_eq!(state(&last), v1::TaskState::Error);
        assert!(last.text.contains(refusal), "{}", last.text);
    }
    agent.is_clear().await;
    agent.stop().await;
}

pub(super) async fn root_of_an_image_has_no_more_rights_on_a_host_path_than_any_user() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    let (host, mut master) = (TestHost::new(), Master::start().await);
    let (conf, data) = directories(&host);
    if !layout::write_with(&host.layouts(), &json!({})) {
        return skip("there is no /bin/busybox to make an image of");
    }
    let secret = conf.join("secret");
    fs::write(&secret, "of root\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let line = format!("id -u; {LOOK}; cat /conf/secret 2>/dev/null || echo hidden");
    let mut reads = of_image(&host, "reads", &line);
    reads.host_paths = vec![path(&conf, "/conf", true)];
    link.launch(1, reads).await;
    let last = link.end_of("reads").await.pop().unwrap();
    assert_eq!(code(&last), Some(v1::exit::How::Code(0)), "{}", last.text);
    let output = content(&host.sandbox("reads").join("stdout")).await;
    assert_eq!(output, "0\non\nkept\nkept\nhidden\n");
    let mut writes = of_image(&host, "writes", "echo no > /data/file");
    writes.host_paths = vec![path(&data, "/data", false)];
    link.launch(2, writes).await;
    let last = link.end_of("writes").await.pop().unwrap();
    assert_eq!(state(&last), v1::TaskState::Failed, "{}", last.text);
    assert!(
        last.text.contains("its users are the host's"),
        "{}",
        last.text
    );
    assert!(!data.join("file").exists());
    agent.is_clear().await;
    agent.stop().await;
}
