//! The administrator: it sets the rules that the processes of a cluster need, and performs changes
//! of rules and tokens, which are faults.
//!
//! A change is one operation of the history, which ends when it is acknowledged.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use argosy_client::{CallError, Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation as Write;
use argosy_state::access::KeyHash;

use super::world::World;
use crate::history::{Operation, OperationResponse};
use crate::sim::network;
use crate::workload::rights::{creation, is_denial, revocation, token_name};

pub(super) const NAME: &str = "admin";
/// The principal of all tokens.
const TOKEN_PRINCIPAL: &str = "operator/ci";
/// Timeout of one attempt.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed attempt, and the interval of polling.
const PAUSE: Duration = Duration::from_millis(50);

/// The groups: each process has the rights that its work needs.
const GROUPS: &[&str] = &[
    "group admin = operator/admin operator/hand",
    "group operator = operator/operator-1 operator/operator-2 operator/prober operator/ci",
    "group viewer = operator/lister operator/watcher",
    "group framework:* = framework/*",
];
const RULES: &[&str] = &["allow agent/* connect-agent *"];

/// The state of the rules and tokens.
#[derive(Debug, Default)]
pub(super) struct AccessState {
    /// Whether the rules that all processes need are in force.
    is_ready: bool,
    /// The changes that are to be performed.
    pub(super) requests: VecDeque<AccessChange>,
    /// The number of the newest token; 0 if there is none yet.
    pub(super) newest_token: u64,
    /// The log index of the newest acknowledged change.
    pub(super) changed_at: u64,
    /// The keys whose revocation was acknowledged.
    pub(super) revoked_keys: BTreeSet<KeyHash>,
}

/// A right of the operator `prober` that rules deny for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProbedRight {
    SetAttribute,
    ViewAgent,
}

/// The principal and the action, as in rules.
impl fmt::Display for ProbedRight {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::SetAttribute => "operator/prober set-attribute",
            Self::ViewAgent => "operator/prober view-agent",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AccessChange {
    Deny(ProbedRight),
    Allow(ProbedRight),
    /// Creates a token, if the newest one is revoked.
    CreateToken,
    RevokeToken,
    /// Revokes the former key of a member.
    RevokeKey(KeyHash),
}

impl AccessChange {
    /// Returns the denial of a right, and its end.
    pub(super) fn denial(right: ProbedRight) -> (Self, Self) {
        (Self::Deny(right), Self::Allow(right))
    }
}

/// Waits until the rules that frameworks need are in force.
pub(super) async fn await_rules(world: &World) {
    while world.enforces_access && !world.state().access.is_ready {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs its process.
pub(super) async fn administrator(world: World) -> turmoil::Result {
    if !world.enforces_access {
        return std::future::pending().await;
    }
    let mut rng = world.new_incarnation(NAME);
    let config = ConnectorConfig {
        dialer: network::dialer(NAME, &world.cuts),
        seed: rng.next(),
    };
    let masters = Masters::new(world.masters())?;
    let client = OperatorClient::new(Connector::new(masters, config)).with_deadline(TIMEOUT);
    let mut administrator = Administrator {
        world: world.clone(),
        client,
        requests: 0,
        denied: BTreeSet::new(),
        has_token: false,
    };
    administrator.begin().await;
    world.state().access.is_ready = true;
    loop {
        let change = world.state().access.requests.pop_front();
        match change {
            Some(change) => administrator.change(change).await,
            None => tokio::time::sleep(PAUSE).await,
        }
    }
}

struct Administrator {
    world: World,
    client: OperatorClient,
    /// The number of its requests.
    requests: u64,
    /// The rights that rules deny.
    denied: BTreeSet<ProbedRight>,
    /// Whether the newest token is not revoked.
    has_token: bool,
}

impl Administrator {
    /// Sets the rules that all processes need, and creates the first token.
    async fn begin(&mut self) {
        let rights = [ProbedRight::SetAttribute, ProbedRight::ViewAgent];
        let given = rights.map(|right| (right.to_string(), true));
        self.perform(&given, self.rules()).await;
        self.change(AccessChange::CreateToken).await;
    }

    async fn change(&mut self, change: AccessChange) {
        let newest = self.world.state().access.newest_token;
        match change {
            AccessChange::Deny(right) => {
                self.denied.insert(right);
                let taken = [(right.to_string(), false)];
                self.perform(&taken, self.rules()).await;
            }
            AccessChange::Allow(right) => {
                self.denied.remove(&right);
                let given = [(right.to_string(), true)];
                self.perform(&given, self.rules()).await;
            }
            AccessChange::CreateToken if !self.has_token => {
                self.has_token = true;
                let created = newest + 1;
                let given = [(token_name(created), true)];
                let creation = creation(created, TOKEN_PRINCIPAL);
                self.perform(&given, creation).await;
                self.world.state().access.newest_token = created;
            }
            AccessChange::RevokeToken if self.has_token => {
                self.has_token = false;
                let taken = [(token_name(newest), false)];
                self.perform(&taken, revocation(newest)).await;
            }
            AccessChange::CreateToken | AccessChange::RevokeToken => {}
            AccessChange::RevokeKey(key) => {
                let key_hash = key.to_string();
                let revoke = Write::RevokeKey(v1::RevokeKey { key_hash });
                self.perform(&[], revoke).await;
                self.world.state().access.revoked_keys.insert(key);
            }
        }
    }

    /// Returns the change that sets all rules and groups.
    fn rules(&self) -> Write {
        let denied = self.denied.iter().map(|right| format!("deny {right} *"));
        let rules = RULES.iter().map(|&rule| rule.to_owned());
        Write::SetPolicy(v1::SetPolicy {
            rules: rules.chain(denied).collect(),
            groups: GROUPS.iter().map(|&group| group.to_owned()).collect(),
            replaces: None,
        })
    }

    /// Performs a change, and repeats its request until it is acknowledged.
    async fn perform(&mut self, rights: &[(String, bool)], operation: Write) {
        self.requests += 1;
        let batch = v1::WriteBatch {
            request_id: format!("{NAME}-{}", self.requests),
            operations: vec![v1::WriteOperation {
                operation: Some(operation),
            }],
            ..Default::default()
        };
        let notes = self.world.notes.clone();
        let begin = |(right, is_allowed): &(String, bool)| {
            let (right, is_allowed) = (right.clone(), *is_allowed);
            let operation = Operation::SetRight { right, is_allowed };
            notes.recorder.invoke(NAME, operation)
        };
        let calls: Vec<_> = rights.iter().map(begin).collect();
        let refused = loop {
            match self.client.write(batch.clone()).await {
                Ok(reply) if reply.outcomes.iter().all(|outcome| outcome.done) => {
                    notes.count("changes of access");
                    let revision = argosy_proto::convert::revision_from(reply.revision);
                    self.world.state().access.changed_at = revision.index;
                    for call in calls {
                        let done = OperationResponse::Done;
                        notes.recorder.ok(call, done, Some(revision));
                    }
                    return;
                }
                Ok(reply) => break format!("{:?}", reply.outcomes),
                Err(CallError::Refused(why)) if is_denial(why.code) => break why.message,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        notes.violation(format!("a change of access was refused: {refused}"));
        for call in calls {
            notes.recorder.fail(call, refused.clone());
        }
    }
}
