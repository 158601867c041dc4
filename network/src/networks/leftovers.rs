//! Removal of an agent from the host, when it leaves or after it was killed.

use std::path::Path;

use super::{Networks, devices_of};
use crate::host::{list_devices, remove_devices};
use crate::ipam::Ipam;
use crate::rules::{self, DEVICES};
use crate::{NetworkError, conntrack, forwarding};
use argosy_host::crash_point;

impl Networks {
    /// Removes what the agent of the directory `owner` has left in the network namespace of the
    /// calling thread. The agent and all of its containers must have ended. `directory` has the
    /// records of the host. Returns whether there was something. After an interruption the next
    /// call continues.
    ///
    /// # Errors
    /// The first step that failed.
    pub fn remove_leftovers(directory: &Path, owner: &Path) -> Result<bool, NetworkError> {
        if !Ipam::has_records(directory, owner) {
            return Ok(false);
        }
        clear_host(&Ipam::open(directory, owner)?)?;
        Ok(true)
    }
}

/// Removes the devices, rules and records of an agent, and forwarding if no other agent needs it.
pub(super) fn clear_host(records: &Ipam) -> Result<(), NetworkError> {
    let tag = records.tag();
    remove_devices(devices_of(&tag)?)?;
    crash_point!("network.devices-removed");
    rules::apply(&rules::remove(&tag))?;
    crash_point!("network.table-removed");
    let _alone_on_host = records.lock()?;
    // An agent that is lost does not need forwarding.
    remove_lost_owners(records)?;
    forwarding::disable(records)?;
    clear_records(records)
}

/// Removes the records of an agent whose table is removed.
fn clear_records(records: &Ipam) -> Result<(), NetworkError> {
    let ports = records.ports()?;
    let mappings: Vec<_> = ports.iter().map(|port| port.mapping).collect();
    conntrack::delete_withdrawn(&mappings)?;
    records.clear()
}

/// Removes the state of agents whose directories no longer exist, unless one of their containers
/// still has its device.
pub(super) fn remove_lost_owners(records: &Ipam) -> Result<(), NetworkError> {
    let owners = records.lost_owners()?;
    if owners.is_empty() {
        return Ok(());
    }
    let links = list_devices()?;
    for owner in owners {
        let lost = records.for_owner(&owner);
        let tag = lost.tag();
        let devices = format!("{DEVICES}{tag}");
        if tag != records.tag() && !links.iter().any(|link| link.name.starts_with(&devices)) {
            rules::apply(&rules::remove(&tag))?;
            clear_records(&lost)?;
        }
    }
    Ok(())
}
