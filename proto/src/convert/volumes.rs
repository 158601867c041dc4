//! Conversion of task volumes.

use argosy_state::task::{TaskVolume, VolumeSource};

use super::InvalidMessage;
use crate::v1;
use crate::v1::task_volume::Source;

/// Returns a volume on the wire.
pub(super) fn volume(volume: &TaskVolume) -> v1::TaskVolume {
    v1::TaskVolume {
        container_path: volume.container_path.clone(),
        read_only: volume.read_only,
        source: Some(match &volume.source {
            VolumeSource::Sandbox(path) => Source::Sandbox(path.clone()),
            VolumeSource::Tmpfs { bytes } => Source::Tmpfs(v1::Tmpfs { bytes: *bytes }),
            VolumeSource::Secret(name) => Source::Secret(name.clone()),
        }),
    }
}

/// Reads a list of volumes.
pub(super) fn volumes_from(wire: Vec<v1::TaskVolume>) -> Result<Vec<TaskVolume>, InvalidMessage> {
    let volumes = wire.into_iter().enumerate();
    volumes
        .map(|(at, volume)| volume_from(at, volume))
        .collect()
}

/// Reads the volume at this position of its list. Whether a task may have it is checked with the
/// whole task.
fn volume_from(at: usize, wire: v1::TaskVolume) -> Result<TaskVolume, InvalidMessage> {
    let source = wire.source.ok_or_else(|| {
        let text = "no source is given: give sandbox, tmpfs or secret";
        InvalidMessage::new(format!("volumes[{at}].source"), text)
    })?;
    Ok(TaskVolume {
        container_path: wire.container_path,
        read_only: wire.read_only,
        source: match source {
            Source::Sandbox(path) => VolumeSource::Sandbox(path),
            Source::Tmpfs(v1::Tmpfs { bytes }) => VolumeSource::Tmpfs { bytes },
            Source::Secret(name) => VolumeSource::Secret(name),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_round_trip_and_one_without_a_source_names_its_field() {
        let sources = [
            VolumeSource::Sandbox("data".to_owned()),
            VolumeSource::Tmpfs { bytes: 4_096 },
            VolumeSource::Secret("db".to_owned()),
        ];
        for source in sources {
            let ours = TaskVolume {
                container_path: "/v".to_owned(),
                read_only: true,
                source,
            };
            assert_eq!(volume_from(0, volume(&ours)), Ok(ours));
        }
        let nothing = v1::TaskVolume::default();
        let refused = volume_from(3, nothing).unwrap_err();
        assert_eq!(refused.field, "volumes[3].source");
    }
}
