//! Answers of masters: done, rejected, or none, which means an unknown outcome and never a
//! rejection.

use argosy_proto::{convert, v1};

use tonic::Code;

use super::{CallReply, Notification, Session, task_ids};
use crate::failure::{CallError, MasterRejection};
use crate::scheduler::calls::{CallRequest, OpenCall};
use crate::scheduler::{CallOutcome, is_terminal};

/// Returns whether a cluster with this reason has lost the outcomes of the framework's calls: it
/// may have performed this call earlier, and the answer was lost.
fn is_forgotten(reason: &str) -> bool {
    matches!(
        reason,
        "superseded" | "framework-removed" | "unknown-framework"
    )
}

/// Returns whether the caller was refused, and not the call: an earlier attempt may have performed
/// it, or this one may have before the credential of the caller ended.
fn is_caller_refused(refusal: &MasterRejection) -> bool {
    refusal.code == Code::Unauthenticated
}

/// Returns the rejected parts of a call with their operations, which masters of release 0.1.0 do
/// not name.
fn with_operations(request: &CallRequest, refused: Vec<v1::Refused>) -> Vec<v1::Refused> {
    let operations = match request {
        CallRequest::Accept(accept) => accept.operations.as_slice(),
        CallRequest::Kill(_)
        | CallRequest::UpdateLimits(_)
        | CallRequest::Suppress(_)
        | CallRequest::Revive(_)
        | CallRequest::UpdateFramework(_)
        | CallRequest::Teardown(_) => &[],
    };
    let shape = convert::shape(operations).unwrap_or_default();
    let each = refused.into_iter().map(|one| {
        let position = convert::refused_position(&shape, &one);
        v1::Refused {
            operation: Some(position.operation),
            task: Some(position.task),
            ..one
        }
    });
    each.collect()
}

impl Session {
    pub(super) fn answered(&mut self, number: u64, result: Result<CallReply, CallError>) {
        let refusal = match result {
            Err(CallError::NoMaster(_)) => return self.calls.unsent(number),
            Err(CallError::Unanswered { .. }) => return self.calls.unanswered(number),
            Ok(reply) => {
                if let Some(call) = self.calls.answered(number) {
                    let done = CallOutcome::Done {
                        revision: reply.revision,
                        refused: with_operations(&call.request, reply.refused),
                    };
                    self.finish_call(call, done);
                }
                return;
            }
            Err(CallError::Refused(refusal)) => refusal,
        };
        let Some(mut call) = self.calls.answered(number) else {
            return;
        };
        let is_late = refusal.reason == "late";
        // The rules may have changed since an earlier attempt was applied.
        let is_denied_repeat = call.may_be_applied && refusal.code == Code::PermissionDenied;
        match &mut call.request {
            // Killing twice equals killing once: a late kill gets a new number.
            CallRequest::Kill(request) if is_late => {
                request.call = None;
                self.calls.add(call.key, call.request);
            }
            CallRequest::Teardown(_)
                if refusal.reason != "superseded" && is_forgotten(&refusal.reason) =>
            {
                self.finish_call(
                    call,
                    CallOutcome::Done {
                        revision: v1::Revision::default(),
                        refused: Vec::new(),
                    },
                );
            }
            _ if is_late
                || is_denied_repeat
                || is_forgotten(&refusal.reason)
                || is_caller_refused(&refusal) =>
            {
                self.finish_call(call, CallOutcome::Lost(refusal));
            }
            _ => self.finish_call(call, CallOutcome::Refused(refusal)),
        }
    }

    fn finish_call(&mut self, call: OpenCall, outcome: CallOutcome) {
        let is_done = matches!(outcome, CallOutcome::Done { .. });
        let task_ids = task_ids(&call.request);
        self.answer(call.key, task_ids, outcome);
        match call.request {
            CallRequest::Accept(request) if !is_done => {
                // The call used nothing: its offers are declined rather than left to expire.
                let ids = request
                    .offers
                    .into_iter()
                    .filter_map(|held| Some(held.offer?.offer_id));
                let ids: Vec<_> = ids.collect();
                self.decline(ids, Some(0), "accept-refused".into(), String::new());
            }
            CallRequest::UpdateFramework(request) if is_done => {
                self.identity.info = request.info.unwrap_or_default();
            }
            CallRequest::Teardown(_) if is_done => self.end(Ok(())),
            CallRequest::Accept(_)
            | CallRequest::Kill(_)
            | CallRequest::UpdateLimits(_)
            | CallRequest::Suppress(_)
            | CallRequest::Revive(_)
            | CallRequest::UpdateFramework(_)
            | CallRequest::Teardown(_) => {}
        }
    }

    pub(super) fn reconciled(
        &mut self,
        serial: u64,
        result: Result<v1::ReconcileReply, CallError>,
    ) {
        let Some(at) = self
            .reconciles
            .iter()
            .position(|question| question.serial == serial)
        else {
            return;
        };
        let outcome = match result {
            Err(CallError::NoMaster(_) | CallError::Unanswered { .. }) => {
                self.reconciles[at].is_in_flight = false;
                return;
            }
            Err(CallError::Refused(refusal)) => CallOutcome::Refused(refusal),
            Ok(reply) => {
                // Updates arrive by another path: an answer that is older than an update would
                // report the past.
                let newest = reply.revision.map_or(u64::MAX, |revision| revision.index);
                for mut status in reply.statuses {
                    if self.updates.has_newer(&status.task_id, newest) {
                        continue;
                    }
                    status.revision = None;
                    let state = status.state();
                    // UNKNOWN may be reported of a task whose launch is in flight: its outcome is
                    // reported later.
                    if let Some(revision) =
                        reply.revision.filter(|_| state != v1::TaskState::Unknown)
                    {
                        let ended = is_terminal(state);
                        self.updates.answer(&status.task_id, revision.index, ended);
                    }
                    self.notify(Notification::Update(status));
                }
                if !reply.next_page_token.is_empty() {
                    self.reconciles[at].page_token = reply.next_page_token;
                    self.reconciles[at].is_in_flight = false;
                    return;
                }
                CallOutcome::Done {
                    revision: reply.revision.unwrap_or_default(),
                    refused: Vec::new(),
                }
            }
        };
        if let Some(question) = self.reconciles.remove(at) {
            self.answer(question.key, Vec::new(), outcome);
        }
    }
}
