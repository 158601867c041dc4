//! Files with names and addresses in a container, in place of those of its root.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use argosy_isolation::GeneratedFile;
use argosy_network::names;

/// The file with the upstream servers of systemd's resolver, when the usual file names only the
/// resolver itself.
const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
/// Maximum length of a host name.
const MAX_HOST_NAME: usize = 63;

/// The network location of a container, for these files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NetworkLocation<'a> {
    /// In the host's network.
    Host,
    /// Without a network.
    None,
    /// In a private network, at these addresses if they are known.
    Private(&'a [IpAddr]),
}

/// Returns the files of a container with this name. A container with an image gets none of the
/// host's; one without an image keeps those of the host that are correct for it.
pub(super) fn own_files(
    name: &str,
    place: NetworkLocation<'_>,
    has_image: bool,
) -> Vec<GeneratedFile> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let [hosts, resolvers] = match place {
        NetworkLocation::Host if !has_image => return Vec::new(),
        NetworkLocation::Host => [names::HOSTS, names::RESOLVERS].map(read),
        NetworkLocation::None => [names::hosts(name, &[]), String::new()],
        NetworkLocation::Private(addresses) => {
            let upstream = fs::read_to_string(RESOLVED_UPSTREAM).ok();
            let found = names::resolvers(&read(names::RESOLVERS), upstream.as_deref(), addresses);
            if !found.text.contains("nameserver") && !found.unreachable.is_empty() {
                tracing::warn!(
                    task = name,
                    unreachable = ?found.unreachable,
                    "a container can reach none of the resolvers of this host"
                );
            }
            [names::hosts(name, addresses), found.text]
        }
    };
    let hostname = match place {
        NetworkLocation::Host => read(names::HOSTNAME),
        NetworkLocation::None | NetworkLocation::Private(_) => names::hostname(name),
    };
    let all = [
        (names::HOSTS, hosts),
        (names::RESOLVERS, resolvers),
        (names::HOSTNAME, hostname),
    ];
    // Files that are missing on the host cannot be created among the host's programs.
    let shown = all
        .into_iter()
        .filter(|(path, _)| has_image || Path::new(path).exists());
    let files = shown.map(|(path, text)| GeneratedFile {
        path: path.into(),
        text,
    });
    files.collect()
}

/// Returns the host name of a task: the task's name, as far as it is valid in a host name.
pub(super) fn host_name(task: &str) -> String {
    let plain = |letter: char| {
        let allowed = letter.is_ascii_alphanumeric() || letter == '-';
        if allowed { letter } else { '-' }
    };
    let letters = task.chars().map(plain).take(MAX_HOST_NAME);
    let name: String = letters.collect();
    match name.trim_matches('-') {
        "" => "task".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_name_is_derived_from_the_task() {
        assert_eq!(host_name("web"), "web");
        assert_eq!(host_name("my_web.1"), "my-web-1");
        assert_eq!(host_name("_"), "task");
        assert_eq!(host_name(&"x".repeat(100)).len(), 63);
    }

    #[test]
    fn host_files_are_kept_where_they_are_correct() {
        assert_eq!(own_files("web", NetworkLocation::Host, false), []);
        let alone = own_files("web", NetworkLocation::None, true);
        let paths: Vec<_> = alone.iter().map(|file| file.path.to_str()).collect();
        let wanted = ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"];
        assert_eq!(paths, wanted.map(Some));
        assert_eq!(alone[1].text, "", "no server to query");
    }
}
