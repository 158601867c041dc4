//! Results of commands: exit codes, and the message of each failure.
//!
//! Every command returns a [`Failure`]; only `lib` prints it and exits.

use std::fmt;

/// The result of a command. A success carries its exit code.
pub(crate) type VerbResult = Result<u8, Failure>;

/// The exit code of a success.
pub(crate) const DONE: u8 = 0;
/// The exit code of an attached `run` whose task never started.
pub(crate) const NEVER_STARTED: u8 = 125;

/// The closed set of exit codes for failures, which is part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureCode {
    /// The attempt failed.
    Failed = 1,
    /// The command line is invalid.
    Usage = 2,
    /// The named object does not exist.
    NotFound = 3,
    /// The cluster rejected the call: permission or precondition.
    Refused = 4,
    /// No answer, or no leader: the outcome of a change is unknown.
    Unavailable = 5,
    /// No agent took the task within the given time.
    NotPlaced = 6,
}

impl FailureCode {
    /// Returns the identifier in JSON errors.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not-found",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::NotPlaced => "not-placed",
        }
    }
}

/// A failure for display: what happened, then one next step per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: FailureCode,
    pub(crate) message: String,
    pub(crate) advice: Vec<String>,
}

impl Failure {
    pub(crate) fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            advice: Vec::new(),
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(FailureCode::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(FailureCode::Usage, message)
    }

    /// Adds a next step.
    pub(crate) fn advise(mut self, step: impl Into<String>) -> Self {
        self.advice.push(step.into());
        self
    }

    /// Converts an error with all its causes to one message.
    pub(crate) fn of(error: &dyn std::error::Error) -> Self {
        Self::failed(chain(error))
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        for step in &self.advice {
            write!(formatter, "\n  {step}")?;
        }
        Ok(())
    }
}

/// Returns the messages of an error and of its causes, without repetition.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes = [
            FailureCode::Failed,
            FailureCode::Usage,
            FailureCode::NotFound,
            FailureCode::Refused,
            FailureCode::Unavailable,
            FailureCode::NotPlaced,
        ];
        assert_eq!(codes.map(|code| code as u8), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn an_error_chain_contains_each_cause_once() {
        let error = anyhow::anyhow!("connection refused")
            .context("cannot reach 10.0.0.1:5050: connection refused")
            .context("no master answers");
        assert_eq!(
            chain(error.as_ref()),
            "no master answers: cannot reach 10.0.0.1:5050: connection refused"
        );
    }

    #[test]
    fn advice_follows_the_message() {
        let failure = Failure::usage("no").advise("do this").advise("or that");
        assert_eq!(failure.to_string(), "no\n  do this\n  or that");
    }
}
