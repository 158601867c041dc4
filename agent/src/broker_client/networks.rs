//! Requests to a broker about networks of containers.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use argosy_network::cni::CniResult;
use argosy_network::{LinkStats, PortPublication};

use super::client::{BrokerClient, BrokerResult, single_descriptor, unexpected_reply};
use super::request::{BlockedEndpoints, BrokerReply, BrokerRequest};
use crate::core::ContainerName;

impl BrokerClient {
    /// Checks whether containers can have networks; returns the reason if they have no IPv6.
    pub(crate) fn check_networks(&self) -> BrokerResult<Option<String>> {
        match self.plain(BrokerRequest::CheckNetworks)? {
            BrokerReply::Networks(why_no_ipv6) => Ok(why_no_ipv6),
            _ => Err(unexpected_reply()),
        }
    }

    pub(crate) fn take_network(
        &self,
        name: ContainerName,
        ports: Vec<PortPublication>,
    ) -> BrokerResult<(OwnedFd, Vec<IpAddr>)> {
        match self.request(BrokerRequest::AllocateNetwork(name, ports), &[])? {
            (BrokerReply::Network { addresses }, namespace) => {
                Ok((single_descriptor(namespace)?, addresses))
            }
            _ => Err(unexpected_reply()),
        }
    }

    pub(crate) fn network_alone(&self) -> BrokerResult<OwnedFd> {
        single_descriptor(self.request(BrokerRequest::NewNetworkNamespace, &[])?.1)
    }

    pub(crate) fn release_network(&self, name: ContainerName) -> BrokerResult {
        self.done(BrokerRequest::ReleaseNetwork(name))
    }

    pub(crate) fn resume_networks(&self, known: Vec<ContainerName>) -> BrokerResult {
        self.done(BrokerRequest::ResumeNetworks(known))
    }

    pub(crate) fn retry_networks(&self) -> BrokerResult {
        self.done(BrokerRequest::RetryNetworks)
    }

    /// Restores the rules of networks if they are missing. Returns whether they were missing since
    /// the last call.
    pub(crate) fn restore_network_rules(&self) -> BrokerResult<bool> {
        match self.plain(BrokerRequest::RestoreNetworkRules)? {
            BrokerReply::Bool(were_missing) => Ok(were_missing),
            _ => Err(unexpected_reply()),
        }
    }

    pub(crate) fn traffic(&self, name: ContainerName) -> Option<LinkStats> {
        match self.request_for_display(BrokerRequest::Traffic(name)) {
            Ok(BrokerReply::Traffic(traffic)) => traffic,
            Ok(_) | Err(_) => None,
        }
    }

    pub(crate) fn add_cni(
        &self,
        name: ContainerName,
        list: String,
        ports: Vec<PortPublication>,
    ) -> BrokerResult<CniResult> {
        match self.request(BrokerRequest::AttachCni { name, list, ports }, &[])? {
            (BrokerReply::Network { addresses }, namespace) => Ok(CniResult {
                namespace: single_descriptor(namespace)?,
                addresses,
            }),
            _ => Err(unexpected_reply()),
        }
    }

    pub(crate) fn delete_cni(&self, name: ContainerName) -> BrokerResult {
        self.done(BrokerRequest::DetachCni(name))
    }

    /// Returns the containers with CNI resources.
    pub(crate) fn cni_containers(&self) -> BrokerResult<Vec<ContainerName>> {
        match self.plain(BrokerRequest::ListCni)? {
            BrokerReply::Containers(names) => Ok(names),
            _ => Err(unexpected_reply()),
        }
    }

    pub(crate) fn sweep_cni(&self, known: Vec<ContainerName>) -> BrokerResult {
        self.done(BrokerRequest::CleanUpCni(known))
    }

    pub(crate) fn block_endpoints(
        &self,
        tasks: BlockedEndpoints,
        content: BlockedEndpoints,
    ) -> BrokerResult {
        self.done(BrokerRequest::BlockEndpoints { tasks, content })
    }
}
