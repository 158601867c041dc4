//! Sums of scalars by name, over many bundles: the usage that fairness is based on.
//!
//! The sums are exact, because the same bundles are added and subtracted. Ports and sets have no
//! cluster-wide sum.

use std::sync::Arc;

use argosy_state::resources::{Resources, Value};

/// Thousandths by resource name; names without a remainder are dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceSums {
    sums: Vec<(Arc<str>, i64)>,
}

impl ResourceSums {
    /// Returns the sums, ascending by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.sums.iter().map(|(name, milli)| (&**name, *milli))
    }

    /// Returns whether every sum is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Returns the thousandths of `name`.
    #[must_use]
    pub fn milli(&self, name: &str) -> i64 {
        self.iter()
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, milli)| milli)
    }

    pub(crate) fn add(&mut self, resources: &Resources) {
        self.count(resources, 1);
    }

    pub(crate) fn take(&mut self, resources: &Resources) {
        self.count(resources, -1);
        self.sums.retain(|(_, milli)| *milli != 0);
    }

    /// Adds or subtracts a bundle. Both inputs are ascending by name, so one pass suffices.
    fn count(&mut self, resources: &Resources, sign: i64) {
        let mut at = 0;
        for resource in resources {
            let Value::Scalar(milli) = resource.value else {
                continue;
            };
            let name = &resource.identity.name;
            while self.sums.get(at).is_some_and(|(known, _)| known < name) {
                at += 1;
            }
            match self.sums.get_mut(at).filter(|(known, _)| known == name) {
                Some((_, sum)) => *sum += sign * milli,
                None => self.sums.insert(at, (Arc::clone(name), sign * milli)),
            }
        }
    }
}
