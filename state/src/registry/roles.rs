//! Usage by role: the usage of each role itself, and that of its descendants.
//!
//! It is updated with every change, so that checking a limit of a role and everything below it
//! costs only the depth of the role.

use super::Registry;
use super::index::Sign;
use crate::collections::persistent::Table;
use crate::ids::Role;
use crate::resources::Resources;

/// The usage of tasks and executors that are charged to one role, without those on unreachable
/// agents: scalars only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleUsage {
    /// The usage that is charged to the role itself.
    pub own: Resources,
    /// The usage that is charged to its descendants, at any depth.
    pub descendants: Resources,
}

impl RoleUsage {
    /// Returns the usage of the role and its descendants.
    #[must_use]
    pub fn tree(&self) -> Resources {
        let sum = self.own.plus(&self.descendants);
        sum.unwrap_or_else(|| self.descendants.clone())
    }
}

/// The usage of all roles that tasks use, or whose descendants do, at one time. A copy costs the
/// same regardless of their number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleUsages(Table<Role, RoleUsage>);

impl RoleUsages {
    /// Returns the usage of one role.
    #[must_use]
    pub fn get(&self, role: &Role) -> Option<&RoleUsage> {
        self.0.get(role)
    }

    /// Returns the roles in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (&Role, &RoleUsage)> {
        (&self.0).into_iter()
    }
}

/// Charges `part` to a role, and to the descendants' usage of its ancestors. Returns `None` if the
/// sum overflows.
pub(super) fn count(
    roles: &mut Table<Role, RoleUsage>,
    role: &Role,
    part: &Resources,
    sign: Sign,
) -> Option<()> {
    let used = roles.or_default(role.clone());
    sign.resources(&mut used.own, part)?;
    drop_if_unused(roles, role);
    for above in role.ancestors() {
        let used = roles.or_default(above.clone());
        sign.resources(&mut used.descendants, part)?;
        drop_if_unused(roles, &above);
    }
    Some(())
}

fn drop_if_unused(roles: &mut Table<Role, RoleUsage>, role: &Role) {
    let used = roles.get(role);
    if used.is_some_and(|used| used.own.is_empty() && used.descendants.is_empty()) {
        roles.remove(role);
    }
}

impl Registry {
    /// Returns the usage that is charged to `role` itself, without tasks on unreachable agents.
    #[must_use]
    pub fn role_used(&self, role: &Role) -> Option<&Resources> {
        self.index.roles.get(role).map(|used| &used.own)
    }

    /// Returns a copy of the usage of all roles, in constant time.
    #[must_use]
    pub fn role_usages(&self) -> RoleUsages {
        RoleUsages(self.index.roles.clone())
    }

    /// Returns the usage of all roles together, without tasks on unreachable agents.
    #[must_use]
    pub fn role_totals(&self) -> &Resources {
        &self.index.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::resources::{Reservation, Resource, ResourceIdentity, Resources, Value};
    use crate::task::TaskState;
    use crate::testing::{World, framework_info, key, registration, spec};

    #[test]
    fn usage_of_a_role_counts_for_its_ancestors() {
        let mut world = World::new();
        let agents = [world.register("cpus:8"), world.register("cpus:8")];
        let role = |text: &str| Role::new(text).unwrap();
        let names = ["eng", "eng/web", "eng/web/front", "ops"];
        let mut info = framework_info("demo");
        info.roles = names.into_iter().map(role).collect();
        let framework = world.subscribe_as(info);
        let launch = |world: &mut World, name: &str, on: usize, account: &str, cpus: &str| {
            let mut offer = world.offer(framework, agents[on], cpus);
            offer.role = role(account);
            let outcome = world.accept(framework, vec![offer], vec![spec(name, cpus)]);
            outcome.outcome.unwrap();
        };
        launch(&mut world, "a", 0, "eng", "cpus:1");
        launch(&mut world, "b", 0, "eng/web/front", "cpus:2");
        launch(&mut world, "c", 1, "eng/web/front", "cpus:3");
        launch(&mut world, "d", 0, "ops", "cpus:0.5");
        let trees = |world: &World| {
            let usages = world.registry.role_usages();
            let tree = |name| usages.get(&role(name)).map(RoleUsage::tree);
            names.map(|name| tree(name).unwrap_or_default().to_string())
        };
        assert_eq!(trees(&world), ["cpus:6", "cpus:5", "cpus:5", "cpus:0.5"]);
        assert_eq!(
            world.registry.role_used(&role("eng")),
            Some(&"cpus:1".parse().unwrap())
        );
        assert_eq!(world.registry.role_totals().to_string(), "cpus:6.5");
        // A task on an unreachable agent counts for no role, and an ended task counts nowhere.
        world.mark_unreachable(agents[1]);
        world.update(&key(framework, "a"), TaskState::Finished);
        assert_eq!(trees(&world), ["cpus:2", "cpus:2", "cpus:2", "cpus:0.5"]);
        assert_eq!(world.reloaded().index.roles, world.registry.index.roles);
        let copy = world.registry.role_usages();
        world.update(&key(framework, "b"), TaskState::Finished);
        world.update(&key(framework, "d"), TaskState::Finished);
        let roles = copy.iter().map(|(role, _)| role.as_str());
        assert_eq!(roles.collect::<Vec<_>>(), names, "a copy does not change");
        assert!(world.registry.index.roles.is_empty());
    }

    #[test]
    fn sums_over_agents_are_by_resource_name_regardless_of_reservations() {
        let mut world = World::new();
        let mut register = registration(7, "cpus:8;disk:1000");
        let reserved = ["ops", "eng"].map(|role| {
            let mut identity = ResourceIdentity::plain("cpus");
            identity.reservations.push(Reservation {
                role: Role::new(role).unwrap(),
                principal: String::new(),
                labels: Default::default(),
            });
            Resource {
                identity,
                value: Value::Scalar(1_000),
            }
        });
        let all = register.info.resources.iter().cloned().chain(reserved);
        register.info.resources = Resources::collect(all).unwrap();
        world
            .apply(Command::RegisterAgent(register))
            .outcome
            .unwrap();
        assert_eq!(world.registry.total().to_string(), "cpus:10;disk:1000");
    }
}
