//! Exact amounts of resources: the only implementation, shared by allocator, `apply` and agent.
//!
//! Scalars are integers in thousandths (Mesos' precision). Ranges and sets are kept in normal form.
//! Two resources add up only if they are equal in everything but their amounts.

mod fingerprint;
mod stored;
mod sum;
mod text;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use crate::codec::scalars::AsText;
use crate::collections::thin_vec::ThinVec;
use crate::ids::Role;

pub use sum::ResourceSum;
pub use text::{InvalidResources, scalar_milli};
pub use value::{Range, Value};

/// One level of a reservation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reservation {
    /// The role that the reservation is for.
    pub role: Role,
    /// The principal that made the reservation; empty if unknown.
    pub principal: String,
    /// Free text from the creator of the reservation.
    pub labels: BTreeMap<String, String>,
}

/// The identity of a volume on a disk resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeIdentity {
    /// The id, unique on its agent.
    pub id: String,
    /// The path of the volume in the container.
    pub container_path: String,
}

/// The attributes of a resource, without its amount.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceIdentity {
    /// The name: "cpus", "mem", "disk", "gpus", "ports" or a custom one.
    pub name: Arc<str>,
    /// The reservations, outermost first; empty means unreserved.
    pub reservations: ThinVec<Reservation>,
    /// The volume on the resource, if any.
    pub volume: Option<Box<VolumeIdentity>>,
    /// Whether it may be revoked at any time.
    pub revocable: bool,
    /// Whether several tasks may use it simultaneously.
    pub shared: bool,
}

impl ResourceIdentity {
    /// Returns an unreserved, unshared resource called `name`.
    #[must_use]
    pub fn plain(name: &str) -> Self {
        Self {
            name: shared_name(name),
            reservations: ThinVec::default(),
            volume: None,
            revocable: false,
            shared: false,
        }
    }
}

/// The names of most resources, each stored once.
static COMMON_NAMES: LazyLock<[Arc<str>; 5]> =
    LazyLock::new(|| ["cpus", "mem", "disk", "gpus", "ports"].map(Arc::from));

/// Returns a name of a resource. Common names share one allocation.
#[must_use]
pub fn shared_name(name: &str) -> Arc<str> {
    let usual = COMMON_NAMES.iter().find(|usual| &***usual == name);
    usual.map_or_else(|| name.into(), Arc::clone)
}

/// Nearly all stored texts of this type are names of resources.
impl AsText for Arc<str> {
    fn text(&self) -> &str {
        self
    }

    fn of(text: &str) -> Option<Self> {
        Some(shared_name(text))
    }
}

/// One resource: an identity and an amount that is never empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// The identity.
    pub identity: ResourceIdentity,
    /// The amount.
    pub value: Value,
}

/// A bundle of resources in normal form: ascending by identity, no empty amounts, one entry for
/// each identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Resources {
    entries: Vec<Resource>,
}

impl Resources {
    /// Returns the empty bundle.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Collects `parts` and adds up equal identities. Returns `None` if a name is used with two
    /// kinds of amount, a scalar is negative or above [`crate::limits::SCALAR_MILLI`], or ranges
    /// overlap.
    #[must_use]
    pub fn collect(parts: impl IntoIterator<Item = Resource>) -> Option<Self> {
        let mut sum = ResourceSum::default();
        for part in parts {
            sum.add(part)?;
        }
        let all = sum.finish();
        let bounded = all
            .entries
            .iter()
            .all(|entry| entry.value.scalar_milli() <= crate::limits::SCALAR_MILLI);
        bounded.then_some(all)
    }

    /// Returns the bundle with exactly these entries, or `None` if they are not in normal form.
    pub(crate) fn from_normal(entries: Vec<Resource>) -> Option<Self> {
        let ascending = entries
            .windows(2)
            .all(|pair| pair[0].identity < pair[1].identity);
        let normal = entries.iter().all(|entry| entry.value.is_normal());
        let mut entries = entries;
        entries.shrink_to_fit();
        (ascending && normal).then_some(Self { entries })
    }

    /// Returns only the scalars, by name alone. Only they can be summed over agents, whose ports
    /// and sets overlap. Reservations and volumes are ignored, because each is an identity and sums
    /// would grow with their number. Returns `None` if a sum is too large.
    #[must_use]
    pub fn scalars(&self) -> Option<Self> {
        let mut all = Self::none();
        for entry in &self.entries {
            if let Value::Scalar(_) = entry.value {
                all.merge(
                    &ResourceIdentity::plain(&entry.identity.name),
                    entry.value.clone(),
                )?;
            }
        }
        Some(all)
    }

    /// Returns the amounts by name alone, which an exchange of identities preserves. Returns `None`
    /// if ranges or sets of one name overlap.
    pub(crate) fn amounts(&self) -> Option<Self> {
        let mut all = Self::none();
        for entry in &self.entries {
            all.merge(
                &ResourceIdentity::plain(&entry.identity.name),
                entry.value.clone(),
            )?;
        }
        Some(all)
    }

    /// Returns the entries in ascending order of identity.
    pub fn iter(&self) -> std::slice::Iter<'_, Resource> {
        self.entries.iter()
    }

    /// Returns whether the bundle is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the thousandths of the scalars called `name`, over all identities.
    #[must_use]
    pub fn scalar_milli(&self, name: &str) -> i64 {
        self.entries
            .iter()
            .filter(|entry| &*entry.identity.name == name)
            .map(|entry| entry.value.scalar_milli())
            .sum()
    }

    /// Returns the sum of both. Returns `None` if they cannot be added: kinds differ, or ranges or
    /// sets overlap. Sums may exceed the limit of one scalar: nine million of the largest fit.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Option<Self> {
        let mut sum = self.clone();
        for entry in &other.entries {
            sum.merge(&entry.identity, entry.value.clone())?;
        }
        Some(sum)
    }

    /// Returns the difference, or `None` if `other` is not contained.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Option<Self> {
        let mut rest = self.clone();
        for entry in &other.entries {
            rest.subtract(entry)?;
        }
        Some(rest)
    }

    /// Returns the difference, ignoring parts of `other` that are not contained.
    #[must_use]
    pub fn minus_saturating(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        for entry in &other.entries {
            let Ok(at) = rest.position(&entry.identity) else {
                continue;
            };
            match rest.entries[at].value.minus_saturating(&entry.value) {
                Some(value) => rest.entries[at].value = value,
                None => drop(rest.entries.remove(at)),
            }
        }
        rest
    }

    /// Returns whether `other` is contained in this bundle.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.iter().all(|part| self.contains_part(part))
    }

    /// Returns whether `part`, an entry of another bundle, is contained in this one.
    #[must_use]
    pub fn contains_part(&self, part: &Resource) -> bool {
        self.position(&part.identity)
            .is_ok_and(|at| self.entries[at].value.contains(&part.value))
    }

    /// Adds one resource from an untrusted source in place. An empty amount changes nothing.
    /// Returns `None`, without a change, as in [`Self::plus`], or if the amount itself is
    /// malformed.
    pub fn add(&mut self, part: &Resource) -> Option<()> {
        let value = part.value.clone().normal()?;
        if value.is_empty() {
            Some(())
        } else {
            self.merge(&part.identity, value)
        }
    }

    fn merge(&mut self, identity: &ResourceIdentity, value: Value) -> Option<()> {
        match self.position(identity) {
            Ok(at) => self.entries[at].value = self.entries[at].value.plus(&value)?,
            Err(at) => {
                // Very many bundles are stored. Most have two or three entries, and no spare
                // capacity for a fourth.
                if self.entries.len() == self.entries.capacity() {
                    self.entries.reserve_exact((self.entries.len() / 4).max(1));
                }
                let identity = identity.clone();
                self.entries.insert(at, Resource { identity, value });
            }
        }
        Some(())
    }

    fn subtract(&mut self, part: &Resource) -> Option<()> {
        let at = self.position(&part.identity).ok()?;
        let rest = self.entries[at].value.minus(&part.value)?;
        if rest.is_empty() {
            self.entries.remove(at);
        } else {
            self.entries[at].value = rest;
        }
        Some(())
    }

    fn position(&self, identity: &ResourceIdentity) -> Result<usize, usize> {
        self.entries
            .binary_search_by(|entry| entry.identity.cmp(identity))
    }
}

impl<'a> IntoIterator for &'a Resources {
    type Item = &'a Resource;
    type IntoIter = std::slice::Iter<'a, Resource>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::write(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Resources {
        text.parse().unwrap()
    }

    #[test]
    fn sums_are_exact_to_three_decimals() {
        let mut sum = Resources::none();
        for _ in 0..1_000 {
            sum = sum.plus(&parse("cpus:0.001")).unwrap();
        }
        assert_eq!(sum, parse("cpus:1"));
        assert_eq!(
            parse("cpus:0.3").minus(&parse("cpus:0.1")),
            Some(parse("cpus:0.2"))
        );
    }

    #[test]
    fn subtracting_equal_amounts_leaves_nothing() {
        let all = parse("cpus:1;mem:64;ports:[10-20];zones:{a,b}");
        assert_eq!(all.minus(&all), Some(Resources::none()));
        assert!(all.contains(&Resources::none()));
    }

    #[test]
    fn more_than_the_total_cannot_be_subtracted() {
        assert_eq!(parse("cpus:1").minus(&parse("cpus:1.001")), None);
        assert_eq!(parse("cpus:1").minus(&parse("gpus:1")), None);
        assert_eq!(parse("ports:[10-20]").minus(&parse("ports:[20-21]")), None);
        assert_eq!(
            parse("cpus:1").minus_saturating(&parse("cpus:2;mem:1")),
            Resources::none()
        );
    }

    #[test]
    fn a_reservation_is_part_of_the_identity() {
        let mut reserved = parse("cpus:1").iter().next().unwrap().clone();
        reserved.identity.reservations.push(Reservation {
            role: Role::new("ops").unwrap(),
            principal: String::new(),
            labels: BTreeMap::new(),
        });
        let reserved = Resources::collect([reserved]).unwrap();
        assert_eq!(parse("cpus:1").minus(&reserved), None);
        assert_eq!(
            parse("cpus:1")
                .plus(&reserved)
                .unwrap()
                .scalar_milli("cpus"),
            2_000
        );
    }

    #[test]
    fn overlapping_ports_of_two_bundles_are_not_summed() {
        assert_eq!(parse("ports:[10-20]").plus(&parse("ports:[15-30]")), None);
        assert_eq!(
            parse("ports:[10-20]").plus(&parse("ports:[21-30]")),
            Some(parse("ports:[10-30]"))
        );
    }
}
