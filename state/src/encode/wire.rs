//! Protobuf's wire format, as far as stored messages need it.
//!
//! The canonical form alone is written. What protobuf allows is read: fields in any order, unknown ones, packed lists or
//! not. No bytes make it panic.

use std::borrow::Cow;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A number has no end, or more than 64 bits.
    #[error("invalid varint")]
    Varint,
    /// A field is called 0, or beyond what protobuf allows.
    #[error("invalid field number")]
    Key,
    /// A field has contents of another kind than its definition.
    #[error("a field has the wrong wire type")]
    WireType,
    /// A field ends behind its message.
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
/// Groups are never written; unknown ones are skipped up to this depth.
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
    pub(crate) fn varint(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(number) => Ok(number),
            Self::Fixed64(_) | Self::Bytes(_) | Self::Other => Err(Malformed::WireType),
        }
    }

    pub(crate) fn fixed64(self) -> Result<u64, Malformed> {
        match self {
            Self::Fixed64(number) => Ok(number),
            Self::Varint(_) | Self::Bytes(_) | Self::Other => Err(Malformed::WireType),
        }
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Varint(_) | Self::Fixed64(_) | Self::Other => Err(Malformed::WireType),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Utf8)
    }

    /// The numbers of a list, packed or one of them.
    pub(crate) fn varints(self, each: impl FnMut(u64)) -> Result<(), Malformed> {
        self.packed(each, Self::varint, Reader::varint)
    }

    /// The same for numbers of 64 bits.
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

/// What a message has under the numbers of one field, in the order of the bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot<'a> {
    /// Most fields have one.
    first: Option<(u32, Raw<'a>)>,
    more: Vec<(u32, Raw<'a>)>,
}

impl<'a> Slot<'a> {
    pub(crate) fn push(&mut self, number: u32, raw: Raw<'a>) {
        if self.first.is_none() {
            self.first = Some((number, raw));
        } else {
            self.more.push((number, raw));
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, Raw<'a>)> {
        self.first.iter().chain(&self.more).copied()
    }

    /// What the message has of it, if it is there once.
    pub(crate) fn only(&self) -> Option<(u32, Raw<'a>)> {
        self.first.filter(|_| self.more.is_empty())
    }

    /// The value of a field that is no list: of several, the last counts, and all must be well-formed.
    pub(crate) fn last<T>(
        &self,
        read: impl Fn(Raw<'a>) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        let mut last = None;
        for (_, raw) in self.iter() {
            last = Some(read(raw)?);
        }
        Ok(last)
    }

    /// The bytes of an embedded message: the pieces of one that is written in several are one message.
    pub(crate) fn message(&self) -> Result<Option<Cow<'a, [u8]>>, Malformed> {
        let Some((_, first)) = self.first else {
            return Ok(None);
        };
        let first = first.bytes()?;
        if self.more.is_empty() {
            return Ok(Some(Cow::Borrowed(first)));
        }
        scan(first, |_, _| {})?;
        let mut bytes = first.to_vec();
        for (_, raw) in &self.more {
            let piece = raw.bytes()?;
            scan(piece, |_, _| {})?;
            bytes.extend(piece);
        }
        Ok(Some(Cow::Owned(bytes)))
    }

    /// What the message has of each of these numbers.
    pub(crate) fn split<const N: usize>(self, numbers: [u32; N]) -> [Self; N] {
        numbers.map(|wanted| {
            let mut part = Self::default();
            for (number, raw) in self.iter() {
                if number == wanted {
                    part.push(number, raw);
                }
            }
            part
        })
    }

    /// What the message has of the variants of a `oneof`, by number. Of several the last one counts.
    pub(crate) fn variants(self) -> Vec<(u32, Self)> {
        let mut variants: Vec<(u32, Self)> = Vec::with_capacity(1);
        for (number, raw) in self.iter() {
            match variants.last_mut() {
                Some((last, slot)) if *last == number => slot.push(number, raw),
                _ => {
                    let mut slot = Self::default();
                    slot.push(number, raw);
                    variants.push((number, slot));
                }
            }
        }
        variants
    }
}

/// Gives `each` the fields of a message.
pub(crate) fn scan<'a>(
    bytes: &'a [u8],
    mut each: impl FnMut(u32, Raw<'a>),
) -> Result<(), Malformed> {
    let mut reader = Reader { rest: bytes };
    while !reader.rest.is_empty() {
        let (number, wire_type) = reader.key()?;
        each(number, reader.contents(number, wire_type, 0)?);
    }
    Ok(())
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                // The tenth byte has the 64th bit alone.
                if at == 9 && *byte > 1 {
                    break;
                }
                self.rest = &self.rest[at + 1..];
                return Ok(number);
            }
        }
        Err(Malformed::Varint)
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], Malformed> {
        let split = usize::try_from(count).ok();
        let split = split.and_then(|count| self.rest.split_at_checked(count));
        let (taken, rest) = split.ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn fixed64(&mut self) -> Result<u64, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// Number and wire type of the next field.
    fn key(&mut self) -> Result<(u32, u8), Malformed> {
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed::Key)?;
        let number = key >> 3;
        if number == 0 {
            return Err(Malformed::Key);
        }
        Ok((number, (key & 7) as u8))
    }

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
            // Among them the end of a group that has not begun.
            _ => return Err(Malformed::WireType),
        })
    }

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

/// Writes contents behind their length. Most are short: one byte is kept for it, and more are made where it needs more.
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
