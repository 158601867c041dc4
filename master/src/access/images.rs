//! Names of images in rules: one image has one name, and a prefix ends at the end of a part of it.

use std::net::Ipv4Addr;

use argosy_proto::host_path::without_detours;
use oci_spec::distribution::Reference;

/// Returns the complete name of an image, as rules name images: one image has one name, whatever
/// its spelling. Agents read names with the same parser.
pub(super) fn canonical_name(name: &str) -> String {
    // An image layout of the agent's host.
    let layouts = ["oci:", "oci-archive:"];
    if let Some(layout) = layouts.iter().find(|layout| name.starts_with(**layout)) {
        return format!("{layout}{}", without_detours(&name[layout.len()..]));
    }
    // No agent can use a name that is not valid.
    let Ok(reference) = name.parse::<Reference>() else {
        return name.to_owned();
    };
    let registry = canonical_registry(reference.registry());
    let mut full = format!("{registry}/{}", reference.repository());
    if let Some(tag) = reference.tag() {
        full.push(':');
        full.push_str(tag);
    }
    if let Some(digest) = reference.digest() {
        full.push('@');
        full.push_str(digest);
    }
    full
}

/// Returns the name of a registry in rules: one server has one name, whatever its spelling. Agents
/// of release 0.1.0 accept every spelling that a URL may have.
fn canonical_registry(registry: &str) -> String {
    let registry = registry.to_ascii_lowercase();
    let (host, port) = match registry.split_once(':') {
        None => (registry.as_str(), None),
        Some((host, port)) => match port.parse::<u16>() {
            // The default ports of https, and of http, which agents use for `--insecure-registry`.
            Ok(443 | 80) => (host, None),
            Ok(port) => (host, Some(port)),
            // No agent can use it.
            Err(_) => return registry,
        },
    };
    let host = match ipv4(host) {
        Some(address) => address.to_string(),
        None => host.to_owned(),
    };
    match port {
        Some(port) => format!("{host}:{port}"),
        None if host == "index.docker.io" => "docker.io".to_owned(),
        None => host,
    }
}

/// Returns the address that a host is in URLs if it has one to four numbers. Each is decimal, octal
/// (`0`) or hexadecimal (`0x`), and the last one contains all remaining bytes of the address.
fn ipv4(host: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| {
        let (digits, radix) = match part.strip_prefix("0x") {
            Some("") => ("0", 16),
            Some(digits) => (digits, 16),
            None if part.starts_with('0') => (part, 8),
            None => (part, 10),
        };
        u32::from_str_radix(digits, radix).ok()
    };
    let numbers: Option<Vec<u32>> = host.split('.').map(number).collect();
    let numbers = numbers?;
    let (last, bytes) = numbers.split_last()?;
    let most = u32::MAX.checked_shr(8 * bytes.len() as u32)?;
    if *last > most || bytes.iter().any(|byte| *byte > 255) {
        return None;
    }
    let places = [24_u32, 16, 8];
    let address = bytes
        .iter()
        .zip(places)
        .fold(*last, |address, (byte, place)| address | (*byte << place));
    Some(Ipv4Addr::from(address))
}

/// Returns whether a prefix in a rule covers an image, by its complete name.
pub(super) fn covers(prefix: &str, image: &str) -> bool {
    prefixes(prefix).any(|prefix| begins(image, &prefix))
}

/// Returns the prefixes of complete names that a prefix in a rule denotes.
fn prefixes(prefix: &str) -> impl Iterator<Item = String> {
    let (first, rest) = match prefix.find('/') {
        Some(at) => prefix.split_at(at),
        None => (prefix, ""),
    };
    // Only a name with a dot or a port can be a registry whose spelling matters.
    let host = match first.contains(['.', ':']) {
        true => canonical_registry(first),
        false => first.to_ascii_lowercase(),
    };
    let own = format!("{host}{rest}");
    let (is_alone, is_hub) = (rest.is_empty(), host == "docker.io");
    let name = first.split(':').next().unwrap_or_default();
    let is_host = name.contains('.') || name == "localhost" || (first.contains(':') && !is_alone);
    // Names of docker.io without a user.
    let official = match (is_host, is_hub) {
        (false, _) if is_alone => Some(format!("docker.io/library/{first}")),
        (true, true) => {
            let name = rest.trim_start_matches('/');
            let is_official = !name.is_empty() && !name.contains('/');
            is_official.then(|| format!("docker.io/library/{name}"))
        }
        _ => None,
    };
    let user = (!is_host && !is_alone).then(|| format!("docker.io/{first}{rest}"));
    [Some(own), official, user].into_iter().flatten()
}

/// Returns whether a name begins with a prefix, and a part of the name ends there.
fn begins(name: &str, prefix: &str) -> bool {
    let is_end = |text: &str| text.starts_with(['/', ':', '@']);
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || is_end(rest) || prefix.ends_with(['/', ':', '@']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_one_name_in_rules() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned = format!("Registry.Example:443/eng/db@{digest}");
        let full = format!("registry.example/eng/db@{digest}");
        for (name, expected) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("user/app", "docker.io/user/app:latest"),
            ("localhost:5000/a/b:t", "localhost:5000/a/b:t"),
            ("reg.example:5000/a:1", "reg.example:5000/a:1"),
            ("Reg.Example:05000/a:1", "reg.example:5000/a:1"),
            ("reg.example:00443/a:1", "reg.example/a:1"),
            ("reg.example:80/a:1", "reg.example/a:1"),
            ("index.docker.io:0443/user/a:1", "docker.io/user/a:1"),
            ("index.docker.io:5000/a:1", "index.docker.io:5000/a:1"),
            ("10.0.0.5/a:1", "10.0.0.5/a:1"),
            ("0xA.0.0.5/a:1", "10.0.0.5/a:1"),
            ("012.0.5/a:1", "10.0.0.5/a:1"),
            ("10.5/a:1", "10.0.0.5/a:1"),
            ("167772165:05000/a:1", "10.0.0.5:5000/a:1"),
            // No server has these names.
            ("reg.example:70000/a:1", "reg.example:70000/a:1"),
            ("256.0.0.5/a:1", "256.0.0.5/a:1"),
            ("10.0.0.0.5/a:1", "10.0.0.0.5/a:1"),
            (pinned.as_str(), full.as_str()),
            ("oci:/srv/../srv//web:1", "oci:/srv/web:1"),
            ("oci-archive:/srv/web.tar", "oci-archive:/srv/web.tar"),
            ("Not valid", "Not valid"),
        ] {
            assert_eq!(canonical_name(name), expected, "{name}");
        }
    }

    #[test]
    fn a_prefix_covers_every_spelling_of_an_image_and_ends_with_a_part() {
        for (prefix, names) in [
            (
                "docker.io/",
                &["nginx", "index.docker.io/nginx", "user/app"][..],
            ),
            ("docker.io", &["nginx", "user/app:1"]),
            ("nginx", &["nginx", "nginx:1", "docker.io/library/nginx"]),
            ("nginx:1.27", &["nginx:1.27", "index.docker.io/nginx:1.27"]),
            ("docker.io/nginx", &["nginx:1", "docker.io/nginx"]),
            ("index.docker.io/", &["nginx", "docker.io/user/app"]),
            ("docker.io/", &["index.docker.io:0443/library/nginx"]),
            ("Index.Docker.io:0443/", &["nginx", "user/app"]),
            ("reg.example/", &["reg.example:80/a", "reg.example:0443/a"]),
            ("10.0.0.5", &["0xa.0.0.5/a", "10.5/a", "012.0.0.5:443/a"]),
            ("10.5:05000/", &["10.0.0.5:5000/a", "167772165:5000/a"]),
            ("user/", &["user/app", "docker.io/user/app:2"]),
            ("user/app", &["user/app", "user/app:2"]),
            (
                "registry.example",
                &["registry.example/a", "Registry.Example:443/a/b"],
            ),
            ("Registry.Example/eng/", &["registry.example/eng/db:1"]),
            ("localhost:5000", &["localhost:5000/a"]),
            ("reg:5000/a", &["reg:5000/a", "reg:5000/a/b"]),
            ("oci:/srv/", &["oci:/srv/web", "oci:/data/../srv/web:1"]),
        ] {
            for name in names {
                assert!(covers(prefix, &canonical_name(name)), "{prefix} {name}");
            }
        }
        for (prefix, name) in [
            ("registry.example", "registry.example.evil/a"),
            ("registry.example/eng", "registry.example/engineers/a"),
            ("nginx", "nginx2"),
            ("nginx", "user/nginx"),
            ("nginx:1.2", "nginx:1.27"),
            ("user/app", "user/application"),
            ("registry.example/", "docker.io/registry/a"),
            ("nginx", "nginx/app"),
            ("167772165/", "10.0.0.5/a"),
            ("10.0.0.5:5000", "10.0.0.5:5001/a"),
            ("oci:/srv/web", "oci:/srv/website"),
        ] {
            assert!(!covers(prefix, &canonical_name(name)), "{prefix} {name}");
        }
    }
}
