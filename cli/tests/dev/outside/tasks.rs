//! Attacks by another task on the same host: by the network, by what the agent fetches and mounts
//! for it, by what others read of it.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::fetches::{by_fetches, by_fetches_from_its_neighbour, fetch};
use super::servers::{page, redirect, serve, serve_at};
use super::{Attempt, against_a_host, api, attack, attempt, run, start_victim, with_cluster};
use crate::cluster::{DevCluster, wait_for};
use crate::privilege_drop::{gives_up_root, open_directory};

pub(super) const ATTACKER: &str = "another task";
/// The address of this host, from `on_a_host`.
pub(super) const HOST: &str = "10.99.99.1";
/// An IPv6 address of this host.
pub(super) const HOST6: &str = "fd99::1";
pub(super) const METADATA: &str = "169.254.169.254";

/// Opens a connection from this host.
pub(super) fn reached(address: &str, port: u16) -> Attempt {
    let line = format!("exec 3<>/dev/tcp/{address}/{port}");
    attempt(Command::new("timeout").args(["5", "bash", "-c", &line]))
}

/// The same from a task in this network.
fn reached_by_task(cluster: &DevCluster, network: &str, address: &str, port: u16) -> Attempt {
    // Busybox' timeout returns the signal in place of its own code.
    let line = format!(
        "timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}'; code=$?; \
         case $code in 124 | 143) echo '{NO_REPLY}' >&2;; esac; exit $code"
    );
    run(cluster, &["--network", network, "--", "sh", "-c", &line])
}

/// The kernel's message for a connection that is not allowed.
const REFUSED: &str = "not permitted";
/// The message of a task whose packets are dropped: neither an answer nor an error arrives.
const NO_REPLY: &str = "nothing came within 5 s";

fn by_members(cluster: &DevCluster) {
    let port = |address: String| address.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let (agent, master) = (api(cluster, "agent"), api(cluster, "master"));
    for (name, address, number) in [
        ("the API of its agent", agent.clone(), port(agent.clone())),
        ("a master", master.clone(), port(master.clone())),
        ("the raft port of a master", master.clone(), 5052),
    ] {
        let (host, _) = address.rsplit_once(':').unwrap();
        for (family, form) in [
            ("", host.to_owned()),
            (
                ", by an IPv6 address that stands for it",
                format!("::ffff:{host}"),
            ),
        ] {
            let attacked = reached_by_task(cluster, "host", &form, number);
            attack(
                ATTACKER,
                &format!("connect to {name}{family}, from the host's network"),
                REFUSED,
                attacked,
                reached(&form, number),
            );
        }
    }
}

fn by_the_network(cluster: &DevCluster) {
    // The same ports at another address of the host, where the test listens.
    let _listeners: Vec<_> = [5050, 5051, 5052]
        .map(|port| TcpListener::bind((HOST, port)).unwrap())
        .into();
    for number in [5050, 5051, 5052] {
        for network in ["host", "bridge"] {
            let attacked = reached_by_task(cluster, network, HOST, number);
            let technique =
                format!("connect to port {number} of its host, from the network {network}");
            attack(
                ATTACKER,
                &technique,
                REFUSED,
                attacked,
                reached(HOST, number),
            );
        }
    }
    let _metadata = serve_at(
        &format!("{METADATA}:80"),
        Box::new(|_| page(b"credentials")),
    );
    for network in ["host", "bridge"] {
        let attacked = reached_by_task(cluster, network, METADATA, 80);
        attack(
            ATTACKER,
            &format!("connect to a metadata service, from the network {network}"),
            REFUSED,
            attacked,
            reached(METADATA, 80),
        );
    }
    let receiver = UdpSocket::bind((HOST, 5051)).unwrap();
    let line = format!("echo hello > /dev/udp/{HOST}/5051");
    let attacked = run(cluster, &["--network", "host", "--", "bash", "-c", &line]);
    let control = attempt(Command::new("bash").args(["-c", &line])).and_then(|_| {
        let mut reported = [0; 16];
        receiver
            .recv(&mut reported)
            .map(|_| String::new())
            .map_err(|error| error.to_string())
    });
    attack(
        ATTACKER,
        "send a datagram to a closed port",
        REFUSED,
        attacked,
        control,
    );
}

fn by_its_neighbour(cluster: &DevCluster) {
    let (code, address, stderr) =
        cluster.run(&["exec", "victim", "--", "sh", "-c", "echo $ARGOSY_ADDRESS"]);
    assert_eq!(code, 0, "{stderr}");
    let address = address.trim();
    let attacked = reached_by_task(cluster, "bridge", address, 8080);
    attack(
        ATTACKER,
        "connect to a port that another task has not published",
        NO_REPLY,
        attacked,
        // The victim listens there.
        reached(address, 8080),
    );
    let attacked = reached_by_task(cluster, "none", HOST, 31090);
    let published = reached_by_task(cluster, "bridge", HOST, 31090);
    attack(
        ATTACKER,
        "connect from the network none",
        "unreachable",
        attacked,
        published,
    );
}

fn by_files(cluster: &DevCluster, fetched: &Path) {
    let given = format!("file://{}/given", fetched.display());
    for (technique, uri, because) in [
        (
            "fetch the passwords of its host",
            "/etc/shadow".to_owned(),
            "--fetch-dir",
        ),
        (
            "fetch the same as a URI of a file",
            "file:///etc/shadow".to_owned(),
            "--fetch-dir",
        ),
        (
            "fetch the environment of its agent",
            "/proc/1/environ".to_owned(),
            "--fetch-dir",
        ),
        (
            "fetch a file by dots out of a directory",
            format!("{}/../secret", fetched.display()),
            "its path has .. in it",
        ),
        (
            "fetch a file by a link out of a directory",
            format!("{}/link", fetched.display()),
            "is a symbolic link",
        ),
        (
            "fetch a pipe of its host",
            format!("{}/pipe", fetched.display()),
            "it is not a regular file",
        ),
    ] {
        attack(
            ATTACKER,
            technique,
            because,
            fetch(cluster, &uri),
            fetch(cluster, &given),
        );
    }
    let closed = fetched.join("closed");
    let attacked = fetch(cluster, &closed.display().to_string());
    // The same file, once all users may read it.
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o644)).unwrap();
    attack(
        ATTACKER,
        "fetch a file that its user cannot read",
        "Permission denied",
        attacked,
        fetch(cluster, &closed.display().to_string()),
    );
}

fn by_mounts(cluster: &DevCluster, shared: &str) {
    let look = |volume: &str| {
        run(
            cluster,
            &[
                "--volume",
                &format!("{volume}:{volume}"),
                "--",
                "ls",
                volume,
            ],
        )
    };
    for (technique, path) in [
        ("mount a directory of its host", "/root".to_owned()),
        (
            "mount the directory above one that is allowed",
            Path::new(shared).parent().unwrap().display().to_string(),
        ),
        (
            "mount a directory by a link in one that is allowed",
            format!("{shared}/link"),
        ),
    ] {
        attack(
            ATTACKER,
            technique,
            "--host-path",
            look(&path),
            look(shared),
        );
    }
}

fn by_secrets_and_images(cluster: &DevCluster, shared: &str, layout: &str) {
    let secret = |name: &str| {
        run(
            cluster,
            &[
                "--secret",
                &format!("{name}:/run/secrets/key"),
                "--",
                "cat",
                "/run/secrets/key",
            ],
        )
    };
    attack(
        ATTACKER,
        "have a secret of another role",
        "secret",
        secret("theirs"),
        secret("everybodys"),
    );
    attack(
        ATTACKER,
        "have a secret by a path",
        "secret",
        secret("../other/theirs"),
        secret("everybodys"),
    );
    let image = |name: &str| run(cluster, &["--image", name, "--", "true"]);
    let elsewhere = format!("oci:{shared}/link");
    for (technique, name) in [
        (
            "run an image of a directory that is not allowed",
            "oci:/etc",
        ),
        ("run an image behind a link", elsewhere.as_str()),
    ] {
        let control = run(
            cluster,
            &["--image", layout, "--user", "0", "--", "busybox", "true"],
        );
        attack(ATTACKER, technique, "--image-dir", image(name), control);
    }
}

/// The requests that an operator may make for a trap: description, path, and expected message.
const TRAPS: [(&str, &str, &str); 7] = [
    (
        "have an operator read a link out of a sandbox",
        "read?path=SANDBOX/link",
        "is a link",
    ),
    (
        "have an operator download a link out of a sandbox",
        "download?path=SANDBOX/link",
        "is a link",
    ),
    (
        "have an operator read through a linked directory",
        "read?path=SANDBOX/root/etc/passwd",
        "is a link",
    ),
    (
        "have an operator list a linked directory",
        "browse?path=SANDBOX/root",
        "is a link",
    ),
    (
        "hold up an operator with a pipe",
        "read?path=SANDBOX/pipe",
        "is a special file",
    ),
    (
        "have an operator read by dots out of a sandbox",
        "read?path=SANDBOX/folder/../../../../../../../etc/passwd",
        "a path may not contain ..",
    ),
    (
        "have an operator read by an absolute path",
        "read?path=/etc/passwd",
        "give a relative path",
    ),
];

/// Checks what an operator sees of a task that prepares a trap in its own sandbox.
fn by_its_own_files(cluster: &DevCluster) {
    let line = "mkdir folder; echo text > file; ln -s /etc/shadow link; ln -s / root; mkfifo pipe; \
                printf '\\033]0;title\\007' > escape; exec sleep 1000";
    let words = ["run", "--detach", "--name", "trap", "--", "sh", "-c", line];
    let (code, _, stderr) = cluster.run(&words);
    assert_eq!(code, 0, "{stderr}");
    let (_, shown, _) = cluster.run(&["task", "show", "trap", "-o", "json"]);
    let task: Value = serde_json::from_str(&shown).unwrap();
    let sandbox = format!("tasks/{}/trap", task["frameworkId"].as_str().unwrap());
    let agent = api(cluster, "agent");
    let read = |path: &str| {
        let url = format!("http://{agent}/v1/files/{path}");
        // A pipe must not block the caller.
        attempt(Command::new("curl").args([
            "-s",
            "--fail-with-body",
            "--noproxy",
            "*",
            "--max-time",
            "5",
            "--path-as-is",
            "-w",
            " %{http_code}",
            &url,
        ]))
    };
    wait_for("the trap", || {
        read(&format!("read?path={sandbox}/escape")).is_ok()
    });
    for (technique, path, because) in TRAPS {
        let control = match path.starts_with("browse") {
            true => read(&format!("browse?path={sandbox}/folder")),
            false => {
                read(&path.replace(path.split_once('=').unwrap().1, &format!("{sandbox}/file")))
            }
        };
        let attacked = read(&path.replace("SANDBOX", &sandbox)).map_err(|output| {
            match output.ends_with(" 000") {
                true => panic!("{technique}: no answer came: {output}"),
                false => output,
            }
        });
        attack(ATTACKER, technique, because, attacked, control);
    }
}

/// Directories of the operator: what tasks may fetch and mount, images and secrets.
struct OperatorDirectories {
    directory: tempfile::TempDir,
    layout: String,
}

impl OperatorDirectories {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let open = |name: &str, mode: u32| {
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap()
        };
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        for name in [
            "fetched",
            "shared",
            "secrets",
            "secrets/*",
            "secrets/other",
            "images",
        ] {
            fs::create_dir(path(name)).unwrap();
        }
        for (name, text, mode) in [
            ("fetched/given", "given", 0o644),
            ("fetched/closed", "closed", 0o600),
            ("secret", "secret", 0o644),
            ("secrets/*/everybodys", "shared", 0o600),
            ("secrets/other/theirs", "theirs", 0o600),
        ] {
            fs::write(path(name), text).unwrap();
            open(name, mode);
        }
        symlink(path("secret"), path("fetched/link")).unwrap();
        symlink("/root", path("shared/link")).unwrap();
        assert!(
            Command::new("mkfifo")
                .arg(path("fetched/pipe"))
                .status()
                .unwrap()
                .success()
        );
        open("fetched/pipe", 0o644);
        open("fetched", 0o755);
        open("shared", 0o777);
        open("secrets", 0o700);
        let layout = crate::registry::in_a_layout(&path("images"), &crate::web::image());
        Self {
            directory: dir,
            layout,
        }
    }

    fn of(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

#[test]
fn a_task_cannot_reach_its_host_or_other_tasks() {
    against_a_host(|| {
        for address in [format!("{METADATA}/32"), format!("{HOST6}/128")] {
            let words = ["address", "add", &address, "dev", "lo"];
            attempt(Command::new("ip").args(words)).unwrap();
        }
        let directories = OperatorDirectories::make();
        let server = serve(Box::new(|path| match path.strip_prefix("/to/") {
            Some(target) => redirect(target),
            None => page(b"allowed"),
        }));
        let allowed = format!("127.0.0.1:{}", server.port());
        let (fetched, shared, secrets) = (
            directories.of("fetched"),
            directories.of("shared"),
            directories.of("secrets"),
        );
        let flags = [
            // The agent's API must answer plain requests, so that another defence rejects them.
            "--insecure-plaintext",
            "--allow-host-network",
            "--fetch-dir",
            &fetched,
            "--fetch-allow",
            &allowed,
            "--host-path",
            &shared,
            "--secret-dir",
            &secrets,
            "--agent-resources",
            "cpus:4;mem:1024;disk:4096;ports:[31000-31100]",
        ];
        let (images, open) = (directories.of("images"), open_directory());
        let variables = [
            ("ARGOSY_AGENT_IMAGE_DIRS", images.as_str()),
            ("TMPDIR", open.path().to_str().unwrap()),
        ];
        let cluster = DevCluster::start_with(43, "1x1", &flags, &variables);
        with_cluster(cluster, |cluster| {
            gives_up_root(cluster);
            let line = "echo text > page; exec busybox httpd -f -p 8080";
            start_victim(
                cluster,
                &["--publish", "31090:8080", "--", "sh", "-c", line],
            );
            wait_for("the victim to listen", || reached(HOST, 31090).is_ok());
            by_members(cluster);
            by_the_network(cluster);
            by_its_neighbour(cluster);
            by_files(cluster, Path::new(&fetched));
            by_fetches(cluster, server.port());
            by_fetches_from_its_neighbour(cluster, server.port());
            by_mounts(cluster, &shared);
            by_secrets_and_images(cluster, &shared, &directories.layout);
            by_its_own_files(cluster);
        });
    });
}
