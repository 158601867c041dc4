//! What a host must be like for containers to have networks, and is made like.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use super::link::Links;
use super::rules::DEVICES;
use super::{NetworkError, Protocol, Publication, Subnet, refused};

/// Nothing but containers may have a route into their subnet.
pub(super) fn check_routes(subnet: Subnet) -> Result<(), NetworkError> {
    let mut links = Links::open().map_err(refused("talk to the kernel about devices"))?;
    let devices = links.list().map_err(refused("list devices"))?;
    for route in links.routes().map_err(refused("list routes"))? {
        let device = devices.iter().find(|link| link.index == route.device);
        let device = device.map_or("no device", |link| &link.name);
        if !device.starts_with(DEVICES) && subnet.overlaps(route.to, route.bits) {
            return Err(NetworkError::Overlap {
                subnet,
                route: format!("{}/{}", route.to, route.bits),
                device: device.to_owned(),
            });
        }
    }
    Ok(())
}

/// Publishing goes before listening: who listens there would hear nobody any more.
pub(super) fn check_free(publication: &Publication) -> Result<(), NetworkError> {
    let port = (Ipv4Addr::UNSPECIFIED, publication.host_port);
    let bound: io::Result<()> = match publication.protocol {
        Protocol::Tcp => TcpListener::bind(port).map(drop),
        Protocol::Udp => UdpSocket::bind(port).map(drop),
    };
    bound.map_err(|source| NetworkError::Bound {
        name: publication.name.clone(),
        protocol: publication.protocol,
        port: publication.host_port,
        source,
    })
}
