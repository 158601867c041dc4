//! What a container is made of, as stored.

use prost::{Message, Oneof};

use super::opt_outs::{self, OptOutsMessage};
use super::sizes::{self, SizesMessage};
use super::{Read, Wrong};
use crate::task::{CniNetwork, Container, ImagePull, Network, PublishedPort};

/// Absent means the default.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerMessage {
    #[prost(string, tag = "1")]
    image: String,
    /// Absent means the host's.
    #[prost(oneof = "NetworkMessage", tags = "2, 3, 20")]
    network: Option<NetworkMessage>,
    #[prost(message, optional, tag = "10")]
    opt_outs: Option<OptOutsMessage>,
    #[prost(message, optional, tag = "11")]
    sizes: Option<SizesMessage>,
    /// 0: none is named; 1: if absent; 2: always.
    #[prost(uint32, tag = "12")]
    pull: u32,
}

#[derive(Clone, PartialEq, Oneof)]
enum NetworkMessage {
    #[prost(message, tag = "2")]
    None(NoNetworkMessage),
    #[prost(message, tag = "3")]
    Bridge(BridgeMessage),
    #[prost(message, tag = "20")]
    Cni(CniMessage),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct NoNetworkMessage {}

#[derive(Clone, PartialEq, Message)]
struct BridgeMessage {
    #[prost(message, repeated, tag = "1")]
    published: Vec<PublishedPortMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct CniMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    published: Vec<PublishedPortMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct PublishedPortMessage {
    #[prost(uint32, tag = "1")]
    host: u32,
    #[prost(uint32, tag = "2")]
    container: u32,
    #[prost(bool, tag = "3")]
    udp: bool,
}

impl From<&Container> for ContainerMessage {
    fn from(container: &Container) -> Self {
        let network = match &container.network {
            Network::Unnamed => None,
            Network::None => Some(NetworkMessage::None(NoNetworkMessage {})),
            Network::Bridge(ports) => Some(NetworkMessage::Bridge(BridgeMessage {
                published: ports.iter().map(Into::into).collect(),
            })),
            Network::Cni(CniNetwork { name, published }) => Some(NetworkMessage::Cni(CniMessage {
                name: name.clone(),
                published: published.iter().map(Into::into).collect(),
            })),
        };
        Self {
            image: container.image.clone(),
            network,
            opt_outs: opt_outs::stored(&container.opt_outs),
            sizes: sizes::stored(container.sizes),
            pull: match container.pull {
                None => 0,
                Some(ImagePull::IfAbsent) => 1,
                Some(ImagePull::Always) => 2,
            },
        }
    }
}

impl TryFrom<ContainerMessage> for Container {
    type Error = Wrong;

    fn try_from(message: ContainerMessage) -> Read<Self> {
        let network = match message.network {
            None => Network::Unnamed,
            Some(NetworkMessage::None(NoNetworkMessage {})) => Network::None,
            Some(NetworkMessage::Bridge(bridge)) => Network::Bridge(ports(bridge.published)?),
            Some(NetworkMessage::Cni(cni)) => Network::Cni(CniNetwork {
                name: cni.name,
                published: ports(cni.published)?,
            }),
        };
        Ok(Self {
            image: message.image,
            network,
            opt_outs: opt_outs::read(message.opt_outs)?,
            sizes: sizes::read(message.sizes),
            pull: match message.pull {
                0 => None,
                1 => Some(ImagePull::IfAbsent),
                2 => Some(ImagePull::Always),
                _ => return Err(Wrong("pull of an image")),
            },
        })
    }
}

fn ports(messages: Vec<PublishedPortMessage>) -> Read<Vec<PublishedPort>> {
    messages.into_iter().map(TryInto::try_into).collect()
}

impl From<&PublishedPort> for PublishedPortMessage {
    fn from(port: &PublishedPort) -> Self {
        Self {
            host: port.host.into(),
            container: port.container.into(),
            udp: port.udp,
        }
    }
}

impl TryFrom<PublishedPortMessage> for PublishedPort {
    type Error = Wrong;

    fn try_from(message: PublishedPortMessage) -> Read<Self> {
        let port = |number: u32| u16::try_from(number).map_err(|_| Wrong("published port"));
        Ok(Self {
            host: port(message.host)?,
            container: port(message.container)?,
            udp: message.udp,
        })
    }
}
