//! Properties of decoders that several targets check.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The most bytes that an error adds to the value that it repeats, perhaps with escapes.
const ERROR_BYTES: usize = 2_000;

/// Checks an error of an input of this length: it has a message, of bounded length.
pub(crate) fn check_error(error: &dyn Display, input: usize) {
    let text = error.to_string();
    assert!(!text.is_empty(), "an error without a message");
    let most = 16 * input + ERROR_BYTES;
    assert!(text.len() <= most, "{} bytes: {text}", text.len());
}

/// Parses a text. The text of the result has the same meaning.
pub(crate) fn text<T>(text: &str) -> bool
where
    T: FromStr<Err: Display + Debug> + Display + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let again = value.to_string().parse::<T>();
            assert_eq!(again.expect("a formatted value is parsed"), value);
            true
        }
        Err(error) => {
            check_error(&error, text.len());
            false
        }
    }
}

/// Reads JSON. The JSON of the result has the same meaning.
pub(crate) fn json<T>(bytes: &[u8]) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    match serde_json::from_slice::<T>(bytes) {
        Ok(value) => {
            let written = serde_json::to_vec(&value).expect("a message becomes JSON");
            let again = serde_json::from_slice::<T>(&written);
            assert_eq!(again.expect("written JSON is read"), value);
            Some(value)
        }
        Err(error) => {
            check_error(&error, bytes.len());
            None
        }
    }
}
