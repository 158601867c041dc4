//! Validation of host paths that no agent could mount.
//!
//! Agents check which paths their operators allow and whether the paths exist.

use std::path::{Component, Path};

use crate::limits;
use crate::task::{HostPath, TaskSpec};

/// The name of an invalid field, and a message that names the remedy.
type FieldError = (String, String);

/// The directories that belong to the kernel or to the agent in every container.
pub(super) const RESERVED: [&str; 5] = ["/dev", "/proc", "/sys", "/sandbox", "/group"];

/// Validates the number of host paths, before any of them is compared.
pub(super) fn check_number(spec: &TaskSpec) -> Result<(), FieldError> {
    let (number, most) = (spec.host_paths.len(), limits::HOST_PATHS);
    if number > most {
        let text = format!("{number} are asked for; at most {most}");
        return Err(("host_paths".to_owned(), text));
    }
    Ok(())
}

/// Validates the host paths of a description.
pub(super) fn check(spec: &TaskSpec) -> Result<(), FieldError> {
    let paths = &spec.host_paths;
    for (at, path) in paths.iter().enumerate() {
        let wrong = |text| Err((format!("host_paths[{at}].container_path"), text));
        if let Some(why) = misplaced(path) {
            return wrong(why);
        }
        for other in &paths[..at] {
            let (own, theirs) = (Path::new(path.mount_path()), Path::new(other.mount_path()));
            let are_alike = own == theirs
                && path.host_path == other.host_path
                && path.read_only == other.read_only;
            let are_nested = own.starts_with(theirs) || theirs.starts_with(own);
            // Paths that are the same in the container as on the host are nested as they are there.
            let is_fine =
                are_alike || (own != theirs && path.has_same_path() && other.has_same_path());
            if are_nested && !is_fine {
                return wrong(format!(
                    "{:?} meets the host path at {:?}: put them beside each other",
                    path.mount_path(),
                    other.mount_path()
                ));
            }
        }
    }
    Ok(())
}

/// Returns the reason why a host path cannot be mounted at the requested path.
fn misplaced(path: &HostPath) -> Option<String> {
    if path.has_same_path() {
        // Agents check it against their operators' list.
        return None;
    }
    let place = path.mount_path();
    let parts = Path::new(place).components().skip(1);
    let is_plain = parts
        .clone()
        .all(|part| matches!(part, Component::Normal(_)));
    let most = limits::VOLUME_PATH_BYTES;
    if place.len() > most || place.contains('\0') || !is_plain || parts.count() == 0 {
        return Some(format!(
            "{place:?} is none: give an absolute path of at most {most} bytes without NUL and '..', or a name in the sandbox"
        ));
    }
    let reserved = RESERVED
        .iter()
        .find(|reserved| Path::new(place).starts_with(reserved))?;
    Some(format!(
        "{place:?} is in {reserved}, which every container has: choose another"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::Level;
    use crate::testing;

    fn path(host: &str, container: &str) -> HostPath {
        HostPath {
            host_path: host.to_owned(),
            container_path: container.to_owned(),
            read_only: false,
        }
    }

    fn field(paths: &[HostPath]) -> Option<String> {
        let spec = TaskSpec {
            host_paths: paths.to_vec(),
            ..testing::spec("t", "cpus:1")
        };
        check(&spec).err().map(|(field, _)| field)
    }

    #[test]
    fn a_host_path_is_at_a_plain_unreserved_path() {
        let home = path("/srv/data", "/srv/data");
        let named = path("/srv/data", "data");
        for fine in ["/srv/data", "data", "/conf", "/etc/app.conf", "/a/b/c"] {
            assert_eq!(field(&[path("/srv/data", fine)]), None, "{fine}");
        }
        assert_eq!(field(&[home.clone(), named]), None, "one mount");
        let nested = path("/srv/data/x", "/srv/data/x");
        assert_eq!(field(&[home.clone(), nested]), None, "as on the host");
        let long = format!("/{}", "x".repeat(limits::VOLUME_PATH_BYTES));
        for bad in [
            "/",
            "/a/../b",
            "/a\0",
            "/proc/x",
            "/dev/shm",
            "/sandbox/x",
            "/group",
            &long,
        ] {
            let found = field(&[home.clone(), path("/srv/data", bad)]);
            let wanted = Some("host_paths[1].container_path");
            assert_eq!(found.as_deref(), wanted, "{bad:?}");
        }
    }

    #[test]
    fn number_of_host_paths_is_bounded_before_they_are_compared() {
        let same = |count: usize| vec![path("/srv/data", "data"); count];
        let of_task = |count| TaskSpec {
            host_paths: same(count),
            ..testing::spec("t", "cpus:1")
        };
        let check = |count, level| super::super::volumes::check(&of_task(count), level);
        assert_eq!(check(64, Level::NEWEST), Ok(()));
        let (field, text) = check(2_000, Level::NEWEST).unwrap_err();
        assert_eq!(field, "host_paths");
        assert_eq!(text, "2000 are asked for; at most 64");
        assert_eq!(check(65, Level::RELEASE_0_1), Ok(()), "as release 0.1.0");
    }

    #[test]
    fn host_paths_overlap_only_as_on_the_host() {
        let conf = path("/srv/conf", "/conf");
        for other in [
            path("/srv/other", "/conf"),
            path("/srv/other", "/conf/x"),
            path("/srv/conf/x", "/conf/x"),
        ] {
            for pair in [[conf.clone(), other.clone()], [other, conf.clone()]] {
                let wanted = Some("host_paths[1].container_path");
                assert_eq!(field(&pair).as_deref(), wanted, "{pair:?}");
            }
        }
        let guarded = HostPath {
            read_only: true,
            ..path("/srv/data", "/srv/data")
        };
        let open = path("/srv/data", "data");
        assert!(field(&[guarded, open]).is_some(), "one path, two wishes");
    }
}
