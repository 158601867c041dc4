//! Traits of stored messages, of their fields, and of kinds of fields.
//!
//! The kinds are in `scalars` and `parts`.

use super::error::DecodeResult;
use super::wire::FieldSlot;

/// A stored message. Implemented by [`stored!`](super::stored::stored).
pub(crate) trait StoredMessage: Sized {
    /// Appends the fields.
    fn write(&self, out: &mut Vec<u8>);
    /// Reads a message that occupies all of `bytes`.
    fn read(bytes: &[u8]) -> DecodeResult<Self>;
}

/// A `oneof`. Implemented by [`stored!`](super::stored::stored).
pub(crate) trait StoredOneof: Sized {
    /// The field numbers of all variants.
    const NUMBERS: &'static [u32];
    /// Appends the field, or nothing for a variant without one.
    fn write(&self, out: &mut Vec<u8>);
    /// Reads the variant of the field `number`; returns `None` if it is unknown.
    fn read(number: u32, slot: FieldSlot<'_>) -> DecodeResult<Option<Self>>;
    /// Returns the value that the absence of all fields stands for.
    fn absent() -> Option<Self>;
}

/// A kind of field with contents of type `T`.
pub(crate) trait Codec<T> {
    /// Returns whether `value` is the default, which is omitted from a message.
    fn is_absent(value: &T) -> bool;
    /// Appends the field.
    fn write(number: u32, value: &T, out: &mut Vec<u8>);
    /// Reads the field from its occurrences in the message. `wrong` names it in errors.
    fn read(slot: FieldSlot<'_>, wrong: &'static str) -> DecodeResult<T>;
    /// Returns whether a field of this kind has these numbers in a definition.
    fn has_numbers(numbers: &[u32]) -> bool {
        numbers.len() == 1
    }
}

/// Appends a field, unless it has its default value.
pub(crate) fn put<C: Codec<T>, T>(number: u32, value: &T, out: &mut Vec<u8>) {
    if !C::is_absent(value) {
        C::write(number, value, out);
    }
}

/// Reads a field that has these numbers in the definition of its message.
pub(crate) fn field<C: Codec<T>, T>(
    slot: FieldSlot<'_>,
    numbers: &[u32],
    wrong: &'static str,
) -> DecodeResult<T> {
    debug_assert!(
        C::has_numbers(numbers),
        "{wrong}: the numbers of its kind are not {numbers:?}"
    );
    C::read(slot, wrong)
}

/// Returns whether the numbers are in strictly ascending order.
pub(crate) const fn ascend(numbers: &[u32]) -> bool {
    let mut at = 1;
    while at < numbers.len() {
        if numbers[at - 1] >= numbers[at] {
            return false;
        }
        at += 1;
    }
    true
}
