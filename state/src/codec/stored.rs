//! The `stored!` macro: one definition for each stored message.
//!
//! A definition names each field once: its number, its name in Rust, and its kind (a type of
//! [`scalars`](super::scalars) or [`parts`](super::parts)). Encoding and decoding follow from it.
//! In a definition fields ascend by number, as in the canonical bytes. A number is never used
//! again, and never given another meaning.
//!
//! ```text
//! stored!(message Uri {
//!     1 value: Text,
//!     2 executable: Number,
//! });
//! stored!(oneof Run {
//!     4 Shell(Text),
//!     5 Argv(Inner<TextList>),
//!     14 Image,
//! });
//! ```
//!
//! - `or "…"` after a field is its name in errors, if that is not the name of the field.
//! - A message whose layout differs from its Rust type names the type and then a pattern of its
//!   fields. The pattern is also the expression that constructs one:
//!   `message OfferId as (OfferId { epoch: Epoch(epoch), serial })`.
//! - `where check` names a function that returns what is wrong with a message whose fields are
//!   valid.
//! - A field that is a `oneof` has the numbers of all its variants: `4 | 5 | 14 run: OneOf`.
//! - `else Variant` is the value if none of the fields of a `oneof` is present.
//! - A variant with named fields is a message, or a single field: `4 Tcp { port } as Number`.

/// Defines the stored form of a type; see the module.
macro_rules! stored {
    (message $name:ident $(where $check:ident)? {
        $($(#[$doc:meta])* $number:literal $(| $more:literal)* $field:ident: $codec:ident $(<$inner:ident>)? $(or $wrong:literal)?,)+
    }) => {
        $crate::codec::stored::stored!(message $name as (Self { $($field),+ }) $(where $check)? {
            $($number $(| $more)* $field: $codec $(<$inner>)? $(or $wrong)?,)+
        });
    };
    (message $type:ty as $shape:tt $(where $check:ident)? {
        $($(#[$doc:meta])* $number:literal $(| $more:literal)* $field:ident: $codec:ident $(<$inner:ident>)? $(or $wrong:literal)?,)+
    }) => {
        impl $crate::codec::message::StoredMessage for $type {
            #[allow(unused_parens, reason = "the shape is in parentheses")]
            fn write(&self, out: &mut Vec<u8>) {
                #[allow(unused_imports, clippy::wildcard_imports, reason = "the codecs of the definition")]
                use $crate::codec::{message::*, parts::*, scalars::*};
                const { assert!(ascend(&[$($number),+]), "fields ascend in a definition") };
                let $shape = self;
                $(put::<$codec $(<$inner>)?, _>($number, $field, out);)+
            }

            #[allow(unused_parens, clippy::manual_range_patterns, reason = "as a definition has them")]
            fn read(bytes: &[u8]) -> $crate::codec::error::DecodeResult<Self> {
                let whole = $crate::codec::stored::fields!(bytes, $shape, {
                    $($number $(| $more)* $field: $codec $(<$inner>)? $(or $wrong)?,)+
                });
                $($check(&whole)?;)?
                Ok(whole)
            }
        }
    };
    (oneof $name:ident $(else $absent:ident)? {
        $($(#[$doc:meta])* $number:literal $variant:ident $(($codec:ident $(<$inner:ident>)?))? $({ $($named:tt)* })? $(as $only:ident)? $(or $wrong:literal)?,)+
    }) => {
        impl $crate::codec::message::StoredOneof for $name {
            const NUMBERS: &'static [u32] = {
                assert!($crate::codec::message::ascend(&[$($number),+]), "variants ascend in a definition");
                &[$($number),+]
            };

            fn write(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$absent => {})?
                    $($crate::codec::stored::pattern!($variant $(($codec $(<$inner>)?))? $({ $($named)* })?, value) => {
                        $crate::codec::stored::put_variant!(out, $number, value, $(($codec $(<$inner>)?))? $({ $($named)* })? $(as $only)?);
                    })+
                }
            }

            #[allow(clippy::manual_range_patterns, reason = "as a definition has them")]
            fn read(number: u32, slot: $crate::codec::wire::FieldSlot<'_>) -> $crate::codec::error::DecodeResult<Option<Self>> {
                Ok(Some(match number {
                    $($number => $crate::codec::stored::read_variant!(
                        $variant, slot, $(($codec $(<$inner>)?))? $({ $($named)* })? $(as $only)? $(or $wrong)?
                    ),)+
                    _ => return Ok(None),
                }))
            }

            fn absent() -> Option<Self> {
                None $(.or(Some(Self::$absent)))?
            }
        }
    };
}

/// Reads the fields of a message, and constructs the value.
macro_rules! fields {
    ($bytes:expr, $shape:tt, {
        $($number:literal $(| $more:literal)* $field:ident: $codec:ident $(<$inner:ident>)? $(or $wrong:literal)?,)+
    }) => {{
        #[allow(unused_imports, clippy::wildcard_imports, reason = "the codecs of the definition")]
        use $crate::codec::{message::*, parts::*, scalars::*};
        $(let mut $field = $crate::codec::wire::FieldSlot::default();)+
        $crate::codec::wire::scan($bytes, |found| match found.number {
            $($number $(| $more)* => $field.push(found),)+
            _ => {}
        })?;
        $(let $field = field::<$codec $(<$inner>)?, _>(
            $field,
            &[$number $(, $more)*],
            $crate::codec::stored::called!($field $($wrong)?),
        )?;)+
        $shape
    }};
}

/// Returns the name of a field in errors.
macro_rules! called {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $wrong:literal) => {
        $wrong
    };
}

/// Expands to the pattern of a variant.
macro_rules! pattern {
    ($variant:ident, $value:ident) => {
        Self::$variant
    };
    ($variant:ident ($codec:ident $(<$inner:ident>)?), $value:ident) => {
        Self::$variant($value)
    };
    ($variant:ident { $field:ident }, $value:ident) => {
        Self::$variant { $field }
    };
    ($variant:ident { $($number:literal $field:ident: $codec:ident $(or $wrong:literal)?),+ $(,)? }, $value:ident) => {
        Self::$variant { $($field),+ }
    };
}

/// Appends a variant.
macro_rules! put_variant {
    ($out:ident, $number:literal, $value:ident,) => {
        $crate::codec::wire::put_bytes($number, &[], $out)
    };
    ($out:ident, $number:literal, $value:ident, ($codec:ident $(<$inner:ident>)?)) => {{
        #[allow(unused_imports, clippy::wildcard_imports, reason = "the codecs of the definition")]
        use $crate::codec::{message::*, parts::*, scalars::*};
        <$codec $(<$inner>)? as Codec<_>>::write($number, $value, $out);
    }};
    ($out:ident, $number:literal, $value:ident, { $field:ident } as $codec:ident) => {{
        #[allow(unused_imports, clippy::wildcard_imports, reason = "the codecs of the definition")]
        use $crate::codec::{message::*, parts::*, scalars::*};
        <$codec as Codec<_>>::write($number, $field, $out)
    }};
    ($out:ident, $number:literal, $value:ident, {
        $($inner:literal $field:ident: $codec:ident $(or $wrong:literal)?),+ $(,)?
    }) => {
        $crate::codec::wire::put_message($number, $out, |out| {
            #[allow(unused_imports, clippy::wildcard_imports, reason = "the codecs of the definition")]
            use $crate::codec::{message::*, parts::*, scalars::*};
            const { assert!(ascend(&[$($inner),+]), "fields ascend in a definition") };
            $(put::<$codec, _>($inner, $field, out);)+
        })
    };
}

/// Reads a variant.
macro_rules! read_variant {
    ($variant:ident, $slot:ident,) => {{
        let bytes = $slot.message()?.unwrap_or_default();
        $crate::codec::wire::scan(&bytes, |_| {})?;
        Self::$variant
    }};
    ($variant:ident, $slot:ident, ($codec:ident $(<$inner:ident>)?) $(or $wrong:literal)?) => {{
        #[allow(unused_imports, clippy::wildcard_imports, reason = "the codecs of the definition")]
        use $crate::codec::{message::*, parts::*, scalars::*};
        Self::$variant(<$codec $(<$inner>)? as Codec<_>>::read(
            $slot,
            $crate::codec::stored::called!($variant $($wrong)?),
        )?)
    }};
    ($variant:ident, $slot:ident, { $field:ident } as $codec:ident $(or $wrong:literal)?) => {{
        #[allow(unused_imports, clippy::wildcard_imports, reason = "the codecs of the definition")]
        use $crate::codec::{message::*, parts::*, scalars::*};
        Self::$variant {
            $field: <$codec as Codec<_>>::read(
                $slot,
                $crate::codec::stored::called!($field $($wrong)?),
            )?,
        }
    }};
    ($variant:ident, $slot:ident, {
        $($number:literal $field:ident: $codec:ident $(or $wrong:literal)?),+ $(,)?
    }) => {{
        let bytes = $slot.message()?.unwrap_or_default();
        $crate::codec::stored::fields!(&bytes, { Self::$variant { $($field),+ } }, {
            $($number $field: $codec $(or $wrong)?,)+
        })
    }};
}

pub(crate) use {called, fields, pattern, put_variant, read_variant, stored};

#[cfg(test)]
mod tests;
