//! Encoded events of the feed. A change is encoded once for all subscribers, as protobuf and, when
//! the first subscriber needs it, as text.

use std::fmt::Write as _;
use std::sync::OnceLock;

use argosy_proto::{convert, v1};
use argosy_state::ids::Revision;
use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::selection::FilterFields;
use super::subject::Subject;

/// Fields of `WatchEvent` and of `WatchChange`; a test compares them with the generated types.
const RECORD_EVENT: u32 = 2;
const CHANGE_EVENT: u32 = 4;
const CHANGED_RECORD: u32 = 2;

/// Encodes a `WatchRecord`. `parts` together are the message of the object; an object without parts
/// is absent.
pub(super) fn encode_record(subject: &Subject, parts: &[&[u8]]) -> Vec<u8> {
    let head = v1::WatchRecord {
        kind: subject.kind().name().to_owned(),
        id: subject.id(),
        record: None,
    };
    let mut bytes = head.encode_to_vec();
    if !parts.is_empty() {
        put_nested(&mut bytes, subject.kind().wire_field(), parts);
    }
    bytes
}

fn put_nested(bytes: &mut Vec<u8>, field: u32, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    bytes.reserve(length + 12);
    encode_key(field, WireType::LengthDelimited, bytes);
    encode_varint(length as u64, bytes);
    for part in parts {
        bytes.put_slice(part);
    }
}

/// Encodes a `WatchEvent` with a record of a snapshot.
pub(super) fn encode_snapshot_record(record: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    put_nested(&mut bytes, RECORD_EVENT, &[record]);
    bytes.into()
}

/// Returns the encoded event.
pub(super) fn encode(event: v1::watch_event::Event) -> Bytes {
    let event = v1::WatchEvent { event: Some(event) };
    event.encode_to_vec().into()
}

/// One change, for all subscribers.
#[derive(Debug)]
pub(crate) struct FeedEvent {
    /// The newest change of the subject that this event includes.
    pub(super) revision: Revision,
    pub(super) subject: Subject,
    /// Absent if the registry no longer has the subject.
    pub(super) fields: Option<FilterFields>,
    /// Whether lists without ended records show it.
    pub(super) is_listed: bool,
    change: Bytes,
    change_text: OnceLock<Bytes>,
    removal: OnceLock<Bytes>,
    removal_text: OnceLock<Bytes>,
}

/// A subject as the registry has it.
#[derive(Debug, Clone)]
pub(super) struct RenderedSubject {
    pub(super) fields: Option<FilterFields>,
    pub(super) is_listed: bool,
    /// The encoded `WatchRecord`.
    pub(super) record: Vec<u8>,
}

impl RenderedSubject {
    /// Returns a subject that the registry no longer has.
    pub(super) fn absent(subject: &Subject) -> Self {
        Self {
            fields: None,
            is_listed: false,
            record: encode_record(subject, &[]),
        }
    }
}

impl FeedEvent {
    pub(super) fn new(revision: Revision, subject: Subject, rendered: RenderedSubject) -> Self {
        let head = v1::WatchChange {
            revision: Some(convert::revision(revision)),
            record: None,
            removed: !rendered.is_listed,
        };
        let mut change = head.encode_to_vec();
        put_nested(&mut change, CHANGED_RECORD, &[&rendered.record]);
        let mut bytes = Vec::new();
        put_nested(&mut bytes, CHANGE_EVENT, &[&change]);
        Self {
            revision,
            subject,
            fields: rendered.fields,
            is_listed: rendered.is_listed,
            change: bytes.into(),
            change_text: OnceLock::new(),
            removal: OnceLock::new(),
            removal_text: OnceLock::new(),
        }
    }

    /// Returns the length of the encoded event.
    pub(super) fn len(&self) -> usize {
        self.change.len()
    }

    /// Returns the encoded event, as a removal if `is_removed`.
    pub(super) fn bytes(&self, is_removed: bool) -> Bytes {
        if !self.is_listed || !is_removed {
            return self.change.clone();
        }
        let removal = || {
            let mut event = decoded(&self.change);
            if let Some(v1::watch_event::Event::Change(change)) = &mut event.event {
                change.removed = true;
            }
            event.encode_to_vec().into()
        };
        self.removal.get_or_init(removal).clone()
    }

    /// Returns the event for server-sent events of this cluster, as a removal if `is_removed`. A
    /// process serves one cluster.
    pub(super) fn text(&self, is_removed: bool, cluster: &str) -> Bytes {
        let text = || event_text(&self.bytes(is_removed), Some(&self.id(cluster)));
        match is_removed && self.is_listed {
            true => self.removal_text.get_or_init(text).clone(),
            false => self.change_text.get_or_init(text).clone(),
        }
    }

    fn id(&self, cluster: &str) -> String {
        let Revision { index, position } = self.revision;
        format!("{index}.{position}@{cluster}")
    }
}

/// Decodes an event that this process has encoded.
fn decoded(bytes: &Bytes) -> v1::WatchEvent {
    v1::WatchEvent::decode(bytes.clone()).expect("this process has encoded it")
}

/// Returns an encoded event in the form of server-sent events.
pub(super) fn event_text(bytes: &Bytes, id: Option<&str>) -> Bytes {
    let event = decoded(bytes);
    // Serialization of a message to a string does not fail.
    let data = serde_json::to_string(&event).unwrap_or_default();
    let mut text = String::with_capacity(data.len() + 64);
    if let Some(id) = id {
        let _ = writeln!(text, "id: {id}");
    }
    let _ = write!(text, "event: {}\ndata: {data}\n\n", name(&event));
    text.into()
}

/// Returns the name of an event: that of its field.
fn name(event: &v1::WatchEvent) -> &'static str {
    use v1::watch_event::Event;
    match &event.event {
        Some(Event::SnapshotBegin(_)) => "snapshot_begin",
        Some(Event::Record(_)) => "record",
        Some(Event::SnapshotEnd(_)) => "snapshot_end",
        Some(Event::Change(_)) => "change",
        Some(Event::HistoryLost(_)) => "history_lost",
        Some(Event::Progress(_)) => "progress",
        None => "unknown",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use argosy_state::ids::AgentId;
    use v1::watch_event::Event;
    use v1::watch_record::Record;

    use super::*;

    /// Returns an event about an agent whose record has `bytes` bytes or a few more.
    pub(in crate::service::feed) fn event(
        index: u64,
        position: u32,
        agent: u64,
        bytes: usize,
    ) -> FeedEvent {
        let subject = Subject::Agent(AgentId(agent));
        let record = v1::Agent {
            agent_id: "x".repeat(bytes),
            ..Default::default()
        };
        let rendered = RenderedSubject {
            fields: None,
            is_listed: true,
            record: encode_record(&subject, &[&record.encode_to_vec()]),
        };
        FeedEvent::new(Revision { index, position }, subject, rendered)
    }

    fn change(bytes: &Bytes) -> v1::WatchChange {
        match decoded(bytes).event {
            Some(Event::Change(change)) => change,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn encoded_events_are_the_messages_of_the_protocol() {
        let event = event(7, 2, 5, 3);
        let shown = change(&event.bytes(false));
        assert_eq!(shown.revision.unwrap().position, 2);
        assert!(!shown.removed);
        let record = shown.record.clone().unwrap();
        assert_eq!(
            (record.kind.as_str(), record.id.as_str()),
            ("agent", "agent-5")
        );
        assert!(matches!(&record.record, Some(Record::Agent(agent)) if agent.agent_id == "xxx"));
        let removed = change(&event.bytes(true));
        assert_eq!(
            removed,
            v1::WatchChange {
                removed: true,
                ..shown
            }
        );
        let snapshot = encode_snapshot_record(&record.encode_to_vec());
        assert_eq!(decoded(&snapshot).event, Some(Event::Record(record)));
    }

    #[test]
    fn records_of_all_kinds_are_in_their_fields() {
        use argosy_state::ids::{FrameworkId, Role, TaskId, TaskKey};
        let key = TaskKey {
            framework: FrameworkId(1),
            task: TaskId::new("t").unwrap(),
        };
        for (subject, record) in [
            (Subject::Cluster, Record::Cluster(v1::Cluster::default())),
            (
                Subject::Role(Role::new("ops").unwrap()),
                Record::Role(v1::RoleWeight::default()),
            ),
            (
                Subject::Framework(FrameworkId(1)),
                Record::Framework(v1::Framework::default()),
            ),
            (Subject::Task(key), Record::Task(v1::Task::default())),
        ] {
            let bytes = encode_record(&subject, &[&[]]);
            let decoded = v1::WatchRecord::decode(&bytes[..]).unwrap();
            assert_eq!(decoded.record, Some(record));
            let absent = encode_record(&subject, &[]);
            assert_eq!(v1::WatchRecord::decode(&absent[..]).unwrap().record, None);
        }
    }

    #[test]
    fn text_of_hostile_names_stays_in_one_line_of_data() {
        let subject = Subject::Agent(AgentId(1));
        let record = v1::Agent {
            agent_id: "a\n\nid: 9\r\u{1b}[2J".to_owned(),
            ..Default::default()
        };
        let rendered = RenderedSubject {
            fields: None,
            is_listed: true,
            record: encode_record(&subject, &[&record.encode_to_vec()]),
        };
        let revision = Revision {
            index: 7,
            position: 1,
        };
        let event = FeedEvent::new(revision, subject, rendered);
        let text = String::from_utf8(event.text(false, "ab").to_vec()).unwrap();
        let lines: Vec<_> = text.split('\n').collect();
        assert_eq!(lines[..2], ["id: 7.1@ab", "event: change"]);
        assert!(lines[2].starts_with("data: {\"change\":"), "{text}");
        assert_eq!(lines[3..], ["", ""]);
        assert!(!text.contains(['\r', '\u{1b}']), "{text}");
        // Both forms are made once.
        assert_eq!(
            event.text(true, "ab").as_ptr(),
            event.text(true, "ab").as_ptr()
        );
        assert!(event.text(true, "ab").len() > event.text(false, "ab").len());
    }
}
