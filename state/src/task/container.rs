//! What a container is made of.

use super::{OptOuts, Sizes};
use crate::encode::stored::stored;
use crate::fingerprint::Writer;

/// What a container is made of beside the agent's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// Name of the image that is its root; empty means the programs of the agent's host.
    pub image: String,
    /// What it reaches, and by what it is reached.
    pub network: Network,
    /// What it is let off of its agent's profile.
    pub opt_outs: OptOuts,
    /// Sizes that differ from its agent's usual ones.
    pub sizes: Sizes,
    /// When the image's registry is asked; `None`: as its agent does for all.
    pub pull: Option<ImagePull>,
}

/// When a registry is asked for an image that its agent has already. It is never asked for one that is named by its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImagePull {
    /// Never: a tag means what it meant when it was pulled.
    IfAbsent,
    /// At each start; what has not changed is not pulled again.
    Always,
}

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Network {
    /// What its agent gives tasks: one of its own, or the host's if it is let into that.
    #[default]
    Unnamed,
    /// Nothing but itself.
    None,
    /// An address of its own behind the host's; these ports of the host lead to it.
    Bridge(Vec<PublishedPort>),
    /// What a CNI network of the agent's host makes of it.
    Cni(CniNetwork),
}

/// A network that plugins of the agent's host make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniNetwork {
    /// As the operator of the host has named it.
    pub name: String,
    /// Ports of the host that lead to it, where its plugins can do that.
    pub published: Vec<PublishedPort>,
}

/// A port of the host that leads into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPort {
    /// The host's; one of the task's `ports`.
    pub host: u16,
    /// The container's.
    pub container: u16,
    /// UDP, not TCP.
    pub udp: bool,
}

stored!(message Container {
    1 image: Text,
    2 | 3 | 20 network: OneOf,
    10 opt_outs: PartOrDefault,
    11 sizes: PartOrDefault,
    12 pull: NumberOrNone or "pull of an image",
});

impl Container {
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
        let Container {
            image,
            network,
            opt_outs,
            sizes,
            pull,
        } = self;
        out.text(1, image);
        out.part(2, |out| network.fingerprint(out));
        out.part(3, |out| opt_outs.fingerprint(out));
        out.part(4, |out| sizes.fingerprint(out));
        out.optional(
            5,
            pull.map(|pull| match pull {
                ImagePull::IfAbsent => 1,
                ImagePull::Always => 2,
            }),
        );
    }
}

stored!(oneof Network else Unnamed {
    2 None,
    3 Bridge(Inner<PartList>),
    20 Cni(Part),
});

impl Network {
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
        match self {
            Network::Unnamed => (),
            Network::None => out.chosen(1, |_| ()),
            Network::Bridge(published) => out.chosen(2, |out| {
                out.list(1, published, |out, one: &PublishedPort| {
                    one.fingerprint(out)
                })
            }),
            Network::Cni(CniNetwork { name, published }) => out.chosen(3, |out| {
                out.list(1, published, |out, one: &PublishedPort| {
                    one.fingerprint(out)
                });
                out.text(2, name);
            }),
        }
    }
}

stored!(message CniNetwork {
    1 name: Text,
    2 published: PartList,
});

stored!(message PublishedPort {
    1 host: Number or "published port",
    2 container: Number or "published port",
    3 udp: Number,
});

impl PublishedPort {
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
        let PublishedPort {
            host,
            container,
            udp,
        } = self;
        out.number(1, (*host).into());
        out.number(2, (*container).into());
        out.flag(3, *udp);
    }
}
