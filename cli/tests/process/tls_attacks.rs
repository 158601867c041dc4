//! Attacks on the ports of a leader with TLS: half-open handshakes from many addresses, and floods
//! of HTTP/2 frames by a caller with a valid certificate. The leader remains the active leader,
//! its memory stays bounded, and it acknowledges writes.

use std::time::Duration;

use argosy_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::cluster::{Cluster, wait_until, write};
use crate::floods::Flood;

const LONG: Duration = Duration::from_secs(60);
/// Half-open connections to each port of the leader.
const HALF_OPEN: usize = 2_500;
/// The header of a TLS record whose content never follows.
const RECORD_HEADER: &str = "1603010200";
/// Connections of each flood of frames.
const ATTACKERS: usize = 20;
/// An attack that has sent this much was not stopped.
const ENOUGH: usize = 64 << 20;
/// How much the resident memory of the leader may grow.
const GROWTH_BYTES: f64 = 201_326_592.0;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The fields of `GET /` at `x`, of which all but the last are entries of the static table.
const REQUEST: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'x'];

/// Returns a frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("it is short");
    let length = &length.to_be_bytes()[1..];
    [length, &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Requests that are cancelled at once (CVE-2023-44487).
fn rapid_reset(number: u32) -> Vec<u8> {
    let stream = 2 * number + 1;
    let open = frame(HEADERS, END_STREAM | END_HEADERS, stream, REQUEST);
    let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    [open, reset].concat()
}

/// One head without an end (CVE-2024-27316).
fn endless_head(number: u32) -> Vec<u8> {
    match number {
        0 => frame(HEADERS, END_STREAM, 1, REQUEST),
        // A field `x` of 1,000 bytes, in the coding of HPACK.
        _ => {
            let field = [&[0, 1, b'x', 0x7f, 0xe9, 0x06][..], &[b'x'; 1_000]].concat();
            frame(CONTINUATION, 0, 1, &field)
        }
    }
}

/// Sends frames on connections to the leader until it has closed them all. Returns their number.
async fn send_frames(cluster: &Cluster, leader: usize, next: fn(u32) -> Vec<u8>) -> usize {
    let mut attacks = JoinSet::new();
    for _ in 0..ATTACKERS {
        let api = cluster.masters[leader].api();
        let transport = cluster.transport.clone();
        attacks.spawn(async move {
            // The table of handshakes is full, and all these have one address.
            let stream = loop {
                match transport.dial_grpc(&api).await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            };
            let (mut answers, mut requests) = tokio::io::split(stream);
            let reading = tokio::spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                // A broken connection has ended as well.
                while let Ok(1..) = answers.read(&mut buffer).await {}
            });
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend(frame(SETTINGS, 0, 0, &[]));
            let mut sent = 0;
            for number in 0.. {
                bytes.extend(next(number));
                sent += bytes.len();
                assert!(sent < ENOUGH, "the attack goes on");
                if requests.write_all(&bytes).await.is_err() || reading.is_finished() {
                    break;
                }
                bytes.clear();
            }
            reading.await.expect("reading ends");
        });
    }
    let ended = tokio::time::timeout(LONG, attacks.join_all()).await;
    ended.expect("the leader closes all connections").len()
}

async fn epoch(cluster: &Cluster) -> u64 {
    let operator = cluster.operator();
    wait_until("the cluster answers", LONG, async || {
        let view = operator.get_cluster(v1::GetClusterRequest::default());
        view.await.ok().map(|view| view.epoch)
    })
    .await
}

async fn resident_bytes(cluster: &Cluster, leader: usize) -> f64 {
    let name = "process_resident_memory_bytes ";
    wait_until("the leader shows its metrics", LONG, async || {
        let text = cluster.masters[leader].metrics().await?;
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    })
    .await
}

async fn writes_are_acknowledged(cluster: &Cluster) {
    for number in 0..10 {
        wait_until("the write is acknowledged", LONG, async || {
            write(&cluster.operator(), number.to_string()).await
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attacks_on_tls_ports_cost_the_leader_neither_office_nor_memory() {
    let mut cluster = Cluster::start_tls(1).await;
    let leader = cluster.leader().await;
    let before_attacks = epoch(&cluster).await;
    let before = resident_bytes(&cluster, leader).await;
    let host = cluster.masters[leader].address.to_string();

    let mut floods = [(5050, 94), (5052, 95)]
        .map(|(port, network)| Flood::start((&host, port), network, HALF_OPEN, RECORD_HEADER));
    for flood in &mut floods {
        let connections = flood.tried().await;
        assert!(connections > HALF_OPEN / 2, "{connections}");
    }
    writes_are_acknowledged(&cluster).await;
    for next in [rapid_reset, endless_head] {
        assert_eq!(send_frames(&cluster, leader, next).await, ATTACKERS);
        writes_are_acknowledged(&cluster).await;
    }

    assert_eq!(
        epoch(&cluster).await,
        before_attacks,
        "no election was held"
    );
    let grown = resident_bytes(&cluster, leader).await - before;
    assert!(grown < GROWTH_BYTES, "{grown} bytes more");
    for master in &mut cluster.masters {
        assert!(!master.has_ended(), "{} has ended", master.name);
        assert!(!master.log().contains("panicked"), "{}", master.log());
    }
}
