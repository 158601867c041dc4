//! Access rules for the servers of files and images that tasks name. The agent connects from its
//! host's network, so a task must not name addresses that only the host may reach.
//!
//! Addresses are checked after names are resolved, and a connection goes to the checked addresses.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use argosy_isolation::reach_filter::METADATA;
use argosy_network::is_own_address;
use argosy_state::ids::FrameworkId;
use serde::{Deserialize, Serialize};

use argosy_proto::CLUSTER_PORTS;

use super::FetchSettings;
use super::addresses::{is_link_local, kind, meant};
use super::containers::ContainerAddresses;
use super::lookups::addresses_of;
use super::own_host::HostAddresses;

/// Servers that the operator lets tasks fetch from, regardless of the rules: one `--fetch-allow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchAllow {
    /// All addresses of a network, on every port.
    Network {
        /// The first address.
        address: IpAddr,
        /// The prefix length.
        bits: u8,
    },
    /// A host by its name in the URL, or by its address, on one port.
    Server {
        /// In lower case, an address without brackets.
        host: String,
        port: u16,
    },
}

impl FromStr for FetchAllow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "{text:?} is not an address, network or HOST:PORT; write 10.0.0.7, 10.0.0.0/8, [fd00::7]:8080 or \
                 files.example:443"
            )
        };
        if let Ok(address) = text.parse::<IpAddr>() {
            let bits = max_bits(address);
            return Ok(Self::Network { address, bits });
        }
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| invalid())?;
            let bits = bits.parse().ok().filter(|bits| *bits <= max_bits(address));
            let bits = bits.ok_or_else(invalid)?;
            if masked(address, bits) != number(address) {
                let first = first(address, bits);
                return Err(format!("{text:?} is not a network; write {first}/{bits}"));
            }
            return Ok(Self::Network { address, bits });
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(invalid)?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']').map(Ipv6Addr::from_str);
                let address = address.ok_or_else(invalid)?.map_err(|_| invalid())?;
                address.to_string()
            }
            None => host.to_ascii_lowercase(),
        };
        let is_plain = |host: &str| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !host.is_empty() && host.bytes().all(fits)
        };
        match host.parse::<Ipv6Addr>().is_ok() || is_plain(&host) {
            true => Ok(Self::Server { host, port }),
            false => Err(invalid()),
        }
    }
}

impl FetchAllow {
    /// Whether it allows a host, as URLs name it, on this port.
    pub(crate) fn lists(&self, host: &str, port: u16) -> bool {
        self.names(&normalized(without_brackets(host)), port)
    }

    /// Whether it allows a host of this name on this port, whatever its addresses.
    fn names(&self, host: &str, port: u16) -> bool {
        matches!(self, Self::Server { host: named, port: on } if *on == port && named == host)
    }

    /// Whether it allows a server by an address of a metadata service.
    #[must_use]
    pub fn is_at_metadata(&self) -> bool {
        let Self::Server { host, .. } = self else {
            return false;
        };
        host.parse().is_ok_and(|address| {
            let address = meant(address);
            METADATA.contains(&address) || is_link_local(address)
        })
    }

    fn covers(&self, address: IpAddr, port: u16) -> bool {
        match self {
            Self::Network { address: of, bits } => {
                of.is_ipv4() == address.is_ipv4() && masked(address, *bits) == number(*of)
            }
            Self::Server { host, port: on } => *on == port && host.parse::<IpAddr>() == Ok(address),
        }
    }
}

fn max_bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Returns the first address of the network with this prefix length, as a number.
fn masked(address: IpAddr, bits: u8) -> u128 {
    let rest = u32::from(max_bits(address) - bits);
    number(address)
        .checked_shr(rest)
        .map_or(0, |kept| kept << rest)
}

fn first(address: IpAddr, bits: u8) -> IpAddr {
    let number = masked(address, bits);
    match address {
        // An IPv4 network has no more bits than that.
        IpAddr::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

/// The servers that a task may fetch from without the operator's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum ServerAccess {
    /// All except servers that only the host may reach.
    #[default]
    #[serde(rename = "Usual")]
    Default,
    /// None: its network is `none`.
    #[serde(rename = "Nothing")]
    None,
}

/// The task for which a server is contacted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requester {
    /// Its framework, in whose turn names are looked up.
    pub framework: FrameworkId,
    pub reach: ServerAccess,
}

/// The purpose of a request. The rules are the same, the error texts are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestPurpose {
    Files,
    Images,
}

/// The reason why a server is not contacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessDenied {
    purpose: RequestPurpose,
    host: String,
    port: u16,
    rule: DenyRule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum DenyRule {
    /// The address and its class.
    Address(IpAddr, &'static str),
    NoNetwork,
}

impl fmt::Display for AccessDenied {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            purpose,
            host,
            port,
            rule,
        } = self;
        match rule {
            DenyRule::Address(address, what) => {
                if host.parse() != Ok(*address) {
                    write!(formatter, "{host} is ")?;
                }
                let server = SocketAddr::new(*address, *port);
                match purpose {
                    RequestPurpose::Files => write!(
                        formatter,
                        "{address}, {what}, from which tasks may not fetch; to allow it, start the agent with \
                         --fetch-allow {server}"
                    ),
                    RequestPurpose::Images => write!(
                        formatter,
                        "{address}, {what}, from which no images are pulled; to allow it, start the agent with \
                         --insecure-registry {} if it has no TLS, else with --fetch-allow {server}",
                        named(host, *port)
                    ),
                }
            }
            DenyRule::NoNetwork => {
                let server = named(host, *port);
                write!(
                    formatter,
                    "a task whose network is none fetches nothing by http or https; to allow it, start the agent with \
                     --fetch-allow {server}, or give the task another network"
                )
            }
        }
    }
}

impl Error for AccessDenied {}

impl AccessDenied {
    /// Returns the refusal among the causes of an error, if there is one.
    pub(crate) fn find_in(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(refusal) = error.downcast_ref::<Self>() {
                return Some(refusal.clone());
            }
            cause = error.source();
        }
        None
    }
}

/// Formats `host:port`, with brackets around an IPv6 address.
fn named(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// The operator's rules, and the agent's knowledge of its cluster and its host.
#[derive(Debug)]
pub(crate) struct AccessPolicy {
    pub(super) purpose: RequestPurpose,
    pub(super) allow: Vec<FetchAllow>,
    /// API addresses of masters, `host:port`.
    pub(super) masters: Vec<String>,
    /// The agent's API address for others, `host:port`.
    pub(super) api: String,
    /// The port on which it listens, if that is another one.
    pub(super) api_port: Option<u16>,
    /// Containers of this host. Tasks reach them by their published ports.
    pub(super) containers: ContainerAddresses,
    pub(super) host: HostAddresses,
}

/// The class of a container's address.
const CONTAINER: &str = "an address of tasks of this host";
/// The class of a host's address.
const HOST: &str = "an address of the agent's host";

impl AccessPolicy {
    /// Creates the operator's policy. Opens files.
    pub(crate) fn new(purpose: RequestPurpose, settings: &FetchSettings) -> io::Result<Self> {
        let subnets = settings.task_subnets;
        Ok(Self {
            purpose,
            allow: settings.allow.clone(),
            masters: settings.masters.clone(),
            api: settings.api.clone(),
            api_port: settings.api_port,
            containers: ContainerAddresses::open(subnets)?,
            host: HostAddresses::open(subnets.is_some_and(|subnets| subnets.ipv6.is_some()))?,
        })
    }

    /// Returns the addresses of a host at which a task may fetch from it.
    pub(super) async fn resolve(
        &self,
        host: &str,
        port: u16,
        Requester { framework, reach }: Requester,
    ) -> Result<Vec<SocketAddr>, Box<dyn Error + Send + Sync>> {
        let host = normalized(host);
        let is_named = self.allow.iter().any(|allow| allow.names(&host, port));
        let lists_addresses = self.allow.iter().any(|allow| match allow {
            FetchAllow::Network { .. } => true,
            FetchAllow::Server { host, port: on } => *on == port && host.parse::<IpAddr>().is_ok(),
        });
        if reach == ServerAccess::None && !is_named && !lists_addresses {
            // Its name is not even resolved: that would contact a server as well.
            return Err(self.no_network(host, port).into());
        }
        let found = addresses_of(&host, port, framework).await?;
        if is_named {
            return Ok(found);
        }
        let known = self.known(port, framework).await;
        for address in &found {
            self.check(&host, address, reach, &known)?;
            self.check_peer(&host, *address)?;
        }
        Ok(found)
    }

    /// Checks whether a server of this name may be at this address. Repeated after the response:
    /// the address may have become a container's during the connection.
    pub(super) fn check_peer(
        &self,
        host: &str,
        server: SocketAddr,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let (host, address, port) = (normalized(host), server.ip(), server.port());
        let meant = meant(address);
        let is_allowed = self.allow.iter().any(|allow| {
            allow.names(&host, port) || allow.covers(address, port) || allow.covers(meant, port)
        });
        if is_allowed {
            return Ok(());
        }
        let what = if self.containers.contains(meant)? {
            CONTAINER
        } else if self.is_of_host(server)? {
            HOST
        } else {
            return Ok(());
        };
        let rule = DenyRule::Address(address, what);
        Err(self.refusal(host, port, rule).into())
    }

    /// Whether the host answers there, by this address or by the one embedded in it.
    fn is_of_host(&self, server: SocketAddr) -> io::Result<bool> {
        let meant = SocketAddr::new(meant(server.ip()), server.port());
        Ok(self.host.answers(server)? || self.host.answers(meant)?)
    }

    fn check(
        &self,
        host: &str,
        server: &SocketAddr,
        reach: ServerAccess,
        known: &[IpAddr],
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let (address, port) = (server.ip(), server.port());
        let meant = meant(address);
        let covered = |allow: &FetchAllow| allow.covers(address, port) || allow.covers(meant, port);
        if self.allow.iter().any(covered) {
            return Ok(());
        }
        let host = host.to_owned();
        if reach == ServerAccess::None {
            return Err(self.no_network(host, port).into());
        }
        let what = match kind(meant) {
            Some(kind) => Some(kind),
            None if known.contains(&meant) => Some("a master of this cluster"),
            None if self.is_own_api(meant, port)? => Some("the API of this agent"),
            None => None,
        };
        let refused = |what| self.refusal(host, port, DenyRule::Address(address, what));
        what.map_or(Ok(()), |what| Err(refused(what).into()))
    }

    fn no_network(&self, host: String, port: u16) -> AccessDenied {
        self.refusal(host, port, DenyRule::NoNetwork)
    }

    fn refusal(&self, host: String, port: u16, rule: DenyRule) -> AccessDenied {
        AccessDenied {
            purpose: self.purpose,
            host,
            port,
            rule,
        }
    }

    /// Returns the masters' addresses, if one of them could use this port. A name that cannot be
    /// resolved is skipped.
    async fn known(&self, port: u16, framework: FrameworkId) -> Vec<IpAddr> {
        let mut known = Vec::new();
        for master in &self.masters {
            let Some((host, own)) = split(master) else {
                continue;
            };
            if CLUSTER_PORTS.contains(&port) || port == own {
                let found = addresses_of(host, port, framework).await;
                known.extend(found.into_iter().flatten().map(|found| meant(found.ip())));
            }
        }
        known
    }

    /// The API may listen on each address of this host.
    fn is_own_api(&self, address: IpAddr, port: u16) -> io::Result<bool> {
        let advertised = split(&self.api);
        let is_ours = advertised.is_some_and(|(_, own)| own == port) || self.api_port == Some(port);
        let is_advertised =
            || advertised.is_some_and(|(host, _)| host.parse::<IpAddr>() == Ok(address));
        Ok(is_ours && (is_advertised() || is_own_address(address)?))
    }
}

/// Normalizes a name for comparison.
fn normalized(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Returns an address without brackets, or a name.
pub(super) fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((without_brackets(host), port.parse().ok()?))
}
