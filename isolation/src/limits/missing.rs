//! Limits that a host cannot keep: which, and what to do about it.

use serde::{Deserialize, Serialize};

use super::{Limits, Setting};

/// What to do about a limit whose controller this host lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingPolicy {
    /// Refuse to start.
    RequireAll,
    /// Start without that limit, and say which is missing.
    AllowMissing,
}

/// Controllers that limits ask for and the host does not offer. Empty when all is well.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Missing {
    /// Their names, as the kernel spells them; or that of a file, such as `io.weight`, which this kernel's controller
    /// does not have.
    pub controllers: Vec<String>,
}

impl Missing {
    /// The part of it without which these limits are not kept.
    #[must_use]
    pub fn of(&self, limits: &Limits) -> Self {
        let settings = limits.settings();
        let needs = |name: &&String| {
            let mut settings = settings.iter();
            settings.any(|setting| *name == setting.controller || *name == setting.file)
        };
        Self {
            controllers: self.controllers.iter().filter(needs).cloned().collect(),
        }
    }

    pub(super) fn covers(&self, setting: &Setting) -> bool {
        let mut names = self.controllers.iter();
        names.any(|name| name == setting.controller || name == setting.file)
    }
}

/// What the controllers that are present cannot keep.
pub(super) fn lacking(settings: &[Setting], present: &[String]) -> Missing {
    let mut controllers = Vec::new();
    for setting in settings {
        let known = |name: &String| name == setting.controller;
        if !present.iter().any(known) && !controllers.iter().any(known) {
            controllers.push(setting.controller.to_owned());
        }
    }
    Missing { controllers }
}
