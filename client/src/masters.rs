//! The list of masters' addresses that a user provides.
//!
//! Only the syntax is checked; host names are not resolved.

use std::fmt;
use std::str::FromStr;

/// Default port of a master's API.
pub const DEFAULT_PORT: u16 = 5050;

/// API addresses of masters, as `host:port`; never empty, without duplicates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masters(Vec<String>);

/// The reason for which a text is not a list of masters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMasters {
    /// The list is empty.
    #[error("no master is named: write host:port,host:port as in 10.0.0.1:5050,10.0.0.2:5050")]
    Empty,
    /// One part is not an address.
    #[error("{part:?} is not a master's address: {rule}")]
    Address {
        /// The part, truncated to 64 characters.
        part: String,
        /// The rule that it violates.
        rule: &'static str,
    },
    /// One address is listed twice.
    #[error("{0} is listed twice: name each master once")]
    Twice(String),
}

impl Masters {
    /// Parses a list of addresses; one without a port gets [`DEFAULT_PORT`].
    ///
    /// # Errors
    /// [`InvalidMasters`] names the part and the rule that it violates.
    pub fn new<T: AsRef<str>>(parts: impl IntoIterator<Item = T>) -> Result<Self, InvalidMasters> {
        let mut all: Vec<String> = Vec::new();
        for part in parts {
            let address = address(part.as_ref().trim())?;
            if all.contains(&address) {
                return Err(InvalidMasters::Twice(address));
            }
            all.push(address);
        }
        if all.is_empty() {
            return Err(InvalidMasters::Empty);
        }
        Ok(Self(all))
    }

    /// Returns the addresses, in the given order.
    #[must_use]
    pub fn addresses(&self) -> &[String] {
        &self.0
    }
}

impl FromStr for Masters {
    type Err = InvalidMasters;

    fn from_str(text: &str) -> Result<Self, InvalidMasters> {
        if text.trim().is_empty() {
            return Err(InvalidMasters::Empty);
        }
        Self::new(text.split(','))
    }
}

impl fmt::Display for Masters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

fn address(part: &str) -> Result<String, InvalidMasters> {
    let wrong = |rule| InvalidMasters::Address {
        part: part.chars().take(64).collect(),
        rule,
    };
    if part.is_empty() {
        return Err(wrong("it is empty; is there a comma too many?"));
    }
    if part.contains("://") {
        return Err(wrong("write host:port, without a scheme such as http://"));
    }
    let (host, port) = match part.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest
                .split_once(']')
                .ok_or_else(|| wrong("the ] is missing"))?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(wrong("only an IPv6 address goes in brackets"));
            }
            let port = after.strip_prefix(':');
            if port.is_none() && !after.is_empty() {
                return Err(wrong("only :port follows the ]"));
            }
            (format!("[{host}]"), port)
        }
        None if part.matches(':').count() > 1 => {
            return Err(wrong("put an IPv6 address in brackets, as [::1]:5050"));
        }
        None => match part.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (part.to_owned(), None),
        },
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if host.is_empty() || !host.bytes().all(plain) {
        return Err(wrong("a host is a name or an IP address"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(text) => match text.parse::<u16>() {
            Ok(port) if port > 0 => port,
            Ok(_) | Err(_) => return Err(wrong("a port is a number from 1 to 65535")),
        },
    };
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_round_trip_with_default_ports() {
        let masters: Masters = "10.0.0.1:5051, m2 ,[::1]:7".parse().unwrap();
        assert_eq!(masters.to_string(), "10.0.0.1:5051,m2:5050,[::1]:7");
    }

    #[test]
    fn an_invalid_address_is_rejected_with_part_and_remedy() {
        for (bad, expected) in [
            ("", "no master is named"),
            ("a:5050,,b:5050", "comma too many"),
            ("http://a:5050", "without a scheme"),
            ("a:0", "1 to 65535"),
            ("a:99999", "1 to 65535"),
            ("a:x", "1 to 65535"),
            ("::1", "in brackets"),
            ("[::1:5050", "] is missing"),
            ("[a]:1", "only an IPv6"),
            ("[::1]5050", "only :port follows"),
            (":5050", "a host is"),
            ("a b:1", "a host is"),
            ("a:1,a:1", "listed twice"),
        ] {
            let error = bad.parse::<Masters>().unwrap_err().to_string();
            assert!(error.contains(expected), "{bad:?}: {error}");
        }
    }
}
