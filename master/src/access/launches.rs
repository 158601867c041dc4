//! The actions that a launch needs in addition to `launch-task` in the role of the task.

use argosy_proto::host_path::without_detours;
use argosy_state::access::Action;
use argosy_state::actor::Actor;
use argosy_state::ids::Role;
use argosy_state::secret::SecretName;
use argosy_state::task::{TaskSpec, VolumeSource};

use super::cache::PermitCache;
use super::denial::Denial;
use super::images::canonical_name;
use super::object::Object;
use super::users::ANY_USER;

/// Returns the first reason why a caller may not launch a task. `place` has the role, the framework
/// and the agent.
pub(crate) fn denied_launch(
    permits: &mut PermitCache,
    actor: &Actor,
    place: Object<'_>,
    spec: &TaskSpec,
) -> Result<(), Denial> {
    let mut check = |action: Action, object: &Object<'_>| permits.check(actor, action, object);
    check(Action::LaunchTask, &place)?;
    check_container(&place, spec, &mut check)?;
    match &spec.executor {
        Some(executor) => check_container(&place, &executor.as_task(), &mut check),
        None => Ok(()),
    }
}

fn check_container(
    place: &Object<'_>,
    spec: &TaskSpec,
    check: &mut impl FnMut(Action, &Object<'_>) -> Result<(), Denial>,
) -> Result<(), Denial> {
    if !spec.user.is_empty() {
        let user = Some(spec.user.as_str());
        check(Action::RunAsUser, &Object { user, ..*place })?;
    }
    let mut options = spec.container.security_options.clone();
    if std::mem::take(&mut options.host_network) {
        check(Action::UseHostNetwork, place)?;
    }
    if !options.is_empty() {
        check(Action::UseSecurityOption, place)?;
    }
    if !spec.container.image.is_empty() {
        let image = canonical_name(&spec.container.image);
        let image = Some(image.as_str());
        check(Action::UseImage, &Object { image, ..*place })?;
        // The number of its user is that of a user of the host on a writable path. The image
        // chooses it, also by the account that it gives a name. Isolation refuses root there.
        if spec.host_paths.iter().any(|path| !path.read_only) {
            let user = Some(ANY_USER);
            check(Action::RunAsUser, &Object { user, ..*place })?;
        }
    }
    for path in &spec.host_paths {
        let path = without_detours(&path.host_path);
        let host_path = Some(path.as_str());
        check(
            Action::UseHostPath,
            &Object {
                host_path,
                ..*place
            },
        )?;
    }
    for volume in &spec.volumes {
        if let VolumeSource::Secret(name) = &volume.source {
            check_secret(place, name, check)?;
        }
    }
    Ok(())
}

/// Checks the use of a secret. Its role may be above that of the task. Denials of both roles apply.
fn check_secret(
    place: &Object<'_>,
    text: &str,
    check: &mut impl FnMut(Action, &Object<'_>) -> Result<(), Denial>,
) -> Result<(), Denial> {
    let Some(secret) = named_secret(place, text) else {
        return check(Action::UseSecret, place);
    };
    let role = secret.role();
    let own = Object {
        role: Some(&role),
        task_role: place.role,
        secret: Some(&secret),
        ..*place
    };
    check(Action::UseSecret, &own)
}

/// Returns the name of a volume's secret in rules. A secret of the agent has the role of the task.
/// Returns `None` for an invalid name, to which only rules about the task apply.
fn named_secret(place: &Object<'_>, text: &str) -> Option<SecretName> {
    let of_role = |role: &Role| SecretName::new(&format!("{role}/{text}")).ok();
    match text.contains('/') {
        true => SecretName::new(text).ok(),
        false => place.role.and_then(of_role),
    }
}

#[cfg(test)]
mod tests;
