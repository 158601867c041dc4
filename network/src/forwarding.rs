//! IP forwarding between the devices of a host, which containers need and which must not turn the
//! host into a router.
//!
//! Enabling forwarding for the first container would make a host a router between its networks. So
//! the devices that exist then are recorded, and the agents' tables drop packets between any two of
//! them. Software that adds devices later (Docker, libvirt, a VPN, CNI plugins) forwards as if
//! there were no agent. When the last agent leaves, forwarding is disabled again, unless such
//! devices exist: they may rely on it. All this is done for IPv4 and IPv6 separately.

mod ipv6;

use std::fs;

use super::host::list_devices;
use super::ipam::{ForwardingRecord, Ipam};
use super::namespace;
use super::rules::{DEVICES, ForwardingDenied};
use super::{NetworkError, Subnet6, network_error};

const SETTING: &str = "net/ipv4/ip_forward";

/// Enables forwarding if it is disabled; for IPv6 only if containers have a prefix.
pub(super) fn enable(
    records: &Ipam,
    subnet6: Option<Subnet6>,
) -> Result<ForwardingDenied, NetworkError> {
    let ipv4 = enable_ipv4(records)?;
    let ipv6 = match subnet6 {
        Some(_) => ipv6::enable(records)?,
        // Another agent, or an earlier run of this one, may have enabled it.
        None => ipv6::recorded_devices(records)?,
    };
    Ok(ForwardingDenied { ipv4, ipv6 })
}

/// Disables forwarding once no agent has a table.
pub(super) fn disable(records: &Ipam) -> Result<(), NetworkError> {
    if records.has_other_owners()? {
        return Ok(());
    }
    disable_ipv4(records)?;
    ipv6::disable(records)
}

fn enable_ipv4(records: &Ipam) -> Result<Vec<String>, NetworkError> {
    let read = fs::read_to_string(format!("/proc/sys/{SETTING}"));
    let forwards = read.map_err(network_error("read the setting net.ipv4.ip_forward"))?;
    if forwards.trim() == "0" {
        // The record first: a crash in between leaves a host that forwards nothing, as before.
        // Forwarding may have been disabled since an earlier record, so the current devices count.
        records.record_denied(&devices()?)?;
        set("1")?;
    }
    match records.recorded_denied()? {
        Some(ForwardingRecord::Devices(devices)) => Ok(devices),
        Some(ForwardingRecord::Unknown) => {
            let devices = devices()?;
            records.record_denied(&devices)?;
            Ok(devices)
        }
        None => Ok(Vec::new()),
    }
}

fn disable_ipv4(records: &Ipam) -> Result<(), NetworkError> {
    let Some(ForwardingRecord::Devices(noted)) = records.recorded_denied()? else {
        return Ok(());
    };
    if !are_all_recorded(&noted)? {
        return Ok(());
    }
    set("0")?;
    // A crash in between leaves a record that the next agent would write again.
    records.clear_denied()
}

/// Whether no device was added since these were recorded.
fn are_all_recorded(recorded: &[String]) -> Result<bool, NetworkError> {
    let devices = devices()?;
    Ok(devices.iter().all(|device| recorded.contains(device)))
}

/// Returns the devices of the host, except containers' devices and loopback.
fn devices() -> Result<Vec<String>, NetworkError> {
    let names = list_devices()?.into_iter().map(|link| link.name);
    let of_host = names.filter(|name| name != "lo" && !name.starts_with(DEVICES));
    Ok(of_host.collect())
}

fn set(value: &str) -> Result<(), NetworkError> {
    namespace::set(SETTING, value)
        .map_err(network_error(format!("set net.ipv4.ip_forward to {value}")))
}
