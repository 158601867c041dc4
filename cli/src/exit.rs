//! How a verb ends: exit codes and the sentence that goes with each failure.
//!
//! Every verb returns a [`Failure`]; only `lib` prints it and ends the process.

use std::fmt;

/// What a verb that did not fail says to the shell.
pub(crate) type Ended = Result<u8, Failure>;

/// Done.
pub(crate) const DONE: u8 = 0;
/// An attached `run` whose task never started.
pub(crate) const NEVER_STARTED: u8 = 125;

/// The closed set of exit codes for failures; part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// It was tried, and failed.
    Failed = 1,
    /// What was typed cannot be right.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// The cluster refused: permission or precondition.
    Refused = 4,
    /// Nobody answered, or nobody leads: the outcome of a change is unknown.
    Unavailable = 5,
    /// No agent took the task in the time given.
    NotPlaced = 6,
}

impl Code {
    /// The machine's word for it, in JSON errors.
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

/// A failure as a person reads it: what happened, then one next step a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) advice: Vec<String>,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            advice: Vec::new(),
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Code::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// Adds a next step.
    pub(crate) fn advise(mut self, step: impl Into<String>) -> Self {
        self.advice.push(step.into());
        self
    }

    /// An error with all its causes in one sentence.
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

/// The message of an error and of its causes, each said once.
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
            Code::Failed,
            Code::Usage,
            Code::NotFound,
            Code::Refused,
            Code::Unavailable,
            Code::NotPlaced,
        ];
        assert_eq!(codes.map(|code| code as u8), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_chain_says_each_cause_once() {
        let error = anyhow::anyhow!("connection refused")
            .context("cannot reach 10.0.0.1:5050: connection refused")
            .context("no master answers");
        assert_eq!(
            chain(error.as_ref()),
            "no master answers: cannot reach 10.0.0.1:5050: connection refused"
        );
    }

    #[test]
    fn advice_stands_below_the_message() {
        let failure = Failure::usage("no").advise("do this").advise("or that");
        assert_eq!(failure.to_string(), "no\n  do this\n  or that");
    }
}
