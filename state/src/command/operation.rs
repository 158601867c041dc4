//! The changes by operators: for each one its form in the log, its fingerprint, the level that has
//! it, a sample, and its words in scenarios. `apply/operation.rs` performs them.

use crate::access::AccessOperation;
use crate::codec::canonical::CanonicalWriter;
use crate::codec::stored::stored;
#[cfg(any(test, feature = "builders"))]
use crate::ids::TaskId;
use crate::ids::{AgentId, FrameworkId, Level, LevelRequirement, Role, TaskKey};
use crate::secret::{NONCE_BYTES, SealedSecret, SecretName};
use crate::task::TaskLimits;

/// One change by an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorOperation {
    /// Sets an attribute of an agent; an empty value removes it.
    SetAttribute {
        /// The agent.
        agent: AgentId,
        /// The name of the attribute.
        name: String,
        /// The value of the attribute.
        value: String,
    },
    /// Kills a task.
    KillTask {
        /// The task.
        key: TaskKey,
        /// The grace period between TERM and KILL; `None` for the task's own.
        grace_ms: Option<u64>,
    },
    /// Changes the limits of a task, whether it runs or not.
    UpdateLimits {
        /// The task.
        key: TaskKey,
        /// All new limits, which replace the present ones.
        limits: TaskLimits,
    },
    /// Kills all tasks of a framework and removes it.
    Teardown(FrameworkId),
    /// Sets the weight of a role, in thousandths.
    SetWeight {
        /// The role.
        role: Role,
        /// The weight, 1 to 1,000,000,000.
        weight_milli: u64,
    },
    /// Stops offers of an agent.
    Deactivate(AgentId),
    /// Resumes offers of an agent.
    Reactivate(AgentId),
    /// Declares an agent gone, permanently.
    MarkGone(AgentId),
    /// Changes the facts of access.
    Access(AccessOperation),
    /// Stores a value of a secret, which is sealed.
    SetSecret {
        /// The secret.
        name: SecretName,
        /// The sealed value, whose version is one above that of the present one.
        secret: SealedSecret,
    },
    /// Replaces the seal of a secret's present value.
    ResealSecret {
        /// The secret.
        name: SecretName,
        /// The present value, sealed again.
        secret: SealedSecret,
        /// The nonce of the seal that this one replaces. A version does not identify a value: the
        /// secret may have been removed and set again.
        replaces: [u8; NONCE_BYTES],
    },
    /// Removes a secret. Tasks that have started keep its value.
    RemoveSecret(SecretName),
}

stored!(message OperatorOperation as (operation) {
    1 | 2 | 3 | 4 | 5 | 6 | 7 | 40 | 50 | 70 | 71 | 72 operation: OneOf,
});

stored!(oneof OperatorOperation {
    1 SetAttribute {
        1 agent: Number,
        2 name: Text,
        3 value: Text,
    },
    2 KillTask {
        1 key: Part or "task",
        2 grace_ms: MaybeNumber,
    },
    3 Teardown(Number),
    4 SetWeight {
        1 role: Text,
        2 weight_milli: Number,
    },
    5 Deactivate(Number),
    6 Reactivate(Number),
    7 MarkGone(Number),
    40 UpdateLimits {
        1 key: Part or "task",
        2 limits: Part,
    },
    50 Access(Part),
    70 SetSecret {
        1 name: Text or "name of a secret",
        2 secret: Part or "sealed secret",
    },
    71 ResealSecret {
        1 name: Text or "name of a secret",
        2 secret: Part or "sealed secret",
        3 replaces: Bytes or "nonce of a replaced seal",
    },
    72 RemoveSecret(Text),
});

impl OperatorOperation {
    /// Appends the fields that the fingerprint of a batch covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let key = |out: &mut CanonicalWriter, key: &TaskKey| {
            out.number(1, key.framework.0);
            out.text(2, key.task.as_str());
        };
        match self {
            Self::SetAttribute { agent, name, value } => out.chosen(1, |out| {
                out.number(1, agent.0);
                out.text(2, name);
                out.text(3, value);
            }),
            Self::KillTask {
                key: task,
                grace_ms,
            } => out.chosen(2, |out| {
                key(out, task);
                out.optional(3, *grace_ms);
            }),
            Self::UpdateLimits { key: task, limits } => out.chosen(3, |out| {
                key(out, task);
                out.part(3, |out| limits.fingerprint(out));
            }),
            Self::Teardown(id) => out.chosen(4, |out| out.number(1, id.0)),
            Self::SetWeight { role, weight_milli } => out.chosen(5, |out| {
                out.text(1, role.as_str());
                out.number(2, *weight_milli);
            }),
            Self::Deactivate(id) => out.chosen(6, |out| out.number(1, id.0)),
            Self::Reactivate(id) => out.chosen(7, |out| out.number(1, id.0)),
            Self::MarkGone(id) => out.chosen(8, |out| out.number(1, id.0)),
            Self::Access(operation) => out.chosen(30, |out| operation.fingerprint(out)),
            Self::SetSecret { name, secret: _ } => {
                out.chosen(20, |out| SealedSecret::fingerprint(name, out));
            }
            // The seals differ in each repeat of a request.
            Self::ResealSecret { name, .. } => {
                out.chosen(21, |out| SealedSecret::fingerprint(name, out));
            }
            Self::RemoveSecret(name) => {
                out.chosen(22, |out| SealedSecret::fingerprint(name, out));
            }
        }
    }

    /// Returns the level that the operation needs, unless every level has it.
    pub(crate) fn level_requirement(&self) -> Option<LevelRequirement> {
        match self {
            Self::SetWeight { role, .. } => LevelRequirement::of_roles([role]),
            Self::Access(_) => Some(LevelRequirement {
                level: Level::RELEASE_0_2,
                what: "a change of access",
            }),
            Self::SetSecret { .. } | Self::ResealSecret { .. } | Self::RemoveSecret(_) => {
                Some(LevelRequirement {
                    level: Level::RELEASE_0_2,
                    what: "a secret in the registry",
                })
            }
            Self::SetAttribute { .. }
            | Self::KillTask { .. }
            | Self::UpdateLimits { .. }
            | Self::Teardown(_)
            | Self::Deactivate(_)
            | Self::Reactivate(_)
            | Self::MarkGone(_) => None,
        }
    }
}

#[cfg(any(test, feature = "builders"))]
impl OperatorOperation {
    /// Returns an operation on these objects, of each kind that was added after the first golden
    /// bytes, by the name of its golden bytes. Random tests propose them, too.
    #[must_use]
    pub fn samples(
        _agent: AgentId,
        task: &TaskKey,
        limits: &TaskLimits,
    ) -> Vec<(&'static str, Self)> {
        let update_limits = Self::UpdateLimits {
            key: task.clone(),
            limits: limits.clone(),
        };
        let access = AccessOperation::samples().into_iter();
        let access = access.map(|(name, operation)| (name, Self::Access(operation)));
        let (name, secret) = SealedSecret::sample();
        let set = Self::SetSecret {
            name: name.clone(),
            secret: secret.clone(),
        };
        let reseal = Self::ResealSecret {
            name: name.clone(),
            replaces: secret.nonce,
            secret,
        };
        let secrets = [
            ("operate-set-secret", set),
            ("operate-reseal-secret", reseal),
            ("operate-remove-secret", Self::RemoveSecret(name)),
        ];
        [("operate-limits", update_limits)]
            .into_iter()
            .chain(access)
            .chain(secrets)
            .collect()
    }

    /// Parses the words of an operation in a scenario, and the values that it may name by pairs.
    /// Returns `None` if they are none.
    #[must_use]
    pub fn from_words(words: &[&str], grace_ms: Option<u64>, limits: &TaskLimits) -> Option<Self> {
        let key = |text: &str| {
            let (framework, task) = text.split_once('/')?;
            Some(TaskKey {
                framework: framework.parse().ok()?,
                task: TaskId::new(task).ok()?,
            })
        };
        Some(match words {
            ["attribute", agent, name] => Self::SetAttribute {
                agent: agent.parse().ok()?,
                name: (*name).to_owned(),
                value: String::new(),
            },
            ["attribute", agent, name, value] => Self::SetAttribute {
                agent: agent.parse().ok()?,
                name: (*name).to_owned(),
                value: (*value).to_owned(),
            },
            ["kill", task] => Self::KillTask {
                key: key(task)?,
                grace_ms,
            },
            ["limits", task] => Self::UpdateLimits {
                key: key(task)?,
                limits: limits.clone(),
            },
            ["teardown", id] => Self::Teardown(id.parse().ok()?),
            ["weight", role, weight] => Self::SetWeight {
                role: Role::new(role).ok()?,
                weight_milli: weight.parse().ok()?,
            },
            ["deactivate", id] => Self::Deactivate(id.parse().ok()?),
            ["reactivate", id] => Self::Reactivate(id.parse().ok()?),
            ["gone", id] => Self::MarkGone(id.parse().ok()?),
            ["secret", name, version, key, text] => {
                let (name, secret) = sealed(name, version, key, text)?;
                Self::SetSecret { name, secret }
            }
            ["reseal", name, version, key, text] => {
                let (name, secret) = sealed(name, version, key, text)?;
                let replaces = secret.nonce;
                Self::ResealSecret {
                    name,
                    secret,
                    replaces,
                }
            }
            ["remove-secret", name] => Self::RemoveSecret(SecretName::new(name).ok()?),
            words => Self::Access(AccessOperation::from_words(words)?),
        })
    }
}

/// Parses a secret of a scenario, whose ciphertext is `text` in place of a real one.
#[cfg(any(test, feature = "builders"))]
fn sealed(name: &str, version: &str, key: &str, text: &str) -> Option<(SecretName, SealedSecret)> {
    let secret = SealedSecret {
        version: version.parse().ok()?,
        key_id: key.to_owned(),
        ciphertext: crate::secret::Ciphertext(text.as_bytes().into()),
        ..SealedSecret::default()
    };
    Some((SecretName::new(name).ok()?, secret))
}
