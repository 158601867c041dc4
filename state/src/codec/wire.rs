//! The part of the protobuf wire format that stored messages need.
//!
//! Only the canonical form is written. Everything that protobuf allows is read: fields in any
//! order, unknown fields, lists packed or not. Reading never panics.

use std::borrow::Cow;

use super::error::{CodecError, WireError};

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
pub(crate) enum RawField<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// A kind that no definition uses.
    Other,
}

impl<'a> RawField<'a> {
    #[inline]
    pub(crate) fn varint(self) -> Result<u64, WireError> {
        match self {
            Self::Varint(number) => Ok(number),
            Self::Fixed64(_) | Self::Bytes(_) | Self::Other => Err(WireError::WireType),
        }
    }

    #[inline]
    pub(crate) fn fixed64(self) -> Result<u64, WireError> {
        match self {
            Self::Fixed64(number) => Ok(number),
            Self::Varint(_) | Self::Bytes(_) | Self::Other => Err(WireError::WireType),
        }
    }

    #[inline]
    pub(crate) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed64(_) | Self::Other => Err(WireError::WireType),
        }
    }

    #[inline]
    pub(crate) fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Utf8)
    }

    /// Passes the numbers of a list to `each`, packed or a single one.
    pub(crate) fn varints(self, each: impl FnMut(u64)) -> Result<(), WireError> {
        self.packed(each, Self::varint, WireReader::varint)
    }

    /// Passes the numbers of 64 bits of a list to `each`.
    pub(crate) fn fixed64s(self, each: impl FnMut(u64)) -> Result<(), WireError> {
        self.packed(each, Self::fixed64, WireReader::fixed64)
    }

    fn packed(
        self,
        mut each: impl FnMut(u64),
        one: fn(Self) -> Result<u64, WireError>,
        next: fn(&mut WireReader<'a>) -> Result<u64, WireError>,
    ) -> Result<(), WireError> {
        let Self::Bytes(bytes) = self else {
            each(one(self)?);
            return Ok(());
        };
        let mut reader = WireReader { rest: bytes };
        while !reader.rest.is_empty() {
            each(next(&mut reader)?);
        }
        Ok(())
    }
}

/// The occurrences of one field in a message, in the order of the bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FieldSlot<'a> {
    first: Option<(u32, RawField<'a>)>,
    /// The message from the second occurrence on. Most fields occur once, and only a list reads its
    /// items from here.
    more: Option<&'a [u8]>,
}

impl<'a> FieldSlot<'a> {
    /// Adds an occurrence that [`scan`] has found.
    #[inline(always)]
    pub(crate) fn push(&mut self, found: WireField<'a>) {
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
        mut each: impl FnMut(RawField<'a>) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        let Some((number, first)) = self.first else {
            return Ok(());
        };
        each(first)?;
        let Some(more) = self.more else {
            return Ok(());
        };
        let mut reader = WireReader { rest: more };
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
        read: impl Fn(RawField<'a>) -> Result<T, WireError>,
    ) -> Result<Option<T>, CodecError> {
        let mut last = None;
        self.each(|raw| {
            last = Some(read(raw)?);
            Ok(())
        })?;
        Ok(last)
    }

    /// Returns the bytes of an embedded message. Several occurrences are joined to one message.
    #[inline]
    pub(crate) fn message(&self) -> Result<Option<Cow<'a, [u8]>>, CodecError> {
        match (self.first, self.more) {
            (None, _) => Ok(None),
            (Some((_, first)), None) => Ok(Some(Cow::Borrowed(first.bytes()?))),
            (Some(_), Some(_)) => self.pieces().map(Some),
        }
    }

    #[cold]
    fn pieces(&self) -> Result<Cow<'a, [u8]>, CodecError> {
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
    pub(crate) fn part(&self, number: u32) -> Result<Self, CodecError> {
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
    pub(crate) fn variants(&self, numbers: &[u32]) -> Result<Vec<(u32, Self)>, CodecError> {
        let mut variants: Vec<(u32, Self)> = Vec::new();
        let Some((number, raw)) = self.first else {
            return Ok(variants);
        };
        let first = WireField {
            number,
            raw,
            from: &[],
        };
        let mut push = |found: WireField<'a>| match variants.last_mut() {
            Some((last, slot)) if *last == found.number => slot.push(found),
            _ => {
                let mut slot = Self::default();
                slot.push(found);
                variants.push((found.number, slot));
            }
        };
        push(first);
        let mut reader = WireReader {
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
pub(crate) struct WireField<'a> {
    pub(crate) number: u32,
    raw: RawField<'a>,
    /// The message from this field on.
    from: &'a [u8],
}

/// Passes the fields of a message to `each`.
#[inline]
pub(crate) fn scan<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(WireField<'a>),
) -> Result<(), WireError> {
    let mut reader = WireReader { rest: bytes };
    while let Some(found) = reader.next()? {
        each(found);
    }
    Ok(())
}

struct WireReader<'a> {
    rest: &'a [u8],
}

impl<'a> WireReader<'a> {
    #[inline(always)]
    fn next(&mut self) -> Result<Option<WireField<'a>>, WireError> {
        let from = self.rest;
        if from.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.key()?;
        let raw = self.contents(number, wire_type, 0)?;
        Ok(Some(WireField { number, raw, from }))
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, WireError> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
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
        Err(WireError::Varint)
    }

    #[inline(always)]
    fn take(&mut self, count: u64) -> Result<&'a [u8], WireError> {
        let split = usize::try_from(count).ok();
        let split = split.and_then(|count| self.rest.split_at_checked(count));
        let (taken, rest) = split.ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn fixed64(&mut self) -> Result<u64, WireError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// Reads the number and wire type of the next field.
    #[inline(always)]
    fn key(&mut self) -> Result<(u32, u8), WireError> {
        let key = u32::try_from(self.varint()?).map_err(|_| WireError::Key)?;
        let number = key >> 3;
        if number == 0 {
            return Err(WireError::Key);
        }
        Ok((number, (key & 7) as u8))
    }

    #[inline(always)]
    fn contents(
        &mut self,
        number: u32,
        wire_type: u8,
        depth: u32,
    ) -> Result<RawField<'a>, WireError> {
        Ok(match wire_type {
            VARINT => RawField::Varint(self.varint()?),
            FIXED64 => RawField::Fixed64(self.fixed64()?),
            BYTES => {
                let count = self.varint()?;
                RawField::Bytes(self.take(count)?)
            }
            FIXED32 => {
                self.take(4)?;
                RawField::Other
            }
            START_GROUP => {
                self.skip_group(number, depth + 1)?;
                RawField::Other
            }
            // This includes the end of a group that has not begun.
            _ => return Err(WireError::WireType),
        })
    }

    #[cold]
    fn skip_group(&mut self, group: u32, depth: u32) -> Result<(), WireError> {
        if depth > DEEPEST_GROUP {
            return Err(WireError::Group);
        }
        loop {
            let (number, wire_type) = self.key()?;
            if wire_type == END_GROUP {
                return if number == group {
                    Ok(())
                } else {
                    Err(WireError::Group)
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
