//! Messages with values of secrets: `Debug` does not show the values.

use std::fmt;

pub use argosy_host::secret_value::SecretValue;

use crate::v1;

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

impl fmt::Debug for v1::IssueCertificateRequest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            token,
            request,
            joining_address,
        } = self;
        let bytes = format_args!("[a token of {} bytes]", token.len()).to_string();
        out.debug_struct("IssueCertificateRequest")
            .field("token", &bytes)
            .field("request", request)
            .field("joining_address", joining_address)
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
            value,
            refusal: String::new(),
        };
        let operation = v1::write_operation::Operation::SetSecret(set.clone());
        let shown = [
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
