//! Hosts for tests: network namespaces, each with a world behind a veth pair. The machine's own
//! network is never changed.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use argosy_network::{PortPublication, Protocol, why_no_ipv6};
use nix::sched::{CloneFlags, unshare};

use crate::fixture::{eventually, skip};

/// Sends its name and the client's address to every client.
pub(crate) const SERVE: &str = "import socket, sys
both = socket.has_dualstack_ipv6()
family = socket.AF_INET6 if both else socket.AF_INET
listener = socket.create_server(('', int(sys.argv[1])), family=family, dualstack_ipv6=both)
while True:
    caller, address = listener.accept()
    address = address[0].removeprefix('::ffff:')
    caller.sendall(f'{sys.argv[2]} hears {address}'.encode())
    caller.close()";

/// Prints the answer of an address and port, or the error.
pub(crate) const CALL: &str = "import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.5) as called:
        print(called.recv(100).decode())
except OSError as error:
    print(type(error).__name__)";

pub(crate) const HOST: &str = "192.0.2.1";
pub(crate) const OUTSIDE: &str = "192.0.2.2";
/// The same by IPv6, where the host has it.
pub(crate) const HOST6: &str = "2001:db8::1";
pub(crate) const OUTSIDE6: &str = "2001:db8::2";
pub(crate) const METADATA6: &str = "fd00:ec2::254";
/// The metadata address of clouds; here the world answers.
pub(crate) const METADATA: &str = "169.254.169.254";
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// A separate host, linked to a separate world. Both end with the test.
pub(crate) struct LinkedHost {
    pub(crate) world: Child,
    pub(crate) servers: Vec<Child>,
}

/// Runs a test on a separate host: a thread in a new network namespace, which its children share.
pub(crate) fn on_a_host(test: impl FnOnce(&mut LinkedHost) + Send) {
    let needed = ["/usr/sbin/nft", "/usr/sbin/ip", PYTHON];
    if needed.iter().any(|program| !Path::new(program).exists()) {
        skip("needs the packages nftables, iproute2 and python3".to_owned());
    }
    let ended = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            test(&mut LinkedHost::new());
        });
        thread.join()
    });
    if let Err(cause) = ended {
        std::panic::resume_unwind(cause);
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let ended = Command::new(program).args(arguments).output().unwrap();
    let reported = String::from_utf8_lossy(&ended.stderr);
    assert!(
        ended.status.success(),
        "{program} {arguments:?}: {reported}"
    );
    String::from_utf8(ended.stdout).unwrap()
}

pub(crate) fn ip(line: &str) {
    run("ip", &line.split(' ').collect::<Vec<_>>());
}

impl LinkedHost {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        let world = command.args(["--net", "sleep", "1000"]).spawn().unwrap();
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        eventually("the world begins", || {
            let theirs = fs::read_link(format!("/proc/{}/ns/net", world.id()));
            theirs.is_ok_and(|theirs| theirs != own)
        });
        let host = Self {
            world,
            servers: Vec::new(),
        };
        ip("link set lo up");
        let world = host.world.id();
        ip(&format!(
            "link add out type veth peer name in netns {world}"
        ));
        ip(&format!("address add {HOST}/24 dev out"));
        ip("link set out up");
        ip(&format!("route add default via {OUTSIDE}"));
        host.outside(
            "ip",
            &["address", "add", &format!("{OUTSIDE}/24"), "dev", "in"],
        );
        host.outside(
            "ip",
            &["address", "add", &format!("{METADATA}/32"), "dev", "in"],
        );
        host.outside("ip", &["link", "set", "in", "up"]);
        host.outside("ip", &["link", "set", "lo", "up"]);
        if why_no_ipv6().is_none() {
            host.enable_ipv6();
        }
        host
    }

    fn enable_ipv6(&self) {
        ip(&format!("address add {HOST6}/64 dev out nodad"));
        ip(&format!("route add default via {OUTSIDE6}"));
        for address in [format!("{OUTSIDE6}/64"), format!("{METADATA6}/128")] {
            self.outside("ip", &["address", "add", &address, "dev", "in", "nodad"]);
        }
    }

    /// Runs a program in the world.
    pub(crate) fn outside(&self, program: &str, arguments: &[&str]) -> String {
        in_network_of(self.world.id() as i32, program, arguments)
    }

    /// Starts a server of this port, in the world or on the host.
    pub(crate) fn serve(&mut self, name: &str, port: u16, outside: bool) {
        let mut command = Command::new(if outside { "nsenter" } else { PYTHON });
        if outside {
            let world = self.world.id().to_string();
            command.args(["-t", &world, "-n", PYTHON]);
        }
        command.args(["-c", SERVE, &port.to_string(), name]);
        self.servers.push(command.spawn().unwrap());
        eventually("the server serves", || {
            let reported = if outside {
                self.outside(PYTHON, &["-c", CALL, OUTSIDE, &port.to_string()])
            } else {
                call(HOST, port)
            };
            reported.starts_with(name)
        });
    }
}

impl Drop for LinkedHost {
    fn drop(&mut self) {
        for process in self.servers.iter_mut().chain([&mut self.world]) {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub(crate) fn in_network_of(process: i32, program: &str, arguments: &[&str]) -> String {
    let process = process.to_string();
    let enter = ["-t", &process, "-n", program];
    run("nsenter", &[&enter, arguments].concat())
}

/// Returns the answer of this address to the host itself, or the error.
pub(crate) fn call(address: &str, port: u16) -> String {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    let called = TcpStream::connect_timeout(&address, Duration::from_millis(1500));
    let mut reported = String::new();
    match called.and_then(|mut stream| stream.read_to_string(&mut reported)) {
        Ok(_) => reported,
        Err(error) => error.to_string(),
    }
}

pub(crate) fn quoted(script: &str) -> String {
    format!("{PYTHON} -c \"{script}\"")
}

pub(crate) fn web(host_port: u16) -> PortPublication {
    PortPublication {
        name: "web".to_owned(),
        protocol: Protocol::Tcp,
        host_port,
        container_port: 80,
    }
}
