//! The fuzz targets: each decodes bytes from a file, a peer or a user, and checks the result.
//!
//! A target panics if a decoder panics or a property does not hold. Otherwise it returns whether
//! the decoder accepted the bytes, so that a test of the corpora shows that seeds get past the
//! first checks. `fuzz_targets/` has an executable of each target for libFuzzer, and `corpora/` its
//! seeds. Reading order: `input`, `property`, then the targets by what they decode: `registry`,
//! `wire`, `peers`, `requests`, `hosts`, `archives`, `certificates`, `command_line`; last,
//! `targets`.

pub mod archives;
pub mod certificates;
pub mod command_line;
pub mod hosts;
mod input;
pub mod peers;
mod property;
pub mod registry;
pub mod requests;
pub mod targets;
pub mod wire;

pub use input::joined;
#[cfg(feature = "libfuzzer")]
pub use libfuzzer_sys;

/// Defines the executable of a target for libFuzzer.
#[macro_export]
macro_rules! fuzz_target {
    ($function:path) => {
        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            $function(bytes);
        });
    };
}
