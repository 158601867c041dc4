//! Validation of volumes that no agent could mount.
//!
//! Agents check what only they know: the secrets that their operators provide, and the contents of
//! an image at the path of a volume.

use std::path::{Component, Path};

use super::host_paths::{self, RESERVED};
use crate::level::Level;
use crate::limits;
use crate::resources::{Resources, Value};
use crate::secret::{self, SecretName};
use crate::task::{HostPath, Sizes, TaskSpec, TaskVolume, VolumeSource};

/// The name of an invalid field, and a message that names the remedy.
type FieldError = (String, String);

/// The bytes of a MiB, the unit of `mem`.
const MIB: i128 = 1024 * 1024;

/// Validates the volumes of a description.
pub(super) fn check(spec: &TaskSpec, level: Level) -> Result<(), FieldError> {
    let volumes = &spec.volumes;
    if volumes.len() > limits::VOLUMES {
        let most = limits::VOLUMES;
        let text = format!("{} are asked for; at most {most}", volumes.len());
        return Err(("volumes".to_owned(), text));
    }
    let knows_places = level >= Level::RELEASE_0_2;
    if knows_places {
        host_paths::check_number(spec)?;
    }
    let placed: Vec<&str> = match knows_places {
        true => spec.host_paths.iter().map(HostPath::mount_path).collect(),
        false => spec
            .host_paths
            .iter()
            .map(|path| path.host_path.as_str())
            .collect(),
    };
    for (at, volume) in volumes.iter().enumerate() {
        check_one(volume, level)
            .and_then(|()| check_other_volumes(volume, volumes.iter().skip(at + 1), &placed))
            .map_err(|(field, text)| (format!("volumes[{at}].{field}"), text))?;
    }
    if knows_places {
        host_paths::check(spec)?;
    }
    check_memory(spec)
}

fn check_one(volume: &TaskVolume, level: Level) -> Result<(), (&'static str, String)> {
    let path = volume.container_path.as_str();
    if !path.starts_with('/') || !is_plain(&path[1..]) {
        let most = limits::VOLUME_PATH_BYTES;
        let text = format!(
            "{path:?} is none: give an absolute path of at most {most} bytes without NUL, '//', '.', '..' and a '/' at its end"
        );
        return Err(("container_path", text));
    }
    if let Some(reserved) = RESERVED
        .iter()
        .find(|reserved| Path::new(path).starts_with(reserved))
    {
        let text = format!("{path:?} is in {reserved}, which every container has: choose another");
        return Err(("container_path", text));
    }
    match &volume.source {
        VolumeSource::Sandbox(below) => {
            let is_output = below.starts_with("stdout") || below.starts_with("stderr");
            if !is_plain(below) || is_output {
                let text = format!(
                    "{below:?} is no folder of the sandbox: give a relative path without '.' and '..', not one of stdout or stderr"
                );
                return Err(("sandbox", text));
            }
        }
        VolumeSource::Tmpfs { bytes } => {
            let (least, most) = (limits::MIN_TMPFS_BYTES, limits::TMPFS_BYTES);
            if !(least..=most).contains(bytes) {
                let text = format!("it is {bytes}: give {least} to {most}");
                return Err(("tmpfs.bytes", text));
            }
            if volume.read_only {
                let text = "nobody could ever put anything there: leave read_only out".to_owned();
                return Err(("read_only", text));
            }
        }
        VolumeSource::Secret(name) => {
            let is_of_registry = level >= Level::RELEASE_0_2 && SecretName::new(name).is_ok();
            if !secret::is_plain(name) && !is_of_registry {
                let most = limits::NAME_BYTES;
                let text = format!(
                    "{name:?} is no name: give 1 to {most} letters, digits, '.', '_' or '-', not beginning with '.'"
                );
                return Err(("secret", text));
            }
        }
    }
    Ok(())
}

/// Checks that mounts do not conflict. Two mounts at one path would hide each other, and a nested
/// mount needs a directory in the outer one.
fn check_other_volumes<'a>(
    volume: &TaskVolume,
    later: impl Iterator<Item = &'a TaskVolume>,
    placed: &[&str],
) -> Result<(), (&'static str, String)> {
    let own = volume.container_path.as_str();
    for other in later {
        let theirs = other.container_path.as_str();
        if own == theirs {
            let text = format!("two volumes are at {own:?}: give each a path of its own");
            return Err(("container_path", text));
        }
        let (outer, inner) = if Path::new(own).starts_with(theirs) {
            (other, own)
        } else if Path::new(theirs).starts_with(own) {
            (volume, theirs)
        } else {
            continue;
        };
        let what = match (&outer.source, outer.read_only) {
            (VolumeSource::Secret(_), _) => "a file",
            (VolumeSource::Sandbox(_), true) => "read-only",
            (VolumeSource::Sandbox(_) | VolumeSource::Tmpfs { .. }, _) => continue,
        };
        let text = format!(
            "{inner:?} is below {:?}, which is {what}: put them beside each other",
            outer.container_path
        );
        return Err(("container_path", text));
    }
    let meets = |path: &str| Path::new(own).starts_with(path) || Path::new(path).starts_with(own);
    if let Some(path) = placed.iter().find(|path| meets(path)) {
        let text = format!("{own:?} meets the host path {path:?}: put them beside each other");
        return Err(("container_path", text));
    }
    Ok(())
}

/// Checks that the tmpfs volumes fit in the task's memory, to which their contents count.
fn check_memory(spec: &TaskSpec) -> Result<(), FieldError> {
    let bytes = spec.volumes.iter().map(|volume| match volume.source {
        VolumeSource::Tmpfs { bytes } => i128::from(bytes),
        VolumeSource::Sandbox(_) | VolumeSource::Secret(_) => 0,
    });
    let Sizes {
        shm_bytes,
        tmp_bytes,
        ..
    } = spec.container.sizes;
    let scratch = [shm_bytes, tmp_bytes].into_iter().flatten().map(i128::from);
    let bytes: i128 = bytes.chain(scratch).sum();
    let mem = mem_bytes(&spec.resources);
    if mem > 0 && bytes > mem {
        let text = format!(
            "what is in a tmpfs counts as memory: {bytes} bytes are more than the {mem} of mem; ask for more mem or a smaller tmpfs"
        );
        return Err(("volumes".to_owned(), text));
    }
    Ok(())
}

fn mem_bytes(resources: &Resources) -> i128 {
    let named = resources
        .iter()
        .filter(|resource| &*resource.identity.name == "mem");
    let milli = named.map(|resource| match &resource.value {
        Value::Scalar(milli) => i128::from(*milli),
        Value::Ranges(_) | Value::Set(_) => 0,
    });
    milli.sum::<i128>() * MIB / 1_000
}

/// Returns whether a relative path is normalized: no part is empty, `.` or `..`.
fn is_plain(path: &str) -> bool {
    let parts = Path::new(path).components();
    let plain = parts
        .clone()
        .all(|part| matches!(part, Component::Normal(_)));
    let rewritten: std::path::PathBuf = parts.collect();
    let fits = (1..limits::VOLUME_PATH_BYTES).contains(&path.len()) && !path.contains('\0');
    fits && plain && rewritten.as_os_str() == path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::HostPath;
    use crate::testing;

    const SMALL: VolumeSource = VolumeSource::Tmpfs { bytes: 1 << 20 };

    fn sandbox(path: &str) -> VolumeSource {
        VolumeSource::Sandbox(path.to_owned())
    }

    fn secret(name: &str) -> VolumeSource {
        VolumeSource::Secret(name.to_owned())
    }

    fn volume(path: &str, source: VolumeSource) -> TaskVolume {
        TaskVolume {
            container_path: path.to_owned(),
            read_only: false,
            source,
        }
    }

    fn refusal(volumes: &[TaskVolume]) -> Option<FieldError> {
        let spec = TaskSpec {
            volumes: volumes.to_vec(),
            ..testing::spec("t", "cpus:1;mem:64")
        };
        check(&spec, Level::NEWEST).err()
    }

    fn field(volumes: &[TaskVolume]) -> Option<String> {
        refusal(volumes).map(|(field, _)| field)
    }

    #[test]
    fn a_volume_is_at_a_plain_unreserved_path() {
        for path in ["/data", "/tmp", "/run/secrets/db", "/sandboxes", "/sysroot"] {
            assert_eq!(field(&[volume(path, SMALL)]), None, "{path}");
        }
        let long = format!("/{}", "x".repeat(limits::VOLUME_PATH_BYTES));
        let bad = [
            "",
            "/",
            "data",
            "/a/",
            "//a",
            "/a//b",
            "/./a",
            "/a/.",
            "/a/..",
            "/a\0",
            "/dev",
            "/dev/shm",
            "/proc/self",
            "/sys",
            "/sandbox",
            "/sandbox/x",
            "/group/x",
            &long,
        ];
        for path in bad {
            let found = field(&[volume("/fine", SMALL), volume(path, SMALL)]);
            assert_eq!(
                found.as_deref(),
                Some("volumes[1].container_path"),
                "{path:?}"
            );
        }
    }

    #[test]
    fn volume_sources_have_bounds() {
        let of = |source| field(&[volume("/v", source)]);
        assert_eq!(of(sandbox("data/cache")), None);
        for path in [
            "", "/abs", "..", "a/../b", "a//b", "./a", "a/", "stdout", "stderr.1",
        ] {
            assert_eq!(
                of(sandbox(path)).as_deref(),
                Some("volumes[0].sandbox"),
                "{path:?}"
            );
        }
        for bytes in [0, 4_095, u64::MAX] {
            let found = of(VolumeSource::Tmpfs { bytes });
            assert_eq!(found.as_deref(), Some("volumes[0].tmpfs.bytes"), "{bytes}");
        }
        assert_eq!(of(secret("db-password.v2")), None);
        assert_eq!(of(secret("eng/db-password.v2")), None);
        for name in ["", ".hidden", "a/.b", "/b", "..", "a b"] {
            assert_eq!(
                of(secret(name)).as_deref(),
                Some("volumes[0].secret"),
                "{name:?}"
            );
        }
        let mut guarded = volume("/v", SMALL);
        guarded.read_only = true;
        assert_eq!(field(&[guarded]).as_deref(), Some("volumes[0].read_only"));
        assert_eq!(
            field(&vec![volume("/v", SMALL); 65]).as_deref(),
            Some("volumes")
        );
    }

    #[test]
    fn no_volume_hides_another_or_a_reserved_path() {
        let (data, below) = (volume("/data", sandbox("d")), volume("/data/x", SMALL));
        assert_eq!(field(&[below.clone(), data.clone()]), None);
        assert_eq!(field(&[data.clone(), below.clone()]), None);
        assert_eq!(field(&[data.clone(), volume("/database", SMALL)]), None);
        let taken = Some("volumes[0].container_path");
        assert_eq!(field(&[data.clone(), data.clone()]).as_deref(), taken);
        let guarded = TaskVolume {
            read_only: true,
            ..data
        };
        for outer in [guarded, volume("/data", secret("s"))] {
            for pair in [[outer.clone(), below.clone()], [below.clone(), outer]] {
                assert_eq!(field(&pair).as_deref(), taken);
            }
        }
    }

    #[test]
    fn no_volume_overlaps_a_host_path() {
        for path in ["/srv", "/srv/data", "/srv/data/x"] {
            let spec = TaskSpec {
                volumes: vec![volume(path, SMALL)],
                host_paths: vec![HostPath {
                    host_path: "/srv/data".to_owned(),
                    container_path: "data".to_owned(),
                    read_only: false,
                }],
                ..testing::spec("t", "cpus:1")
            };
            assert!(check(&spec, Level::NEWEST).is_err(), "{path}");
        }
    }

    #[test]
    fn tmpfs_volumes_fit_into_memory() {
        let half = VolumeSource::Tmpfs { bytes: 32 << 20 };
        let two = [volume("/a", half.clone()), volume("/b", half)];
        assert_eq!(refusal(&two), None);
        let three = [two.as_slice(), &[volume("/c", SMALL)]].concat();
        let (field, text) = refusal(&three).unwrap();
        assert_eq!(field, "volumes");
        assert!(text.contains("67108864 of mem"), "{text}");
        // The requested sizes of /dev/shm and /tmp count too.
        let sized = |tmp_bytes| {
            let mut spec = TaskSpec {
                volumes: two[..1].to_vec(),
                ..testing::spec("t", "cpus:1;mem:64")
            };
            spec.container.sizes = Sizes {
                shm_bytes: Some(16 << 20),
                tmp_bytes: Some(tmp_bytes),
                ..Sizes::default()
            };
            check(&spec, Level::NEWEST)
        };
        assert_eq!(sized(16 << 20), Ok(()));
        assert!(sized((16 << 20) + 1).unwrap_err().1.contains("of mem"));
    }
}
