//! Ids of containers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reserved name of the group of the launcher and the supervisors, a sibling of the containers'
/// groups.
pub const SUPERVISORS: &str = "supervisors";

/// A container's id: one file name of 1 to 128 letters, digits, `.`, `_`, `-`, not starting with
/// `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// The error for a name that is no container id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "id {value:?} is not valid: use 1 to 128 letters, digits, '.', '_' or '-', not beginning with '.'"
)]
pub struct ContainerIdError {
    /// The name, truncated to 100 characters.
    pub value: String,
}

impl ContainerIdError {
    fn of(name: &str) -> Self {
        let mut value: String = name.chars().take(100).collect();
        if value.len() < name.len() {
            value.push('…');
        }
        Self { value }
    }
}

impl ContainerId {
    /// Validates the name. `supervisors` is reserved for the tree itself.
    ///
    /// # Errors
    /// With the name and the rule for names.
    pub fn new(name: impl Into<String>) -> Result<Self, ContainerIdError> {
        let name = name.into();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=128).contains(&name.len()) && name.bytes().all(allowed);
        if !fits || name.starts_with('.') || name == SUPERVISORS {
            return Err(ContainerIdError::of(&name));
        }
        Ok(Self(name))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContainerId {
    type Error = ContainerIdError;

    fn try_from(name: String) -> Result<Self, ContainerIdError> {
        Self::new(name)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_id_is_one_plain_file_name() {
        for bad in ["", ".", "..", "a/b", ".hidden", "a b", "supervisors", "ü"] {
            assert!(ContainerId::new(bad).is_err(), "{bad:?}");
        }
        let long = ContainerId::new("x".repeat(129)).unwrap_err();
        assert_eq!(long.value, format!("{}…", "x".repeat(100)));
        assert!(serde_json::from_str::<ContainerId>("\"../up\"").is_err());
        assert_eq!(ContainerId::new("a-1_B.c").unwrap().as_str(), "a-1_B.c");
    }
}
