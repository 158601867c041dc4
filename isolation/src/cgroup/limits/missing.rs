//! Limits that a host cannot enforce, and the policy for them.

use serde::{Deserialize, Serialize};

use super::{CgroupSetting, Limits};

/// The policy for a limit whose controller this host lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingPolicy {
    /// Refuse to start.
    RequireAll,
    /// Start without that limit, and report the missing controller.
    AllowMissing,
}

/// Controllers that limits need and the host does not offer. Empty if all are available.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MissingControllers {
    /// Their names, as the kernel spells them; or the name of a file, such as `io.weight`, that
    /// this kernel's controller does not have.
    pub controllers: Vec<String>,
}

impl MissingControllers {
    /// Returns the part that these limits need.
    #[must_use]
    pub fn needed_by(&self, limits: &Limits) -> Self {
        let settings = limits.settings();
        let needs = |name: &&String| {
            let mut settings = settings.iter();
            settings.any(|setting| *name == setting.controller || *name == setting.file)
        };
        Self {
            controllers: self.controllers.iter().filter(needs).cloned().collect(),
        }
    }

    pub(super) fn covers(&self, setting: &CgroupSetting) -> bool {
        let mut names = self.controllers.iter();
        names.any(|name| name == setting.controller || name == setting.file)
    }
}

/// Returns what the available controllers cannot enforce.
pub(super) fn find_missing(settings: &[CgroupSetting], present: &[String]) -> MissingControllers {
    let mut controllers = Vec::new();
    for setting in settings {
        let known = |name: &String| name == setting.controller;
        if !present.iter().any(known) && !controllers.iter().any(known) {
            controllers.push(setting.controller.to_owned());
        }
    }
    MissingControllers { controllers }
}
