//! IPv6 forwarding without a change of the host's devices.
//!
//! Writing `net.ipv6.conf.all.forwarding` has side effects. The kernel copies the new value to
//! every device, which turns them into routers that ignore router advertisements, and it deletes
//! the default routes learned from those. When it forwards a packet, it checks only `all`. So each
//! device gets its own value back immediately, and accepts advertisements in every mode
//! (`accept_ra` 2) for as long as that takes. No route is lost, and hosts stay hosts.
//!
//! A record holds the values until they are restored, for the next agent if this one dies in
//! between.

use std::fs;
use std::io;

use super::super::rules::DEVICES;
use super::super::{NetworkError, namespace, network_error};
use super::{are_all_recorded, devices};
use crate::ipam::{DeviceSettings6, ForwardingRecord6, Ipam};
use argosy_host::crash_point;

/// The settings of all devices, with `default` for later devices.
const DEVICES_6: &str = "net/ipv6/conf";
const ALL: &str = "net/ipv6/conf/all/forwarding";
/// Hosts accept router advertisements.
const BY_HOSTS: &str = "1";
/// Routers accept them as well.
const ALWAYS: &str = "2";

/// Enables it if it is disabled. Returns the devices between which the host must not forward.
pub(super) fn enable(records: &Ipam) -> Result<Vec<String>, NetworkError> {
    if let Some(noted) = records.recorded_ipv6()?
        && noted.is_pending
    {
        restore(&noted.devices)?;
        records.record_ipv6(&ForwardingRecord6 {
            is_pending: false,
            ..noted
        })?;
    }
    if read(ALL)? == "0" {
        let closed = devices()?;
        set_all(records, closed, "1")?;
    }
    recorded_devices(records)
}

pub(super) fn recorded_devices(records: &Ipam) -> Result<Vec<String>, NetworkError> {
    let noted = records.recorded_ipv6()?;
    Ok(noted.map(|noted| noted.denied).unwrap_or_default())
}

/// Disables it if an agent enabled it and no device was added since.
pub(super) fn disable(records: &Ipam) -> Result<(), NetworkError> {
    let Some(noted) = records.recorded_ipv6()? else {
        return Ok(());
    };
    if !are_all_recorded(&noted.denied)? {
        return Ok(());
    }
    set_all(records, noted.denied, "0")?;
    records.clear_ipv6()
}

/// Sets `all` and nothing else.
fn set_all(records: &Ipam, closed: Vec<String>, value: &str) -> Result<(), NetworkError> {
    let mut noted = ForwardingRecord6 {
        is_pending: true,
        denied: closed,
        devices: settings()?,
    };
    // The record first, as for IPv4.
    records.record_ipv6(&noted)?;
    for device in &noted.devices {
        if device.accept_ra == BY_HOSTS {
            set(&device.name, "accept_ra", ALWAYS)?;
        }
    }
    namespace::set(ALL, value).map_err(network_error(format!(
        "set net.ipv6.conf.all.forwarding to {value}"
    )))?;
    crash_point!("network.forwarding-of-ipv6-set");
    restore(&noted.devices)?;
    noted.is_pending = false;
    records.record_ipv6(&noted)
}

/// Restores the former values of devices.
fn restore(devices: &[DeviceSettings6]) -> Result<(), NetworkError> {
    for device in devices {
        // While the device is a router, it needs the other value.
        set(&device.name, "forwarding", &device.forwarding)?;
        set(&device.name, "accept_ra", &device.accept_ra)?;
    }
    Ok(())
}

/// Returns the settings of all devices except containers'.
fn settings() -> Result<Vec<DeviceSettings6>, NetworkError> {
    let directory = format!("/proc/sys/{DEVICES_6}");
    let entries = fs::read_dir(directory).map_err(network_error("list the settings of IPv6"))?;
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(network_error("list the settings of IPv6"))?;
        let name = name.file_name().to_string_lossy().into_owned();
        if name == "all" || name.starts_with(DEVICES) {
            continue;
        }
        let of_device = |setting| read(&format!("{DEVICES_6}/{name}/{setting}"));
        if let (Ok(forwarding), Ok(accept_ra)) = (of_device("forwarding"), of_device("accept_ra")) {
            found.push(DeviceSettings6 {
                name,
                forwarding,
                accept_ra,
            });
        }
        // A device without the setting has been removed.
    }
    Ok(found)
}

fn read(setting: &str) -> Result<String, NetworkError> {
    let value = fs::read_to_string(format!("/proc/sys/{setting}"));
    let value = value.map_err(network_error(format!("read the setting {setting}")))?;
    Ok(value.trim().to_owned())
}

fn set(device: &str, setting: &str, value: &str) -> Result<(), NetworkError> {
    match namespace::set(&format!("{DEVICES_6}/{device}/{setting}"), value) {
        // The device has been removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(network_error(format!(
            "set {setting} of {device} to {value}"
        ))),
    }
}
