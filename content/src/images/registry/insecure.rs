//! Registries that are contacted without TLS.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::fetcher::FetchAllow;

/// A registry that the operator trusts at any address, and that is contacted without TLS: one
/// `--insecure-registry`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsecureRegistry {
    server: FetchAllow,
}

/// The error for text that is not a valid registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a registry; write registry.example, registry.example:5000 or [fd00::7]:5000"
)]
pub struct InvalidRegistry {
    pub text: String,
}

impl FromStr for InsecureRegistry {
    type Err = InvalidRegistry;

    /// The default port is that of HTTP.
    fn from_str(text: &str) -> Result<Self, InvalidRegistry> {
        let invalid = || InvalidRegistry {
            text: text.to_owned(),
        };
        let is_port = |end: &str| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit());
        let has_port = text.rsplit_once(':').is_some_and(|(_, end)| is_port(end));
        let server = match has_port {
            true => text.parse(),
            false => format!("{text}:80").parse(),
        };
        match server.map_err(|_| invalid())? {
            server @ FetchAllow::Server { .. } => Ok(Self { server }),
            FetchAllow::Network { .. } => Err(invalid()),
        }
    }
}

impl InsecureRegistry {
    /// Returns its address.
    #[must_use]
    pub fn server(&self) -> &FetchAllow {
        &self.server
    }
}
