//! Parsers of volume flags. Pure: masters and agents check whether a path is available.

use argosy_proto::v1;
use argosy_proto::v1::task_volume::Source;

use super::size;

/// The source of a `--volume`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum VolumeMount {
    /// A directory of the agent's host.
    Host(v1::HostPath),
    /// A directory of the task's sandbox.
    Sandbox(v1::TaskVolume),
}

/// Parses `FROM:TASK[:ro]`: a path of the host if it begins with `/`, else a directory of the
/// sandbox.
pub(crate) fn volume(text: &str) -> Result<VolumeMount, String> {
    let remedy = || {
        format!(
            "{text:?} is not a volume: write /path/on/host:path/in/task, or path/in/sandbox:/path/in/task, with :ro at the end for read-only"
        )
    };
    let mut parts = text.split(':');
    let (from, to) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let read_only = match (parts.next(), parts.next()) {
        (None, None) | (Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => return Err(remedy()),
    };
    let is_of_host = from.starts_with('/');
    if from.is_empty() || to.is_empty() || !(is_of_host || to.starts_with('/')) {
        return Err(remedy());
    }
    Ok(if is_of_host {
        VolumeMount::Host(v1::HostPath {
            host_path: from.to_owned(),
            container_path: to.to_owned(),
            read_only,
        })
    } else {
        VolumeMount::Sandbox(v1::TaskVolume {
            container_path: to.to_owned(),
            read_only,
            source: Some(Source::Sandbox(from.to_owned())),
        })
    })
}

/// Parses `PATH:SIZE`.
pub(crate) fn tmpfs(text: &str) -> Result<v1::TaskVolume, String> {
    let parts = text.rsplit_once(':');
    let (path, bytes) = parts
        .filter(|(path, _)| path.starts_with('/'))
        .ok_or_else(|| format!("{text:?} is not valid: write /path/in/task:64M"))?;
    let mebi_milli = u64::try_from(size(bytes)?.0).unwrap_or(0);
    let bytes = mebi_milli.saturating_mul(1 << 20) / 1_000;
    Ok(v1::TaskVolume {
        container_path: path.to_owned(),
        read_only: false,
        source: Some(Source::Tmpfs(v1::Tmpfs { bytes })),
    })
}

/// Parses `NAME:PATH`.
pub(crate) fn secret(text: &str) -> Result<v1::TaskVolume, String> {
    let parts = text.split_once(':');
    let (name, path) = parts
        .filter(|(name, path)| !name.is_empty() && path.starts_with('/'))
        .ok_or_else(|| format!("{text:?} is not valid: write name:/path/in/task"))?;
    Ok(v1::TaskVolume {
        container_path: path.to_owned(),
        read_only: true,
        source: Some(Source::Secret(name.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_two_paths_and_optionally_read_only() {
        let Ok(VolumeMount::Host(read)) = volume("/srv/data:data:ro") else {
            panic!("it is of the host");
        };
        assert!(read.read_only);
        assert_eq!(read.container_path, "data");
        let Ok(VolumeMount::Sandbox(own)) = volume("cache/http:/var/cache") else {
            panic!("it is of the sandbox");
        };
        assert_eq!(
            (own.container_path.as_str(), own.read_only),
            ("/var/cache", false)
        );
        assert_eq!(own.source, Some(Source::Sandbox("cache/http".to_owned())));
        for text in [
            "data:data",
            "/data",
            "/data:",
            ":/data",
            "/a:/b:xx",
            "/a:/b:ro:ro",
        ] {
            assert!(volume(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_tmpfs_has_a_path_and_a_size() {
        let read = tmpfs("/tmp:64M").unwrap();
        assert_eq!(read.container_path, "/tmp");
        assert_eq!(
            read.source,
            Some(Source::Tmpfs(v1::Tmpfs { bytes: 64 << 20 }))
        );
        for text in ["/tmp", "tmp:64M", "/tmp:", "/tmp:large", "/tmp:64MB"] {
            assert!(tmpfs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_has_a_name_and_a_path() {
        let read = secret("db:/run/secrets/db").unwrap();
        assert_eq!(read.container_path, "/run/secrets/db");
        assert_eq!(read.source, Some(Source::Secret("db".to_owned())));
        for text in ["db", "db:key", ":/key", "db:"] {
            assert!(secret(text).is_err(), "{text}");
        }
    }
}
