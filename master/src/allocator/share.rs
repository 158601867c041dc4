//! Dominant shares in exact integers: amounts by kind, what the cluster has, and their order.
//!
//! No floats: two shares are compared by cross-multiplication, so equal shares are equal.

use std::cmp::Ordering;
use std::sync::Arc;

use argosy_state::resources::{Resources, Value};

use crate::offers::Tally;

/// Kinds of resources that count for fairness: the four well-known ones, then custom scalars in the
/// order in which agents brought them. Further ones are offered but not counted.
pub(super) const KINDS: usize = 8;

/// Thousandths by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Amounts(pub(super) [i64; KINDS]);

impl Amounts {
    pub(super) fn plus(self, other: Self) -> Self {
        let mut sum = self;
        for (to, from) in sum.0.iter_mut().zip(other.0) {
            *to = to.saturating_add(from);
        }
        sum
    }

    pub(super) fn minus(self, other: Self) -> Self {
        let mut rest = self;
        for (to, from) in rest.0.iter_mut().zip(other.0) {
            *to = to.saturating_sub(from);
        }
        rest
    }

    /// Whether no kind is above `limit`.
    pub(super) fn within(self, limit: Self) -> bool {
        self.0.iter().zip(limit.0).all(|(have, most)| *have <= most)
    }
}

/// What has become of the cluster's totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// Nothing.
    No,
    /// Totals: every share is another.
    Totals,
    /// A new kind: every amount is another.
    Kinds,
}

/// The kinds that count, and how much of each the cluster has.
#[derive(Debug)]
pub(super) struct Kinds {
    names: Vec<Arc<str>>,
    totals: Amounts,
    seen: Resources,
}

impl Kinds {
    pub(super) fn new() -> Self {
        Self {
            names: ["cpus", "mem", "disk", "gpus"].map(Arc::from).to_vec(),
            totals: Amounts::default(),
            seen: Resources::none(),
        }
    }

    /// Takes the cluster's totals as they are now; unless `exactly`, only when a kind has moved by
    /// more than a hundredth.
    pub(super) fn update(&mut self, total: &Resources, exactly: bool) -> Moved {
        if *total == self.seen || !(exactly || self.has_drifted(total)) {
            return Moved::No;
        }
        self.seen = total.clone();
        let mut moved = Moved::Totals;
        for resource in total {
            let name = &resource.identity.name;
            let is_new = self.position(name).is_none();
            if is_new && self.names.len() < KINDS && matches!(resource.value, Value::Scalar(_)) {
                self.names.push(Arc::clone(name));
                moved = Moved::Kinds;
            }
        }
        self.totals = self.amounts(total);
        moved
    }

    fn has_drifted(&self, total: &Resources) -> bool {
        let now = self.amounts(total);
        let far = |(now, known): (&i64, i64)| now.abs_diff(known) > known.unsigned_abs() / 100;
        now.0.iter().zip(self.totals.0).any(far)
    }

    pub(super) fn amounts(&self, resources: &Resources) -> Amounts {
        let mut amounts = Amounts::default();
        for resource in resources {
            if let Some(at) = self.position(&resource.identity.name) {
                amounts.0[at] = amounts.0[at].saturating_add(resource.value.scalar_milli());
            }
        }
        amounts
    }

    pub(super) fn tallied(&self, tally: Option<&Tally>) -> Amounts {
        let mut amounts = Amounts::default();
        for (name, milli) in tally.into_iter().flat_map(Tally::iter) {
            if let Some(at) = self.position(name) {
                amounts.0[at] = milli;
            }
        }
        amounts
    }

    /// A limit: kinds that it does not name are unlimited.
    pub(super) fn limit(&self, resources: &Resources) -> Amounts {
        let mut limit = Amounts([i64::MAX; KINDS]);
        for resource in resources {
            if let Some(at) = self.position(&resource.identity.name) {
                limit.0[at] = resource.value.scalar_milli();
            }
        }
        limit
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| **known == *name)
    }

    /// The largest part of any kind: how much of it, and how much there is.
    fn dominant(&self, amounts: &Amounts) -> (u64, u64) {
        let (mut most, mut whole) = (0_u64, 1_u64);
        for (amount, total) in amounts.0.iter().zip(self.totals.0).take(self.names.len()) {
            if *amount <= 0 {
                continue;
            }
            let (amount, total) = (amount.unsigned_abs(), total.max(1).unsigned_abs());
            if u128::from(amount) * u128::from(whole) > u128::from(most) * u128::from(total) {
                (most, whole) = (amount, total);
            }
        }
        (most, whole)
    }

    /// The share of who has `amounts`, under a weight in thousandths; `served` breaks ties.
    pub(super) fn share(&self, amounts: &Amounts, weight_milli: u64, served: u64) -> Share {
        let (amount, whole) = self.dominant(amounts);
        Share {
            amount,
            whole: u128::from(whole) * u128::from(weight_milli.max(1)),
            served,
        }
    }
}

/// A weighted dominant share, `amount / whole`; the smaller goes first, and of equals the one that
/// was served longer ago.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    amount: u64,
    whole: u128,
    served: u64,
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> Ordering {
        let shares = if self.whole == other.whole {
            self.amount.cmp(&other.amount)
        } else {
            wide(other.whole, self.amount).cmp(&wide(self.whole, other.amount))
        };
        shares.then(self.served.cmp(&other.served))
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Share {}

/// The product in 192 bits, high and low part: no size of cluster or weight overflows it.
fn wide(a: u128, b: u64) -> (u128, u64) {
    let b = u128::from(b);
    let low = (a & u128::from(u64::MAX)) * b;
    let high = (a >> 64) * b + (low >> 64);
    (high, (low & u128::from(u64::MAX)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(total: &str) -> Kinds {
        let mut kinds = Kinds::new();
        kinds.update(&total.parse().unwrap(), true);
        kinds
    }

    fn share(kinds: &Kinds, have: &str, weight_milli: u64) -> Share {
        kinds.share(&kinds.amounts(&have.parse().unwrap()), weight_milli, 0)
    }

    #[test]
    fn the_kind_of_which_most_is_held_decides() {
        let kinds = kinds("cpus:9;mem:18");
        // 1/9 of cpus and 4/18 of mem against 3/9 of cpus: the classic example of the DRF paper.
        assert!(share(&kinds, "cpus:1;mem:4", 1_000) < share(&kinds, "cpus:3;mem:1", 1_000));
        assert_eq!(
            share(&kinds, "mem:6", 1_000),
            share(&kinds, "cpus:3", 1_000)
        );
    }

    #[test]
    fn a_weight_divides_the_share() {
        let kinds = kinds("cpus:9;mem:18");
        assert_eq!(
            share(&kinds, "cpus:4", 2_000),
            share(&kinds, "cpus:2", 1_000)
        );
        assert!(share(&kinds, "cpus:4", 2_001) < share(&kinds, "cpus:2", 1_000));
    }

    #[test]
    fn shares_that_floats_cannot_tell_apart_are_told_apart() {
        let largest = i64::MAX;
        let mut kinds = Kinds::new();
        kinds.totals = Amounts([largest; KINDS]);
        let of = |amount, weight| kinds.share(&Amounts([amount; KINDS]), weight, 0);
        assert!(of(largest - 1, 1_000_000_000) < of(largest, 1_000_000_000));
        assert!(of(largest, 1_000_000_000) < of(largest, 999_999_999));
        assert!(of(1, 1_000_000_000) > of(0, 1));
    }

    #[test]
    fn small_moves_of_the_totals_wait_for_the_next_exact_look() {
        let mut kinds = kinds("cpus:1000;mem:1000");
        let update = |kinds: &mut Kinds, total: &str, exactly| {
            kinds.update(&total.parse().unwrap(), exactly)
        };
        assert_eq!(update(&mut kinds, "cpus:1010;mem:1000", false), Moved::No);
        assert_eq!(
            update(&mut kinds, "cpus:1011;mem:1000", false),
            Moved::Totals
        );
        assert_eq!(
            update(&mut kinds, "cpus:1012;mem:1000", true),
            Moved::Totals
        );
        assert_eq!(update(&mut kinds, "cpus:1012;mem:1000", true), Moved::No);
    }

    #[test]
    fn a_custom_scalar_counts_and_the_ninth_kind_does_not() {
        let mut kinds = Kinds::new();
        let total = "cpus:1;a:1;b:1;c:1;d:1;e:1".parse().unwrap();
        assert_eq!(kinds.update(&total, true), Moved::Kinds);
        assert_eq!(kinds.update(&total, true), Moved::No);
        assert!(share(&kinds, "d:1", 1_000) > share(&kinds, "a:0.5", 1_000));
        assert_eq!(share(&kinds, "e:1", 1_000), share(&kinds, "", 1_000));
    }
}
