//! Values of secrets in memory: not shown by `Debug`, and erased when they are dropped.

use std::fmt;

use zeroize::Zeroizing;

use crate::v1;

/// A value of a secret. Its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Takes the value out of a message or a file, without a copy.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the value.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "[a secret of {} bytes]", self.0.len())
    }
}

/// The messages with values are written without them.
impl fmt::Debug for v1::SetSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value } = self;
        let bytes = format_args!("[a secret of {} bytes]", value.len()).to_string();
        out.debug_struct("SetSecret")
            .field("name", name)
            .field("value", &bytes)
            .finish()
    }
}

impl fmt::Debug for v1::TaskSecret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            value,
            refusal,
        } = self;
        let bytes = format_args!("[a secret of {} bytes]", value.len()).to_string();
        out.debug_struct("TaskSecret")
            .field("name", name)
            .field("value", &bytes)
            .field("refusal", refusal)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_shown() {
        let value = b"hunter2".to_vec();
        let set = v1::SetSecret {
            name: "web/db".to_owned(),
            value: value.clone(),
        };
        let sent = v1::TaskSecret {
            name: "web/db".to_owned(),
            value: value.clone(),
            refusal: String::new(),
        };
        let operation = v1::write_operation::Operation::SetSecret(set.clone());
        let shown = [
            format!("{:?}", SecretValue::new(value)),
            format!("{set:?}"),
            format!("{sent:?}"),
            format!("{operation:?}"),
        ];
        for text in shown {
            assert!(text.contains("secret of 7 bytes"), "{text}");
            // Neither as text nor as the numbers of its bytes.
            assert!(
                !text.contains("hunter2") && !text.contains("104, 117"),
                "{text}"
            );
        }
    }
}
