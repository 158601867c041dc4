//! Tests of the reports of damage.

use super::*;
use crate::paths::Paths;
use crate::start::log_damage;
use argosy_testing::Log;

/// Returns the log of an agent that finds a journal of these bytes.
fn logged_errors(directory: &TestDir, bytes: &[u8]) -> Vec<String> {
    fs::write(directory.path(), bytes).unwrap();
    let contents = directory.read();
    let log = Log::default();
    let paths = Paths::new(directory.path().parent().unwrap());
    tracing::subscriber::with_default(log.clone(), || log_damage(&contents, &paths));
    let lines = log.0.lock().unwrap();
    lines.clone()
}

#[test]
fn a_damaged_record_is_reported_as_an_error_with_its_position() {
    let directory = TestDir::new();
    directory.write(&sample_records(3));
    let whole = fs::read(directory.path()).unwrap();
    assert_eq!(
        logged_errors(&directory, &whole),
        [""; 0],
        "there is nothing to tell"
    );
    let second = frame::find(&whole, 42, frame::HEAD_BYTES + 1).unwrap();
    let third = frame::find(&whole, 42, second + 1).unwrap();
    let mut bytes = whole.clone();
    bytes[second + frame::FRAME_BYTES] ^= 1;
    let expected = format!(
        "ERROR message=a part of the journal is damaged: its records are lost, the masters repair what they can \
         journal={} offset={second} bytes={}",
        directory.path().display(),
        third - second
    );
    assert_eq!(logged_errors(&directory, &bytes), [expected]);
    // An interrupted write is no damage, and was never reported as done.
    let reported = logged_errors(&directory, &whole[..whole.len() - 1]);
    let [line] = &reported[..] else {
        panic!("{reported:?}")
    };
    assert!(
        line.starts_with("INFO message=an incomplete write of a crash"),
        "{line}"
    );
}

#[test]
fn lost_tasks_are_reported_by_order() {
    let directory = TestDir::new();
    let instance = Instance {
        agent: AgentId(1),
        order: OrderIndex(2),
    };
    let started = JournalRecord::Started {
        instance,
        fact: crate::core::StartedFact {
            pid: 12,
            at: argosy_state::ids::Timestamp(34),
        },
    };
    directory.write(&[sample_records(3), vec![started]].concat());
    let whole = fs::read(directory.path()).unwrap();
    let frames = testing::frames(&whole);
    let (second, _) = frames
        .iter()
        .find(|(_, record)| *record == launch(2))
        .unwrap();
    let mut bytes = whole.clone();
    bytes[second.end - 1] ^= 1;
    let lines = logged_errors(&directory, &bytes);
    let [_, line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        line.starts_with("ERROR message=the record of this order's launch is lost"),
        "{line}"
    );
    assert!(line.ends_with("order=2"), "{line}");
}

/// Returns a journal of 0.1: a launch does not name its agent, and the identity is written once.
fn of_0_1() -> (Vec<u8>, Vec<JournalRecord>) {
    let mut records = sample_records(3);
    for record in &mut records {
        if let JournalRecord::OrderAccepted {
            body: OrderBody::Launch { agent, .. },
            ..
        } = record
        {
            *agent = None;
        }
    }
    let mut bytes = frame::head(frame::VERSION, 43).to_vec();
    for record in &records {
        frame::put(&mut bytes, 43, &record::encode(record));
    }
    (bytes, records)
}

#[test]
fn a_journal_without_an_identity_is_rejected_unchanged() {
    let directory = TestDir::new();
    let (mut bytes, _) = of_0_1();
    bytes[frame::HEAD_BYTES + frame::FRAME_BYTES] ^= 1;
    fs::write(directory.path(), &bytes).unwrap();
    let refused = read(&directory.path()).unwrap_err().to_string();
    assert!(
        refused.contains("is damaged at byte 24, and the rest does not identify this agent"),
        "{refused}"
    );
    assert_eq!(fs::read(directory.path()).unwrap(), bytes);
}

#[test]
fn a_0_1_journal_is_rewritten_with_the_agent_of_each_launch() {
    let directory = TestDir::new();
    let (bytes, records) = of_0_1();
    fs::write(directory.path(), &bytes).unwrap();
    assert_eq!(directory.read().facts, facts(&records));
    directory.write(&[]);
    assert_ne!(fs::read(directory.path()).unwrap(), bytes);
    assert_eq!(directory.read().facts, facts(&records));
    assert!(!directory.read().is_fragile());
}

#[test]
fn a_damaged_journal_is_rewritten_when_opened() {
    let directory = TestDir::new();
    directory.write(&sample_records(3));
    let mut bytes = fs::read(directory.path()).unwrap();
    bytes[frame::HEAD_BYTES + frame::FRAME_BYTES] ^= 1;
    fs::write(directory.path(), &bytes).unwrap();
    let contents = directory.read();
    assert_eq!(contents.damage.len(), 1);
    directory.write(&[]);
    let again = directory.read();
    assert_eq!((again.facts, again.damage), (contents.facts, Vec::new()));
}

#[test]
fn a_bit_error_anywhere_in_the_header_is_corrected_and_reported() {
    let directory = TestDir::new();
    directory.write(&sample_records(3));
    let whole = fs::read(directory.path()).unwrap();
    let expected = format!(
        "ERROR message=one bit of the journal's head is wrong: the journal is written again with the right one, and \
         nothing is lost journal={}",
        directory.path().display()
    );
    for bit in 0..frame::HEAD_BYTES * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(
            logged_errors(&directory, &bytes),
            [expected.as_str()],
            "bit {bit}"
        );
        let contents = directory.read();
        assert_eq!(contents.facts, facts(&sample_records(3)), "bit {bit}");
        assert!(contents.damage.is_empty() && contents.is_fragile());
        // Only now is the file changed.
        assert_eq!(fs::read(directory.path()).unwrap(), bytes);
        directory.write(&[launch(4)]);
        let again = directory.read();
        assert_eq!(again.facts, facts(&sample_records(4)), "bit {bit}");
        assert!(!again.is_fragile());
    }
}

#[test]
fn a_header_with_several_bit_errors_is_reported_and_not_changed() {
    let directory = TestDir::new();
    directory.write(&sample_records(3));
    let whole = fs::read(directory.path()).unwrap();
    let changed = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        bytes
    };
    let version = |bytes: &mut [u8]| bytes[11] ^= 0xff;
    let zeroes = |bytes: &mut [u8]| bytes[..frame::HEAD_BYTES].fill(0);
    let two_bits = |bytes: &mut [u8]| {
        bytes[3] ^= 1;
        bytes[20] ^= 1;
    };
    for bytes in [changed(&version), changed(&zeroes), changed(&two_bits)] {
        fs::write(directory.path(), &bytes).unwrap();
        let refused = read(&directory.path()).unwrap_err().to_string();
        assert!(
            refused.contains("is damaged in its first 24 bytes"),
            "{refused}"
        );
        assert_eq!(fs::read(directory.path()).unwrap(), bytes);
    }
}

#[test]
fn a_bit_error_does_not_hide_a_newer_format() {
    let directory = TestDir::new();
    let mut bytes = frame::head(frame::VERSION + 1, 42).to_vec();
    bytes[12] ^= 1;
    fs::write(directory.path(), &bytes).unwrap();
    let refused = read(&directory.path()).unwrap_err();
    assert!(matches!(refused, JournalError::Newer { found, .. } if found == frame::VERSION + 1));
}
