//! Resources of the cluster and of its roles, from sums that the registry and the book keep.
//!
//! A use of a resource that the cluster has is 0, not absent, while there is none.

use std::borrow::Cow;
use std::collections::BTreeMap;

use argosy_state::Registry;
use argosy_state::registry::RoleUsages;
use argosy_state::resources::Resources;

use super::samples::{OwnerState, SampleLabel, Samples};

/// Maximum number of kinds of resources that have their own samples.
const KINDS: usize = 32;
/// Maximum number of roles that have their own samples.
const ROLES: usize = 100;
/// The label of all others.
const OTHER: &str = "other";

#[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
fn units(milli: i64) -> f64 {
    milli as f64 / 1_000.0
}

/// Returns the scalars of a bundle, ascending by name. The sums of the registry have one entry for
/// each name.
fn scalars(resources: &Resources) -> impl Iterator<Item = (&str, i64)> {
    let entries = resources.iter();
    let scalars = entries.map(|entry| (&*entry.identity.name, entry.value.scalar_milli()));
    scalars.filter(|(_, milli)| *milli != 0)
}

/// Adds samples of these amounts. Kinds beyond the maximum are added up.
fn push_kinds<'a>(
    samples: &mut Samples,
    amounts: impl Iterator<Item = (&'a str, i64)>,
    labels: impl Fn(Cow<'static, str>) -> Vec<SampleLabel>,
) {
    let mut others = 0;
    for (at, (name, milli)) in amounts.enumerate() {
        if at < KINDS {
            samples.push((labels(name.to_owned().into()), units(milli)));
        } else {
            others += milli;
        }
    }
    if others != 0 {
        samples.push((labels(OTHER.into()), units(others)));
    }
}

/// Returns the resources of registered agents: in total, used, and, at the leader, offered.
pub(super) fn resources(state: &OwnerState<'_>) -> Samples {
    let mut samples = Samples::new();
    let labels = |usage: &'static str| move |kind| vec![("resource", kind), ("use", usage.into())];
    push_kinds(
        &mut samples,
        scalars(state.registry.total()),
        labels("total"),
    );
    let total = state.registry.total();
    let used = with_zeros(total, scalars(state.registry.role_totals()));
    push_kinds(&mut samples, used.into_iter(), labels("used"));
    if let Some(leader) = state.leader {
        let offered = with_zeros(total, leader.book().total().iter());
        push_kinds(&mut samples, offered.into_iter(), labels("offered"));
    }
    samples
}

/// Returns these amounts, and 0 for every other kind of which the cluster has any.
fn with_zeros<'a>(
    total: &'a Resources,
    part: impl Iterator<Item = (&'a str, i64)>,
) -> BTreeMap<&'a str, i64> {
    let mut all: BTreeMap<_, _> = scalars(total).map(|(kind, _)| (kind, 0)).collect();
    all.extend(part);
    all
}

/// A copy of what the metrics of roles are made of, at the same cost for any number of roles.
#[derive(Debug, Default)]
pub(super) struct RoleFigures {
    roles: RoleUsages,
    /// The usage of all roles together.
    used: Resources,
    total: Resources,
}

impl RoleFigures {
    pub(super) fn of(registry: &Registry) -> Self {
        Self {
            roles: registry.role_usages(),
            used: registry.role_totals().clone(),
            total: registry.total().clone(),
        }
    }
}

/// Returns the usage of the first roles, and that of all other roles. A role includes its
/// descendants, so only top-level roles add up to the total.
pub(super) fn role_usage(figures: &RoleFigures) -> Samples {
    let mut samples = Samples::new();
    let mut roles = figures.roles.iter();
    for (role, used) in roles.by_ref().take(ROLES) {
        let name: Cow<'static, str> = role.to_string().into();
        push_kinds(&mut samples, scalars(&used.tree()), |kind| {
            vec![("role", name.clone()), ("resource", kind)]
        });
    }
    if roles.next().is_some() {
        let shown = figures.roles.iter().take(ROLES);
        let rest = shown.fold(figures.used.clone(), |rest, (_, used)| {
            rest.minus_saturating(&used.own)
        });
        push_kinds(&mut samples, scalars(&rest), |kind| {
            vec![("role", OTHER.into()), ("resource", kind)]
        });
    }
    samples
}

/// Returns the dominant share of the first roles.
pub(super) fn role_shares(figures: &RoleFigures) -> Samples {
    let roles = figures.roles.iter().take(ROLES);
    roles
        .map(|(role, used)| {
            let label = vec![("role", role.to_string().into())];
            (label, dominant_share(&used.tree(), &figures.total))
        })
        .collect()
}

/// Returns the largest share in the total of a resource. Usage beyond the total counts as all of
/// it: the agent is gone, and the end of its tasks is not recorded yet.
fn dominant_share(used: &Resources, total: &Resources) -> f64 {
    let shares = scalars(used).map(|(name, milli)| match total.scalar_milli(name) {
        0 => 1.0,
        total => (units(milli) / units(total)).min(1.0),
    });
    shares.fold(0.0, f64::max)
}
