//! What a container is told of names and addresses, as files in place of its root's.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use argosy_isolation::OwnFile;
use argosy_isolation::network::names;

/// Where systemd's resolver keeps the servers that it asks itself, when the usual file names only itself.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// The longest name of a host, in letters.
const HOST_NAME_LETTERS: usize = 63;

/// Where a container is, for the files that tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// In the host's network.
    Host,
    /// Alone.
    Alone,
    /// In a network of its own, at these addresses if they are known.
    Own(&'a [IpAddr]),
}

/// The files of a container with this name. One with an image has none of the host's; one without sees the host's where
/// they are true.
pub(super) fn own_files(name: &str, place: Place<'_>, has_image: bool) -> Vec<OwnFile> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let [hosts, resolvers] = match place {
        Place::Host if !has_image => return Vec::new(),
        Place::Host => [names::HOSTS, names::RESOLVERS].map(read),
        Place::Alone => [names::hosts(name, &[]), String::new()],
        Place::Own(addresses) => {
            let upstream = fs::read_to_string(BEHIND_RESOLVED).ok();
            let found = names::resolvers(&read(names::RESOLVERS), upstream.as_deref(), addresses);
            if !found.text.contains("nameserver") && !found.unreachable.is_empty() {
                tracing::warn!(
                    task = name,
                    unreachable = ?found.unreachable,
                    "a container reaches none of the resolvers of this host"
                );
            }
            [names::hosts(name, addresses), found.text]
        }
    };
    let hostname = match place {
        Place::Host => read(names::HOSTNAME),
        Place::Alone | Place::Own(_) => names::hostname(name),
    };
    let all = [
        (names::HOSTS, hosts),
        (names::RESOLVERS, resolvers),
        (names::HOSTNAME, hostname),
    ];
    // Among the host's programs nothing can be made that the host has not.
    let shown = all
        .into_iter()
        .filter(|(path, _)| has_image || Path::new(path).exists());
    let files = shown.map(|(path, text)| OwnFile {
        path: path.into(),
        text,
    });
    files.collect()
}

/// The name of the host that a task is to itself: that of the task, as far as a host may have it.
pub(super) fn host_name(task: &str) -> String {
    let plain = |letter: char| {
        let allowed = letter.is_ascii_alphanumeric() || letter == '-';
        if allowed { letter } else { '-' }
    };
    let letters = task.chars().map(plain).take(HOST_NAME_LETTERS);
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
    fn a_task_gives_its_host_its_name() {
        assert_eq!(host_name("web"), "web");
        assert_eq!(host_name("my_web.1"), "my-web-1");
        assert_eq!(host_name("_"), "task");
        assert_eq!(host_name(&"x".repeat(100)).len(), 63);
    }

    #[test]
    fn the_hosts_own_files_are_shown_where_they_are_true() {
        assert_eq!(own_files("web", Place::Host, false), []);
        let alone = own_files("web", Place::Alone, true);
        let paths: Vec<_> = alone.iter().map(|file| file.path.to_str()).collect();
        let wanted = ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"];
        assert_eq!(paths, wanted.map(Some));
        assert_eq!(alone[1].text, "", "nobody to be asked");
    }
}
