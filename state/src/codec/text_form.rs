//! Kinds of fields that hold values in their text form, which `Display` writes and `FromStr` reads.

use std::fmt::Display;
use std::str::FromStr;

use super::error::{CodecError, DecodeResult};
use super::message::{Codec, put};
use super::scalars::{StoredList, Text, TextList};
use super::wire::FieldSlot;

/// A value in its text form, which is never empty.
pub(crate) enum Shown {}

impl<T: Display + FromStr> Codec<T> for Shown {
    fn is_absent(_: &T) -> bool {
        false
    }

    fn write(number: u32, value: &T, out: &mut Vec<u8>) {
        put::<Text, _>(number, &value.to_string(), out);
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<T> {
        let text: String = Text::read(slot, wrong)?;
        text.parse().map_err(|_| CodecError::Invalid(wrong))
    }
}

/// A list of values in their text form.
pub(crate) enum ShownList {}

impl<C: StoredList<Item: Display + FromStr>> Codec<C> for ShownList {
    fn is_absent(value: &C) -> bool {
        value.items().next().is_none()
    }

    fn write(number: u32, value: &C, out: &mut Vec<u8>) {
        for item in value.items() {
            put::<Text, _>(number, &item.to_string(), out);
        }
    }

    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<C> {
        let texts: Vec<String> = TextList::read(slot, wrong)?;
        let parsed = texts.iter().map(|text| text.parse());
        let parsed: Result<_, _> = parsed.collect();
        parsed.map_err(|_| CodecError::Invalid(wrong))
    }
}
