//! Kinds of fields that are numbers, texts or bytes, or lists of them.
//!
//! Names are short, because [`stored!`](super::stored::stored) brings them into scope for
//! definitions.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::error::{CodecError, DecodeResult};
use super::message::{Codec, put};
use super::wire::{self, FieldSlot};
use crate::collections::thin_vec::ThinVec;

/// A type that is stored as a number.
pub(crate) trait AsNumber: Sized {
    /// Returns the stored number.
    fn number(&self) -> u64;
    /// Returns the value that a stored number stands for, if any.
    fn of(number: u64) -> Option<Self>;
}

/// A type that is stored as a text.
pub(crate) trait AsText: Sized {
    /// Returns the stored text.
    fn text(&self) -> &str;
    /// Returns the value that a stored text stands for, if any.
    fn of(text: &str) -> Option<Self>;
}

/// A type that is stored as bytes.
pub(crate) trait AsBytes: Sized {
    /// Returns the stored bytes.
    fn bytes(&self) -> Cow<'_, [u8]>;
    /// Returns the value that stored bytes stand for, if any.
    fn of(bytes: &[u8]) -> Option<Self>;
}

/// A type that is stored as two numbers in a list.
pub(crate) trait AsPair: Sized {
    /// Returns the stored numbers.
    fn pair(&self) -> [u64; 2];
    /// Returns the value that stored numbers stand for.
    fn of(pair: [u64; 2]) -> DecodeResult<Self>;
}

/// A collection that is stored as a list.
pub(crate) trait StoredList: FromIterator<Self::Item> {
    /// The type of the items.
    type Item;
    /// Returns the items in the order of the list.
    fn items(&self) -> impl Iterator<Item = &Self::Item>;
}

macro_rules! items {
    ($collection:ident $(, $bound:ident)?) => {
        impl<T $(: $bound)?> StoredList for $collection<T> {
            type Item = T;

            fn items(&self) -> impl Iterator<Item = &T> {
                self.iter()
            }
        }
    };
}

items!(Vec);
items!(ThinVec);
items!(VecDeque);
items!(BTreeSet, Ord);

impl AsNumber for u64 {
    fn number(&self) -> u64 {
        *self
    }

    fn of(number: u64) -> Option<Self> {
        Some(number)
    }
}

impl AsNumber for i64 {
    fn number(&self) -> u64 {
        self.cast_unsigned()
    }

    fn of(number: u64) -> Option<Self> {
        Some(number.cast_signed())
    }
}

/// The low bits of a longer number count, as in protobuf.
impl AsNumber for u32 {
    fn number(&self) -> u64 {
        (*self).into()
    }

    fn of(number: u64) -> Option<Self> {
        Some(number as Self)
    }
}

macro_rules! small_number {
    ($($number:ident),+) => {$(
        impl AsNumber for $number {
            fn number(&self) -> u64 {
                (*self).into()
            }

            fn of(number: u64) -> Option<Self> {
                Self::try_from(number as u32).ok()
            }
        }
    )+};
}

small_number!(u8, u16);

/// Defines the stored numbers of an enumeration. The number of a variant never changes. 0 means an
/// omitted field, so that no variant has it.
macro_rules! numbered {
    ($name:ident, $($variant:ident = $number:literal),+ $(,)?) => {
        impl $crate::codec::scalars::AsNumber for $name {
            fn number(&self) -> u64 {
                match self {
                    $(Self::$variant => $number,)+
                }
            }

            fn of(number: u64) -> Option<Self> {
                match number as u32 {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use numbered;

impl AsNumber for bool {
    fn number(&self) -> u64 {
        (*self).into()
    }

    fn of(number: u64) -> Option<Self> {
        Some(number != 0)
    }
}

impl AsText for String {
    fn text(&self) -> &str {
        self
    }

    fn of(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl<const N: usize> AsBytes for [u8; N] {
    fn bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self)
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

/// 16 bytes in big-endian order.
impl AsBytes for u128 {
    fn bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.to_be_bytes().to_vec())
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_be_bytes)
    }
}

fn number<T: AsNumber>(number: Option<u64>, wrong: &'static str) -> DecodeResult<T> {
    T::of(number.unwrap_or(0)).ok_or(CodecError::Invalid(wrong))
}

fn text<T: AsText>(text: &str, wrong: &'static str) -> DecodeResult<T> {
    T::of(text).ok_or(CodecError::Invalid(wrong))
}

/// A varint; 0 is omitted.
pub(crate) enum Number {}

impl<T: AsNumber> Codec<T> for Number {
    fn is_absent(value: &T) -> bool {
        value.number() == 0
    }

    fn write(number: u32, value: &T, out: &mut Vec<u8>) {
        wire::put_number(number, value.number(), out);
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<T> {
        number(slot.last(wire::RawField::varint)?, wrong)
    }
}

/// A varint that may be absent.
pub(crate) enum MaybeNumber {}

impl<T: AsNumber> Codec<Option<T>> for MaybeNumber {
    fn is_absent(value: &Option<T>) -> bool {
        value.is_none()
    }

    fn write(number: u32, value: &Option<T>, out: &mut Vec<u8>) {
        if let Some(value) = value {
            Number::write(number, value, out);
        }
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<Option<T>> {
        let found = slot.last(wire::RawField::varint)?;
        found.map(|found| number(Some(found), wrong)).transpose()
    }
}

/// A varint that is never 0; 0 means none.
pub(crate) enum NumberOrNone {}

impl<T: AsNumber> Codec<Option<T>> for NumberOrNone {
    fn is_absent(value: &Option<T>) -> bool {
        value.is_none()
    }

    fn write(number: u32, value: &Option<T>, out: &mut Vec<u8>) {
        MaybeNumber::write(number, value, out);
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<Option<T>> {
        let found: u32 = Number::read(slot, wrong)?;
        let named = (found != 0).then(|| number(Some(found.into()), wrong));
        named.transpose()
    }
}

/// A number of 64 bits; 0 is omitted.
pub(crate) enum Fixed {}

impl Codec<u64> for Fixed {
    fn is_absent(value: &u64) -> bool {
        *value == 0
    }

    fn write(number: u32, value: &u64, out: &mut Vec<u8>) {
        wire::put_fixed64(number, *value, out);
    }

    fn read(slot: FieldSlot<'_>, _: &'static str) -> DecodeResult<u64> {
        Ok(slot.last(wire::RawField::fixed64)?.unwrap_or(0))
    }
}

/// A varint that is also short for small negative numbers.
pub(crate) enum Zigzag {}

impl Codec<i32> for Zigzag {
    fn is_absent(value: &i32) -> bool {
        *value == 0
    }

    fn write(number: u32, value: &i32, out: &mut Vec<u8>) {
        let folded = (value << 1) ^ (value >> 31);
        wire::put_number(number, folded.cast_unsigned().into(), out);
    }

    fn read(slot: FieldSlot<'_>, _: &'static str) -> DecodeResult<i32> {
        let folded = slot.last(wire::RawField::varint)?.unwrap_or(0) as u32;
        Ok((folded >> 1).cast_signed() ^ -(folded & 1).cast_signed())
    }
}

/// A text; an empty one is omitted.
pub(crate) enum Text {}

impl<T: AsText> Codec<T> for Text {
    fn is_absent(value: &T) -> bool {
        value.text().is_empty()
    }

    fn write(number: u32, value: &T, out: &mut Vec<u8>) {
        wire::put_bytes(number, value.text().as_bytes(), out);
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<T> {
        text(slot.last(wire::RawField::text)?.unwrap_or_default(), wrong)
    }
}

/// A text that may be absent.
pub(crate) enum MaybeText {}

impl<T: AsText> Codec<Option<T>> for MaybeText {
    fn is_absent(value: &Option<T>) -> bool {
        value.is_none()
    }

    fn write(number: u32, value: &Option<T>, out: &mut Vec<u8>) {
        if let Some(value) = value {
            Text::write(number, value, out);
        }
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<Option<T>> {
        let found = slot.last(wire::RawField::text)?;
        found.map(|found| text(found, wrong)).transpose()
    }
}

/// Bytes; an empty sequence is omitted.
pub(crate) enum Bytes {}

impl<T: AsBytes> Codec<T> for Bytes {
    fn is_absent(value: &T) -> bool {
        value.bytes().is_empty()
    }

    fn write(number: u32, value: &T, out: &mut Vec<u8>) {
        wire::put_bytes(number, &value.bytes(), out);
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<T> {
        let found = slot.last(wire::RawField::bytes)?.unwrap_or_default();
        T::of(found).ok_or(CodecError::Invalid(wrong))
    }
}

/// Bytes that may be absent.
pub(crate) enum MaybeBytes {}

impl<T: AsBytes> Codec<Option<T>> for MaybeBytes {
    fn is_absent(value: &Option<T>) -> bool {
        value.is_none()
    }

    fn write(number: u32, value: &Option<T>, out: &mut Vec<u8>) {
        if let Some(value) = value {
            Bytes::write(number, value, out);
        }
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<Option<T>> {
        let found = slot.last(wire::RawField::bytes)?;
        let read = |found| T::of(found).ok_or(CodecError::Invalid(wrong));
        found.map(read).transpose()
    }
}

/// A list of texts.
pub(crate) enum TextList {}

impl<C: StoredList<Item: AsText>> Codec<C> for TextList {
    fn is_absent(value: &C) -> bool {
        value.items().next().is_none()
    }

    fn write(number: u32, value: &C, out: &mut Vec<u8>) {
        for item in value.items() {
            Text::write(number, item, out);
        }
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<C> {
        let mut items = Vec::new();
        slot.each(|raw| {
            items.push(text(raw.text()?, wrong)?);
            Ok(())
        })?;
        Ok(items.into_iter().collect())
    }
}

/// A map of texts by name.
pub(crate) enum TextMap {}

impl Codec<BTreeMap<String, String>> for TextMap {
    fn is_absent(value: &BTreeMap<String, String>) -> bool {
        value.is_empty()
    }

    fn write(number: u32, value: &BTreeMap<String, String>, out: &mut Vec<u8>) {
        for (name, value) in value {
            wire::put_message(number, out, |out| {
                put::<Text, _>(1, name, out);
                put::<Text, _>(2, value, out);
            });
        }
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<BTreeMap<String, String>> {
        let mut texts = BTreeMap::new();
        slot.each(|raw| {
            let (mut name, mut value) = (FieldSlot::default(), FieldSlot::default());
            wire::scan(raw.bytes()?, |found| match found.number {
                1 => name.push(found),
                2 => value.push(found),
                _ => {}
            })?;
            texts.insert(Text::read(name, wrong)?, Text::read(value, wrong)?);
            Ok(())
        })?;
        Ok(texts)
    }
}

/// A list of varints, packed.
pub(crate) enum NumberList {}

impl<C: StoredList<Item: AsNumber>> Codec<C> for NumberList {
    fn is_absent(value: &C) -> bool {
        value.items().next().is_none()
    }

    fn write(number: u32, value: &C, out: &mut Vec<u8>) {
        wire::put_message(number, out, |out| {
            for item in value.items() {
                wire::put_varint(item.number(), out);
            }
        });
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<C> {
        let found = numbers(&slot)?.into_iter();
        found.map(|found| number(Some(found), wrong)).collect()
    }
}

fn numbers(slot: &FieldSlot<'_>) -> DecodeResult<Vec<u64>> {
    let mut numbers = Vec::new();
    slot.each(|raw| Ok(raw.varints(|number| numbers.push(number))?))?;
    Ok(numbers)
}

/// A list of pairs of varints, packed: the first, the second, the first, and so on.
pub(crate) enum PairList {}

impl<T: AsPair> Codec<Vec<T>> for PairList {
    fn is_absent(value: &Vec<T>) -> bool {
        value.is_empty()
    }

    fn write(number: u32, value: &Vec<T>, out: &mut Vec<u8>) {
        wire::put_message(number, out, |out| {
            for number in value.iter().flat_map(AsPair::pair) {
                wire::put_varint(number, out);
            }
        });
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<Vec<T>> {
        let numbers = numbers(&slot)?;
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(CodecError::Invalid(wrong));
        }
        pairs.iter().map(|pair| T::of(*pair)).collect()
    }
}

/// A list of numbers of 64 bits, packed.
pub(crate) enum FixedList {}

impl<C: StoredList<Item = u64>> Codec<C> for FixedList {
    fn is_absent(value: &C) -> bool {
        value.items().next().is_none()
    }

    fn write(number: u32, value: &C, out: &mut Vec<u8>) {
        wire::put_message(number, out, |out| {
            for item in value.items() {
                out.extend(item.to_le_bytes());
            }
        });
    }

    fn read(slot: FieldSlot<'_>, _: &'static str) -> DecodeResult<C> {
        let mut numbers = Vec::new();
        slot.each(|raw| Ok(raw.fixed64s(|number| numbers.push(number))?))?;
        Ok(numbers.into_iter().collect())
    }
}
