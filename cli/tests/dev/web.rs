//! A web server from an image, in a separate network: from the registry to complete removal.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use argosy_testing::skip;
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::cluster::{CommandOutput, DevCluster, wait_for};
use crate::privilege_drop::{gives_up_root, open_directory};
use crate::registry::{self, ImageRegistry};

pub(crate) const BUSYBOX: &str = "/bin/busybox";
/// The host of the test, in a separate network namespace.
const HOST: &str = "10.99.99.1";

/// Lock of tests that publish the port of the examples, 31080. Separate networks do not separate
/// them, since all agents of a host record the owners of ports in one place.
pub(crate) fn port_of_examples() -> MutexGuard<'static, ()> {
    static PORT: Mutex<()> = Mutex::new(());
    PORT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `body` in a temporary network namespace. The children of a thread are in its namespace.
pub(crate) fn on_a_host(body: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for words in [
            &["link", "set", "lo", "up"][..],
            &["address", "add", "10.99.99.1/32", "dev", "lo"],
        ] {
            let done = Command::new("ip").args(words).status().unwrap();
            assert!(done.success(), "ip {words:?}");
        }
        body();
    });
    thread.join().unwrap();
}

/// Returns layers, configuration and manifest of an image with one program and one page.
pub(crate) fn image() -> Vec<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |mode: u32, size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    };
    let mut add = |path: &str, mode: u32, bytes: &[u8]| {
        let mut header = header(mode, bytes.len() as u64);
        archive.append_data(&mut header, path, bytes).unwrap();
    };
    add("bin/busybox", 0o755, &fs::read(BUSYBOX).unwrap());
    add("etc/passwd", 0o644, b"web:x:1000:1000::/www:/bin/sh\n");
    add("etc/group", 0o644, b"web:x:1000:\n");
    add("www/index.html", 0o644, b"hello from an image\n");
    let mut header = header(0o777, 0);
    header.set_entry_type(tar::EntryType::Symlink);
    archive
        .append_link(&mut header, "bin/sh", "busybox")
        .unwrap();
    let layer = archive.into_inner().unwrap();
    let config = json!({
        "Entrypoint": ["/bin/busybox"], "Cmd": ["httpd", "-f", "-v", "-p", "80"],
        "User": "web", "WorkingDir": "/www", "Env": ["PAGE=hello", "PATH=/bin"],
    });
    registry::image(vec![layer], &config)
}

/// Returns the content of the page at this port of the host, if there is an answer.
pub(crate) fn page(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((HOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.rsplit_once("\r\n\r\n")?.1.to_owned())
}

pub(crate) fn check_no_leftovers() {
    let ran = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(ran("nft", &["list", "tables"]), "");
    wait_for("the last network device to go", || {
        ran("ip", &["-o", "link"]).lines().count() == 1
    });
}

#[test]
fn a_network_survives_an_agent_restart_and_is_removed_with_its_task() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    if !Path::new(BUSYBOX).exists() {
        return skip("needs the package busybox-static");
    }
    on_a_host(|| {
        // The port is published by an agent that has given up root, as in a release.
        let directory = open_directory();
        let home = directory.path().join("kept");
        let resources = "cpus:2;mem:512;ports:[31000-31100]";
        let more = [
            "--keep",
            home.to_str().unwrap(),
            "--agent-resources",
            resources,
        ];
        let mut cluster = DevCluster::start(21, "1x1", &more);
        gives_up_root(&cluster);
        let line = "echo kept > index.html; exec busybox httpd -f -p 80";
        let words = ["--detach", "--name", "web", "--publish", "31081:80", "--"];
        let words = [&["run"], &words[..], &["sh", "-c", line]].concat();
        let (code, _, stderr) = cluster.run(&words);
        assert_eq!(code, 0, "{stderr}");
        let answers = || page(31081).as_deref() == Some("kept\n");
        wait_for("the page", answers);
        let (code, text) = cluster.stop();
        assert_eq!(code, 0, "{text}");
        assert!(answers(), "no agent is needed to reach it");

        let mut cluster = DevCluster::start(21, "1x1", &more);
        wait_for("the task to be found again", || {
            cluster.run(&["ps"]).1.contains("running")
        });
        assert!(answers(), "the next agent leaves it as it is");
        let (code, _, stderr) = cluster.run(&["task", "kill", "web"]);
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(page(31081), None);
        let (code, text) = cluster.stop();
        assert_eq!(code, 0, "{text}");
        check_no_leftovers();
    });
}

#[test]
fn a_web_server_from_an_image_is_reachable_and_removed_completely() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    if !Path::new(BUSYBOX).exists() {
        return skip("needs the package busybox-static");
    }
    on_a_host(move || {
        let directory = tempfile::tempdir().unwrap();
        let blobs = image();
        let registry =
            ImageRegistry::is_installed().then(|| ImageRegistry::start(directory.path()));
        let image = match &registry {
            Some(registry) => registry.push("team/web", &blobs),
            None => registry::in_a_layout(directory.path(), &blobs),
        };
        serve(&image, directory.path());
        check_no_leftovers();
    });
}

fn serve(image: &str, directory: &Path) {
    let resources = ["--agent-resources", "cpus:2;mem:512;ports:[31000-31100]"];
    let directories = directory.to_str().unwrap();
    let mut cluster = DevCluster::start_with(
        20,
        "1x1",
        &[resources, registry::REGISTRY_FLAGS].concat(),
        &[("ARGOSY_AGENT_IMAGE_DIRS", directories)],
    );
    let opened = cluster.record["opened"].as_array().unwrap();
    for flag in [
        registry::REGISTRY_FLAGS.join(" "),
        format!("--image-dir {directories}"),
    ] {
        assert!(
            opened.iter().any(|word| *word == flag),
            "{flag}: {opened:?}"
        );
    }
    let run = |more: &[&str]| {
        let words = ["run", "--image", image, "--mem", "64M"];
        cluster.run(&[&words, more].concat())
    };
    let checked = ["--health-http", "80/index.html", "--health-delay", "0s"];
    let detached = ["--detach", "--name", "web", "--publish", "31082:80"];
    let (code, _, stderr) = run(&[&detached[..], &checked].concat());
    assert_eq!(code, 0, "{stderr}");
    wait_for("the page", || {
        let (_, listed, _) = cluster.run(&["ps", "--all", "-o", "json"]);
        assert!(!listed.contains("FAILED"), "{listed}");
        page(31082).as_deref() == Some("hello from an image\n")
    });
    wait_for("its log", || {
        cluster.run(&["logs", "--stderr", "web"]).1.contains("200")
    });

    wait_for("its health to be reported", || {
        let (_, listed, _) = cluster.run(&["task", "show", "web", "-o", "json"]);
        listed.contains(r#""healthy": true"#)
    });
    let look = ["exec", "web", "--", "busybox", "cat", "index.html"];
    let (code, stdout, stderr) = cluster.run(&look);
    assert_eq!(
        (code, stdout.as_str()),
        (0, "hello from an image\n"),
        "{stderr}"
    );

    check_pages(&run);

    let second = ["--publish", "31082:80", "--timeout", "1s"];
    let (code, _, stderr) = run(&second);
    assert_eq!(code, 6, "a port is one task's: {stderr}");
    let (code, _, stderr) = cluster.run(&["task", "kill", "web"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(page(31082), None);
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");
}

/// Checks that another command of the same image, in a separate network, sees only itself.
fn check_pages(run: &dyn Fn(&[&str]) -> CommandOutput) {
    let line = "busybox id -u; pwd; echo $PAGE; busybox hostname; busybox cat /etc/hostname; \
                busybox grep -c : /proc/net/dev";
    let alone = [
        "--name",
        "alone",
        "--network",
        "none",
        "--",
        "sh",
        "-c",
        line,
    ];
    let (code, stdout, stderr) = run(&alone);
    assert_eq!(
        (code, stdout.as_str()),
        (0, "1000\n/www\nhello\nalone\nalone\n1\n"),
        "{stderr}"
    );
}
