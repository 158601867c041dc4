//! The amount of one resource: a scalar, ranges or a set, always in normal form.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::limits;

/// An inclusive range of whole numbers, from `begin` to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// The first number.
    pub begin: u64,
    /// The last number; not below `begin`.
    pub end: u64,
}

/// The amount of a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Thousandths of the unit; never negative.
    Scalar(i64),
    /// Ranges that are ascending, disjoint and not adjacent.
    Ranges(Vec<Range>),
    /// A set of distinct items.
    Set(BTreeSet<Arc<str>>),
}

impl Value {
    /// Returns the normal form. Returns `None` if a scalar is negative or too large, or a range
    /// ends before it begins or overlaps another.
    pub(crate) fn normal(self) -> Option<Self> {
        match self {
            Self::Scalar(milli) => (0..=limits::SCALAR_MILLI)
                .contains(&milli)
                .then_some(Self::Scalar(milli)),
            Self::Ranges(ranges) => join(ranges).map(Self::Ranges),
            Self::Set(items) => Some(Self::Set(items)),
        }
    }

    /// Returns whether the amount is not empty and in normal form, whatever its size.
    pub(super) fn is_normal(&self) -> bool {
        match self {
            Self::Scalar(milli) => *milli > 0,
            Self::Ranges(ranges) => {
                let apart = |pair: &[Range]| {
                    let next = pair[0].end.checked_add(1);
                    next.is_some_and(|next| next < pair[1].begin)
                };
                !ranges.is_empty()
                    && ranges.iter().all(|range| range.begin <= range.end)
                    && ranges.windows(2).all(apart)
            }
            Self::Set(items) => !items.is_empty(),
        }
    }

    /// Returns whether the amount is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Scalar(milli) => *milli == 0,
            Self::Ranges(ranges) => ranges.is_empty(),
            Self::Set(items) => items.is_empty(),
        }
    }

    /// Returns the thousandths of a scalar; 0 for other kinds.
    #[must_use]
    pub fn scalar_milli(&self) -> i64 {
        match self {
            Self::Scalar(milli) => *milli,
            Self::Ranges(_) | Self::Set(_) => 0,
        }
    }

    pub(super) fn plus(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Scalar(a), Self::Scalar(b)) => a.checked_add(*b).map(Self::Scalar),
            (Self::Ranges(a), Self::Ranges(b)) => {
                join(a.iter().chain(b).copied().collect()).map(Self::Ranges)
            }
            (Self::Set(a), Self::Set(b)) => a.is_disjoint(b).then(|| Self::Set(a | b)),
            (Self::Scalar(_) | Self::Ranges(_) | Self::Set(_), _) => None,
        }
    }

    pub(super) fn minus(&self, other: &Self) -> Option<Self> {
        self.contains(other)
            .then(|| self.minus_saturating(other).unwrap_or(Self::Scalar(0)))
    }

    /// Returns the difference; `None` if it is empty.
    pub(super) fn minus_saturating(&self, other: &Self) -> Option<Self> {
        let rest = match (self, other) {
            (Self::Scalar(a), Self::Scalar(b)) => Self::Scalar((a - b).max(0)),
            (Self::Ranges(a), Self::Ranges(b)) => Self::Ranges(cut(a, b)),
            (Self::Set(a), Self::Set(b)) => Self::Set(a - b),
            (Self::Scalar(_) | Self::Ranges(_) | Self::Set(_), _) => self.clone(),
        };
        (!rest.is_empty()).then_some(rest)
    }

    pub(super) fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Scalar(a), Self::Scalar(b)) => a >= b,
            (Self::Ranges(a), Self::Ranges(b)) => {
                let mut whole = a.as_slice();
                b.iter().all(|part| {
                    whole = from(whole, part.begin);
                    whole
                        .first()
                        .is_some_and(|whole| whole.begin <= part.begin && part.end <= whole.end)
                })
            }
            (Self::Set(a), Self::Set(b)) => b.is_subset(a),
            (Self::Scalar(_) | Self::Ranges(_) | Self::Set(_), _) => false,
        }
    }
}

/// Sorts ranges and joins adjacent ones. Returns `None` if two overlap or one is inverted.
fn join(mut ranges: Vec<Range>) -> Option<Vec<Range>> {
    ranges.sort_unstable();
    let mut joined: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if range.end < range.begin {
            return None;
        }
        match joined.last_mut() {
            Some(last) if range.begin <= last.end => return None,
            Some(last) if range.begin == last.end + 1 => last.end = range.end,
            _ => joined.push(range),
        }
    }
    Some(joined)
}

/// Returns the rest of ranges in normal form, without those that end before `begin`.
fn from(ranges: &[Range], begin: u64) -> &[Range] {
    let before = ranges.iter().take_while(|range| range.end < begin).count();
    &ranges[before..]
}

/// Returns `whole` without `parts`; both are in normal form. Takes linear time: a framework decides
/// how many there are.
fn cut(whole: &[Range], mut parts: &[Range]) -> Vec<Range> {
    let mut rest = Vec::with_capacity(whole.len());
    for range in whole {
        let mut begin = Some(range.begin);
        parts = from(parts, range.begin);
        for part in parts.iter().take_while(|part| part.begin <= range.end) {
            let Some(from) = begin else { break };
            if part.begin > from {
                rest.push(Range {
                    begin: from,
                    end: part.begin - 1,
                });
            }
            begin = part.end.checked_add(1).filter(|next| *next <= range.end);
        }
        if let Some(begin) = begin {
            rest.push(Range {
                begin,
                end: range.end,
            });
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Returns the normal form of these numbers.
    fn ranges(numbers: &BTreeSet<u64>) -> Vec<Range> {
        let single = |number: &u64| Range {
            begin: *number,
            end: *number,
        };
        join(numbers.iter().map(single).collect()).unwrap()
    }

    proptest! {
        #[test]
        fn ranges_are_those_of_their_numbers(
            mut whole in prop::collection::btree_set(0_u64..24, 0..24),
            parts in prop::collection::btree_set(0_u64..24, 0..24),
            has_last in any::<bool>(),
        ) {
            if has_last {
                whole.insert(u64::MAX);
            }
            let (a, b) = (Value::Ranges(ranges(&whole)), Value::Ranges(ranges(&parts)));
            prop_assert_eq!(a.contains(&b), parts.is_subset(&whole));
            let rest = Value::Ranges(ranges(&(&whole - &parts)));
            prop_assert_eq!(a.minus_saturating(&b).unwrap_or(Value::Ranges(Vec::new())), rest);
        }
    }
}
