//! Names of images in rules: one image has one name, and a prefix ends at the end of a part of it.

use oci_spec::distribution::Reference;

use super::launches::resolved_path;

/// Returns the complete name of an image, as rules name images: one image has one name, whatever
/// its spelling. Agents read names with the same parser.
pub(super) fn canonical_name(name: &str) -> String {
    // An image layout of the agent's host.
    let layouts = ["oci:", "oci-archive:"];
    if let Some(layout) = layouts.iter().find(|layout| name.starts_with(**layout)) {
        return format!("{layout}{}", resolved_path(&name[layout.len()..]));
    }
    // No agent can use a name that is not valid.
    let Ok(reference) = name.parse::<Reference>() else {
        return name.to_owned();
    };
    // Host names are case-insensitive, and 443 is the default port of https.
    let registry = reference.registry().to_ascii_lowercase();
    let registry = registry.strip_suffix(":443").unwrap_or(&registry);
    let registry = match registry {
        "index.docker.io" => "docker.io",
        other => other,
    };
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
    let host = first.to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    let host = match host {
        "index.docker.io" => "docker.io",
        other => other,
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
            ("oci:/srv/web", "oci:/srv/website"),
        ] {
            assert!(!covers(prefix, &canonical_name(name)), "{prefix} {name}");
        }
    }
}
