//! A web server from an image, in a network of its own: from the registry to the last trace.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use argosy_testing::skip;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::{Cluster, Ran, wait_for};

pub(crate) const BUSYBOX: &str = "/bin/busybox";
const REGISTRY: &str = "/usr/bin/docker-registry";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The host of the test, in a network namespace of its own.
const HOST: &str = "10.99.99.1";

/// Runs `body` in a network namespace that goes with it: a thread's children are where it is.
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

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// Layers, configuration and manifest of an image with one program and one page.
fn image() -> Vec<Vec<u8>> {
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
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {
            "Entrypoint": ["/bin/busybox"], "Cmd": ["httpd", "-f", "-v", "-p", "80"],
            "User": "web", "WorkingDir": "/www", "Env": ["PAGE=hello", "PATH=/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    vec![layer, config, serde_json::to_vec(&manifest).unwrap()]
}

/// The image in a layout on disk, as its name.
fn in_a_layout(folder: &Path, blobs: &[Vec<u8>]) -> String {
    let places = folder.join("blobs/sha256");
    fs::create_dir_all(&places).unwrap();
    for blob in blobs {
        let name = digest(blob);
        fs::write(places.join(name.strip_prefix("sha256:").unwrap()), blob).unwrap();
    }
    let mut entry = descriptor(MANIFEST, blobs.last().unwrap());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    format!("oci:{}:1", folder.display())
}

/// Debian's registry, ended with the test.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone after the wait.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Registry {
    fn start(folder: &Path) -> Self {
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: \
             127.0.0.1:5000\n",
            folder.join("data").display()
        );
        let file = folder.join("config.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(REGISTRY);
        command.arg("serve").arg(&file).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self(command.spawn().unwrap());
        wait_for("the registry", || {
            TcpStream::connect("127.0.0.1:5000").is_ok()
        });
        registry
    }

    /// The image in it, as its name. Blobs first, the manifest under its tag last.
    fn push(&self, folder: &Path, blobs: &[Vec<u8>]) -> String {
        let (manifest, rest) = blobs.split_last().unwrap();
        let put = |url: &str, kind: &str, bytes: &[u8]| {
            let file = folder.join("upload");
            fs::write(&file, bytes).unwrap();
            let data = format!("@{}", file.display());
            let kind = format!("Content-Type: {kind}");
            curl(&[
                "-fsS",
                "-X",
                "PUT",
                "-H",
                &kind,
                "--data-binary",
                &data,
                url,
            ]);
        };
        for blob in rest {
            let begin = "http://127.0.0.1:5000/v2/team/web/blobs/uploads/";
            let head = curl(&["-fsS", "-i", "-X", "POST", "-d", "", begin]);
            let place = head
                .lines()
                .find_map(|line| line.strip_prefix("Location: "))
                .unwrap();
            let url = format!("{}&digest={}", place.trim(), digest(blob));
            put(&url, "application/octet-stream", blob);
        }
        put(
            "http://127.0.0.1:5000/v2/team/web/manifests/1",
            MANIFEST,
            manifest,
        );
        "127.0.0.1:5000/team/web:1".to_owned()
    }
}

fn curl(words: &[&str]) -> String {
    let output = Command::new("curl").args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {words:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// What the page at this port of the host says, if anybody answers.
pub(crate) fn page(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((HOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.rsplit_once("\r\n\r\n")?.1.to_owned())
}

fn nothing_is_left() {
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
fn a_network_outlives_its_agent_and_goes_with_its_task() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    if !Path::new(BUSYBOX).exists() {
        return skip("needs the package busybox-static");
    }
    on_a_host(|| {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("kept");
        let resources = "cpus:2;mem:512;ports:[31000-31100]";
        let more = [
            "--keep",
            home.to_str().unwrap(),
            "--agent-resources",
            resources,
        ];
        let mut cluster = Cluster::start(21, "1x1", &more);
        let line = "echo kept > index.html; exec busybox httpd -f -p 80";
        let words = ["--detach", "--name", "web", "--publish", "31081:80", "--"];
        let words = [&["run"], &words[..], &["sh", "-c", line]].concat();
        let (code, _, stderr) = cluster.ran(&words);
        assert_eq!(code, 0, "{stderr}");
        let answers = || page(31081).as_deref() == Some("kept\n");
        wait_for("the page", answers);
        let (code, text) = cluster.stop();
        assert_eq!(code, 0, "{text}");
        assert!(answers(), "no agent is needed to reach it");

        let mut cluster = Cluster::start(21, "1x1", &more);
        wait_for("the task to be found again", || {
            cluster.ran(&["ps"]).1.contains("running")
        });
        assert!(answers(), "the next agent leaves it as it is");
        let (code, _, stderr) = cluster.ran(&["task", "kill", "web"]);
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(page(31081), None);
        let (code, text) = cluster.stop();
        assert_eq!(code, 0, "{text}");
        nothing_is_left();
    });
}

#[test]
fn a_web_server_from_an_image_is_reached_and_leaves_nothing() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    if !Path::new(BUSYBOX).exists() {
        return skip("needs the package busybox-static");
    }
    on_a_host(move || {
        let folder = tempfile::tempdir().unwrap();
        let blobs = image();
        let registry = Path::new(REGISTRY).exists();
        let registry = registry.then(|| Registry::start(folder.path()));
        let image = match &registry {
            Some(registry) => registry.push(folder.path(), &blobs),
            None => in_a_layout(folder.path(), &blobs),
        };
        serve(&image, folder.path());
        nothing_is_left();
    });
}

fn serve(image: &str, folder: &Path) {
    let resources = ["--agent-resources", "cpus:2;mem:512;ports:[31000-31100]"];
    let folders = folder.to_str().unwrap();
    let mut cluster = Cluster::start_with(
        20,
        "1x1",
        &resources,
        &[("ARGOSY_AGENT_IMAGE_FOLDERS", folders)],
    );
    let run = |more: &[&str]| {
        let words = ["run", "--image", image, "--mem", "64M"];
        cluster.ran(&[&words, more].concat())
    };
    let checked = ["--health-http", "80/index.html", "--health-delay", "0s"];
    let detached = ["--detach", "--name", "web", "--publish", "31080:80"];
    let (code, _, stderr) = run(&[&detached[..], &checked].concat());
    assert_eq!(code, 0, "{stderr}");
    wait_for("the page", || {
        let (_, listed, _) = cluster.ran(&["ps", "--all", "-o", "json"]);
        assert!(!listed.contains("FAILED"), "{listed}");
        page(31080).as_deref() == Some("hello from an image\n")
    });
    wait_for("its log", || {
        cluster.ran(&["logs", "--stderr", "web"]).1.contains("200")
    });

    wait_for("its health to be told", || {
        let (_, listed, _) = cluster.ran(&["task", "show", "web", "-o", "json"]);
        listed.contains(r#""healthy": true"#)
    });
    let look = ["exec", "web", "--", "busybox", "cat", "index.html"];
    let (code, stdout, stderr) = cluster.ran(&look);
    assert_eq!(
        (code, stdout.as_str()),
        (0, "hello from an image\n"),
        "{stderr}"
    );

    look_around(&run);

    let second = ["--publish", "31080:80", "--timeout", "1s"];
    let (code, _, stderr) = run(&second);
    assert_eq!(code, 6, "a port is one task's: {stderr}");
    let (code, _, stderr) = cluster.ran(&["task", "kill", "web"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(page(31080), None);
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");
}

/// Another command of the same image, in a network of its own, sees itself alone.
fn look_around(run: &dyn Fn(&[&str]) -> Ran) {
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
