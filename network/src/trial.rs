//! Probe for private networks, in a temporary network namespace.

use std::os::fd::AsFd;

use super::link::VethPair;
use super::namespace::{self, CONTAINER_DEVICE};
use super::rules::{self, DEVICES, ForwardingDenied, NftTable};
use super::{InterContainerTraffic, NetworkError, Subnet, Subnet6, host, network_error};

/// Creates a veth pair and an nft table as for a container, in a temporary network namespace. Does
/// not change the host.
///
/// # Errors
/// If a subnet overlaps a route, `nft` is missing, or the host refuses an operation.
pub fn check(subnet: Subnet, subnet6: Option<Subnet6>) -> Result<(), NetworkError> {
    let subnet6 = host::possible(subnet6);
    rules::is_installed().map_err(|source| NetworkError::NoNft { source })?;
    host::check_routes(subnet, subnet6)?;
    let closed_between = ForwardingDenied::default();
    let table = NftTable {
        tag: "trial",
        subnet,
        subnet6,
        traffic: InterContainerTraffic::Isolated,
        blocks_metadata: true,
        denied: &[],
        forwarding_denied: &closed_between,
        mappings: &[],
    };
    // In a separate thread, so that a failure leaves no other thread in the wrong namespace.
    std::thread::scope(|scope| scope.spawn(|| make(&table)).join())
        .expect("trying does not panic: each failure is returned")
}

fn make(table: &NftTable<'_>) -> Result<(), NetworkError> {
    let mut links = namespace::enter_new()?;
    let namespace = namespace::current().map_err(network_error("open a new network namespace"))?;
    let device = format!("{DEVICES}{}", table.tag);
    let pair = VethPair {
        outer: &device,
        inner: CONTAINER_DEVICE,
        namespace: namespace.as_fd(),
    };
    links
        .add_pair(&pair)
        .map_err(network_error(format!("make the device {device}")))?;
    rules::apply(&table.script())
}
