//! The container of a task.

use super::{SecurityOptions, Sizes};
use crate::codec::canonical::CanonicalWriter;
use crate::codec::scalars::numbered;
use crate::codec::stored::stored;
use crate::ids::{Level, LevelRequirement};

/// The settings of a container that differ from the agent's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Container {
    /// The name of the image for the root file system; empty means the programs of the agent's
    /// host.
    pub image: String,
    /// The network of the container.
    pub network: ContainerNetwork,
    /// The security options that relax the agent's profile.
    pub security_options: SecurityOptions,
    /// The sizes that differ from the agent's defaults.
    pub sizes: Sizes,
    /// The pull policy of the image; `None` for the agent's default.
    pub pull: Option<ImagePull>,
}

/// The policy by which the image's registry is queried for an image that the agent already has. It
/// is never queried for an image that is named by its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImagePull {
    /// The registry is not queried: a tag means what it meant when it was pulled.
    IfAbsent,
    /// The registry is queried at each start. Unchanged layers are not pulled again.
    Always,
}

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ContainerNetwork {
    /// The agent's default: a private network, or the host's if the task may use that.
    #[default]
    AgentDefault,
    /// A network with only a loopback device.
    None,
    /// A private address on the agent's bridge network, with these published ports.
    Bridge(Vec<PublishedPort>),
    /// A CNI network of the agent's host.
    Cni(CniNetwork),
}

/// A network that CNI plugins of the agent's host create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniNetwork {
    /// The name that the operator of the host has given the network.
    pub name: String,
    /// The ports of the host that are forwarded to the container, if its plugins support that.
    pub published: Vec<PublishedPort>,
}

/// A port of the host that is forwarded to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPort {
    /// The port of the host; one of the task's `ports`.
    pub host: u16,
    /// The port of the container.
    pub container: u16,
    /// Whether the protocol is UDP instead of TCP.
    pub udp: bool,
}

stored!(message Container {
    1 image: Text,
    2 | 3 | 20 network: OneOf,
    10 security_options: PartOrDefault,
    11 sizes: PartOrDefault,
    12 pull: NumberOrNone or "pull of an image",
});

impl Container {
    /// Returns the used fields that not every level has.
    pub(crate) fn level_requirements(&self) -> impl Iterator<Item = LevelRequirement> + use<> {
        let level = Level::RELEASE_0_2;
        let fields = [
            ("container.sizes", level, !self.sizes.is_empty()),
            ("container.pull", level, self.pull.is_some()),
            (
                "container.opt_outs.host_network",
                level,
                self.security_options.host_network,
            ),
        ];
        let used = fields.into_iter().filter(|(.., is_used)| *is_used);
        used.map(|(what, level, _)| LevelRequirement { level, what })
    }

    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let Container {
            image,
            network,
            security_options,
            sizes,
            pull,
        } = self;
        out.text(1, image);
        out.part(2, |out| network.fingerprint(out));
        out.part(3, |out| security_options.fingerprint(out));
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

numbered!(ImagePull, IfAbsent = 1, Always = 2);

stored!(oneof ContainerNetwork else AgentDefault {
    2 None,
    3 Bridge(Inner<PartList>),
    20 Cni(Part),
});

impl ContainerNetwork {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        match self {
            ContainerNetwork::AgentDefault => (),
            ContainerNetwork::None => out.chosen(1, |_| ()),
            ContainerNetwork::Bridge(published) => out.chosen(2, |out| {
                out.list(1, published, |out, one: &PublishedPort| {
                    one.fingerprint(out)
                })
            }),
            ContainerNetwork::Cni(CniNetwork { name, published }) => out.chosen(3, |out| {
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
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
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
