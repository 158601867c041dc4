//! The model: a register with read, write, compare-and-set and delete.

use crate::history::{Operation, OperationResponse};

/// The known effect of a call on a register. `None` is an absent register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterOp<'a> {
    /// It read this value.
    Read(Option<&'a str>),
    /// It wrote this value.
    Write(Option<&'a str>),
    /// A compare-and-set.
    Swap {
        /// The expected value.
        expected: Option<&'a str>,
        /// The new value.
        value: Option<&'a str>,
        /// Whether the value was set; `None` if that is unknown.
        swapped: Option<bool>,
    },
}

/// One call on a register. Its beginning and end are positions in one order of all beginnings and
/// ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterCall<'a> {
    /// The position of its beginning.
    pub start: usize,
    /// The position of its end; `None` if it may still take place.
    pub end: Option<usize>,
    pub action: RegisterOp<'a>,
}

impl<'a> RegisterOp<'a> {
    /// Returns the new value, if this action is possible on a register that holds `state`.
    #[must_use]
    pub fn apply(self, state: Option<&'a str>) -> Option<Option<&'a str>> {
        match self {
            Self::Read(found) => (found == state).then_some(state),
            Self::Write(value) => Some(value),
            Self::Swap {
                expected,
                value,
                swapped,
            } => {
                let swaps = expected == state;
                let after = if swaps { value } else { state };
                swapped.is_none_or(|known| known == swaps).then_some(after)
            }
        }
    }
}

/// Returns the effect of a call; `None` if there is nothing to check.
pub(super) fn action<'a>(
    operation: &'a Operation,
    outcome: Option<&'a OperationResponse>,
) -> Option<RegisterOp<'a>> {
    match (operation, outcome) {
        (Operation::Read { .. }, Some(OperationResponse::Value { value })) => {
            Some(RegisterOp::Read(value.as_deref()))
        }
        (Operation::Write { value, .. }, _) => Some(RegisterOp::Write(value.as_deref())),
        (
            Operation::CompareAndSet {
                expected, value, ..
            },
            outcome,
        ) => Some(RegisterOp::Swap {
            expected: expected.as_deref(),
            value: value.as_deref(),
            swapped: match outcome {
                Some(OperationResponse::Swapped { swapped }) => Some(*swapped),
                _ => None,
            },
        }),
        _ => None,
    }
}
