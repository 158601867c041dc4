//! Seeds that encoders make.

use std::io::{Cursor, Write as _};
use std::time::SystemTime;

use argosy_fuzz::{joined, wire};
use argosy_proto::convert;
use argosy_proto::v1;
use argosy_raft::SavedSnapshotHeader;
use argosy_state::testing::World;
use argosy_tls::authority::{Authority, Validity, new_authority};
use argosy_tls::request::{CertificateNames, CertificateRequest, Host, new_request};
use prost::Message;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

type Seeds = Vec<(&'static str, Vec<Vec<u8>>)>;

/// The expected bytes of other tests: a name and hexadecimal digits in each line.
const COMMANDS: &str = include_str!("../../../state/tests/golden/format-3.txt");
const JOURNAL: &str = include_str!("../../../agent/tests/journal-records.txt");

/// Returns the seeds of each target.
pub(super) fn seeds() -> Seeds {
    let mut all = registry();
    all.extend(peers());
    all.extend(messages());
    all.extend(archives());
    all.extend(certificates());
    all.push(("tickets", tickets()));
    all.push(("audit_log", vec![audit_log()]));
    all.push(("hand_off_file", vec![output_times()]));
    all
}

fn unhex(digits: &str) -> Vec<u8> {
    let digits = digits.trim().as_bytes().chunks(2);
    let bytes = digits.map(|pair| std::str::from_utf8(pair).unwrap());
    bytes
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

/// Returns the bytes of the lines that begin with one of these words.
fn lines(text: &str, words: &[&str]) -> Vec<Vec<u8>> {
    let lines = text.lines().filter_map(|line| {
        let named = words.iter().any(|word| line.starts_with(word));
        let (_, digits) = line.rsplit_once(' ')?;
        (named && !digits.is_empty()).then(|| unhex(digits))
    });
    lines.collect()
}

fn with_kind(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], body].concat()
}

fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    joined(parts.iter().map(Vec::as_slice))
}

fn registry() -> Seeds {
    let commands = lines(
        COMMANDS,
        &[
            "command register-agent-opt-outs",
            "command reconcile-agent",
            "command update-tasks-limits-held",
            "command call-accept-group",
            "command call-accept-volumes",
            "command call-accept-executors",
            "command call-update-able",
            "command operate-set-policy",
            "command operate-set-secret",
            "command subscribe-first",
            "command open-epoch-format",
            "command sweep-layout",
            "command raise-level",
            "command compare-digest",
            "command by-operator",
        ],
    );
    let world = World::with_running_task("web");
    let pairs = world.stored.iter();
    let records: Vec<Vec<u8>> = pairs
        .flat_map(|(key, value)| [key.clone(), value.clone()])
        .collect();
    let cluster = world.registry.cluster();
    let header = SavedSnapshotHeader {
        format: 1,
        cluster_id: cluster.facts.id.to_string(),
        feature_level: cluster.level.0,
        index: world.registry.applied(),
        term: 1,
        epoch: cluster.epoch.0,
        cluster_time_ms: world.registry.time().0,
        saved_at_ms: 7,
        release: "0.2.0".to_owned(),
        saved_by: "master-1".to_owned(),
    };
    let saved = [vec![header.encode_to_vec()], records.clone()].concat();
    let keys = lines(COMMANDS, &["record"]).into_iter().map(drop).count();
    assert!(keys > 50, "{keys}");
    let keys = COMMANDS.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let key = words.nth(1).filter(|_| line.starts_with("record "))?;
        Some(unhex(key))
    });
    vec![
        ("apply", vec![join(&commands[..8]), join(&commands[8..])]),
        ("record_key", keys.step_by(5).collect()),
        ("records", vec![join(&records)]),
        ("saved_snapshot", vec![with_kind(1, &join(&saved))]),
        ("command", commands),
    ]
}

fn peers() -> Seeds {
    let [entries, records, messages, descriptions] = argosy_raft::fuzzing::samples();
    let frames = vec![with_kind(1, &messages[0][1..]), with_kind(2, &[])];
    let pair = [b"key".to_vec(), b"value".to_vec()];
    let snapshot = [descriptions, pair.to_vec()].concat();
    // A whole batch, and one in two fragments: sequence number, count, mark.
    let batch = |sequence: u64, synced: u64| {
        let mut batch = sequence.to_le_bytes().to_vec();
        batch.extend(1_u32.to_le_bytes());
        batch.extend([3, 16]);
        batch.extend(7_u64.to_le_bytes());
        batch.extend(synced.to_le_bytes());
        batch.extend([0x5a; 10]);
        batch
    };
    let second = batch(2, 1);
    let fragments = [
        with_kind(1, &batch(1, 0)),
        with_kind(2, &second[..20]),
        with_kind(4, &second[20..]),
    ];
    vec![
        ("log_entry", entries),
        ("store_record", records),
        ("peer_frames", vec![with_kind(1, &join(&frames))]),
        ("peer_message", messages),
        ("snapshot", vec![join(&snapshot)]),
        ("write_ahead_logs", vec![with_kind(1, &join(&fragments))]),
    ]
}

#[derive(Clone, PartialEq, Message)]
struct StoredOrder {
    #[prost(message, optional, tag = "2")]
    launch: Option<v1::LaunchOrder>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredRecord {
    #[prost(message, optional, tag = "3")]
    order: Option<StoredOrder>,
}

fn messages() -> Seeds {
    let journal = lines(
        JOURNAL,
        &[
            "launch full",
            "launch image",
            "task plain",
            "update",
            "limits",
            "executor",
        ],
    );
    let orders = lines(JOURNAL, &["launch"])
        .into_iter()
        .filter_map(|record| {
            let record = StoredRecord::decode(record.as_slice()).ok()?;
            record.order?.launch
        });
    let orders: Vec<v1::LaunchOrder> = orders.take(8).collect();
    let encoded: Vec<_> = orders.iter().map(Message::encode_to_vec).collect();
    let descriptions = orders.iter().filter_map(|order| order.spec.clone());
    let descriptions: Vec<v1::TaskSpec> = descriptions.collect();
    let world = World::with_running_task("web");
    let agent = world.registry.agents().next().unwrap();
    let framework = world.registry.frameworks().next().unwrap();
    let update = v1::NumberedUpdate {
        framework_id: "framework-1".to_owned(),
        task_id: "web".to_owned(),
        number: 3,
        state: v1::TaskState::Running.into(),
        ..Default::default()
    };
    let held = v1::HeldTask {
        framework_id: "framework-1".to_owned(),
        task_id: "web".to_owned(),
        order_index: 2,
        ..Default::default()
    };
    let launch = v1::AcceptRequest {
        operations: vec![v1::Operation {
            operation: Some(v1::operation::Operation::Launch(v1::Launch {
                tasks: descriptions[..1].to_vec(),
            })),
        }],
        ..Default::default()
    };
    let order = v1::Order {
        index: 4,
        order: Some(v1::order::Order::Launch(orders[0].clone())),
        ..Default::default()
    };
    let to_agent = v1::ToAgent {
        cluster_id: "0123456789abcdef0011223344556677".to_owned(),
        epoch: 3,
        message: Some(v1::to_agent::Message::Order(order)),
    };
    let executor = v1::ExecutorUpdate {
        task_id: "web".to_owned(),
        serial: 2,
        ..Default::default()
    };
    let weight = v1::WriteOperation {
        operation: Some(v1::write_operation::Operation::SetWeight(v1::SetWeight {
            role: "eng".to_owned(),
            weight_milli: 2_000,
        })),
    };
    let batch = v1::WriteBatch {
        request_id: "r1".to_owned(),
        operations: vec![weight],
        ..Default::default()
    };
    let json = serde_json::to_vec(&batch).unwrap();
    vec![
        ("journal", vec![join(&journal)]),
        ("launch_order", encoded),
        (
            "task_description",
            descriptions.iter().map(Message::encode_to_vec).collect(),
        ),
        (
            "agent_facts",
            vec![
                with_kind(0, &convert::agent_info(&agent.report.info).encode_to_vec()),
                with_kind(1, &update.encode_to_vec()),
                with_kind(2, &held.encode_to_vec()),
            ],
        ),
        (
            "framework_facts",
            vec![
                with_kind(0, &convert::framework_info(&framework.info).encode_to_vec()),
                with_kind(2, &launch.encode_to_vec()),
            ],
        ),
        (
            "agent_message",
            vec![
                with_kind(0, &to_agent.encode_to_vec()),
                with_kind(1, &update.encode_to_vec()),
                with_kind(2, &executor.encode_to_vec()),
            ],
        ),
        (
            "write_batch",
            vec![with_kind(0, &batch.encode_to_vec()), with_kind(1, &json)],
        ),
    ]
}

fn tarball() -> Vec<u8> {
    let mut tarball = tar::Builder::new(Vec::new());
    let mut header = |kind, path: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_path(path).unwrap();
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        tarball.append(&header, content).unwrap();
    };
    header(tar::EntryType::Directory, "a", "", b"");
    header(tar::EntryType::Regular, "a/f", "", b"content");
    header(tar::EntryType::Symlink, "l", "a/f", b"");
    header(tar::EntryType::Link, "h", "a/f", b"");
    tarball.into_inner().unwrap()
}

fn archives() -> Seeds {
    let tarball = tarball();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tarball).unwrap();
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("a/f", options).unwrap();
    zip.write_all(b"content").unwrap();
    let zip = zip.finish().unwrap().into_inner();
    let packed = zstd::encode_all(tarball.as_slice(), 1).unwrap();
    vec![
        (
            "archive",
            vec![
                with_kind(b't', &tarball),
                with_kind(b'g', &gzip.finish().unwrap()),
                with_kind(b's', &packed),
                with_kind(b'z', &zip),
            ],
        ),
        ("layer", vec![tarball]),
    ]
}

fn certificates() -> Seeds {
    let names = CertificateNames {
        identity: "argosy://prod/agent/host-1".parse().unwrap(),
        hosts: vec![
            "m1.example".parse().unwrap(),
            "10.0.0.1".parse::<Host>().unwrap(),
        ],
    };
    let now = SystemTime::now();
    let validity = Validity::of_days(now, 3_650);
    let authority = new_authority(&"prod".parse().unwrap(), validity, [7; 16]).unwrap();
    let own = authority.certificate.into_bytes();
    let authority = Authority::from_pem(&own, authority.key.as_bytes()).unwrap();
    let request = new_request(&names).unwrap().request.into_bytes();
    let read = CertificateRequest::from_pem(&request).unwrap();
    let validity = authority.validity(now, 3_000);
    let signed = authority.sign(&read, validity, [8; 16]).unwrap();
    let certificate = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    vec![
        ("certificate", vec![certificate.to_vec()]),
        (
            "certificate_texts",
            vec![
                with_kind(b'p', signed.as_bytes()),
                with_kind(b'p', &own),
                with_kind(b'r', &request),
                with_kind(b'f', format!("sha256:{}", "0a".repeat(32)).as_bytes()),
                with_kind(b'h', b"m1.example"),
                with_kind(b'h', b"fd00::1"),
            ],
        ),
    ]
}

fn tickets() -> Vec<Vec<u8>> {
    let parts: [&[u8]; 4] = [b"operator/alice", b"web", b"logs/stdout", b"flip"];
    let task: [&[u8]; 4] = [b"framework/web", b"web", b"", b""];
    vec![
        with_kind(b't', wire::sample_ticket().as_bytes()),
        with_kind(1, &joined(parts)),
        with_kind(2, &joined(task)),
    ]
}

fn audit_log() -> Vec<u8> {
    let previous = "0".repeat(64);
    let first = format!(
        "{{\"serial\":1,\"at\":\"2026-11-27T09:00:00.000Z\",\"event\":\"file-begun\",\"file\":{{\"format\":1,\"number\":1,\"previous\":\"{previous}\",\"oldest\":1}}}}"
    );
    let second = "{\"serial\":2,\"at\":\"2026-11-27T09:00:01.000Z\",\"event\":\"exec\",\"principal\":\"operator/alice\"}";
    with_kind(0, &joined([first.as_bytes(), second.as_bytes()]))
}

fn output_times() -> Vec<u8> {
    use argosy_isolation::output::{OutputSpan, StreamName, encode_times};
    let spans = [
        (StreamName::Stdout, OutputSpan::at(0, 1_700_000_000_000)),
        (StreamName::Stderr, OutputSpan::at(10, 1_700_000_000_200)),
        (StreamName::Stdout, OutputSpan::at(4_096, 1_700_000_000_100)),
    ];
    with_kind(b't', &encode_times(&spans))
}
