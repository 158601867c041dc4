//! Names of contexts.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name, in characters.
const NAME: usize = 63;

/// The name of a context.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ContextName(String);

impl ContextName {
    /// Returns the name of the context of a dev cluster: that of the default one, or that of the
    /// cluster whose first member has this address.
    pub(crate) fn of_dev(base: Option<Ipv4Addr>) -> Self {
        Self(base.map_or_else(|| "dev".to_owned(), |base| format!("dev-{base}")))
    }
}

impl FromStr for ContextName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins && text.len() <= NAME && text.bytes().all(plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "a name of a context has 1 to {NAME} letters, digits, ., _ and -, and begins with a letter or digit"
        ))
    }
}

impl TryFrom<String> for ContextName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for ContextName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}
