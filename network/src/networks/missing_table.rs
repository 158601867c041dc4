//! Restoration of a table that other software has removed: a reload of the host's firewall often
//! begins with `flush ruleset`.

use std::sync::atomic::Ordering;

use super::{NetworkState, Networks, lock};
use crate::NetworkError;
use crate::netfilter::has_inet_table;
use crate::rules::{self, table_name};

impl Networks {
    /// Restores the table with all published ports if it is missing. Returns whether it was found
    /// missing since the last call, also by the start or the end of a container.
    ///
    /// # Errors
    /// If the kernel cannot be queried, or rejects the table.
    pub fn restore_table(&self) -> Result<bool, NetworkError> {
        self.shared.restore_if_missing()?;
        Ok(self.shared.was_missing.swap(false, Ordering::Relaxed))
    }
}

impl NetworkState {
    /// Does not wait for threads that change rules if the table exists.
    pub(super) fn restore_if_missing(&self) -> Result<(), NetworkError> {
        if has_inet_table(&table_name(&self.tag))? {
            return Ok(());
        }
        let _alone = lock(&self.rules);
        self.restore()
    }

    /// Runs a script that changes elements of the table, and restores the table if that fails
    /// because it is missing. The caller holds the lock of the rules.
    pub(super) fn change_table(&self, script: &str) -> Result<(), NetworkError> {
        let changed = rules::apply(script);
        if changed.is_ok() || has_inet_table(&table_name(&self.tag))? {
            return changed;
        }
        self.restore()?;
        rules::apply(script)
    }

    /// Replaces the table by one with all recorded ports: each is recorded before its rules exist,
    /// and until they are removed.
    fn restore(&self) -> Result<(), NetworkError> {
        let ports = self.records.ports()?;
        let mappings: Vec<_> = ports.iter().map(|port| port.mapping).collect();
        self.replace_table(&mappings)?;
        self.was_missing.store(true, Ordering::Relaxed);
        Ok(())
    }
}
