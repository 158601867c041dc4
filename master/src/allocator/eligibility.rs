//! Eligibility for offers: the state of frameworks and agents, the resources of an agent that a
//! framework can see, and the minimum that is worth an offer.
//!
//! This module uses facts only. It does not know shares, filters or open offers.

use std::str::FromStr;

use argosy_state::Registry;
use argosy_state::agent::{Agent, AgentMode};
use argosy_state::capability::FrameworkCapability;
use argosy_state::framework::{Framework, FrameworkInfo, SchedulerConnection};
use argosy_state::ids::{AgentId, FrameworkId, Role};
use argosy_state::limits;
use argosy_state::resources::{InvalidResources, Resource, Resources};

use super::skip_reason::{SkipReason, covers};

/// Label with which a framework sets its minimum, written as in [`OfferMinimum`]; empty means
/// anything.
pub const MINIMUM_LABEL: &str = "argosy.offers/minimum";
/// Maximum bytes of a minimum as text: each allocation turn compares free resources with it.
const MINIMUM_BYTES: usize = 1024;
/// Maximum number of bundles of a minimum.
const MINIMUM_ALTERNATIVES: usize = 16;
const MINIMUM_BOUNDS: &str = "a minimum takes at most 1024 bytes and 16 alternatives";

/// State of the leader's stream to a framework.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// The framework has had no stream in this epoch.
    None,
    /// The framework reads its stream too slowly to be sent offers.
    Behind,
    /// The stream takes offers.
    Open,
}

/// Facts that only the leader knows: the state of its links.
#[derive(Clone, Copy)]
pub struct LinkStates<'a> {
    /// Returns whether this leader has a link to an agent.
    pub linked: &'a dyn Fn(AgentId) -> bool,
    /// Returns the state of this leader's stream to a framework.
    pub stream: &'a dyn Fn(FrameworkId) -> StreamState,
}

impl std::fmt::Debug for LinkStates<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Demand")
    }
}

/// Returns the reason for which a framework takes no offers at all; `None` if it takes them.
pub(super) fn framework_obstacle(
    registry: &Registry,
    demand: &LinkStates<'_>,
    framework: &Framework,
) -> Option<SkipReason> {
    let ended = registry
        .framework_index(framework.id)
        .map_or(0, |index| index.ended);
    let stream = (demand.stream)(framework.id);
    if framework.removing || framework.connection != SchedulerConnection::Connected {
        Some(SkipReason::NotActive)
    } else if ended >= limits::UNACKNOWLEDGED_TASKS {
        Some(SkipReason::Unacknowledged)
    } else {
        match stream {
            StreamState::None => Some(SkipReason::NotActive),
            StreamState::Behind => Some(SkipReason::Behind),
            StreamState::Open => None,
        }
    }
}

/// Returns the reason for which an agent is not offered to any framework; `None` if it may be.
pub(super) fn agent_obstacle(demand: &LinkStates<'_>, agent: &Agent) -> Option<SkipReason> {
    mode_obstacle(agent, || (demand.linked)(agent.id))
}

/// As [`agent_obstacle`], for an agent whose link is known.
pub(super) fn mode_obstacle(agent: &Agent, linked: impl FnOnce() -> bool) -> Option<SkipReason> {
    match agent.mode() {
        AgentMode::Registered if linked() => None,
        AgentMode::Registered => Some(SkipReason::NoLink),
        AgentMode::Unreachable => Some(SkipReason::Unreachable),
        AgentMode::Draining | AgentMode::Drained | AgentMode::Deactivated => {
            Some(SkipReason::Deactivated)
        }
        AgentMode::Gone => Some(SkipReason::Gone),
    }
}

/// The visibility rules for a framework in a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VisibilityRules {
    /// Its reservations and those of the roles above are visible; `None`: no reservations are.
    role: Option<Role>,
    gpus: bool,
    revocable: bool,
}

impl VisibilityRules {
    pub(super) fn new(info: &FrameworkInfo, role: &Role) -> Self {
        Self {
            role: Some(role.clone()),
            gpus: info.can(FrameworkCapability::Gpus),
            revocable: info.can(FrameworkCapability::Revocable),
        }
    }

    /// Returns the rules without distinctions that make no difference for resources of `total`:
    /// clients that see the same of an agent have the same rules there.
    pub(super) fn on(&self, total: &Resources) -> Self {
        let roles = total.iter().filter_map(|resource| {
            let reservation = resource.identity.reservations.last();
            reservation.map(|reservation| &reservation.role)
        });
        // The roles of visible reservations are on one path, so that the longest includes all.
        let visible = roles.filter(|role| self.is_within(role));
        let any = |test: fn(&Resource) -> bool| total.iter().any(test);
        Self {
            role: visible.max_by_key(|role| role.as_str().len()).cloned(),
            gpus: self.gpus || !any(|resource| &*resource.identity.name == "gpus"),
            revocable: self.revocable || !any(|resource| resource.identity.revocable),
        }
    }

    /// Returns the part of the resources that is visible.
    pub(super) fn visible_part(&self, resources: &Resources) -> Resources {
        let seen = resources.iter().filter(|resource| self.allows(resource));
        Resources::collect(seen.cloned()).unwrap_or_default()
    }

    /// Returns whether the resource is visible: a reservation is for its role and the roles below
    /// it.
    fn allows(&self, resource: &Resource) -> bool {
        let identity = &resource.identity;
        let reservation = identity.reservations.last();
        reservation.is_none_or(|reservation| self.is_within(&reservation.role))
            && (self.gpus || &*identity.name != "gpus")
            && (self.revocable || !identity.revocable)
    }

    /// Returns whether the role is `above`, or below it.
    fn is_within(&self, above: &Role) -> bool {
        let role = self.role.as_ref().map_or("", Role::as_str);
        let rest = role.strip_prefix(above.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Returns whether these resources are visible to all frameworks alike.
pub(super) fn is_plain(resources: &Resources) -> bool {
    resources.iter().all(|resource| {
        let identity = &resource.identity;
        identity.reservations.is_empty() && !identity.revocable && &*identity.name != "gpus"
    })
}

/// The minimum that is worth an offer: any one of several bundles. Written `cpus:0.01|mem:32`; the
/// empty text means anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferMinimum {
    any_of: Vec<Resources>,
}

impl Default for OfferMinimum {
    /// Returns the minimum of Mesos: a hundredth of a cpu, or 32 MiB.
    fn default() -> Self {
        "cpus:0.01|mem:32"
            .parse()
            .expect("the default is well-formed")
    }
}

impl FromStr for OfferMinimum {
    type Err = InvalidResources;

    fn from_str(text: &str) -> Result<Self, InvalidResources> {
        let parts = text
            .split('|')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        if text.len() > MINIMUM_BYTES || parts.clone().count() > MINIMUM_ALTERNATIVES {
            return Err(InvalidResources {
                part: text.chars().take(64).collect(),
                rule: MINIMUM_BOUNDS,
            });
        }
        let any_of = parts.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { any_of })
    }
}

impl std::fmt::Display for OfferMinimum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<_> = self.any_of.iter().map(ToString::to_string).collect();
        f.write_str(&parts.join("|"))
    }
}

impl OfferMinimum {
    /// Returns whether `resources` are worth an offer.
    #[must_use]
    pub fn is_met(&self, resources: &Resources) -> bool {
        if resources.is_empty() {
            return false;
        }
        let reaches = |least: &Resources| least.iter().all(|wanted| covers(resources, wanted));
        self.any_of.is_empty() || self.any_of.iter().any(reaches)
    }

    /// Returns the minimum that a framework has set. A text that cannot be parsed, or is beyond the
    /// bounds, counts as unset.
    pub(super) fn of(info: &FrameworkInfo) -> Option<Self> {
        info.labels.get(MINIMUM_LABEL)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::resources::Reservation;

    use super::*;

    fn parse(text: &str) -> Resources {
        text.parse().unwrap()
    }

    #[test]
    fn minimum_is_met_by_cpu_or_memory_alone() {
        let minimum = OfferMinimum::default();
        assert!(minimum.is_met(&parse("cpus:0.01")) && minimum.is_met(&parse("mem:32")));
        assert!(!minimum.is_met(&parse("cpus:0.009;mem:31.999;disk:1000;ports:[1-9]")));
        assert!(!minimum.is_met(&Resources::none()));
    }

    #[test]
    fn minimum_round_trips_and_empty_accepts_anything() {
        let minimum: OfferMinimum = "cpus:1;mem:64|gpus:1".parse().unwrap();
        assert_eq!(minimum.to_string().parse(), Ok(minimum.clone()));
        assert!(minimum.is_met(&parse("gpus:1")) && !minimum.is_met(&parse("cpus:8;mem:63")));
        let anything: OfferMinimum = "".parse().unwrap();
        assert!(anything.is_met(&parse("disk:0.001")) && !anything.is_met(&Resources::none()));
        assert!("cpus:x".parse::<OfferMinimum>().is_err());
        for bound in [MINIMUM_BYTES, MINIMUM_ALTERNATIVES] {
            assert!(MINIMUM_BOUNDS.contains(&bound.to_string()));
        }
    }

    #[test]
    fn gpus_revocable_and_reserved_are_visible_by_capability_and_role() {
        let mut all = parse("cpus:4;gpus:2");
        let mut reserved = parse("mem:64").iter().next().unwrap().clone();
        reserved.identity.reservations.push(Reservation {
            role: Role::new("ops").unwrap(),
            principal: String::new(),
            labels: Default::default(),
        });
        all.add(&reserved).unwrap();
        let mut revocable = parse("cpus:1").iter().next().unwrap().clone();
        revocable.identity.revocable = true;
        all.add(&revocable).unwrap();
        assert!(!is_plain(&all) && is_plain(&parse("cpus:4;ports:[1-2]")));

        let sees = |role: &str, announced: &[FrameworkCapability]| {
            let names = announced.iter().map(|one| one.name().to_owned());
            // Release 0.1.0 announces the same abilities by labels.
            let labels = announced.iter().filter_map(|one| one.former_label());
            let labels = labels.map(|label| (label.to_owned(), "true".to_owned()));
            let able = FrameworkInfo {
                capabilities: names.collect(),
                ..FrameworkInfo::default()
            };
            let labelled = FrameworkInfo {
                labels: labels.collect(),
                ..FrameworkInfo::default()
            };
            let [seen, same] = [able, labelled].map(|info| visible(&info, role, &all));
            assert_eq!(seen, same);
            seen
        };
        fn visible(info: &FrameworkInfo, role: &str, all: &Resources) -> String {
            let rules = VisibilityRules::new(info, &Role::new(role).unwrap());
            rules.visible_part(all).to_string()
        }
        assert_eq!(sees("web", &[]), "cpus:4");
        assert_eq!(sees("ops", &[]), "cpus:4;mem(ops):64");
        assert_eq!(sees("opsy", &[FrameworkCapability::Gpus]), "cpus:4;gpus:2");
        assert_eq!(
            sees("web", &[FrameworkCapability::Revocable]),
            "cpus:4;cpus:1"
        );
    }

    #[test]
    fn rules_on_an_agent_differ_only_if_the_clients_see_different_parts_of_it() {
        let reserved = |names: &[&str]| {
            let mut all = parse("cpus:4;gpus:2");
            for name in names {
                let mut part = parse("mem:64").iter().next().unwrap().clone();
                part.identity.reservations.push(Reservation {
                    role: Role::new(name).unwrap(),
                    principal: String::new(),
                    labels: Default::default(),
                });
                all.add(&part).unwrap();
            }
            all
        };
        let agents = [parse("cpus:4"), reserved(&[]), reserved(&["a", "a/b", "x"])];
        let mut rules = Vec::new();
        for role in ["*", "a", "a/b", "a/b/c", "a/c", "ab", "x", "y"] {
            for (gpus, revocable) in [(true, false), (false, false), (false, true)] {
                rules.push(VisibilityRules {
                    role: Some(Role::new(role).unwrap()),
                    gpus,
                    revocable,
                });
            }
        }
        for total in &agents {
            for (one, other) in rules
                .iter()
                .flat_map(|one| rules.iter().map(move |o| (one, o)))
            {
                assert_eq!(one.on(total).visible_part(total), one.visible_part(total));
                let see_the_same = one.visible_part(total) == other.visible_part(total);
                assert_eq!(
                    one.on(total) == other.on(total),
                    see_the_same,
                    "{one:?} {other:?}"
                );
            }
        }
    }
}
