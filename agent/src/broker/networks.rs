//! Requests to a broker about networks of containers.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use argosy_isolation::network::{Publication, Traffic, cni::Added};

use super::client::{Broker, Done, one, senseless};
use super::request::{ClosedReach, Reply, Request};
use crate::core::ContainerName;

impl Broker {
    /// Checks whether containers can have networks; returns the reason if they have no IPv6.
    pub(crate) fn check_networks(&self) -> Done<Option<String>> {
        match self.plain(Request::CheckNetworks)? {
            Reply::Networks(why_no_ipv6) => Ok(why_no_ipv6),
            _ => Err(senseless()),
        }
    }

    pub(crate) fn take_network(
        &self,
        name: ContainerName,
        ports: Vec<Publication>,
    ) -> Done<(OwnedFd, Vec<IpAddr>)> {
        match self.ask(Request::TakeNetwork(name, ports), &[])? {
            (Reply::Network { addresses }, namespace) => Ok((one(namespace)?, addresses)),
            _ => Err(senseless()),
        }
    }

    pub(crate) fn network_alone(&self) -> Done<OwnedFd> {
        one(self.ask(Request::NetworkAlone, &[])?.1)
    }

    pub(crate) fn release_network(&self, name: ContainerName) -> Done {
        self.done(Request::ReleaseNetwork(name))
    }

    pub(crate) fn resume_networks(&self, known: Vec<ContainerName>) -> Done {
        self.done(Request::ResumeNetworks(known))
    }

    pub(crate) fn retry_networks(&self) -> Done {
        self.done(Request::RetryNetworks)
    }

    pub(crate) fn traffic(&self, name: ContainerName) -> Option<Traffic> {
        match self.shown(Request::Traffic(name)) {
            Ok(Reply::Traffic(traffic)) => traffic,
            Ok(_) | Err(_) => None,
        }
    }

    pub(crate) fn plug(
        &self,
        name: ContainerName,
        list: String,
        ports: Vec<Publication>,
    ) -> Done<Added> {
        match self.ask(Request::Plug { name, list, ports }, &[])? {
            (Reply::Network { addresses }, namespace) => Ok(Added {
                namespace: one(namespace)?,
                addresses,
            }),
            _ => Err(senseless()),
        }
    }

    pub(crate) fn unplug(&self, name: ContainerName) -> Done {
        self.done(Request::Unplug(name))
    }

    /// Returns the containers with CNI resources.
    pub(crate) fn plugged(&self) -> Done<Vec<ContainerName>> {
        match self.plain(Request::Plugged)? {
            Reply::Containers(names) => Ok(names),
            _ => Err(senseless()),
        }
    }

    pub(crate) fn sweep_plugged(&self, known: Vec<ContainerName>) -> Done {
        self.done(Request::SweepPlugged(known))
    }

    pub(crate) fn close_reach(&self, tasks: ClosedReach, content: ClosedReach) -> Done {
        self.done(Request::CloseReach { tasks, content })
    }
}
