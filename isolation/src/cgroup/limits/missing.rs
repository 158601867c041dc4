//! Limits that a host cannot enforce.

use super::CgroupSetting;
use crate::spec::limits::{Limits, MissingControllers};

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
