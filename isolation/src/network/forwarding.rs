//! Forwarding of packets between the devices of a host, which containers need and other hosts should not gain.
//!
//! A host that forwarded nothing would become a router between its networks with the first container. So the devices are
//! noted that it had then, and the tables of agents drop what would pass between two of them. Whatever brings devices of
//! its own later (Docker, libvirt, a VPN, CNI plugins) forwards as if there were no agent. When the last agent leaves,
//! forwarding is switched off again, unless such devices have come: they may have found it on. All this is done for IPv4
//! and for IPv6, each by itself.

mod ipv6;

use std::fs;

use super::ipam::{Noted, Records};
use super::link::Links;
use super::namespace;
use super::rules::DEVICES;
use super::{NetworkError, Subnet6, refused};

const SETTING: &str = "net/ipv4/ip_forward";

/// The devices between which the host shall forward nothing: those that it had when it forwarded nothing at all.
#[derive(Debug, Default)]
pub(super) struct Closed {
    pub(super) ipv4: Vec<String>,
    pub(super) ipv6: Vec<String>,
}

/// Switches forwarding on if it is off, that of IPv6 only for containers that have a prefix.
pub(super) fn switch_on(
    records: &Records,
    subnet6: Option<Subnet6>,
) -> Result<Closed, NetworkError> {
    let ipv4 = switch_on_ipv4(records)?;
    let ipv6 = match subnet6 {
        Some(_) => ipv6::switch_on(records)?,
        // Another agent, or an earlier life of this one, may have switched it on.
        None => ipv6::closed_between(records)?,
    };
    Ok(Closed { ipv4, ipv6 })
}

/// The reverse, once no agent has a table any more.
pub(super) fn switch_off(records: &Records) -> Result<(), NetworkError> {
    if records.has_other_owners()? {
        return Ok(());
    }
    switch_off_ipv4(records)?;
    ipv6::switch_off(records)
}

fn switch_on_ipv4(records: &Records) -> Result<Vec<String>, NetworkError> {
    let read = fs::read_to_string(format!("/proc/sys/{SETTING}"));
    let forwards = read.map_err(refused("read the setting net.ipv4.ip_forward"))?;
    if forwards.trim() == "0" {
        // First the note: a crash in between leaves a host that forwards nothing, as before.
        // Somebody may have switched it off since an earlier note: the devices count that are there now.
        records.note_closed(&devices()?)?;
        set("1")?;
    }
    match records.closed_between()? {
        Some(Noted::Devices(devices)) => Ok(devices),
        Some(Noted::Unknown) => {
            let devices = devices()?;
            records.note_closed(&devices)?;
            Ok(devices)
        }
        None => Ok(Vec::new()),
    }
}

fn switch_off_ipv4(records: &Records) -> Result<(), NetworkError> {
    let Some(Noted::Devices(noted)) = records.closed_between()? else {
        return Ok(());
    };
    if !are_all_noted(&noted)? {
        return Ok(());
    }
    set("0")?;
    // A crash in between leaves a note that the next agent would make again.
    records.forget_closed()
}

/// Whether no device has come since these were noted.
fn are_all_noted(noted: &[String]) -> Result<bool, NetworkError> {
    let devices = devices()?;
    Ok(devices.iter().all(|device| noted.contains(device)))
}

/// The devices of the host but for those of containers and its loopback device.
fn devices() -> Result<Vec<String>, NetworkError> {
    let mut links = Links::open().map_err(refused("talk to the kernel about devices"))?;
    let all = links.list().map_err(refused("list devices"))?;
    let names = all.into_iter().map(|link| link.name);
    let of_host = names.filter(|name| name != "lo" && !name.starts_with(DEVICES));
    Ok(of_host.collect())
}

fn set(value: &str) -> Result<(), NetworkError> {
    namespace::set(SETTING, value).map_err(refused(format!("set net.ipv4.ip_forward to {value}")))
}
