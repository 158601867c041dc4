//! The error for an invalid request.

/// The error for an invalid launch request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} is not valid: {remedy}")]
pub struct SpecError {
    /// The invalid field.
    pub field: &'static str,
    /// Its value, truncated to 100 characters.
    pub value: String,
    pub remedy: String,
}

impl SpecError {
    pub(crate) fn new(field: &'static str, value: &str, remedy: &str) -> Self {
        let mut cut: String = value.chars().take(100).collect();
        if cut.len() < value.len() {
            cut.push('…');
        }
        Self {
            field,
            value: cut,
            remedy: remedy.to_owned(),
        }
    }
}
