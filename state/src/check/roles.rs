//! Invariants of the usage of roles: it follows from the usage below them.

use std::collections::BTreeMap;

use super::{InvariantViolation, ensure};
use crate::Registry;
use crate::ids::Role;
use crate::resources::Resources;

impl Registry {
    /// Checks that the usage of each role's ancestors is the sum of the usage below them.
    pub(super) fn check_roles(&self) -> Result<(), InvariantViolation> {
        let mut sums: BTreeMap<Role, Resources> = BTreeMap::new();
        for (role, used) in &self.index.roles {
            for above in role.ancestors() {
                let sum = sums.entry(above).or_default();
                *sum = sum.plus(&used.own).unwrap_or_default();
            }
        }
        for (role, used) in &self.index.roles {
            ensure(
                used.descendants == sums.remove(role).unwrap_or_default(),
                role,
                "a role counts the usage of its descendants",
            )?;
        }
        ensure(sums.is_empty(), &"the roles", "each ancestor is counted")
    }
}
