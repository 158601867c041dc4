//! The part of the protobuf wire format that stored messages need.
//!
//! Only the canonical form is written. Everything that protobuf allows is read: fields in any
//! order, unknown fields, lists packed or not. Reading never panics.

use std::borrow::Cow;

use super::codec::Fault;

/// The reason why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A number does not end, or has more than 64 bits.
    #[error("invalid varint")]
    Varint,
    /// A field number is 0, or above the maximum of protobuf.
    #[error("invalid field number")]
    Key,
    /// A field has contents of a kind other than that of its definition.
    #[error("a field has the wrong wire type")]
    WireType,
    /// A field extends beyond its message.
    #[error("a field is truncated")]
    Truncated,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
    /// Unknown groups are nested too deeply, or do not end.
    #[error("an unknown group is nested too deeply or does not end")]
    Group,
}

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const START_GROUP: u8 = 3;
const END_GROUP: u8 = 4;
const FIXED32: u8 = 5;
/// The depth to which unknown groups are skipped. Groups are never written.
const DEEPEST_GROUP: u32 = 100;

/// The contents of one field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// A kind that no definition uses.
    Other,
}

impl<'a> Raw<'a> {
    #[inline]
    pub(crate) fn varint(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(number) => Ok(number),
            Self::Fixed64(_) | Self::Bytes(_) | Self::Other => Err(Malformed::WireType),
        }
    }

    #[inline]
    pub(crate) fn fixed64(self) -> Result<u64, Malformed> {
        match self {
            Self::Fixed64(number) => Ok(number),
            Self::Varint(_) | Self::Bytes(_) | Self::Other => Err(Malformed::WireType),
        }
    }

    #[inline]
    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed64(_) | Self::Other => Err(Malformed::WireType),
        }
    }

    #[inline]
    pub(crate) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Utf8)
    }

    /// Passes the numbers of a list to `each`, packed or a single one.
    pub(crate) fn varints(self, each: impl FnMut(u64)) -> Result<(), Malformed> {
        self.packed(each, Self::varint, Reader::varint)
    }

    /// Passes the numbers of 64 bits of a list to `each`.
    pub(crate) fn fixed64s(self, each: impl FnMut(u64)) -> Result<(), Malformed> {
        self.packed(each, Self::fixed64, Reader::fixed64)
    }

    fn packed(
        self,
        mut each: impl FnMut(u64),
        one: fn(Self) -> Result<u64, Malformed>,
        next: fn(&mut Reader<'a>) -> Result<u64, Malformed>,
    ) -> Result<(), Malformed> {
        let Self::Bytes(bytes) = self else {
            each(one(self)?);
            return Ok(());
        };
        let mut reader = Reader { rest: bytes };
        while !reader.rest.is_empty() {
            each(next(&mut reader)?);
        }
        Ok(())
    }
}

/// The occurrences of one field in a message, in the order of the bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Slot<'a> {
    first: Option<(u32, Raw<'a>)>,
    /// The message from the second occurrence on. Most fields occur once, and only a list reads its
    /// items from here.
    more: Option<&'a [u8]>,
}

impl<'a> Slot<'a> {
    /// Adds an occurrence that [`scan`] has found.
    #[inline(always)]
    pub(crate) fn push(&mut self, found: Found<'a>) {
        if self.first.is_none() {
            self.first = Some((found.number, found.raw));
        } else if self.more.is_none() {
            self.more = Some(found.from);
        }
    }

    /// Passes each occurrence to `each`, if all have one number.
    #[inline(always)]
    pub(crate) fn each(
        &self,
        mut each: impl FnMut(Raw<'a>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let Some((number, first)) = self.first else {
            return Ok(());
        };
        each(first)?;
        let Some(more) = self.more else {
            return Ok(());
        };
        let mut reader = Reader { rest: more };
        while let Some(found) = reader.next()? {
            if found.number == number {
                each(found.raw)?;
            }
        }
        Ok(())
    }

    /// Returns the value of a field that is not a list. The last occurrence counts, and all must be
    /// well-formed.
    #[inline(always)]
    pub(crate) fn last<T>(
        &self,
        read: impl Fn(Raw<'a>) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Fault> {
        let mut last = None;
        self.each(|raw| {
            last = Some(read(raw)?);
            Ok(())
        })?;
        Ok(last)
    }

    /// Returns the bytes of an embedded message. Several occurrences are joined to one message.
    #[inline]
    pub(crate) fn message(&self) -> Result<Option<Cow<'a, [u8]>>, Fault> {
        match (self.first, self.more) {
            (None, _) => Ok(None),
            (Some((_, first)), None) => Ok(Some(Cow::Borrowed(first.bytes()?))),
            (Some(_), Some(_)) => self.pieces().map(Some),
        }
    }

    #[cold]
    fn pieces(&self) -> Result<Cow<'a, [u8]>, Fault> {
        let mut bytes = Vec::new();
        self.each(|raw| {
            let piece = raw.bytes()?;
            scan(piece, |_| {})?;
            bytes.extend(piece);
            Ok(())
        })?;
        Ok(Cow::Owned(bytes))
    }

    /// Returns the occurrences under one of the numbers of the field.
    pub(crate) fn part(&self, number: u32) -> Result<Self, Fault> {
        let mut part = Self {
            first: self.first.filter(|(first, _)| *first == number),
            more: None,
        };
        let rest = self.more.unwrap_or_default();
        scan(rest, |found| {
            if found.number == number {
                part.push(found);
            }
        })?;
        Ok(part)
    }

    /// Returns the occurrences of a `oneof` whose variants have these numbers. The last one counts.
    pub(crate) fn variants(&self, numbers: &[u32]) -> Result<Vec<(u32, Self)>, Fault> {
        let mut variants: Vec<(u32, Self)> = Vec::new();
        let Some((number, raw)) = self.first else {
            return Ok(variants);
        };
        let first = Found {
            number,
            raw,
            from: &[],
        };
        let mut push = |found: Found<'a>| match variants.last_mut() {
            Some((last, slot)) if *last == found.number => slot.push(found),
            _ => {
                let mut slot = Self::default();
                slot.push(found);
                variants.push((found.number, slot));
            }
        };
        push(first);
        let mut reader = Reader {
            rest: self.more.unwrap_or_default(),
        };
        while let Some(found) = reader.next()? {
            if numbers.contains(&found.number) {
                push(found);
            }
        }
        Ok(variants)
    }

    /// Returns the number of the field, if it occurs once.
    #[inline]
    pub(crate) fn only(&self) -> Option<u32> {
        match self.more {
            None => self.first.map(|(number, _)| number),
            Some(_) => None,
        }
    }
}

/// A field of a message.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) number: u32,
    raw: Raw<'a>,
    /// The message from this field on.
    from: &'a [u8],
}

/// Passes the fields of a message to `each`.
#[inline]
pub(crate) fn scan<'a>(bytes: &'a [u8], mut each: impl FnMut(Found<'a>)) -> Result<(), Malformed> {
    let mut reader = Reader { rest: bytes };
    while let Some(found) = reader.next()? {
        each(found);
    }
    Ok(())
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline(always)]
    fn next(&mut self) -> Result<Option<Found<'a>>, Malformed> {
        let from = self.rest;
        if from.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.key()?;
        let raw = self.contents(number, wire_type, 0)?;
        Ok(Some(Found { number, raw, from }))
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, Malformed> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                // The tenth byte holds only the 64th bit.
                if at == 9 && *byte > 1 {
                    break;
                }
                self.rest = &self.rest[at + 1..];
                return Ok(number);
            }
        }
        Err(Malformed::Varint)
    }

    #[inline(always)]
    fn take(&mut self, count: u64) -> Result<&'a [u8], Malformed> {
        let split = usize::try_from(count).ok();
        let split = split.and_then(|count| self.rest.split_at_checked(count));
        let (taken, rest) = split.ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn fixed64(&mut self) -> Result<u64, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// Reads the number and wire type of the next field.
    #[inline(always)]
    fn key(&mut self) -> Result<(u32, u8), Malformed> {
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed::Key)?;
        let number = key >> 3;
        if number == 0 {
            return Err(Malformed::Key);
        }
        Ok((number, (key & 7) as u8))
    }

    #[inline(always)]
    fn contents(&mut self, number: u32, wire_type: u8, depth: u32) -> Result<Raw<'a>, Malformed> {
        Ok(match wire_type {
            VARINT => Raw::Varint(self.varint()?),
            FIXED64 => Raw::Fixed64(self.fixed64()?),
            BYTES => {
                let count = self.varint()?;
                Raw::Bytes(self.take(count)?)
            }
            FIXED32 => {
                self.take(4)?;
                Raw::Other
            }
            START_GROUP => {
                self.skip_group(number, depth + 1)?;
                Raw::Other
            }
            // This includes the end of a group that has not begun.
            _ => return Err(Malformed::WireType),
        })
    }

    #[cold]
    fn skip_group(&mut self, group: u32, depth: u32) -> Result<(), Malformed> {
        if depth > DEEPEST_GROUP {
            return Err(Malformed::Group);
        }
        loop {
            let (number, wire_type) = self.key()?;
            if wire_type == END_GROUP {
                return if number == group {
                    Ok(())
                } else {
                    Err(Malformed::Group)
                };
            }
            self.contents(number, wire_type, depth)?;
        }
    }
}

pub(crate) fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_key(number: u32, wire_type: u8, out: &mut Vec<u8>) {
    put_varint(u64::from(number << 3 | u32::from(wire_type)), out);
}

pub(crate) fn put_number(number: u32, value: u64, out: &mut Vec<u8>) {
    put_key(number, VARINT, out);
    put_varint(value, out);
}

pub(crate) fn put_fixed64(number: u32, value: u64, out: &mut Vec<u8>) {
    put_key(number, FIXED64, out);
    out.extend(value.to_le_bytes());
}

pub(crate) fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(number, BYTES, out);
    put_varint(bytes.len() as u64, out);
    out.extend(bytes);
}

/// Writes contents with their length as prefix. One byte is reserved for the length, because most
/// contents are short; more are inserted if necessary.
pub(crate) fn put_message(number: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    put_key(number, BYTES, out);
    let at = out.len();
    out.push(0);
    write(out);
    let bytes = out.len() - at - 1;
    if bytes < 0x80 {
        out[at] = bytes as u8;
        return;
    }
    let mut length = Vec::with_capacity(5);
    put_varint(bytes as u64, &mut length);
    out.splice(at..=at, length);
}
