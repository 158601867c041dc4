//! Volumes of a task on this agent: secrets are looked up before anything is started.

use std::path::Path;

use argosy_isolation::{Isolation, SecretFile, Volume, VolumeSource};
use argosy_proto::v1;
use argosy_proto::v1::task_volume::Source;
use argosy_state::ids::Role;
use argosy_state::task::{Cause, Code};

use super::description::{failed, invalid};
use super::requests::ContainerStart;
use super::task_secrets;
use crate::broker_client::BrokerClient;
use crate::config::ContainerSettings;
use crate::core::CreateError;

/// Returns the volumes of a task. Its secrets of the registry have arrived.
pub(super) fn volumes(
    task: &v1::TaskSpec,
    start: &ContainerStart,
    settings: &ContainerSettings,
    broker: &BrokerClient,
) -> Result<Vec<Volume>, CreateError> {
    if !task.volumes.is_empty() && settings.isolation != Isolation::Full {
        return Err(failed(Cause::new(Code::VolumesUnavailable, &[])));
    }
    let role = start.launch.role.as_str();
    let volumes = task.volumes.iter();
    volumes
        .map(|volume| {
            Ok(Volume {
                path: volume.container_path.as_str().into(),
                read_only: volume.read_only,
                source: match &volume.source {
                    Some(Source::Sandbox(below)) => VolumeSource::Sandbox(below.into()),
                    Some(Source::Tmpfs(v1::Tmpfs { bytes })) => {
                        VolumeSource::Tmpfs { bytes: *bytes }
                    }
                    Some(Source::Secret(name)) if task_secrets::is_of_registry(name) => {
                        let secrets = start.secrets.as_ref();
                        let place = secrets.and_then(|secrets| secrets.place(name));
                        VolumeSource::Delivered(place.ok_or_else(|| {
                            let why = "the leader did not send it".to_owned();
                            task_secrets::unavailable(name, role, why)
                        })?)
                    }
                    Some(Source::Secret(name)) => {
                        let found = broker.check_secret(role, name);
                        found.map_err(|why| task_secrets::unavailable(name, role, why))?;
                        let directory = settings.secret_dir.clone().unwrap_or_default();
                        let name = Path::new(role).join(name);
                        VolumeSource::Secret(SecretFile { directory, name })
                    }
                    None => {
                        let path = &volume.container_path;
                        return Err(invalid(Cause::new(Code::VolumeUnknown, &[path])));
                    }
                },
            })
        })
        .collect()
}

/// Returns the operator's secret of this name for the role, or the reason why it is unavailable.
pub(crate) fn secret(
    name: &str,
    role: &str,
    directory: Option<&Path>,
) -> Result<SecretFile, String> {
    let Some(directory) = directory else {
        let why = "this agent has no secrets; ask another agent, or start it with --secret-dir";
        return Err(why.to_owned());
    };
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err("a secret's name must not be a path; give a plain name".to_owned());
    }
    if let Err(wrong) = Role::new(role) {
        return Err(wrong.to_string());
    }
    let secret = SecretFile {
        directory: directory.to_owned(),
        name: Path::new(role).join(name),
    };
    match secret.open() {
        // The process that mounts it opens it again; nothing of it is read here.
        Ok(_) => Ok(secret),
        Err(error) => {
            let file = directory.join(&secret.name);
            Err(format!(
                "{}; the agent's operator keeps it in {}",
                crate::error::error_chain(&error),
                file.display()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_belong_to_one_role_and_missing_ones_are_reported() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        for role in ["web", "*", "eng/backend"] {
            fs::create_dir_all(directory.path().join(role)).unwrap();
            fs::write(directory.path().join(role).join("db"), "x").unwrap();
        }
        let of = |role: &str, name: &str| secret(name, role, Some(directory.path()));
        assert_eq!(of("web", "db").unwrap().name, Path::new("web/db"));
        assert_eq!(of("*", "db").unwrap().name, Path::new("*/db"));
        let nested = of("eng/backend", "db").unwrap();
        assert_eq!(nested.name, Path::new("eng/backend/db"));
        // A role's secrets are not those of the roles above it or below it.
        for (role, name) in [
            ("web", "none"),
            ("ops", "db"),
            ("eng", "db"),
            ("eng/backend/db", "db"),
            ("eng", "backend"),
        ] {
            let text = of(role, name).unwrap_err();
            let file = directory.path().join(role).join(name);
            assert!(
                text.ends_with(&format!("keeps it in {}", file.display())),
                "{text}"
            );
        }
        for (role, name) in [("web", "../web/db"), ("web", ""), ("eng", "backend/db")] {
            let text = of(role, name).unwrap_err();
            assert!(text.contains("give a plain name"), "{text}");
        }
        for role in ["..", "web/..", "/web", "web/", "eng//backend", ""] {
            let text = of(role, "db").unwrap_err();
            assert!(text.contains("use * or a path"), "{text}");
        }
        let none = secret("db", "web", None).unwrap_err();
        assert!(none.contains("--secret-dir"), "{none}");
    }
}
