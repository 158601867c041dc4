//! Tests of `stored!` against protobuf's own library: both write the same bytes, and read the same
//! values from any bytes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use prost::{Message, Oneof};

use crate::codec::error::{CodecError, WireError};
use crate::codec::message::StoredMessage;

/// A message with every kind of field at least once.
#[derive(Debug, Clone, PartialEq, Default)]
struct Sample {
    long: u64,
    short: u32,
    port: u16,
    signed: i64,
    flag: bool,
    maybe: Option<u64>,
    maybe_flag: Option<bool>,
    none_or: Option<u32>,
    fixed: u64,
    text: String,
    maybe_text: Option<String>,
    texts: BTreeSet<String>,
    map: BTreeMap<String, String>,
    numbers: Vec<u32>,
    fixeds: Vec<u64>,
    bytes: [u8; 4],
    maybe_bytes: Option<[u8; 2]>,
    part: Nested,
    maybe_part: Option<Box<Nested>>,
    or_default: Nested,
    parts: Vec<Nested>,
    kind: SampleKind,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Nested {
    number: u64,
    deeper: Option<Box<Nested>>,
}

#[derive(Debug, Clone, PartialEq, Default)]
enum SampleKind {
    #[default]
    Absent,
    Line(String),
    Words(Vec<String>),
    Nothing,
    Both {
        left: u64,
        right: Option<u64>,
    },
    Port {
        port: u16,
    },
    Signal(i32),
}

stored!(message Sample {
    1 long: Number,
    2 short: Number,
    3 port: Number,
    4 signed: Number,
    5 flag: Number,
    6 maybe: MaybeNumber,
    7 maybe_flag: MaybeNumber,
    8 none_or: NumberOrNone,
    9 fixed: Fixed,
    10 text: Text,
    11 maybe_text: MaybeText,
    12 texts: TextList,
    13 map: TextMap,
    14 | 30 | 31 | 32 | 33 | 34 kind: OneOf,
    15 numbers: NumberList,
    16 fixeds: FixedList,
    17 bytes: Bytes,
    18 maybe_bytes: MaybeBytes,
    19 part: Part,
    20 maybe_part: MaybePart,
    21 or_default: PartOrDefault,
    22 parts: PartList,
});

stored!(message Nested {
    1 number: Number,
    2 deeper: MaybePart,
});

stored!(oneof SampleKind else Absent {
    14 Line(Text),
    30 Words(Inner<TextList>),
    31 Nothing,
    32 Both {
        1 left: Number,
        2 right: MaybeNumber,
    },
    33 Port { port } as Number,
    34 Signal(Zigzag),
});

#[derive(Clone, PartialEq, Message)]
struct Reference {
    #[prost(uint64, tag = "1")]
    long: u64,
    #[prost(uint32, tag = "2")]
    short: u32,
    #[prost(uint32, tag = "3")]
    port: u32,
    #[prost(int64, tag = "4")]
    signed: i64,
    #[prost(bool, tag = "5")]
    flag: bool,
    #[prost(uint64, optional, tag = "6")]
    maybe: Option<u64>,
    #[prost(bool, optional, tag = "7")]
    maybe_flag: Option<bool>,
    #[prost(uint32, tag = "8")]
    none_or: u32,
    #[prost(fixed64, tag = "9")]
    fixed: u64,
    #[prost(string, tag = "10")]
    text: String,
    #[prost(string, optional, tag = "11")]
    maybe_text: Option<String>,
    #[prost(string, repeated, tag = "12")]
    texts: Vec<String>,
    #[prost(btree_map = "string, string", tag = "13")]
    map: BTreeMap<String, String>,
    #[prost(oneof = "SampleKindReference", tags = "14, 30, 31, 32, 33, 34")]
    kind: Option<SampleKindReference>,
    #[prost(uint32, repeated, tag = "15")]
    numbers: Vec<u32>,
    #[prost(fixed64, repeated, tag = "16")]
    fixeds: Vec<u64>,
    #[prost(bytes = "vec", tag = "17")]
    bytes: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "18")]
    maybe_bytes: Option<Vec<u8>>,
    #[prost(message, optional, tag = "19")]
    part: Option<NestedReference>,
    #[prost(message, optional, tag = "20")]
    maybe_part: Option<NestedReference>,
    #[prost(message, optional, tag = "21")]
    or_default: Option<NestedReference>,
    #[prost(message, repeated, tag = "22")]
    parts: Vec<NestedReference>,
}

#[derive(Clone, PartialEq, Message)]
struct NestedReference {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(message, optional, boxed, tag = "2")]
    deeper: Option<Box<NestedReference>>,
}

#[derive(Clone, PartialEq, Oneof)]
enum SampleKindReference {
    #[prost(string, tag = "14")]
    Line(String),
    #[prost(message, tag = "30")]
    Words(WordsReference),
    #[prost(message, tag = "31")]
    Nothing(NothingReference),
    #[prost(message, tag = "32")]
    Both(BothReference),
    #[prost(uint32, tag = "33")]
    Port(u32),
    #[prost(sint32, tag = "34")]
    Signal(i32),
}

#[derive(Clone, PartialEq, Message)]
struct WordsReference {
    #[prost(string, repeated, tag = "1")]
    words: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct NothingReference {}

#[derive(Clone, Copy, PartialEq, Message)]
struct BothReference {
    #[prost(uint64, tag = "1")]
    left: u64,
    #[prost(uint64, optional, tag = "2")]
    right: Option<u64>,
}

/// Returns the sample that the reference stands for; `None` if the definition rejects it.
fn expected(reference: Reference) -> Option<Sample> {
    Some(Sample {
        long: reference.long,
        short: reference.short,
        port: reference.port.try_into().ok()?,
        signed: reference.signed,
        flag: reference.flag,
        maybe: reference.maybe,
        maybe_flag: reference.maybe_flag,
        none_or: (reference.none_or != 0).then_some(reference.none_or),
        fixed: reference.fixed,
        text: reference.text,
        maybe_text: reference.maybe_text,
        texts: reference.texts.into_iter().collect(),
        map: reference.map,
        numbers: reference.numbers,
        fixeds: reference.fixeds,
        bytes: reference.bytes.try_into().ok()?,
        maybe_bytes: match reference.maybe_bytes {
            Some(bytes) => Some(bytes.try_into().ok()?),
            None => None,
        },
        part: nested(reference.part?),
        maybe_part: reference.maybe_part.map(nested).map(Box::new),
        or_default: reference.or_default.map(nested).unwrap_or_default(),
        parts: reference.parts.into_iter().map(nested).collect(),
        kind: match reference.kind {
            None => SampleKind::Absent,
            Some(SampleKindReference::Line(line)) => SampleKind::Line(line),
            Some(SampleKindReference::Words(words)) => SampleKind::Words(words.words),
            Some(SampleKindReference::Nothing(_)) => SampleKind::Nothing,
            Some(SampleKindReference::Both(BothReference { left, right })) => {
                SampleKind::Both { left, right }
            }
            Some(SampleKindReference::Port(port)) => SampleKind::Port {
                port: port.try_into().ok()?,
            },
            Some(SampleKindReference::Signal(signal)) => SampleKind::Signal(signal),
        },
    })
}

fn nested(reference: NestedReference) -> Nested {
    Nested {
        number: reference.number,
        deeper: reference.deeper.map(|deeper| Box::new(nested(*deeper))),
    }
}

fn written(sample: &Sample) -> Vec<u8> {
    let mut bytes = Vec::new();
    sample.write(&mut bytes);
    bytes
}

fn long() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..3, Just(127), Just(128), any::<u64>()]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-cß]{0,3}", "x{126,130}"]
}

fn parts() -> impl Strategy<Value = Nested> {
    prop::collection::vec(long(), 1..4).prop_map(|numbers| {
        numbers
            .into_iter()
            .fold(Nested::default(), |deeper, number| Nested {
                number,
                deeper: (deeper != Nested::default()).then(|| Box::new(deeper)),
            })
    })
}

fn kinds() -> impl Strategy<Value = SampleKind> {
    prop_oneof![
        Just(SampleKind::Absent),
        text().prop_map(SampleKind::Line),
        prop::collection::vec(text(), 0..3).prop_map(SampleKind::Words),
        Just(SampleKind::Nothing),
        (long(), prop::option::of(long()))
            .prop_map(|(left, right)| SampleKind::Both { left, right }),
        any::<u16>().prop_map(|port| SampleKind::Port { port }),
        any::<i32>().prop_map(SampleKind::Signal),
    ]
}

fn samples() -> impl Strategy<Value = Sample> {
    let short = prop_oneof![0_u32..3, any::<u32>()];
    let numbers = (
        (
            long(),
            short.clone(),
            any::<u16>(),
            any::<i64>(),
            any::<bool>(),
        ),
        (
            prop::option::of(long()),
            prop::option::of(any::<bool>()),
            long(),
        ),
        prop::option::of(1_u32..9),
        prop::collection::vec(short, 0..4),
        prop::collection::vec(any::<u64>(), 0..3),
    );
    let texts = (
        (text(), prop::option::of(text())),
        prop::collection::btree_set(text(), 0..3),
        prop::collection::btree_map(text(), text(), 0..3),
        (any::<[u8; 4]>(), prop::option::of(any::<[u8; 2]>())),
    );
    let parts = (
        (parts(), prop::option::of(parts()), parts()),
        prop::collection::vec(parts(), 0..3),
        kinds(),
    );
    (numbers, texts, parts).prop_map(|(numbers, texts, parts)| {
        let ((long, short, port, signed, flag), (maybe, maybe_flag, fixed), ..) = numbers;
        let (_, _, none_or, numbers, fixeds) = numbers;
        let ((text, maybe_text), texts, map, (bytes, maybe_bytes)) = texts;
        let ((part, maybe_part, or_default), parts, kind) = parts;
        Sample {
            long,
            short,
            port,
            signed,
            flag,
            maybe,
            maybe_flag,
            none_or,
            fixed,
            text,
            maybe_text,
            texts,
            map,
            numbers,
            fixeds,
            bytes,
            maybe_bytes,
            part,
            maybe_part: maybe_part.map(Box::new),
            or_default,
            parts,
            kind,
        }
    })
}

/// Bytes that are fields of the sample in any order, some repeated, unknown or damaged.
fn disordered() -> impl Strategy<Value = Vec<u8>> {
    let pieces = (
        samples(),
        samples(),
        prop::collection::vec(any::<(u16, u8, u8)>(), 0..4),
    );
    pieces.prop_map(|(first, second, damage)| {
        let mut bytes = written(&first);
        bytes.extend(written(&second));
        for (at, byte, how) in damage {
            let at = usize::from(at) % (bytes.len() + 1);
            match how % 3 {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                _ if at < bytes.len() => bytes[at] = byte,
                _ => {}
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn messages_are_encoded_as_by_the_reference(sample in samples()) {
        let bytes = written(&sample);
        let reference = Reference::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(reference.encode_to_vec(), bytes.clone());
        prop_assert_eq!(expected(reference), Some(sample.clone()));
        prop_assert_eq!(Sample::read(&bytes), Ok(sample));
    }

    #[test]
    fn random_bytes_are_decoded_as_by_the_reference(bytes in disordered()) {
        let reference = Reference::decode(bytes.as_slice());
        match Sample::read(&bytes) {
            Ok(sample) => prop_assert_eq!(reference.ok().and_then(expected), Some(sample)),
            // The reference reads entries of a map as messages, whatever their wire type. No
            // release writes such bytes.
            Err(CodecError::Malformed(WireError::WireType)) => {}
            // If a message has several faults, either may be reported.
            Err(_) => prop_assert_eq!(reference.ok().and_then(expected), None),
        }
    }
}

#[test]
fn errors_name_the_field() {
    let mut bytes = Vec::new();
    Nested::default().write(&mut bytes);
    assert_eq!(Sample::read(&bytes), Err(CodecError::Invalid("bytes")));
    // Field 3, 65,536.
    assert_eq!(
        Sample::read(&[24, 128, 128, 4]),
        Err(CodecError::Invalid("port"))
    );
}

#[test]
fn invalid_messages_are_rejected_with_the_reason() {
    for (bytes, wanted) in [
        (&[8_u8][..], WireError::Varint),
        (
            &[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
            WireError::Varint,
        ),
        (&[0, 0], WireError::Key),
        (&[9, 0, 0, 0, 0, 0, 0, 0, 0], WireError::WireType),
        (&[82, 2, 97], WireError::Truncated),
        (&[82, 1, 255], WireError::Utf8),
        (&[12], WireError::WireType),
        // An entry of a map with the wire type of a group.
        (&[107, 108], WireError::WireType),
        // An unknown group that does not end.
        (&[0xc3, 0x3e], WireError::Varint),
        (&[0xc3, 0x3e, 0xcc, 0x3e], WireError::Group),
    ] {
        assert_eq!(
            Sample::read(bytes),
            Err(CodecError::Malformed(wanted)),
            "{bytes:?}"
        );
    }
    let groups = [0xc3_u8, 0x3e].repeat(100_000);
    assert_eq!(
        Sample::read(&groups),
        Err(CodecError::Malformed(WireError::Group))
    );
}
