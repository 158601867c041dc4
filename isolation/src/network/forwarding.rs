//! Forwarding of packets between the devices of a host, which containers need and other hosts should not gain.
//!
//! A host that forwarded nothing would become a router between its networks with the first container. So the devices are
//! noted that it had then, and the tables of agents drop what would pass between two of them. Whatever brings devices of
//! its own later (Docker, libvirt, a VPN, CNI plugins) forwards as if there were no agent. When the last agent leaves,
//! forwarding is switched off again, unless such devices have come: they may have found it on.

use std::fs;

use super::link::Links;
use super::namespace;
use super::records::{Noted, Records};
use super::rules::DEVICES;
use super::{NetworkError, refused};

const SETTING: &str = "net/ipv4/ip_forward";

/// Switches forwarding on if it is off. Returns the devices between which the host shall forward nothing: those that it
/// had when it forwarded nothing at all.
pub(super) fn switch_on(records: &Records) -> Result<Vec<String>, NetworkError> {
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

/// The reverse, once no agent has a table any more.
pub(super) fn switch_off(records: &Records) -> Result<(), NetworkError> {
    let Some(Noted::Devices(noted)) = records.closed_between()? else {
        return Ok(());
    };
    let is_known = |device: &String| noted.contains(device);
    if records.has_other_owners()? || !devices()?.iter().all(is_known) {
        return Ok(());
    }
    set("0")?;
    // A crash in between leaves a note that the next agent would make again.
    records.forget_closed()
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
