//! What a container may be let off of its agent's profile.
//!
//! Asked for by a task, and allowed by the operator of its agent: each by its name.

use std::collections::BTreeSet;
use std::fmt;

use crate::encode::stored::stored;
use crate::fingerprint::Writer;

/// A capability that a task may have in its container's own user namespace, never on its host. Named and numbered as in
/// `capabilities(7)`; what is not here does nothing there, or too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capability {
    /// Give files away.
    Chown,
    /// Read, write and search files whatever their mode.
    DacOverride,
    /// Change what only a file's owner may.
    Fowner,
    /// Keep set-user-id bits that a change would clear.
    Fsetid,
    /// Signal processes of other users of the container.
    Kill,
    /// Become another group.
    Setgid,
    /// Become another user.
    Setuid,
    /// Give up capabilities one by one.
    Setpcap,
    /// Listen at ports below 1024 of a network that is the container's alone.
    NetBindService,
    /// Send raw packets in a network that is the container's alone.
    NetRaw,
    /// Change the root directory.
    SysChroot,
    /// Give files capabilities.
    Setfcap,
}

impl Capability {
    /// All of them, by number.
    pub const ALL: [Self; 12] = [
        Self::Chown,
        Self::DacOverride,
        Self::Fowner,
        Self::Fsetid,
        Self::Kill,
        Self::Setgid,
        Self::Setuid,
        Self::Setpcap,
        Self::NetBindService,
        Self::NetRaw,
        Self::SysChroot,
        Self::Setfcap,
    ];

    /// The set `SERVER`: what servers need that start as root, give their data to a user and become that user, as those of
    /// the official nginx, postgres and redis images.
    pub const SERVER: [Self; 6] = [
        Self::Chown,
        Self::DacOverride,
        Self::Fowner,
        Self::Kill,
        Self::Setgid,
        Self::Setuid,
    ];

    /// The name of [`Capability::SERVER`] where operators write names. Never stored or sent.
    pub const SERVER_NAME: &str = "SERVER";

    /// As `capabilities(7)` has it, without `CAP_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Chown => "CHOWN",
            Self::DacOverride => "DAC_OVERRIDE",
            Self::Fowner => "FOWNER",
            Self::Fsetid => "FSETID",
            Self::Kill => "KILL",
            Self::Setgid => "SETGID",
            Self::Setuid => "SETUID",
            Self::Setpcap => "SETPCAP",
            Self::NetBindService => "NET_BIND_SERVICE",
            Self::NetRaw => "NET_RAW",
            Self::SysChroot => "SYS_CHROOT",
            Self::Setfcap => "SETFCAP",
        }
    }

    /// The kernel's number, which is also the stored one.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Chown => 0,
            Self::DacOverride => 1,
            Self::Fowner => 3,
            Self::Fsetid => 4,
            Self::Kill => 5,
            Self::Setgid => 6,
            Self::Setuid => 7,
            Self::Setpcap => 8,
            Self::NetBindService => 10,
            Self::NetRaw => 13,
            Self::SysChroot => 18,
            Self::Setfcap => 31,
        }
    }

    /// The one of this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|capability| capability.number() == number)
    }

    /// The one of this name, with or without `CAP_`, in capitals or not.
    ///
    /// # Errors
    /// A sentence that lists the names.
    pub fn named(name: &str) -> Result<Self, String> {
        let plain = name.to_ascii_uppercase();
        let plain = plain.strip_prefix("CAP_").unwrap_or(&plain);
        let mut all = Self::ALL.into_iter();
        all.find(|capability| capability.name() == plain)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                format!("{name:?} is no capability that a container can have; there are {names}")
            })
    }

    /// Those that a name stands for: a set, or one capability.
    ///
    /// # Errors
    /// A sentence that lists the names.
    pub fn all_named(name: &str) -> Result<Vec<Self>, String> {
        if name.eq_ignore_ascii_case(Self::SERVER_NAME) {
            return Ok(Self::SERVER.into());
        }
        let one = Self::named(name).map_err(|refused| {
            let set = Self::SERVER.map(Self::name).join(",");
            format!("{refused}, and {} for {set}", Self::SERVER_NAME)
        });
        one.map(|one| vec![one])
    }

    /// The shortest list of names that [`Capability::all_named`] takes for these, separated by commas.
    #[must_use]
    pub fn list(capabilities: &BTreeSet<Self>) -> String {
        let server = BTreeSet::from(Self::SERVER);
        let rest = match server.is_subset(capabilities) {
            true => capabilities - &server,
            false => capabilities.clone(),
        };
        let set = (rest.len() < capabilities.len()).then_some(Self::SERVER_NAME);
        let names: Vec<_> = set
            .into_iter()
            .chain(rest.iter().map(|one| one.name()))
            .collect();
        names.join(",")
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a container is let off, or what an agent allows; the default is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OptOuts {
    /// Capabilities in its own user namespace.
    pub capabilities: BTreeSet<Capability>,
    /// All system calls, subject to the kernel's own rules.
    pub unconfined_seccomp: bool,
    /// Set-user-id files of its image mean within it what they say.
    pub new_privileges: bool,
    /// It may make user namespaces of its own.
    pub nested_user_namespaces: bool,
    /// It is in the network of its agent's host.
    pub host_network: bool,
}

impl OptOuts {
    /// Lets it off what `other` is let off, too.
    pub fn join(&mut self, other: Self) {
        self.capabilities.extend(other.capabilities);
        self.unconfined_seccomp |= other.unconfined_seccomp;
        self.new_privileges |= other.new_privileges;
        self.nested_user_namespaces |= other.nested_user_namespaces;
        self.host_network |= other.host_network;
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether somebody inside may become root of the container, whoever the command is at first.
    #[must_use]
    pub fn changes_users(&self) -> bool {
        !self.capabilities.is_empty() || self.new_privileges
    }

    /// The first of these that is not among `allowed`, as a task names it, and the agent's flag that would allow it.
    #[must_use]
    pub fn beyond(&self, allowed: &Self) -> Option<(String, String)> {
        let mut beyond = self.capabilities.difference(&allowed.capabilities);
        if let Some(capability) = beyond.next() {
            return Some((
                format!("capability {capability}"),
                format!("--allow-capabilities {capability}"),
            ));
        }
        let named = [
            (
                self.unconfined_seccomp && !allowed.unconfined_seccomp,
                "unconfined_seccomp",
                "--allow-unconfined-seccomp",
            ),
            (
                self.new_privileges && !allowed.new_privileges,
                "new_privileges",
                "--allow-new-privileges",
            ),
            (
                self.nested_user_namespaces && !allowed.nested_user_namespaces,
                "nested_user_namespaces",
                "--allow-nested-user-namespaces",
            ),
            (
                self.host_network && !allowed.host_network,
                "host_network",
                "--allow-host-network",
            ),
        ];
        let mut named = named.into_iter();
        named
            .find(|(is_beyond, ..)| *is_beyond)
            .map(|(_, what, flag)| (what.to_owned(), flag.to_owned()))
    }
}

stored!(message OptOuts {
    1 capabilities: NumberList or "capability of a container",
    2 unconfined_seccomp: Number,
    3 new_privileges: Number,
    4 nested_user_namespaces: Number,
    5 host_network: Number,
});

impl OptOuts {
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
        let OptOuts {
            capabilities,
            unconfined_seccomp,
            new_privileges,
            nested_user_namespaces,
            host_network,
        } = self;
        out.list(1, capabilities, |out, capability| {
            out.optional(1, Some(capability.number().into()));
        });
        out.flag(2, *unconfined_seccomp);
        out.flag(3, *new_privileges);
        out.flag(4, *nested_user_namespaces);
        out.flag(5, *host_network);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capability_has_a_name_and_a_number_of_its_own() {
        for capability in Capability::ALL {
            assert_eq!(Capability::of(capability.number()), Some(capability));
            assert_eq!(Capability::named(capability.name()), Ok(capability));
        }
        assert_eq!(Capability::named("cap_chown"), Ok(Capability::Chown));
        let refused = Capability::named("SYS_ADMIN").unwrap_err();
        assert!(refused.contains("there are CHOWN, "), "{refused}");
        assert_eq!(Capability::of(21), None);
    }

    #[test]
    fn a_set_has_a_name() {
        assert_eq!(
            Capability::all_named("server"),
            Ok(Capability::SERVER.into())
        );
        assert_eq!(Capability::all_named("KILL"), Ok(vec![Capability::Kill]));
        let refused = Capability::all_named("SYS_ADMIN").unwrap_err();
        assert!(
            refused
                .ends_with("SETFCAP, and SERVER for CHOWN,DAC_OVERRIDE,FOWNER,KILL,SETGID,SETUID"),
            "{refused}"
        );
        assert_eq!(Capability::list(&Capability::SERVER.into()), "SERVER");
        let more = [Capability::Setpcap].into_iter().chain(Capability::SERVER);
        assert_eq!(Capability::list(&more.collect()), "SERVER,SETPCAP");
        let fewer = [Capability::Setuid, Capability::Chown].into();
        assert_eq!(Capability::list(&fewer), "CHOWN,SETUID");
        assert_eq!(Capability::list(&BTreeSet::new()), "");
    }

    #[test]
    fn what_goes_beyond_is_named_with_its_flag() {
        let asked = OptOuts {
            capabilities: [Capability::Chown, Capability::Setuid].into(),
            unconfined_seccomp: true,
            new_privileges: true,
            nested_user_namespaces: true,
            host_network: true,
        };
        let mut allowed = OptOuts::default();
        let flag = |allowed: &OptOuts| asked.beyond(allowed).map(|(_, flag)| flag);
        assert_eq!(
            flag(&allowed).as_deref(),
            Some("--allow-capabilities CHOWN")
        );
        allowed.capabilities = Capability::ALL.into();
        assert_eq!(
            flag(&allowed).as_deref(),
            Some("--allow-unconfined-seccomp")
        );
        allowed.unconfined_seccomp = true;
        assert_eq!(flag(&allowed).as_deref(), Some("--allow-new-privileges"));
        allowed.new_privileges = true;
        assert_eq!(
            flag(&allowed).as_deref(),
            Some("--allow-nested-user-namespaces")
        );
        allowed.nested_user_namespaces = true;
        assert_eq!(flag(&allowed).as_deref(), Some("--allow-host-network"));
        allowed.host_network = true;
        assert_eq!(flag(&allowed), None);
        assert_eq!(OptOuts::default().beyond(&OptOuts::default()), None);
    }
}
