//! Dominant shares in exact integers: amounts by kind, the cluster's totals, and the order of
//! shares.
//!
//! There are no floats: two shares are compared by cross-multiplication, so equal shares are equal.

use std::cmp::Ordering;
use std::sync::Arc;

use argosy_state::resources::{Resources, Value};

use crate::offers::ResourceSums;

/// The number of kinds of resources that are stored in place. Clusters with more kinds pay an
/// allocation for the rest.
const IN_PLACE: usize = 8;

/// Amounts in thousandths by kind, in the order of [`ResourceKinds`]. Kinds after the last entry
/// have none.
#[derive(Debug, Clone, Default)]
pub(super) struct Amounts {
    first: [i64; IN_PLACE],
    /// Empty as long as all kinds fit in place.
    more: Vec<i64>,
}

impl Amounts {
    fn get(&self, at: usize) -> i64 {
        match at.checked_sub(IN_PLACE) {
            None => self.first[at],
            Some(at) => self.more.get(at).copied().unwrap_or(0),
        }
    }

    fn get_mut(&mut self, at: usize) -> &mut i64 {
        let Some(at) = at.checked_sub(IN_PLACE) else {
            return &mut self.first[at];
        };
        if self.more.len() <= at {
            self.more.resize(at + 1, 0);
        }
        &mut self.more[at]
    }

    fn iter(&self) -> impl Iterator<Item = i64> {
        self.first.iter().chain(&self.more).copied()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.merge(other, i64::saturating_add);
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        rest.merge(other, i64::saturating_sub);
        rest
    }

    fn merge(&mut self, other: &Self, with: impl Fn(i64, i64) -> i64) {
        for (to, from) in self.first.iter_mut().zip(other.first) {
            *to = with(*to, from);
        }
        for (at, from) in other.more.iter().enumerate() {
            let to = self.get_mut(IN_PLACE + at);
            *to = with(*to, *from);
        }
    }
}

impl PartialEq for Amounts {
    fn eq(&self, other: &Self) -> bool {
        let kinds = IN_PLACE + self.more.len().max(other.more.len());
        (0..kinds).all(|at| self.get(at) == other.get(at))
    }
}

impl Eq for Amounts {}

/// Maximum amounts of some kinds, by index; every other kind is unlimited.
#[derive(Debug, Clone, Default)]
pub(super) struct AmountLimit(Vec<(usize, i64)>);

impl AmountLimit {
    /// Returns whether the sum of `have` and `more` does not exceed the limit.
    pub(super) fn allows(&self, have: &Amounts, more: &Amounts) -> bool {
        let mut limits = self.0.iter();
        limits.all(|(at, most)| have.get(*at).saturating_add(more.get(*at)) <= *most)
    }
}

/// The kinds that every cluster counts.
const WELL_KNOWN: [&str; 4] = ["cpus", "mem", "disk", "gpus"];

/// The effect of an update of the cluster's totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TotalsChange {
    /// No change.
    None,
    /// The totals have changed, and with them every share.
    Totals,
    /// The kinds have changed, and with them every amount.
    Kinds,
}

/// The kinds that count, and the cluster's total of each.
#[derive(Debug, Clone)]
pub(super) struct ResourceKinds {
    /// The four well-known kinds, then custom scalars in the order in which agents introduced them.
    names: Vec<Arc<str>>,
    totals: Amounts,
    last_total: Resources,
}

impl ResourceKinds {
    pub(super) fn new() -> Self {
        Self {
            names: WELL_KNOWN.map(Arc::from).to_vec(),
            totals: Amounts::default(),
            last_total: Resources::none(),
        }
    }

    /// Stores the cluster's current totals; unless `exactly`, only when a kind has changed by more
    /// than a hundredth.
    pub(super) fn update(&mut self, total: &Resources, exactly: bool) -> TotalsChange {
        if *total == self.last_total || !(exactly || self.has_drifted(total)) {
            return TotalsChange::None;
        }
        self.last_total = total.clone();
        let scalars = total
            .iter()
            .filter(|resource| matches!(resource.value, Value::Scalar(_)));
        let names: Vec<&Arc<str>> = scalars.map(|resource| &resource.identity.name).collect();
        let has_new = names.iter().any(|name| self.position(name).is_none());
        if has_new {
            // Kinds without a remaining total release their slots.
            let is_known = |name: &Arc<str>| WELL_KNOWN.contains(&&**name);
            self.names
                .retain(|name| is_known(name) || names.contains(&name));
            for name in names {
                if self.position(name).is_none() {
                    self.names.push(Arc::clone(name));
                }
            }
        }
        self.totals = self.amounts(total);
        if has_new {
            TotalsChange::Kinds
        } else {
            TotalsChange::Totals
        }
    }

    fn has_drifted(&self, total: &Resources) -> bool {
        let now = self.amounts(total);
        let far = |(now, known): (i64, i64)| now.abs_diff(known) > known.unsigned_abs() / 100;
        let kinds = 0..self.names.len();
        kinds.map(|at| (now.get(at), self.totals.get(at))).any(far)
    }

    pub(super) fn amounts(&self, resources: &Resources) -> Amounts {
        let mut amounts = Amounts::default();
        for resource in resources {
            if let Some(at) = self.position(&resource.identity.name) {
                let amount = amounts.get_mut(at);
                *amount = amount.saturating_add(resource.value.scalar_milli());
            }
        }
        amounts
    }

    pub(super) fn tallied_amounts(&self, tally: Option<&ResourceSums>) -> Amounts {
        let mut amounts = Amounts::default();
        for (name, milli) in tally.into_iter().flat_map(ResourceSums::iter) {
            if let Some(at) = self.position(name) {
                *amounts.get_mut(at) = milli;
            }
        }
        amounts
    }

    /// Returns a limit that leaves kinds unlimited which `resources` does not name. A kind that the
    /// cluster does not have counts once an agent introduces it: then every limit is created again.
    pub(super) fn limit(&self, resources: &Resources) -> AmountLimit {
        let named = resources.iter().filter_map(|resource| {
            let at = self.position(&resource.identity.name)?;
            Some((at, resource.value.scalar_milli()))
        });
        AmountLimit(named.collect())
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| **known == *name)
    }

    /// Returns the largest fraction of any kind, as the amount and the total.
    fn dominant(&self, amounts: &Amounts) -> (u64, u64) {
        let (mut most, mut whole) = (0_u64, 1_u64);
        for (at, amount) in amounts.iter().enumerate().take(self.names.len()) {
            if amount <= 0 {
                continue;
            }
            let total = self.totals.get(at);
            let (amount, total) = (amount.unsigned_abs(), total.max(1).unsigned_abs());
            if u128::from(amount) * u128::from(whole) > u128::from(most) * u128::from(total) {
                (most, whole) = (amount, total);
            }
        }
        (most, whole)
    }

    /// Returns the share of an account with `amounts`, under a weight in thousandths; `served`
    /// breaks ties.
    pub(super) fn share(&self, amounts: &Amounts, weight_milli: u64, served: u64) -> DominantShare {
        let (amount, whole) = self.dominant(amounts);
        DominantShare {
            amount,
            total: u128::from(whole) * u128::from(weight_milli.max(1)),
            served,
        }
    }
}

/// A weighted dominant share, `amount / whole`. The smaller share goes first, and of equal shares
/// the one that was served longer ago.
#[derive(Debug, Clone, Copy)]
pub(super) struct DominantShare {
    amount: u64,
    total: u128,
    served: u64,
}

impl Ord for DominantShare {
    fn cmp(&self, other: &Self) -> Ordering {
        let shares = if self.total == other.total {
            self.amount.cmp(&other.amount)
        } else {
            wide(other.total, self.amount).cmp(&wide(self.total, other.amount))
        };
        shares.then(self.served.cmp(&other.served))
    }
}

impl PartialOrd for DominantShare {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for DominantShare {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for DominantShare {}

/// Returns the product in 192 bits as high and low part: no size of cluster or weight overflows it.
fn wide(a: u128, b: u64) -> (u128, u64) {
    let b = u128::from(b);
    let low = (a & u128::from(u64::MAX)) * b;
    let high = (a >> 64) * b + (low >> 64);
    (high, (low & u128::from(u64::MAX)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(total: &str) -> ResourceKinds {
        let mut kinds = ResourceKinds::new();
        kinds.update(&total.parse().unwrap(), true);
        kinds
    }

    fn share(kinds: &ResourceKinds, have: &str, weight_milli: u64) -> DominantShare {
        kinds.share(&kinds.amounts(&have.parse().unwrap()), weight_milli, 0)
    }

    #[test]
    fn dominant_kind_determines_the_share() {
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
    fn shares_equal_as_floats_are_distinguished() {
        let largest = i64::MAX;
        let mut kinds = ResourceKinds::new();
        let all = |amount| Amounts {
            first: [amount; IN_PLACE],
            more: Vec::new(),
        };
        kinds.totals = all(largest);
        let of = |amount, weight| kinds.share(&all(amount), weight, 0);
        assert!(of(largest - 1, 1_000_000_000) < of(largest, 1_000_000_000));
        assert!(of(largest, 1_000_000_000) < of(largest, 999_999_999));
        assert!(of(1, 1_000_000_000) > of(0, 1));
    }

    #[test]
    fn small_changes_of_totals_wait_for_an_exact_update() {
        let mut kinds = kinds("cpus:1000;mem:1000");
        let update = |kinds: &mut ResourceKinds, total: &str, exactly| {
            kinds.update(&total.parse().unwrap(), exactly)
        };
        assert_eq!(
            update(&mut kinds, "cpus:1010;mem:1000", false),
            TotalsChange::None
        );
        assert_eq!(
            update(&mut kinds, "cpus:1011;mem:1000", false),
            TotalsChange::Totals
        );
        assert_eq!(
            update(&mut kinds, "cpus:1012;mem:1000", true),
            TotalsChange::Totals
        );
        assert_eq!(
            update(&mut kinds, "cpus:1012;mem:1000", true),
            TotalsChange::None
        );
    }

    #[test]
    fn every_custom_scalar_counts_regardless_of_number() {
        let mut kinds = ResourceKinds::new();
        let names = (0..60).map(|number| format!(";kind-{number}:2"));
        let total = format!("cpus:1{}", names.collect::<String>())
            .parse()
            .unwrap();
        assert_eq!(kinds.update(&total, true), TotalsChange::Kinds);
        assert_eq!(kinds.update(&total, true), TotalsChange::None);
        assert!(share(&kinds, "kind-59:2", 1_000) > share(&kinds, "kind-3:1", 1_000));
        assert_eq!(
            share(&kinds, "kind-59:1", 1_000),
            share(&kinds, "cpus:0.5", 1_000)
        );
        let limit = kinds.limit(&"kind-59:1".parse().unwrap());
        let amounts = |text: &str| kinds.amounts(&text.parse().unwrap());
        assert!(limit.allows(&amounts("kind-59:0.5;cpus:9"), &amounts("kind-59:0.5")));
        assert!(!limit.allows(&amounts("kind-59:0.5"), &amounts("kind-59:0.501")));
        assert_eq!(
            amounts("kind-59:1").minus(&amounts("kind-59:1")),
            amounts("")
        );
    }

    #[test]
    fn removed_kind_frees_its_slot_for_a_new_kind() {
        let mut kinds = kinds("cpus:1;a:1");
        let update =
            |kinds: &mut ResourceKinds, total: &str| kinds.update(&total.parse().unwrap(), true);
        for number in 0..1_000 {
            update(&mut kinds, &format!("cpus:1;kind-{number}:1"));
        }
        assert_eq!(kinds.names.len(), 5);
        assert!(share(&kinds, "kind-999:1", 1_000) > share(&kinds, "cpus:0.9", 1_000));
        assert_eq!(share(&kinds, "a:1", 1_000), share(&kinds, "", 1_000));
    }
}
