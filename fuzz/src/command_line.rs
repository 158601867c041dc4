//! Targets for decoders of the command line: values of flags, and files.

use argosy_cli::fuzzing;

use crate::input::two_texts;

/// The value of a flag.
pub fn flag_value(bytes: &[u8]) -> bool {
    fuzzing::flag_value(bytes)
}

/// The file of contexts.
pub fn context_file(bytes: &[u8]) -> bool {
    fuzzing::context_file(bytes)
}

/// The file of a group of tasks.
pub fn group_file(bytes: &[u8]) -> bool {
    fuzzing::group_file(bytes)
}

/// Lines of a log in a debug bundle, around a password.
pub fn scrubbed_line(bytes: &[u8]) -> bool {
    two_texts(bytes).is_some_and(|(before, after)| fuzzing::scrubbed_line(before, after))
}
