//! Masters and agents that change between two releases, as in an upgrade that takes long and is
//! taken back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Injector;
use crate::history::FaultKind;

impl Injector<'_> {
    /// Lets a master or an agent continue with the release that it does not run now, also after the
    /// end of the fault.
    pub(super) fn other_release(&mut self) -> Result<(String, Duration)> {
        let releases = &self.cluster.environment;
        let other = releases.other_release.clone();
        let other = other.context("--other-release names no executable")?;
        let releases = [releases.argosy.clone(), other];
        let places = [self.cluster.voters.clone(), self.cluster.workers()].concat();
        let place = self.random_member(&places)?;
        let next = changed(&releases, &self.cluster.members[place].spec.program).to_owned();
        let detail = format!("kill -9, then {}", next.display());
        let name = self.kill(place, FaultKind::Crash, &detail);
        let target = format!("{name} to {}", next.display());
        self.cluster.members[place].spec.program = next;
        Ok((target, self.downtime()))
    }
}

/// Returns the release that is not the present one.
fn changed<'a>(releases: &'a [PathBuf; 2], present: &Path) -> &'a Path {
    match releases[0] == present {
        true => &releases[1],
        false => &releases[0],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_change_there_and_back() {
        let releases = ["/new/argosy", "/old/argosy"].map(PathBuf::from);
        let first = changed(&releases, &releases[0]);
        assert_eq!(first, releases[1]);
        assert_eq!(changed(&releases, first), releases[0]);
    }
}
