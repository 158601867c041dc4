//! Secrets of the registry for starts: requested from the leader, and kept in memory until the
//! container has them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_host::secret_value::SecretValue;
use argosy_isolation::{DeliveredSecret, Isolation};
use argosy_proto::v1;
use argosy_proto::v1::task_volume::Source;
use argosy_state::secret::SecretName;
use argosy_state::task::{Code, Explanation};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::RunnerState;
use super::description::failed;
use super::requests::ContainerStart;
use super::starting::start_cancelled;
use crate::core::messages::SecretsAnswer;
use crate::core::{CreateError, Input, Instance};

/// The starts that wait for their secrets. Clones share them.
///
/// A lock, because the loop delivers and starts wait on other threads.
#[derive(Clone, Default)]
pub(super) struct SecretRequests(Arc<Mutex<HashMap<Instance, oneshot::Sender<SecretsAnswer>>>>);

impl SecretRequests {
    /// Passes an answer to the start that waits for it, if it still does.
    pub(super) fn deliver(&self, instance: Instance, answer: SecretsAnswer) {
        if let Some(waiting) = self.waiting().remove(&instance) {
            // The start was cancelled: the values are erased.
            drop(waiting.send(answer));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Instance, oneshot::Sender<SecretsAnswer>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Secrets in a file that is only in memory, for one launch.
#[derive(Debug)]
pub(super) struct DeliveredSecrets {
    file: OwnedFd,
    places: BTreeMap<String, DeliveredSecret>,
}

impl DeliveredSecrets {
    /// Writes the values one after the other.
    fn new(values: &[(String, SecretValue)]) -> io::Result<Self> {
        let mut file = File::from(memfd_create("argosy-secrets", MemfdFlags::CLOEXEC)?);
        let (mut offset, mut places) = (0, BTreeMap::new());
        for (name, value) in values {
            file.write_all(value.expose())?;
            let bytes = value.expose().len() as u64;
            places.insert(name.clone(), DeliveredSecret { offset, bytes });
            offset += bytes;
        }
        Ok(Self {
            file: file.into(),
            places,
        })
    }

    /// Returns the file for the launch.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Returns the place of a secret in the file.
    pub(super) fn place(&self, name: &str) -> Option<DeliveredSecret> {
        self.places.get(name).copied()
    }
}

/// Returns the secrets of the registry that a task uses.
pub(super) fn names(task: &v1::TaskSpec) -> impl Iterator<Item = &str> {
    let volumes = task.volumes.iter();
    volumes.filter_map(|volume| match &volume.source {
        Some(Source::Secret(name)) if is_of_registry(name) => Some(name.as_str()),
        Some(Source::Secret(_) | Source::Sandbox(_) | Source::Tmpfs(_)) | None => None,
    })
}

/// Returns whether the name of a volume's secret is one of the registry.
pub(super) fn is_of_registry(name: &str) -> bool {
    SecretName::new(name).is_ok()
}

impl RunnerState {
    /// Waits for the secrets of a task, if it uses some. Without a leader it waits until there is
    /// one.
    pub(super) async fn secrets_of(
        &self,
        start: &ContainerStart,
        cancelled: &CancellationToken,
    ) -> Result<Option<Arc<DeliveredSecrets>>, CreateError> {
        let task = start.launch.spec.as_ref();
        let Some(first) = task.and_then(|task| names(task).next()) else {
            return Ok(None);
        };
        if self.settings.isolation != Isolation::Full {
            // No volume can be mounted: the start fails with that.
            return Ok(None);
        }
        let instance = start.name.instance;
        let (waiting, answer) = oneshot::channel();
        self.secrets.waiting().insert(instance, waiting);
        self.report(Input::SecretsWanted { instance }).await;
        let answer = tokio::select! {
            biased;
            () = cancelled.cancelled() => None,
            answer = answer => answer.ok(),
        };
        let Some(answer) = answer else {
            self.secrets.waiting().remove(&instance);
            return Err(start_cancelled());
        };
        let unavailable = |name: &str, why: String| unavailable(name, &start.launch.role, why);
        let answer = answer.map_err(|why| unavailable(first, why))?;
        let values = answer
            .into_iter()
            .map(|(name, value)| match value {
                Ok(value) => Ok((name, value)),
                Err(why) => Err(unavailable(&name, why)),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let kept = DeliveredSecrets::new(&values);
        let kept = kept.map_err(|error| unavailable(first, error.to_string()))?;
        Ok(Some(Arc::new(kept)))
    }
}

/// Returns the reason for which a task without its secret is not started.
pub(super) fn unavailable(name: &str, role: &str, why: String) -> CreateError {
    let secret = Explanation::of(Code::SecretUnavailable, &[&name, &role]);
    failed(secret.with_detail(why))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn secrets_are_in_one_file_in_memory() {
        let value = |text: &str| SecretValue::new(text.as_bytes().to_vec());
        let values = [("web/a", "one"), ("web/b", ""), ("web/c", "three")];
        let values = values.map(|(name, text)| (name.to_owned(), value(text)));
        let kept = DeliveredSecrets::new(&values).unwrap();
        let mut file = File::from(kept.file().try_clone_to_owned().unwrap());
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        for (name, wanted) in [("web/a", "one"), ("web/b", ""), ("web/c", "three")] {
            let DeliveredSecret { offset, bytes } = kept.place(name).unwrap();
            let (offset, bytes) = (offset as usize, bytes as usize);
            assert_eq!(&text[offset..offset + bytes], wanted, "{name}");
        }
        assert_eq!(kept.place("web/d"), None);
        assert!(!format!("{kept:?}").contains("one"));
    }

    #[test]
    fn a_plain_name_is_a_secret_of_the_agent() {
        let volume = |name: &str| v1::TaskVolume {
            source: Some(Source::Secret(name.to_owned())),
            ..v1::TaskVolume::default()
        };
        let task = v1::TaskSpec {
            volumes: vec![volume("db"), volume("web/db"), volume("*/key")],
            ..v1::TaskSpec::default()
        };
        assert_eq!(names(&task).collect::<Vec<_>>(), ["web/db", "*/key"]);
    }
}
