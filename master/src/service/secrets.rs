//! Secrets: seals values before they are proposed, lists names, and sends values to agents.
//!
//! Values are in memory only here, and not in the owner of the registry.

use std::collections::{BTreeMap, VecDeque};

use argosy_proto::convert::{self, InvalidMessage};
use argosy_proto::secret_value::SecretValue;
use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;
use argosy_state::access::Action;
use argosy_state::actor::Actor;
use argosy_state::command::{Operate, OperatorOperation};
use argosy_state::ids::{ClusterId, OrderIndex, Revision, Role, TaskId, TaskKey};
use argosy_state::limits;
use argosy_state::secret::{NONCE_BYTES, SealedSecret, SecretName};
use prost::Message as _;
use tonic::Status;
use tracing::debug;

use super::access::check_set_secret;
use super::audited::SentSecrets;
use super::lists::settle;
use super::{Services, denied, malformed, refused};
use crate::access::{Denial, Reader};
use crate::inbox::StateView;
use crate::leader::{GrantedSecret, SecretsRefusal};
use crate::links::{LinkId, WeakLinkSender};
use crate::secret_keys::{SecretKeys, SecretPlace, random_nonce};

/// The code of a refusal without a key, or with another one.
const NO_KEY: &str = "secret-key";
/// The code of a refusal of a caller without a proven identity.
const NOT_AUTHENTICATED: &str = "not-authenticated";

/// Takes the values of secrets out of a batch, in the order of the operations that bring one.
pub(super) fn take_values(batch: &mut v1::WriteBatch) -> VecDeque<SecretValue> {
    let operations = batch.operations.iter_mut();
    let values = operations.filter_map(|operation| {
        let Some(Operation::SetSecret(set)) = &mut operation.operation else {
            return None;
        };
        Some(SecretValue::new(std::mem::take(&mut set.value)))
    });
    values.collect()
}

/// Converts an operation on a secret. Its value is sealed later; until then it is one that the
/// registry refuses.
pub(super) fn operation(
    name: &str,
    of: fn(SecretName) -> OperatorOperation,
) -> Result<OperatorOperation, InvalidMessage> {
    let name = SecretName::new(name);
    name.map(of)
        .map_err(|why| InvalidMessage::new("name", why.to_string()))
}

/// Returns an unsealed value.
pub(super) fn set(name: SecretName) -> OperatorOperation {
    let secret = SealedSecret::default();
    OperatorOperation::SetSecret { name, secret }
}

/// Returns the request for a new seal.
pub(super) fn reseal(name: SecretName) -> OperatorOperation {
    OperatorOperation::ResealSecret {
        name,
        secret: SealedSecret::default(),
        replaces: [0; NONCE_BYTES],
    }
}

/// What sealing needs of the registry.
struct PresentSecrets {
    /// The cluster, and those from which it was restored.
    clusters: Vec<ClusterId>,
    /// The present values of the secrets of a batch.
    secrets: BTreeMap<SecretName, SealedSecret>,
}

impl Services {
    /// Seals the values of a batch, and seals those again for which it asks. Runs at the leader:
    /// the registry refuses a value if another one was stored in the meantime.
    pub(super) async fn seal(
        &self,
        operate: &mut Operate,
        values: VecDeque<SecretValue>,
        actor: &Actor,
    ) -> Result<(), Status> {
        let operations = operate.operations.iter_mut();
        let names = operations.filter_map(|operation| Some(sealed(operation)?.1.clone()));
        let names: Vec<SecretName> = names.collect();
        if names.is_empty() {
            return Ok(());
        }
        check_set_secret(&self.owner, &names, actor)?;
        let Some(keys) = &self.secret_keys else {
            let text =
                "this master has no key for secrets: start every master with --secrets-key FILE";
            return Err(refused(NO_KEY, text));
        };
        if !matches!(actor, Actor::Principal(_)) {
            let text = "only a caller with a certificate or a token may set secrets: without TLS, others could read the value";
            return Err(refused(NOT_AUTHENTICATED, text));
        }
        let present = self.owner.query(move |facts| PresentSecrets {
            clusters: facts.registry.cluster().ids(),
            secrets: names
                .into_iter()
                .filter_map(|name| Some((name.clone(), facts.registry.secret(&name)?.clone())))
                .collect(),
        });
        seal_all(keys, &present.await?, operate, values)
    }

    /// Returns the names of the secrets that the reader may see, and facts about their values.
    pub(crate) async fn secrets(
        &self,
        reader: Reader,
        request: v1::ListSecretsRequest,
    ) -> Result<v1::SecretList, Status> {
        let role = match request.role.as_str() {
            "" => None,
            text => Some(
                Role::new(text)
                    .map_err(|why| malformed(&InvalidMessage::new("role", why.to_string())))?,
            ),
        };
        let sealing_key_id = self.secret_keys.as_ref().and_then(|keys| keys.ids().next());
        let sealing_key_id = sealing_key_id.unwrap_or_default().to_owned();
        let index = settle(&self.owner, request.consistency, request.min_revision).await?;
        let read = |view: &StateView| {
            let sight = reader.sight(&view.registry, Action::ViewSecretNames);
            sight.some()?;
            let secrets = view.registry.secrets();
            let secrets = secrets.filter(|(name, _)| {
                role.as_ref().is_none_or(|role| role.contains(&name.role())) && sight.secret(name)
            });
            Ok(v1::SecretList {
                secrets: secrets.map(|(name, secret)| shown(name, secret)).collect(),
                sealing_key_id: sealing_key_id.clone(),
                revision: Some(convert::revision(Revision {
                    index: view.registry.applied(),
                    position: 0,
                })),
            })
        };
        let bytes = |found: &Result<v1::SecretList, Denial>| {
            found.as_ref().map_or(0, v1::SecretList::encoded_len)
        };
        let found = self.owner.read_one(index, read, bytes).await?;
        found.map_err(|denial| denied(&denial))
    }

    /// Sends the secrets of a task to the agent that is about to start it, or the reason why not.
    pub(super) async fn send_secrets(
        &self,
        link: LinkId,
        wanted: v1::SecretsWanted,
        (to, sent): (&WeakLinkSender<v1::ToAgent>, &mut SentSecrets),
    ) -> Result<(), Status> {
        let key = TaskKey {
            framework: convert::id("framework_id", &wanted.framework_id)
                .map_err(|why| malformed(&why))?,
            task: TaskId::new(&wanted.task_id)
                .map_err(|why| malformed(&InvalidMessage::new("task_id", why.to_string())))?,
        };
        let order = OrderIndex(wanted.order_index);
        let found = self.owner.query(move |facts| {
            let cluster = facts.registry.cluster();
            let granted = facts
                .leader
                .map(|leader| leader.secrets_for(facts.registry, link, (&key, order)));
            (cluster.epoch.0, cluster.ids(), granted)
        });
        let (epoch, clusters, granted) = found.await?;
        // A former leader answers nothing: the agent asks the next one.
        let (Some(granted), Some(sender)) = (granted, to.upgrade()) else {
            return Ok(());
        };
        let (secrets, refusal) = self.open(&clusters, granted);
        let message = v1::TaskSecrets {
            framework_id: wanted.framework_id,
            task_id: wanted.task_id,
            order_index: wanted.order_index,
            secrets,
            refusal,
        };
        let audited = sent.object(&message);
        let message = v1::ToAgent {
            epoch,
            cluster_id: clusters[0].to_string(),
            message: Some(v1::to_agent::Message::TaskSecrets(message)),
        };
        match (sender.send(message), audited) {
            (Ok(()), Some(object)) => sent.record(&object),
            (Ok(()), None) => {}
            (Err(_), _) => debug!(
                link = link.0,
                "an agent does not read the secrets of its task"
            ),
        }
        Ok(())
    }

    /// Opens the granted secrets. Returns the reason in place of all of them, or of single ones.
    fn open(
        &self,
        clusters: &[ClusterId],
        granted: Result<Vec<GrantedSecret>, SecretsRefusal>,
    ) -> (Vec<v1::TaskSecret>, String) {
        let granted = match granted {
            Ok(granted) => granted,
            Err(why) => return (Vec::new(), why.to_string()),
        };
        let keys = self.secret_keys.as_deref();
        let secrets = granted.into_iter().map(|(name, secret)| {
            let opened = open(keys, clusters, &name, secret.as_ref());
            let (value, refusal) = match opened {
                Ok(value) => (value.expose().to_vec(), String::new()),
                Err(why) => (Vec::new(), why),
            };
            v1::TaskSecret {
                name: name.to_string(),
                value,
                refusal,
            }
        });
        (secrets.collect(), String::new())
    }
}

fn open(
    keys: Option<&SecretKeys>,
    clusters: &[ClusterId],
    name: &SecretName,
    secret: Option<&SealedSecret>,
) -> Result<SecretValue, String> {
    let secret = secret.ok_or_else(|| {
        format!("the registry has no secret {name}; set it with argosy secret set {name}")
    })?;
    let keys = keys.ok_or("the leader has no key for secrets; start it with --secrets-key FILE")?;
    let opened = keys.open_of_any(clusters, name, secret);
    opened.map_err(|why| why.to_string())
}

/// How the value of an operation is sealed.
enum Sealing<'a> {
    /// A new value comes with the operation.
    New,
    /// The present value is sealed again.
    Again {
        /// The nonce of its present seal, to be filled in.
        replaces: &'a mut [u8; NONCE_BYTES],
    },
}

/// Returns the sealed part of an operation, if it has one.
fn sealed(
    operation: &mut OperatorOperation,
) -> Option<(Sealing<'_>, &SecretName, &mut SealedSecret)> {
    match operation {
        OperatorOperation::SetSecret { name, secret } => Some((Sealing::New, name, secret)),
        OperatorOperation::ResealSecret {
            name,
            secret,
            replaces,
        } => Some((Sealing::Again { replaces }, name, secret)),
        OperatorOperation::SetAttribute { .. }
        | OperatorOperation::KillTask { .. }
        | OperatorOperation::UpdateLimits { .. }
        | OperatorOperation::Teardown(_)
        | OperatorOperation::SetWeight { .. }
        | OperatorOperation::Deactivate(_)
        | OperatorOperation::Reactivate(_)
        | OperatorOperation::MarkGone(_)
        | OperatorOperation::Access(_)
        | OperatorOperation::RemoveSecret(_) => None,
    }
}

/// Seals the values of a batch.
fn seal_all(
    keys: &SecretKeys,
    present: &PresentSecrets,
    operate: &mut Operate,
    mut values: VecDeque<SecretValue>,
) -> Result<(), Status> {
    let clusters = &present.clusters;
    let wall_ms = operate.wall_ms;
    let mut versions: BTreeMap<SecretName, u64> = BTreeMap::new();
    let mut set_values = Vec::new();
    for operation in &mut operate.operations {
        if let OperatorOperation::RemoveSecret(name) = operation {
            // The registry counts the versions of a secret from its removal.
            versions.insert(name.clone(), 0);
        }
        let Some((sealing, name, secret)) = sealed(operation) else {
            continue;
        };
        let former = present.secrets.get(name);
        let (value, version) = match sealing {
            Sealing::New => {
                let value = values.pop_front();
                let value = value.expect("each operation brings its value");
                check_size(name, &value)?;
                let former = former.map_or(0, |former| former.version);
                let version = versions.entry(name.clone()).or_insert(former);
                *version += 1;
                set_values.push((name.clone(), value.clone()));
                (value, *version)
            }
            Sealing::Again { replaces } => {
                // The registry refuses to seal what it does not have.
                let Some(former) = former else { continue };
                *replaces = former.nonce;
                let value = keys.open_of_any(clusters, name, former);
                let value = value.map_err(|why| refused(NO_KEY, &format!("{name}: {why}")))?;
                (value, former.version)
            }
        };
        let nonce = random_nonce().map_err(|_| Status::internal("no random numbers"))?;
        let place = SecretPlace {
            cluster: clusters[0],
            name,
            version,
        };
        *secret = keys.seal(place, &value, nonce, wall_ms);
    }
    let values = set_values.iter().map(|(name, value)| (name, value));
    let values: Vec<_> = values.collect();
    if operate.request.is_some() {
        operate.hash = keys.fingerprint(operate.hash, &values);
    }
    Ok(())
}

fn check_size(name: &SecretName, value: &SecretValue) -> Result<(), Status> {
    let (bytes, most) = (value.expose().len(), limits::SECRET_VALUE_BYTES);
    if bytes <= most {
        return Ok(());
    }
    let text = format!("{name}: it takes {bytes} bytes; at most {most}");
    Err(malformed(&InvalidMessage::new("value", text)))
}

/// Returns a secret as lists show it.
fn shown(name: &SecretName, secret: &SealedSecret) -> v1::Secret {
    v1::Secret {
        name: name.to_string(),
        version: secret.version,
        bytes: secret.value_bytes() as u64,
        key_id: secret.key_id.clone(),
        wall_ms: secret.wall_ms,
    }
}

#[cfg(test)]
mod tests;
