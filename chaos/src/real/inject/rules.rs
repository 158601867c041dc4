//! Changes of rules and tokens: a rule denies something to the holder of a new token, and then the
//! token is revoked. Every master is called before and after each change.
//!
//! The changes and the calls are operations of the history, which `AccessEnforcement` compares.

use std::time::Duration;

use anyhow::Result;
use argosy_client::OperatorClient;
use argosy_proto::v1::write_operation::Operation as Write;
use argosy_proto::{convert, v1};
use argosy_state::ids::Revision;

use super::Injector;
use crate::history::{DecidedBy, FaultKind, Operation, OperationResponse};
use crate::workload::rights::{ProbeCall, RightProbe, creation, revocation, token_name};

/// The process that makes the changes and the calls.
pub(super) const NAME: &str = "administrator";
/// Timeout of a change.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of the connection of a call.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of a call, with its connection.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Rules by which all processes of a run may do their work.
const RULES: &str = "allow agent/* connect-agent *";
const GROUPS: &str = "group admin = operator/*";

/// A token, and its principal.
struct Holder {
    token: u64,
    principal: String,
    is_revoked: bool,
    /// The log index of the newest acknowledged change.
    changed_at: u64,
}

impl Holder {
    /// Returns the right that rules give and take.
    fn right(&self) -> String {
        format!("{} set-attribute", self.principal)
    }
}

impl Injector<'_> {
    pub(super) async fn rule_change(&mut self) -> Result<(String, Duration)> {
        let token = self.rng.next();
        let principal = format!("operator/probe-{token:x}");
        self.note(FaultKind::RuleChange, "*", &principal);
        let mut holder = Holder {
            token,
            principal,
            is_revoked: false,
            changed_at: 0,
        };
        let denial = format!("deny {} *", holder.right());
        let (name, right) = (token_name(token), holder.right());
        let changes = [
            (vec![], rules(None)),
            (
                vec![(name.clone(), true), (right.clone(), true)],
                creation(token, &holder.principal),
            ),
            (vec![(right.clone(), false)], rules(Some(denial))),
            (vec![(right, true)], rules(None)),
            (vec![(name, false)], revocation(token)),
        ];
        let mut done = 0;
        for (rights, change) in changes {
            // Under other faults there may be no leader. No other process has these rights.
            let Some(revision) = self.change_access(NAME, &rights, change).await else {
                break;
            };
            holder.changed_at = revision.index;
            holder.is_revoked |= rights.contains(&(token_name(token), false));
            done += 1;
            self.call_masters(&holder).await;
        }
        Ok((format!("{done} changes"), Duration::from_millis(100)))
    }

    /// Makes a change of access, and records the rights that it gives and takes. Returns its
    /// revision if it is acknowledged.
    pub(super) async fn change_access(
        &self,
        process: &str,
        rights: &[(String, bool)],
        change: Write,
    ) -> Option<Revision> {
        let begin = |(right, is_allowed): &(String, bool)| {
            let (right, is_allowed) = (right.clone(), *is_allowed);
            let operation = Operation::SetRight { right, is_allowed };
            self.recorder.invoke(process, operation)
        };
        let calls: Vec<_> = rights.iter().map(begin).collect();
        let client: OperatorClient = self.cluster.operator().with_deadline(CHANGE_TIMEOUT);
        let batch = v1::WriteBatch {
            request_id: client.new_request_id(),
            operations: vec![v1::WriteOperation {
                operation: Some(change),
            }],
            ..Default::default()
        };
        match client.write(batch).await {
            Ok(reply) if reply.outcomes.iter().all(|outcome| outcome.done) => {
                let revision = convert::revision_from(reply.revision);
                for call in calls {
                    let done = OperationResponse::Done;
                    self.recorder.ok(call, done, Some(revision));
                }
                Some(revision)
            }
            Ok(_) | Err(_) => {
                for call in calls {
                    self.recorder.info(call, "not acknowledged");
                }
                None
            }
        }
    }

    /// Uses the token at each master.
    async fn call_masters(&mut self, holder: &Holder) {
        let (name, right) = (token_name(holder.token), holder.right());
        let local = DecidedBy::Master {
            min_index: holder.changed_at,
        };
        for place in self.cluster.voters.clone() {
            // A revoked token is refused, whatever the rules.
            let set = match holder.is_revoked {
                true => name.clone(),
                false => right.clone(),
            };
            let calls = [
                (set, ProbeCall::SetAttribute(self.rng.next())),
                (name.clone(), ProbeCall::ListAgents(DecidedBy::Leader)),
                (name.clone(), ProbeCall::ListAgents(local)),
            ];
            let api = self.cluster.api(place);
            for (right, call) in calls {
                let probe = RightProbe {
                    right,
                    token: Some(holder.token),
                    call,
                };
                let channel = self.cluster.transport.channel(&api, CONNECT_TIMEOUT);
                let called = probe.perform(self.recorder, NAME, channel);
                // A call without an answer stays open in the history.
                let _ = tokio::time::timeout(CALL_TIMEOUT, called).await;
            }
        }
    }
}

/// Returns the change that sets all rules, with another one.
fn rules(other: Option<String>) -> Write {
    let rules = std::iter::once(RULES.to_owned()).chain(other);
    Write::SetPolicy(v1::SetPolicy {
        rules: rules.collect(),
        groups: vec![GROUPS.to_owned()],
        replaces: None,
    })
}
