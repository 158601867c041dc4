//! Devices of the host that its operator gives to tasks: each is an item of the resource `devices`.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use argosy_proto::v1;
use argosy_state::task::{Cause, Code};

use crate::config::Devices;

const RESOURCE: &str = "devices";

/// Checks that all paths are devices of this host; the error names the first that is not.
pub(crate) fn check(devices: &Devices) -> Result<(), String> {
    for (name, paths) in devices {
        for path in paths {
            let found = std::fs::symlink_metadata(path)
                .map_err(|error| format!("{name}={}: {error}", path.display()))?;
            let kind = found.file_type();
            let is_device = kind.is_char_device() || kind.is_block_device();
            if !is_device || !path.starts_with("/dev") {
                return Err(format!(
                    "{name}={}: it is not a device below /dev; a link to one does not count",
                    path.display()
                ));
            }
        }
    }
    Ok(())
}

/// Returns the paths of a task's devices, without duplicates.
pub(super) fn of_task(task: &v1::TaskSpec, devices: &Devices) -> Result<Vec<PathBuf>, Cause> {
    let resources = task.resources.iter();
    let named = resources.filter(|resource| resource.name == RESOURCE);
    let items = named.flat_map(|resource| match &resource.value {
        Some(v1::resource::Value::Set(set)) => set.item.as_slice(),
        Some(v1::resource::Value::ScalarMilli(_) | v1::resource::Value::Ranges(_)) | None => &[],
    });
    let mut paths = Vec::new();
    for item in items {
        let known = devices
            .get(item)
            .ok_or_else(|| Cause::new(Code::DeviceMissing, &[item]))?;
        for path in known {
            if !paths.contains(path) {
                paths.push(path.clone());
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Devices {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect();
        [
            ("gpu0".to_owned(), paths(&["/dev/card0", "/dev/control"])),
            ("gpu1".to_owned(), paths(&["/dev/card1", "/dev/control"])),
        ]
        .into()
    }

    fn task(resources: &str) -> v1::TaskSpec {
        v1::TaskSpec {
            resources: argosy_proto::convert::resources(&resources.parse().unwrap()),
            ..v1::TaskSpec::default()
        }
    }

    #[test]
    fn a_task_has_each_device_path_of_its_items_once() {
        let of = |resources: &str| of_task(&task(resources), &devices());
        assert_eq!(of("cpus:1"), Ok(Vec::new()));
        let both: Vec<_> = ["/dev/card0", "/dev/control", "/dev/card1"]
            .map(PathBuf::from)
            .into();
        assert_eq!(of("devices:{gpu0,gpu1}"), Ok(both));
        let refused = of("devices:{gpu7}").unwrap_err();
        assert!(refused.to_string().contains("\"gpu7\""), "{refused}");
    }

    #[test]
    fn unknown_devices_are_rejected_by_name() {
        let one = |path: &str| -> Devices { [("a".to_owned(), vec![path.into()])].into() };
        assert_eq!(check(&one("/dev/null")), Ok(()));
        for path in ["/dev/no-such-device", "/etc/passwd", "/dev"] {
            let refused = check(&one(path)).unwrap_err();
            assert!(
                refused.to_string().starts_with(&format!("a={path}: ")),
                "{refused}"
            );
        }
    }
}
