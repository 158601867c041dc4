//! Kinds of fields that are messages, lists of messages, or one of several fields.
//!
//! Names are short, because [`stored!`](super::stored::stored) brings them into scope for
//! definitions.

use std::sync::Arc;

use super::error::{CodecError, DecodeResult};
use super::message::{Codec, StoredMessage, StoredOneof, put};
use super::scalars::StoredList;
use super::wire::{self, FieldSlot};

impl<T: StoredMessage> StoredMessage for Box<T> {
    fn write(&self, out: &mut Vec<u8>) {
        T::write(self, out);
    }

    fn read(bytes: &[u8]) -> DecodeResult<Self> {
        T::read(bytes).map(Box::new)
    }
}

impl<T: StoredMessage> StoredMessage for Arc<T> {
    fn write(&self, out: &mut Vec<u8>) {
        T::write(self, out);
    }

    fn read(bytes: &[u8]) -> DecodeResult<Self> {
        T::read(bytes).map(Arc::new)
    }
}

/// A message that is always present.
pub(crate) enum Part {}

impl<T: StoredMessage> Codec<T> for Part {
    fn is_absent(_: &T) -> bool {
        false
    }

    fn write(number: u32, value: &T, out: &mut Vec<u8>) {
        wire::put_message(number, out, |out| value.write(out));
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<T> {
        T::read(&slot.message()?.ok_or(CodecError::Invalid(wrong))?)
    }
}

/// A message that may be absent.
pub(crate) enum MaybePart {}

impl<T: StoredMessage> Codec<Option<T>> for MaybePart {
    fn is_absent(value: &Option<T>) -> bool {
        value.is_none()
    }

    fn write(number: u32, value: &Option<T>, out: &mut Vec<u8>) {
        if let Some(value) = value {
            Part::write(number, value, out);
        }
    }

    fn read(slot: FieldSlot<'_>, _: &'static str) -> DecodeResult<Option<T>> {
        slot.message()?.map(|bytes| T::read(&bytes)).transpose()
    }
}

/// A message that is omitted if it is the default.
pub(crate) enum PartOrDefault {}

impl<T: StoredMessage + Default + PartialEq> Codec<T> for PartOrDefault {
    fn is_absent(value: &T) -> bool {
        *value == T::default()
    }

    fn write(number: u32, value: &T, out: &mut Vec<u8>) {
        Part::write(number, value, out);
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<T> {
        Ok(MaybePart::read(slot, wrong)?.unwrap_or_default())
    }
}

/// A list of messages.
pub(crate) enum PartList {}

impl<C: StoredList<Item: StoredMessage>> Codec<C> for PartList {
    fn is_absent(value: &C) -> bool {
        value.items().next().is_none()
    }

    fn write(number: u32, value: &C, out: &mut Vec<u8>) {
        for item in value.items() {
            Part::write(number, item, out);
        }
    }

    fn read(slot: FieldSlot<'_>, _: &'static str) -> DecodeResult<C> {
        let mut items = Vec::new();
        slot.each(|raw| {
            items.push(StoredMessage::read(raw.bytes()?)?);
            Ok(())
        })?;
        Ok(items.into_iter().collect())
    }
}

/// One of several fields of the message. Its numbers are those in the definition of its type.
pub(crate) enum OneOf {}

impl<T: StoredOneof> Codec<T> for OneOf {
    fn is_absent(_: &T) -> bool {
        false
    }

    fn write(_: u32, value: &T, out: &mut Vec<u8>) {
        value.write(out);
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<T> {
        if let Some(number) = slot.only() {
            return T::read(number, slot)?.ok_or(CodecError::Invalid(wrong));
        }
        let mut found = Ok(T::absent());
        for (number, slot) in slot.variants(T::NUMBERS)? {
            found = T::read(number, slot);
            // A field that is ignored must be well-formed too.
            if let Err(CodecError::Malformed(malformed)) = found {
                return Err(malformed.into());
            }
        }
        found?.ok_or(CodecError::Invalid(wrong))
    }

    fn has_numbers(numbers: &[u32]) -> bool {
        numbers == T::NUMBERS
    }
}

/// A message with one field of this kind, number 1.
pub(crate) struct Inner<C>(std::marker::PhantomData<C>);

impl<T, C: Codec<T>> Codec<T> for Inner<C> {
    fn is_absent(_: &T) -> bool {
        false
    }

    fn write(number: u32, value: &T, out: &mut Vec<u8>) {
        wire::put_message(number, out, |out| put::<C, T>(1, value, out));
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<T> {
        let bytes = slot.message()?.ok_or(CodecError::Invalid(wrong))?;
        let mut inner = FieldSlot::default();
        wire::scan(&bytes, |found| {
            if found.number == 1 {
                inner.push(found);
            }
        })?;
        C::read(inner, wrong)
    }
}
