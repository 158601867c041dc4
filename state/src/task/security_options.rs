//! Security options: relaxations of the isolation that an agent's profile defines.
//!
//! A task requests each option by name, and the operator of its agent allows it by name.

use std::collections::BTreeSet;
use std::fmt;

use crate::codec::canonical::CanonicalWriter;
use crate::codec::stored::stored;

/// A capability that a task may have in the user namespace of its container, never on its host.
/// Names and numbers are those of `capabilities(7)`. A capability that is missing here would have
/// no effect there, or too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinuxCapability {
    /// Change the owner of files.
    Chown,
    /// Read, write and search files whatever their mode.
    DacOverride,
    /// Change attributes of files that only the owner may change.
    Fowner,
    /// Keep set-user-id bits that a change would clear.
    Fsetid,
    /// Send signals to processes of other users of the container.
    Kill,
    /// Change the group.
    Setgid,
    /// Change the user.
    Setuid,
    /// Drop individual capabilities.
    Setpcap,
    /// Listen on ports below 1024 of a network that only the container uses.
    NetBindService,
    /// Send raw packets in a network that only the container uses.
    NetRaw,
    /// Change the root directory.
    SysChroot,
    /// Set capabilities of files.
    Setfcap,
}

impl LinuxCapability {
    /// All capabilities, by number.
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

    /// The set `SERVER`: the capabilities of servers that start as root, give their data to a user
    /// and become that user, such as the official nginx, postgres and redis images.
    pub const SERVER: [Self; 6] = [
        Self::Chown,
        Self::DacOverride,
        Self::Fowner,
        Self::Kill,
        Self::Setgid,
        Self::Setuid,
    ];

    /// The name of [`LinuxCapability::SERVER`] in settings of operators. It is never stored or
    /// sent.
    pub const SERVER_NAME: &str = "SERVER";

    /// Returns the name of `capabilities(7)` without `CAP_`.
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

    /// Returns the kernel's number, which is also the stored one.
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

    /// Returns the capability with this number.
    #[must_use]
    pub fn of(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|capability| capability.number() == number)
    }

    /// Returns the capability with this name, with or without `CAP_`, in any case.
    ///
    /// # Errors
    /// A message that lists the names.
    pub fn named(name: &str) -> Result<Self, String> {
        let plain = name.to_ascii_uppercase();
        let plain = plain.strip_prefix("CAP_").unwrap_or(&plain);
        let mut all = Self::ALL.into_iter();
        all.find(|capability| capability.name() == plain)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                format!("invalid container capability {name:?}: use one of {names}")
            })
    }

    /// Returns the capabilities that a name stands for: a set, or one capability.
    ///
    /// # Errors
    /// A message that lists the names.
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

    /// Returns the shortest list of names that [`LinuxCapability::all_named`] accepts for these,
    /// separated by commas.
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

impl fmt::Display for LinuxCapability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The security options that a container has, or that an agent allows; none by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecurityOptions {
    /// The capabilities in the container's user namespace.
    pub capabilities: BTreeSet<LinuxCapability>,
    /// Whether there is no seccomp filter: only the kernel's own rules restrict system calls.
    pub unconfined_seccomp: bool,
    /// Whether set-user-id files of the image take effect within the container.
    pub new_privileges: bool,
    /// Whether the container may create user namespaces.
    pub nested_user_namespaces: bool,
    /// Whether the container uses the network of its agent's host.
    pub host_network: bool,
}

impl SecurityOptions {
    /// Adds the options of `other`.
    pub fn join(&mut self, other: Self) {
        self.capabilities.extend(other.capabilities);
        self.unconfined_seccomp |= other.unconfined_seccomp;
        self.new_privileges |= other.new_privileges;
        self.nested_user_namespaces |= other.nested_user_namespaces;
        self.host_network |= other.host_network;
    }

    /// Returns whether no option is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether a process may become root of the container, whatever the user of the
    /// command.
    #[must_use]
    pub fn changes_users(&self) -> bool {
        !self.capabilities.is_empty() || self.new_privileges
    }

    /// Returns the first option that is not among `allowed`, with its name in a task, and the
    /// agent's flag that would allow it.
    #[must_use]
    pub fn first_not_allowed(&self, allowed: &Self) -> Option<(String, String)> {
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

stored!(message SecurityOptions {
    1 capabilities: NumberList or "capability of a container",
    2 unconfined_seccomp: Number,
    3 new_privileges: Number,
    4 nested_user_namespaces: Number,
    5 host_network: Number,
});

impl SecurityOptions {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let SecurityOptions {
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

impl crate::codec::scalars::AsNumber for LinuxCapability {
    fn number(&self) -> u64 {
        (*self).number().into()
    }

    fn of(number: u64) -> Option<Self> {
        Self::of(number as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_capability_has_a_unique_name_and_number() {
        for capability in LinuxCapability::ALL {
            assert_eq!(LinuxCapability::of(capability.number()), Some(capability));
            assert_eq!(LinuxCapability::named(capability.name()), Ok(capability));
        }
        assert_eq!(
            LinuxCapability::named("cap_chown"),
            Ok(LinuxCapability::Chown)
        );
        let refused = LinuxCapability::named("SYS_ADMIN").unwrap_err();
        assert!(refused.contains("use one of CHOWN, "), "{refused}");
        assert_eq!(LinuxCapability::of(21), None);
    }

    #[test]
    fn a_named_capability_set_is_expanded() {
        assert_eq!(
            LinuxCapability::all_named("server"),
            Ok(LinuxCapability::SERVER.into())
        );
        assert_eq!(
            LinuxCapability::all_named("KILL"),
            Ok(vec![LinuxCapability::Kill])
        );
        let refused = LinuxCapability::all_named("SYS_ADMIN").unwrap_err();
        assert!(
            refused
                .ends_with("SETFCAP, and SERVER for CHOWN,DAC_OVERRIDE,FOWNER,KILL,SETGID,SETUID"),
            "{refused}"
        );
        assert_eq!(
            LinuxCapability::list(&LinuxCapability::SERVER.into()),
            "SERVER"
        );
        let more = [LinuxCapability::Setpcap]
            .into_iter()
            .chain(LinuxCapability::SERVER);
        assert_eq!(LinuxCapability::list(&more.collect()), "SERVER,SETPCAP");
        let fewer = [LinuxCapability::Setuid, LinuxCapability::Chown].into();
        assert_eq!(LinuxCapability::list(&fewer), "CHOWN,SETUID");
        assert_eq!(LinuxCapability::list(&BTreeSet::new()), "");
    }

    #[test]
    fn disallowed_options_are_named_with_their_flags() {
        let asked = SecurityOptions {
            capabilities: [LinuxCapability::Chown, LinuxCapability::Setuid].into(),
            unconfined_seccomp: true,
            new_privileges: true,
            nested_user_namespaces: true,
            host_network: true,
        };
        let mut allowed = SecurityOptions::default();
        let flag =
            |allowed: &SecurityOptions| asked.first_not_allowed(allowed).map(|(_, flag)| flag);
        assert_eq!(
            flag(&allowed).as_deref(),
            Some("--allow-capabilities CHOWN")
        );
        allowed.capabilities = LinuxCapability::ALL.into();
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
        assert_eq!(
            SecurityOptions::default().first_not_allowed(&SecurityOptions::default()),
            None
        );
    }
}
