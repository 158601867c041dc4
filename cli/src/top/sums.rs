//! Sums of resources by kind.

use argosy_proto::v1;
use argosy_proto::v1::resource::Value;

/// Amounts by kind, in thousandths. Ports and items of sets count as one each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Amounts(Vec<(Box<str>, i64)>);

impl Amounts {
    pub(super) const NONE: Self = Self(Vec::new());

    /// Adds up resources of the same kind.
    pub(super) fn of(resources: &[v1::Resource]) -> Self {
        let mut sum = Self::default();
        for resource in resources {
            sum.change(&resource.name, amount(resource));
        }
        sum
    }

    /// Returns the amount of a kind.
    pub(super) fn get(&self, kind: &str) -> i64 {
        let found = self.0.iter().find(|(name, _)| **name == *kind);
        found.map_or(0, |(_, amount)| *amount)
    }

    /// Returns the kinds with an amount.
    pub(super) fn kinds(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, others: &Self) {
        others
            .0
            .iter()
            .for_each(|(name, by)| self.change(name, *by));
    }

    pub(super) fn subtract(&mut self, others: &Self) {
        let others = others.0.iter();
        others.for_each(|(name, by)| self.change(name, by.saturating_neg()));
    }

    /// Returns the largest share in the total of a kind, in thousandths; `None` if no total is
    /// known. Usage beyond the total counts as all of it.
    pub(super) fn dominant_share(&self, total: &Self) -> Option<i64> {
        if total.is_empty() {
            return None;
        }
        let shares = self.0.iter().map(|(name, used)| match total.get(name) {
            ..=0 => 1_000,
            total => {
                let share = i128::from(*used) * 1_000 / i128::from(total);
                i64::try_from(share.clamp(0, 1_000)).unwrap_or(1_000)
            }
        });
        Some(shares.max().unwrap_or(0))
    }

    /// Kinds without an amount are not kept.
    fn change(&mut self, kind: &str, by: i64) {
        match self.0.iter().position(|(name, _)| **name == *kind) {
            Some(at) => {
                let amount = &mut self.0[at].1;
                *amount = amount.saturating_add(by);
                if *amount == 0 {
                    self.0.swap_remove(at);
                }
            }
            None if by != 0 => self.0.push((kind.into(), by)),
            None => {}
        }
    }
}

fn amount(resource: &v1::Resource) -> i64 {
    match &resource.value {
        Some(Value::ScalarMilli(milli)) => *milli,
        Some(Value::Ranges(ranges)) => {
            let lengths = ranges.range.iter().map(|range| {
                let length = range.end.saturating_sub(range.begin).saturating_add(1);
                i64::try_from(length).unwrap_or(i64::MAX)
            });
            let count = lengths.fold(0, i64::saturating_add);
            count.saturating_mul(1_000)
        }
        Some(Value::Set(set)) => {
            let count = i64::try_from(set.item.len()).unwrap_or(i64::MAX);
            count.saturating_mul(1_000)
        }
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_exact_and_have_no_kinds_without_an_amount() {
        let of = |text: &str| Amounts::of(&argosy_client::resources::resources(text).unwrap());
        let mut sum = of("cpus:0.5;mem:64;ports:[31000-31009]");
        assert_eq!(sum.get("ports"), 10_000);
        sum.add(&of("cpus:1.5"));
        assert_eq!(sum.get("cpus"), 2_000);
        sum.subtract(&of("cpus:2;ports:[1-10]"));
        assert_eq!(sum, of("mem:64"));
        assert_eq!(sum.dominant_share(&of("cpus:4;mem:256")), Some(250));
        assert_eq!(sum.dominant_share(&of("cpus:4")), Some(1_000));
        assert_eq!(sum.dominant_share(&Amounts::default()), None);
        assert_eq!(Amounts::default().dominant_share(&of("cpus:4")), Some(0));
    }

    #[test]
    fn amounts_out_of_range_are_bounded() {
        let ranges = v1::Ranges {
            range: vec![
                v1::Range {
                    begin: 0,
                    end: u64::MAX,
                },
                v1::Range { begin: 5, end: 1 },
            ],
        };
        let resource = v1::Resource {
            value: Some(Value::Ranges(ranges)),
            ..v1::Resource::default()
        };
        let mut sum = Amounts::of(&[resource.clone(), resource]);
        assert_eq!(sum.get(""), i64::MAX);
        sum.add(&sum.clone());
        assert_eq!(sum.dominant_share(&sum), Some(1_000));
    }
}
