//! The sum of many resources from an untrusted source, in n log n.
//!
//! [`Resources::add`] copies the amount to which it adds, so that its repetition takes quadratic
//! time.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Range, Resource, ResourceIdentity, Resources, Value};

/// A sum of resources that more are added to.
#[derive(Debug, Default)]
pub struct ResourceSum {
    amounts: BTreeMap<ResourceIdentity, Amount>,
}

/// A [`Value`] to which another is added in logarithmic time.
#[derive(Debug)]
enum Amount {
    Scalar(i64),
    /// The last number of each range by its first. Ranges are disjoint and not adjacent.
    Ranges(BTreeMap<u64, u64>),
    Set(BTreeSet<Arc<str>>),
}

impl ResourceSum {
    /// Adds one resource. An empty amount changes nothing. Returns `None` on the conditions of
    /// [`Resources::add`]; the sum then has no further use.
    pub fn add(&mut self, part: Resource) -> Option<()> {
        let value = part.value.normal()?;
        if value.is_empty() {
            return Some(());
        }
        match self.amounts.entry(part.identity) {
            Entry::Vacant(place) => {
                place.insert(Amount::of(value));
                Some(())
            }
            Entry::Occupied(mut sum) => sum.get_mut().add(value),
        }
    }

    /// Returns the resources that were added.
    #[must_use]
    pub fn finish(self) -> Resources {
        let amounts = self.amounts.into_iter();
        let entries = amounts.map(|(identity, amount)| Resource {
            identity,
            value: amount.value(),
        });
        Resources {
            entries: entries.collect(),
        }
    }
}

impl Amount {
    /// Returns an amount that is in normal form.
    fn of(value: Value) -> Self {
        match value {
            Value::Scalar(milli) => Self::Scalar(milli),
            Value::Ranges(ranges) => {
                let ranges = ranges.into_iter();
                Self::Ranges(ranges.map(|range| (range.begin, range.end)).collect())
            }
            Value::Set(items) => Self::Set(items),
        }
    }

    fn value(self) -> Value {
        match self {
            Self::Scalar(milli) => Value::Scalar(milli),
            Self::Ranges(ranges) => {
                let ranges = ranges.into_iter();
                Value::Ranges(ranges.map(|(begin, end)| Range { begin, end }).collect())
            }
            Self::Set(items) => Value::Set(items),
        }
    }

    fn add(&mut self, value: Value) -> Option<()> {
        match (self, value) {
            (Self::Scalar(sum), Value::Scalar(milli)) => *sum = sum.checked_add(milli)?,
            (Self::Ranges(all), Value::Ranges(ranges)) => {
                for range in ranges {
                    insert(all, range)?;
                }
            }
            (Self::Set(all), Value::Set(items)) => {
                for item in items {
                    all.insert(item).then_some(())?;
                }
            }
            (Self::Scalar(_) | Self::Ranges(_) | Self::Set(_), _) => return None,
        }
        Some(())
    }
}

/// Adds a range and joins it with those that it touches. Returns `None` if it overlaps one.
fn insert(ranges: &mut BTreeMap<u64, u64>, range: Range) -> Option<()> {
    let Range { mut begin, mut end } = range;
    if let Some((before, last)) = ranges.range(..=end).next_back() {
        if *last >= begin {
            return None;
        }
        if last + 1 == begin {
            begin = *before;
        }
    }
    if let Some(last) = end.checked_add(1).and_then(|next| ranges.remove(&next)) {
        end = last;
    }
    ranges.insert(begin, end);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::SCALAR_MILLI;

    /// Returns a resource of one of two names. Its amount may be empty, malformed or at a bound.
    fn part() -> impl Strategy<Value = Resource> {
        let begin = prop_oneof![9 => 0_u64..40, 1 => u64::MAX - 2..=u64::MAX];
        let range = (begin, 0_u64..4).prop_map(|(begin, more)| Range {
            begin,
            end: begin.wrapping_add(more),
        });
        let milli =
            prop_oneof![9 => 0_i64..3, 1 => -1_i64..0, 1 => SCALAR_MILLI - 1..SCALAR_MILLI + 2];
        let item = prop::sample::select(vec!["t", "u", "v", "w", "x", "y", "z"]);
        let value = prop_oneof![
            milli.prop_map(Value::Scalar),
            prop::collection::vec(range, 0..3).prop_map(Value::Ranges),
            prop::collection::btree_set(item.prop_map(Arc::from), 0..3).prop_map(Value::Set),
        ];
        (prop::bool::ANY, value).prop_map(|(is_first, value)| Resource {
            identity: ResourceIdentity::plain(if is_first { "a" } else { "b" }),
            value,
        })
    }

    proptest! {
        #[test]
        fn a_sum_is_that_of_its_parts_one_by_one(
            parts in prop::collection::vec(part(), 0..8),
        ) {
            let mut sum = ResourceSum::default();
            let mut one_by_one = Resources::none();
            for part in &parts {
                let added = one_by_one.add(part);
                prop_assert_eq!(sum.add(part.clone()), added);
                if added.is_none() {
                    return Ok(());
                }
            }
            let sum = sum.finish();
            prop_assert_eq!(&sum, &one_by_one);
            let bounded = sum.iter().all(|entry| entry.value.scalar_milli() <= SCALAR_MILLI);
            prop_assert_eq!(Resources::collect(parts), bounded.then_some(one_by_one));
            prop_assert_eq!(Resources::from_normal(sum.entries.clone()), Some(sum));
        }
    }
}
