//! Tests of what a confined service (`argosy_isolation::service`) can do to its host: its purpose,
//! and nothing else.
//!
//! Processes of this program try each technique twice: as root without the confinement, where it
//! must succeed or the test proves nothing, and with it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use argosy_isolation::service::{self, Packet, SERVICE_HOST_ID};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::fixture::TestCase;
use crate::layers;

pub(crate) const CASES: &[TestCase] = &[
    (
        "a_service_can_perform_only_its_required_operations",
        techniques,
    ),
    (
        "a_service_has_no_user_no_capability_and_no_environment",
        unprivileged,
    ),
    (
        "a_service_that_no_agent_started_does_nothing",
        unknown_parent,
    ),
];

/// The verb with which this program is a misbehaving service.
pub(crate) const VERB: &str = "misbehave";

/// The service's orders, and the location of its targets.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ServiceOrders {
    is_confined: bool,
    bait: PathBuf,
    host: u32,
    port: u16,
}

/// The result of each technique: `None` if it succeeded.
type ServiceEscapeResults = BTreeMap<String, Option<String>>;

/// A technique: its name, and the attempt.
type Technique<'a> = (&'static str, Box<dyn Fn() -> io::Result<()> + 'a>);

/// The service's purpose: what must succeed.
const GRANTED: [&str; 3] = ["read who is who", "connect to a server", "ask by UDP"];

/// The service's side.
pub(crate) fn main() -> ExitCode {
    let packets = match service::connection() {
        Ok(packets) => packets,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let Ok(Packet::Message(orders, _)) = packets.receive::<ServiceOrders>() else {
        return ExitCode::FAILURE;
    };
    if orders.is_confined {
        let readable = ["/etc", "/usr", "/lib", "/lib64"].map(PathBuf::from);
        service::confine(&readable, 1 << 30).expect("this host supports all layers");
    }
    let tried = all(&orders).into_iter().map(|(name, technique)| {
        let answer = technique().err().map(|error| error.to_string());
        (name.to_owned(), answer)
    });
    let tried: ServiceEscapeResults = tried.collect();
    packets.send(&tried, &[]).expect("the test listens");
    // It can be inspected until the test has seen enough.
    let _ = packets.receive::<()>();
    ExitCode::SUCCESS
}

fn all(orders: &ServiceOrders) -> Vec<Technique<'_>> {
    let mut all = files(orders);
    all.extend(changes(&orders.bait));
    all.extend(sockets(orders));
    // The last one removes the network.
    all.extend(processes(orders.host));
    all
}

fn files(orders: &ServiceOrders) -> Vec<Technique<'_>> {
    let bait = &orders.bait;
    let open = |path: PathBuf| move || File::open(&path).map(drop);
    let to_write = |path: PathBuf| move || OpenOptions::new().append(true).open(&path).map(drop);
    vec![
        ("read who is who", Box::new(open("/etc/passwd".into()))),
        (
            "read the passwords of the host",
            Box::new(open("/etc/shadow".into())),
        ),
        (
            "read a secret of the agent",
            Box::new(open(bait.join("secret"))),
        ),
        (
            "read a file that everybody may read",
            Box::new(open(bait.join("open"))),
        ),
        (
            "read the environment of its agent",
            Box::new(open(format!("/proc/{}/environ", orders.host).into())),
        ),
        (
            "read its own memory map",
            Box::new(open("/proc/self/maps".into())),
        ),
        (
            "read the log of the kernel",
            Box::new(open("/dev/kmsg".into())),
        ),
        (
            "write to a file that everybody may write",
            Box::new(to_write(bait.join("open"))),
        ),
        ("write who is who", Box::new(to_write("/etc/passwd".into()))),
        (
            "list the root of the host",
            Box::new(|| fs::read_dir("/").map(drop)),
        ),
        (
            "list processes",
            Box::new(|| fs::read_dir("/proc").map(drop)),
        ),
    ]
}

/// In a directory where all users have all permissions.
fn changes(bait: &Path) -> Vec<Technique<'_>> {
    vec![
        (
            "make a file in a directory that all users may write",
            Box::new(|| File::create(bait.join("new")).map(drop)),
        ),
        (
            "make a directory there",
            Box::new(|| fs::create_dir(bait.join("folder"))),
        ),
        (
            "link a file there",
            Box::new(|| fs::hard_link(bait.join("open"), bait.join("hard"))),
        ),
        (
            "make a symbolic link there",
            Box::new(|| std::os::unix::fs::symlink("/", bait.join("soft"))),
        ),
        (
            "rename a file there",
            Box::new(|| fs::rename(bait.join("moved"), bait.join("moved-on"))),
        ),
        (
            "remove a file there",
            Box::new(|| fs::remove_file(bait.join("removed"))),
        ),
        (
            "change the mode of a file there",
            Box::new(|| fs::set_permissions(bait.join("open"), fs::Permissions::from_mode(0o777))),
        ),
        (
            "listen on a socket there",
            Box::new(|| UnixListener::bind(bait.join("socket")).map(drop)),
        ),
    ]
}

fn processes(host: u32) -> Vec<Technique<'static>> {
    let host = nix::unistd::Pid::from_raw(host as i32);
    vec![
        (
            "execute a program",
            Box::new(|| Command::new("/bin/true").status().map(drop)),
        ),
        (
            "signal its agent",
            Box::new(move || Ok(nix::sys::signal::kill(host, None)?)),
        ),
        (
            "hold its agent",
            Box::new(move || {
                let pid = Pid::from_raw(host.as_raw()).ok_or(io::ErrorKind::InvalidInput)?;
                Ok(pidfd_open(pid, PidfdFlags::empty()).map(drop)?)
            }),
        ),
        (
            "look into the namespaces of its agent",
            Box::new(move || File::open(format!("/proc/{host}/ns/mnt")).map(drop)),
        ),
        (
            "become root",
            Box::new(|| Ok(nix::unistd::setuid(0.into())?)),
        ),
        (
            "join the groups of root",
            Box::new(|| Ok(nix::unistd::setgroups(&[0.into()])?)),
        ),
        (
            "change its root",
            Box::new(|| Ok(nix::unistd::chroot("/")?)),
        ),
        (
            "name the host",
            Box::new(|| {
                let name = nix::unistd::gethostname()?;
                Ok(nix::unistd::sethostname(name)?)
            }),
        ),
        (
            "mount a file system",
            Box::new(|| {
                let flags = nix::mount::MsFlags::empty();
                Ok(nix::mount::mount(
                    Some("none"),
                    "/mnt",
                    Some("tmpfs"),
                    flags,
                    None::<&str>,
                )?)
            }),
        ),
        (
            "make a network of its own",
            Box::new(|| Ok(unshare(CloneFlags::CLONE_NEWNET)?)),
        ),
    ]
}

fn sockets(orders: &ServiceOrders) -> Vec<Technique<'_>> {
    let make = |family, kind, protocol: Option<SockProtocol>| {
        move || Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).map(drop)?)
    };
    let name = abstract_name(orders.host);
    vec![
        (
            "connect to a server",
            Box::new(|| TcpStream::connect(("127.0.0.1", orders.port)).map(drop)),
        ),
        (
            "ask by UDP",
            Box::new(|| {
                let socket = UdpSocket::bind("127.0.0.1:0")?;
                socket.send_to(b"?", ("127.0.0.1", orders.port)).map(drop)
            }),
        ),
        (
            "serve a port",
            Box::new(|| TcpListener::bind("127.0.0.1:0").map(drop)),
        ),
        (
            "connect to an abstract socket of the host",
            Box::new(move || {
                let address = SocketAddr::from_abstract_name(&name)?;
                UnixStream::connect_addr(&address).map(drop)
            }),
        ),
        (
            "see all packets",
            Box::new(make(AddressFamily::Packet, SockType::Raw, None)),
        ),
        (
            "make packets",
            Box::new(make(
                AddressFamily::Inet,
                SockType::Raw,
                Some(SockProtocol::Icmp),
            )),
        ),
        (
            "change firewall rules",
            Box::new(make(
                AddressFamily::Netlink,
                SockType::Raw,
                Some(SockProtocol::NetlinkNetFilter),
            )),
        ),
        (
            "receive the kernel's events of devices",
            Box::new(make(
                AddressFamily::Netlink,
                SockType::Raw,
                Some(SockProtocol::NetlinkKObjectUEvent),
            )),
        ),
    ]
}

fn abstract_name(host: u32) -> String {
    format!("argosy-service-{host}")
}

/// Runs a misbehaving service; returns its results, and the status of its process.
fn run_service(is_confined: bool) -> (ServiceEscapeResults, String) {
    let directory = tempfile::tempdir().unwrap();
    let bait = directory.path().to_owned();
    for name in ["secret", "open", "moved", "removed"] {
        fs::write(bait.join(name), "bait").unwrap();
        fs::set_permissions(bait.join(name), fs::Permissions::from_mode(0o666)).unwrap();
    }
    fs::set_permissions(bait.join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&bait, fs::Permissions::from_mode(0o777)).unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = std::process::id();
    let address = SocketAddr::from_abstract_name(abstract_name(host)).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    // Attempts that succeed without the confinement change nothing of the host.
    command.args(["--mount", "--uts", "--propagation", "private"]);
    command.arg(own).arg(VERB);
    let (process, packets) = service::spawn(&command, None, &[], None).unwrap();
    let orders = ServiceOrders {
        is_confined,
        bait,
        host,
        port: server.local_addr().unwrap().port(),
    };
    packets.send(&orders, &[]).unwrap();
    let tried = match packets.receive::<ServiceEscapeResults>().unwrap() {
        Packet::Message(tried, _) => tried,
        Packet::Closed => panic!("it ended before it had tried anything"),
    };
    // `unshare` has executed it.
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let environment = fs::read(format!("/proc/{}/environ", process.id())).unwrap();
    packets.close();
    service::stop(process);
    (
        tried,
        format!("{status}Environment:\t{}\n", environment.len()),
    )
}

fn techniques() {
    let (mut control, _) = run_service(false);
    // Not every host has all targets.
    control.retain(|_, why| !why.as_ref().is_some_and(|why| why.contains("No such file")));
    let failed: Vec<_> = control.iter().filter(|(_, why)| why.is_some()).collect();
    assert!(failed.is_empty(), "these trials show nothing: {failed:?}");
    let (mut tried, _) = run_service(true);
    tried.retain(|name, _| control.contains_key(name));
    assert!(tried.len() >= 30, "only {} were tried", tried.len());
    for (name, why) in &tried {
        println!("technique of a service: {name}: open");
        if why.is_some() {
            println!("technique of a service: {name}: shut");
        }
        if GRANTED.contains(&name.as_str()) {
            assert_eq!(*why, None, "{name}");
        } else if layers::has_landlock_6() || name != "connect to an abstract socket of the host" {
            assert!(why.is_some(), "a service can {name}");
        }
    }
    println!("{} techniques, {} granted", tried.len(), GRANTED.len());
}

fn unprivileged() {
    let (_, status) = run_service(true);
    let found = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {status}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let id = SERVICE_HOST_ID;
    let four = format!("{id} {id} {id} {id}");
    assert_eq!((found("Uid:"), found("Gid:")), (four.clone(), four));
    assert_eq!(found("Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(found(set), "0000000000000000", "{set}");
    }
    assert_eq!(found("NoNewPrivs:"), "1");
    assert_eq!(found("Seccomp:"), "2");
    assert_eq!(found("Environment:"), "0");
}

/// With a terminal or a file as its standard input it reports that, and exits.
fn unknown_parent() {
    let output = Command::new(std::env::current_exe().unwrap())
        .arg(VERB)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let reported = String::from_utf8_lossy(&output.stderr);
    assert!(
        reported.contains("must be the agent's socket"),
        "{reported}"
    );
}
