//! Links, addresses and routes of one network namespace, by netlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, InfoData, InfoKind,
    InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Stats64,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::socket::SockProtocol;

use super::netlink::NetlinkConnection;

/// The index of the loopback device in every namespace.
const LOOPBACK: u32 = 1;

/// A netlink connection for the links of one namespace.
pub(super) struct NetlinkSocket {
    connection: NetlinkConnection,
}

/// A veth pair to create, of which the outer end is set up.
pub(super) struct VethPair<'a> {
    /// The end that stays in the namespace of the connection.
    pub(super) outer: &'a str,
    /// The other end's name, and its namespace.
    pub(super) inner: &'a str,
    pub(super) namespace: BorrowedFd<'a>,
}

/// The two addresses of one family on a veth pair, seen from one end.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerAddresses {
    pub(super) own: IpAddr,
    pub(super) peer: IpAddr,
}

/// Settings of a device for packets that it receives and for automatic addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeviceSettings {
    /// Whether packets to and from 127.0.0.0/8 may pass it.
    pub(super) route_localnet: bool,
    /// Whether it gets a link-local address when it is set up.
    pub(super) link_local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NetworkDevice {
    pub(super) index: u32,
    pub(super) name: String,
    /// Its hardware address; empty if it has none.
    pub(super) mac: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: IpAddr,
    pub(super) bits: u8,
    /// The device's index; 0 if there is none.
    pub(super) device: u32,
}

impl NetlinkSocket {
    /// Opens a connection for the namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let connection = NetlinkConnection::open(SockProtocol::NetlinkRoute)?;
        Ok(Self { connection })
    }

    pub(super) fn add_pair(&mut self, pair: &VethPair<'_>) -> io::Result<()> {
        // Not set up yet: the kernel creates the inner end first, and sets up no end whose peer
        // does not exist.
        let mut inner = LinkMessage::default();
        // The kernel uses one queue in any case. If it allocates more, it disables the others and
        // waits for all readers (RCU), with its lock of all network settings.
        let one_queue = [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)];
        inner.attributes = vec![
            LinkAttribute::IfName(pair.inner.to_owned()),
            LinkAttribute::NetNsFd(pair.namespace.as_raw_fd()),
        ];
        inner.attributes.extend(one_queue.clone());
        let mut outer = LinkMessage::default();
        set_up_flag(&mut outer);
        outer.attributes = vec![
            LinkAttribute::IfName(pair.outer.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(inner))),
            ]),
        ];
        outer.attributes.extend(one_queue);
        self.request(
            RouteNetlinkMessage::NewLink(outer),
            NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK,
        )
        .map(drop)
    }

    pub(super) fn bring_up(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        set_up_flag(&mut link);
        self.request(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)
            .map(drop)
    }

    /// Sets up the loopback device.
    pub(super) fn bring_up_loopback(&mut self) -> io::Result<()> {
        self.bring_up(LOOPBACK)
    }

    /// Changes settings in one request, for which the kernel sleeps on its lock of all network
    /// settings. For the same writes to `/proc/sys`, the kernel restarts the call in a loop while
    /// another thread holds the lock. That takes a processor away from the lock holders.
    pub(super) fn apply_settings(
        &mut self,
        index: u32,
        settings: DeviceSettings,
    ) -> io::Result<()> {
        let mut families = Vec::new();
        if settings.route_localnet {
            let mut wanted = InetDevConf::default();
            wanted.route_localnet = 1;
            families.push(AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(wanted)]));
        }
        if !settings.link_local {
            let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
            families.push(AfSpecUnspec::Inet6(vec![mode]));
        }
        if families.is_empty() {
            return Ok(());
        }
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![LinkAttribute::AfSpecUnspec(families)];
        self.request(RouteNetlinkMessage::SetLink(link), NLM_F_ACK)
            .map(drop)
    }

    /// Removes a device, and with it the other end of its pair.
    pub(super) fn remove(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        self.request(RouteNetlinkMessage::DelLink(link), NLM_F_ACK)
            .map(drop)
    }

    /// Returns the traffic counters of the device with this name.
    pub(super) fn counters(&mut self, name: &str) -> io::Result<Stats64> {
        let answers = self.request_link(name)?;
        let found = answers.into_iter().find_map(counters);
        found.ok_or_else(|| io::Error::other(format!("the kernel returns no counters for {name}")))
    }

    /// Returns the device with this name.
    pub(super) fn find(&mut self, name: &str) -> io::Result<NetworkDevice> {
        let answers = self.request_link(name)?;
        let found = answers.into_iter().find_map(device);
        found.ok_or_else(|| io::Error::other(format!("the kernel returns no index for {name}")))
    }

    fn request_link(&mut self, name: &str) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.request(RouteNetlinkMessage::GetLink(link), NLM_F_ACK)
    }

    /// Returns all devices.
    pub(super) fn list(&mut self) -> io::Result<Vec<NetworkDevice>> {
        let wanted = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.request(wanted, NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(device).collect())
    }

    /// Sets a device's address and the route to its peer. An IPv6 address is usable immediately:
    /// duplicate address detection is off.
    pub(super) fn connect(&mut self, index: u32, addresses: PeerAddresses) -> io::Result<()> {
        let mut address = AddressMessage::default();
        address.header.family = family(addresses.own);
        address.header.prefix_len = if addresses.own.is_ipv4() { 32 } else { 128 };
        address.header.index = index;
        if addresses.own.is_ipv6() {
            address.header.flags = AddressHeaderFlags::Nodad;
        }
        address.attributes = vec![
            AddressAttribute::Local(addresses.own),
            AddressAttribute::Address(addresses.peer),
        ];
        self.request(
            RouteNetlinkMessage::NewAddress(address),
            NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK,
        )
        .map(drop)
    }

    /// Adds a permanent neighbour entry, so that the kernel never queries the hardware address.
    pub(super) fn add_neighbour(
        &mut self,
        index: u32,
        peer: Ipv6Addr,
        hardware: &[u8],
    ) -> io::Result<()> {
        let mut neighbour = NeighbourMessage::default();
        neighbour.header.family = AddressFamily::Inet6;
        neighbour.header.ifindex = index;
        neighbour.header.state = NeighbourState::Permanent;
        neighbour.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(peer)),
            NeighbourAttribute::LinkLayerAddress(hardware.to_vec()),
        ];
        self.request(
            RouteNetlinkMessage::NewNeighbour(neighbour),
            NLM_F_CREATE | NLM_F_REPLACE | NLM_F_ACK,
        )
        .map(drop)
    }

    /// Sets the default route of a family to `gateway`, at the other end of the device's pair. The
    /// kernel does not check that the gateway is reachable: for IPv6 it is not while the device is
    /// just being set up.
    pub(super) fn set_default_route(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let mut route = RouteMessage::default();
        route.header.address_family = family(gateway);
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Static;
        route.header.scope = RouteScope::Universe;
        route.header.kind = RouteType::Unicast;
        route.header.flags = RouteFlags::Onlink;
        route.attributes = vec![
            RouteAttribute::Gateway(gateway.into()),
            RouteAttribute::Oif(index),
        ];
        self.request(
            RouteNetlinkMessage::NewRoute(route),
            NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK,
        )
        .map(drop)
    }

    /// Returns all IPv4 or IPv6 routes in all tables, except default routes, including those in two
    /// halves.
    pub(super) fn routes(&mut self, family: AddressFamily) -> io::Result<Vec<Route>> {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family;
        let answers = self.request(RouteNetlinkMessage::GetRoute(wanted), NLM_F_DUMP)?;
        Ok(answers.into_iter().filter_map(route).collect())
    }

    /// Whether the host itself receives packets that it sends to this address. Needs no privileges.
    pub(super) fn is_local(&mut self, address: IpAddr) -> io::Result<bool> {
        let mut wanted = RouteMessage::default();
        wanted.header.address_family = family(address);
        wanted.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        wanted.attributes = vec![RouteAttribute::Destination(address.into())];
        let answers = match self.request(RouteNetlinkMessage::GetRoute(wanted), NLM_F_ACK) {
            Err(error) if error.raw_os_error().is_some_and(is_no_route) => return Ok(false),
            answers => answers?,
        };
        let is_local = |answer: &RouteNetlinkMessage| match answer {
            RouteNetlinkMessage::NewRoute(route) => {
                matches!(route.header.kind, RouteType::Local | RouteType::Anycast)
            }
            _ => false,
        };
        Ok(answers.iter().any(is_local))
    }

    /// Sends one request and collects its answers.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        self.connection.request(message, flags, |answer| {
            answers.push(answer);
            Ok(())
        })?;
        Ok(answers)
    }
}

/// Sets up the loopback device of the calling thread's namespace.
///
/// # Errors
/// If the kernel refuses it.
pub fn bring_up_loopback() -> io::Result<()> {
    NetlinkSocket::open()?.bring_up_loopback()
}

/// Whether the kernel's error means that it has no route to an address, or that the route rejects
/// packets.
fn is_no_route(errno: i32) -> bool {
    [
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::EACCES,
        libc::EINVAL,
        // For IPv6, if the kernel lacks it.
        libc::EOPNOTSUPP,
        libc::EAFNOSUPPORT,
    ]
    .contains(&errno)
}

fn set_up_flag(link: &mut LinkMessage) {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
}

fn device(message: RouteNetlinkMessage) -> Option<NetworkDevice> {
    let RouteNetlinkMessage::NewLink(link) = message else {
        return None;
    };
    let (mut name, mut hardware) = (None, Vec::new());
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(reported) => name = Some(reported),
            LinkAttribute::Address(reported) => hardware = reported,
            _ => {}
        }
    }
    Some(NetworkDevice {
        index: link.header.index,
        name: name?,
        mac: hardware,
    })
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn counters(message: RouteNetlinkMessage) -> Option<Stats64> {
    let RouteNetlinkMessage::NewLink(link) = message else {
        return None;
    };
    let mut attributes = link.attributes.into_iter();
    attributes.find_map(|attribute| match attribute {
        LinkAttribute::Stats64(counters) => Some(counters),
        _ => None,
    })
}

fn route(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(route) = message else {
        return None;
    };
    let everywhere: IpAddr = match route.header.address_family {
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let mut found = Route {
        to: everywhere,
        bits: route.header.destination_prefix_length,
        device: 0,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                found.to = (*address).into();
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                found.to = (*address).into();
            }
            RouteAttribute::Oif(device) => found.device = *device,
            _ => {}
        }
    }
    (found.bits > 1).then_some(found)
}
