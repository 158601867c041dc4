//! Fetches by the agent for a task of a `bridge` network, from servers that the task's own network
//! does not reach.

use std::net::Ipv4Addr;
use std::process::Command;

use super::servers::{page, serve, serve_at};
use super::tasks::{ATTACKER, HOST, HOST6, METADATA, reached};
use super::{Attempt, api, attack, attempt, run, with_cluster};
use crate::cluster::DevCluster;

pub(super) fn fetch(cluster: &DevCluster, uri: &str) -> Attempt {
    run(
        cluster,
        &["--uri", &format!("got={uri}"), "--", "cat", "got"],
    )
}

/// The operator allows fetches from each of the addresses: only the rule prevents an attack.
const OPEN: [&str; 14] = [
    "--fetch-allow",
    "127.0.0.0/8",
    "--fetch-allow",
    "::1",
    "--fetch-allow",
    "0.0.0.0",
    "--fetch-allow",
    METADATA,
    "--fetch-allow",
    HOST,
    "--fetch-allow",
    HOST6,
    "--agent-resources",
    "cpus:2;mem:512",
];

/// Returns fetches from a service at this port of its host, of its agent, of a metadata service,
/// and by a redirect of the server that tasks may fetch from. Each has the rule that rejects it.
fn fetches(agent: &str, other: u16, port: u16) -> [(&'static str, String, &'static str); 10] {
    let loopback = "a loopback address of the agent's host";
    [
        (
            "fetch from a service of its host",
            format!("http://127.0.0.1:{other}/page"),
            loopback,
        ),
        (
            "fetch from a service of its host by its name",
            format!("http://localhost:{other}/page"),
            loopback,
        ),
        (
            "fetch from a service of its host by IPv6",
            format!("http://[::1]:{other}/page"),
            loopback,
        ),
        (
            "fetch from a service of its host by an address that stands for it",
            format!("http://[::ffff:127.0.0.1]:{other}/page"),
            loopback,
        ),
        (
            "fetch from a service of its host by a number",
            format!("http://2130706433:{other}/page"),
            loopback,
        ),
        (
            "fetch from a service of its host by no address",
            format!("http://0.0.0.0:{other}/page"),
            "an unspecified address",
        ),
        (
            "fetch from a metadata service",
            format!("http://{METADATA}/latest"),
            "metadata service",
        ),
        (
            "fetch from the API of its agent",
            format!("http://{agent}/v1/agent"),
            loopback,
        ),
        (
            "fetch from a service of its host by a redirect",
            format!("http://127.0.0.1:{port}/to/http://127.0.0.1:{other}/page"),
            loopback,
        ),
        (
            "fetch from a metadata service by a redirect",
            format!("http://127.0.0.1:{port}/to/http://{METADATA}/latest"),
            "metadata service",
        ),
    ]
}

/// The same from that service at the addresses of its host that are not loopback.
fn fetches_by_its_hosts_addresses(
    other: u16,
    port: u16,
) -> [(&'static str, String, &'static str); 5] {
    let (four, six) = (
        format!("http://{HOST}:{other}/page"),
        format!("http://[{HOST6}]:{other}/page"),
    );
    let by_redirect = |target: &str| format!("http://127.0.0.1:{port}/to/{target}");
    [
        (
            "fetch from a service at an address of its host by a redirect",
            by_redirect(&four),
        ),
        (
            "fetch from a service at an IPv6 address of its host by a redirect",
            by_redirect(&six),
        ),
        ("fetch from a service at an address of its host", four),
        ("fetch from a service at an IPv6 address of its host", six),
        (
            "fetch from a service at an address of its host by one that stands for it",
            format!("http://[::ffff:{HOST}]:{other}/page"),
        ),
    ]
    .map(|(technique, uri)| (technique, uri, "an address of the agent's host"))
}

pub(super) fn by_fetches(cluster: &DevCluster, port: u16) {
    let other = serve(Box::new(|_| page(b"of this host"))).port();
    for address in ["::1", HOST6] {
        let at = format!("[{address}]:{other}");
        serve_at(&at, Box::new(|_| page(b"of this host")));
    }
    let at = format!("{HOST}:{other}");
    serve_at(&at, Box::new(|_| page(b"of this host")));
    let agent = api(cluster, "agent");
    let mut cases = Vec::from(fetches(&agent, other, port));
    cases.extend(fetches_by_its_hosts_addresses(other, port));
    let refused: Vec<_> = cases
        .iter()
        .map(|(_, uri, _)| fetch(cluster, uri))
        .collect();
    with_cluster(DevCluster::start(49, "1x1", &OPEN), |open| {
        for ((technique, uri, because), attacked) in cases.iter().zip(refused) {
            attack(ATTACKER, technique, because, attacked, fetch(open, uri));
        }
    });
    // No operator allows this one.
    attack(
        ATTACKER,
        "fetch a file of its host by a redirect",
        "redirects to neither http nor https",
        fetch(
            cluster,
            &format!("http://127.0.0.1:{port}/to/file:///etc/shadow"),
        ),
        fetch(
            cluster,
            &format!("http://127.0.0.1:{port}/to/http://127.0.0.1:{port}/page"),
        ),
    );
}

/// Tries to reach a server of the victim, published at another port, by fetches of agents from the
/// host's network.
pub(super) fn by_fetches_from_its_neighbour(cluster: &DevCluster, port: u16) {
    let address = |name: &str| {
        let line = format!("echo ${name}");
        let (code, address, stderr) = cluster.run(&["exec", "victim", "--", "sh", "-c", &line]);
        assert_eq!(code, 0, "{stderr}");
        address.trim().to_owned()
    };
    let (four, six) = (address("ARGOSY_ADDRESS"), address("ARGOSY_ADDRESS6"));
    let [a, b, c, d] = four.parse::<Ipv4Addr>().unwrap().octets();
    // Only a rule prevents it.
    reached(&four, 8080).unwrap();
    reached(&six, 8080).unwrap();
    let (four, six) = (format!("{four}:8080"), format!("[{six}]:8080"));
    for (technique, uri) in [
        ("by its address", format!("http://{four}/page")),
        ("by its IPv6 address", format!("http://{six}/page")),
        (
            "by an IPv6 address that stands for its address",
            format!("http://[::ffff:{a}.{b}.{c}.{d}]:8080/page"),
        ),
        (
            "by a number",
            format!("http://{}:8080/page", u32::from_be_bytes([a, b, c, d])),
        ),
        (
            "by a redirect",
            format!("http://127.0.0.1:{port}/to/http://{four}/page"),
        ),
        (
            "by a redirect to its IPv6 address",
            format!("http://127.0.0.1:{port}/to/http://{six}/page"),
        ),
    ] {
        attack(
            ATTACKER,
            &format!("fetch what another task has not published, {technique}"),
            "an address of tasks of this host",
            fetch(cluster, &uri),
            fetch(cluster, &format!("http://{HOST}:31090/page")),
        );
    }
    from_an_address_that_becomes_a_tasks(cluster);
}

/// A route to a container appears while the answer is in flight.
fn from_an_address_that_becomes_a_tasks(cluster: &DevCluster) {
    let ip = |words: &str| attempt(Command::new("ip").args(words.split(' '))).unwrap();
    // Not an address of this host, but answered by it.
    let address = "192.0.2.9";
    ip(&format!("route add {address}/32 dev lo metric 100"));
    let rule = format!(
        "table ip late {{ chain out {{ type nat hook output priority -100; ip daddr {address} dnat to {HOST}; }}; }}"
    );
    attempt(Command::new("nft").arg(&rule)).unwrap();
    let port = serve_at(
        &format!("{HOST}:0"),
        Box::new(move |path| {
            if path == "/late" {
                ip("link add argolate1 type veth peer name argolate2");
                ip("link set argolate1 up");
                ip(&format!("route add {address}/32 dev argolate1"));
            }
            page(b"late")
        }),
    )
    .port();
    let attacked = fetch(cluster, &format!("http://{address}:{port}/late"));
    ip("link delete argolate1");
    attack(
        ATTACKER,
        "fetch from an address that becomes a task's",
        "an address of tasks of this host",
        attacked,
        fetch(cluster, &format!("http://{address}:{port}/page")),
    );
}
