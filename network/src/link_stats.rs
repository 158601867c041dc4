//! Traffic of a container's link, read at the host's end of its veth pair.

use netlink_packet_route::link::Stats64;
use serde::{Deserialize, Serialize};

use super::link::NetlinkSocket;
use super::{NetworkError, network_error};

/// The traffic of a container's link since its creation, from the container's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkStats {
    /// To the container.
    pub received: LinkCounters,
    /// From the container.
    pub sent: LinkCounters,
}

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Bytes, with the frames' headers.
    pub bytes: u64,
    /// Packets; packets that the kernel aggregates count as one.
    pub packets: u64,
    /// Packets that the link itself dropped because its queue was full. Packets that the rules drop
    /// have passed the link.
    pub drops: u64,
}

impl LinkStats {
    /// Converts the host's counters: transmitted at the host's end is received at the container's.
    fn at_the_other_end(host: &Stats64) -> Self {
        Self {
            received: LinkCounters {
                bytes: host.tx_bytes,
                packets: host.tx_packets,
                drops: host.tx_dropped,
            },
            sent: LinkCounters {
                bytes: host.rx_bytes,
                packets: host.rx_packets,
                drops: host.rx_dropped,
            },
        }
    }
}

/// Returns the traffic of the container whose host end is this device; `None` if the device no
/// longer exists.
pub(super) fn of(device: &str) -> Result<Option<LinkStats>, NetworkError> {
    let counted = NetlinkSocket::open().and_then(|mut links| links.counters(device));
    match counted {
        Ok(counters) => Ok(Some(LinkStats::at_the_other_end(&counters))),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(network_error(format!("read the counters of {device}"))(
            error,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_side_counters_are_swapped_for_the_container() {
        let mut host = Stats64::default();
        host.tx_bytes = 900;
        host.tx_packets = 9;
        host.tx_dropped = 1;
        host.rx_bytes = 50;
        host.rx_packets = 5;
        host.rx_dropped = 2;
        let traffic = LinkStats::at_the_other_end(&host);
        let flow = |bytes, packets, drops| LinkCounters {
            bytes,
            packets,
            drops,
        };
        assert_eq!(traffic.received, flow(900, 9, 1));
        assert_eq!(traffic.sent, flow(50, 5, 2));
    }

    #[test]
    fn a_missing_device_has_no_statistics() {
        assert_eq!(of("argosy-no-such").unwrap(), None);
    }
}
