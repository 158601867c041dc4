//! The model: a register that is read, set, set if it holds something, and deleted.

use crate::history::{Operation, Outcome};

/// What a call did to a register, as far as is known. `None` is a register that is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// Found this.
    Read(Option<&'a str>),
    /// Left this.
    Write(Option<&'a str>),
    /// Set if it held what was expected.
    Swap {
        /// What it should hold.
        expected: Option<&'a str>,
        /// What it was to hold then.
        value: Option<&'a str>,
        /// Whether it has set; `None` if nobody knows.
        swapped: Option<bool>,
    },
}

/// One call on a register. Beginning and end are places in one order of all beginnings and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'a> {
    /// Where it began.
    pub begun: usize,
    /// Where it ended; `None` if it may still take place.
    pub ended: Option<usize>,
    /// What it did.
    pub action: Action<'a>,
}

impl<'a> Action<'a> {
    /// What the register holds after this, if this can happen to a register that holds `state`.
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

/// What a call did; `None` if that is nothing that could be judged.
pub(super) fn action<'a>(
    operation: &'a Operation,
    outcome: Option<&'a Outcome>,
) -> Option<Action<'a>> {
    match (operation, outcome) {
        (Operation::Read { .. }, Some(Outcome::Value { value })) => {
            Some(Action::Read(value.as_deref()))
        }
        (Operation::Write { value, .. }, _) => Some(Action::Write(value.as_deref())),
        (
            Operation::CompareAndSet {
                expected, value, ..
            },
            outcome,
        ) => Some(Action::Swap {
            expected: expected.as_deref(),
            value: value.as_deref(),
            swapped: match outcome {
                Some(Outcome::Swapped { swapped }) => Some(*swapped),
                _ => None,
            },
        }),
        _ => None,
    }
}
