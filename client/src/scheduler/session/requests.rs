//! Conversion of a scheduler's requests to numbered calls, reconciliations and declines.

use std::collections::BTreeSet;

use argosy_proto::v1;
use argosy_state::limits::EXECUTOR_MESSAGE_BYTES;

use super::excess_tasks::ExcessTasks;
use super::stream::announcing;
use super::{Effect, PendingReconcile, Session, local};
use crate::connector::check_size;
use crate::scheduler::CallOutcome;
use crate::scheduler::calls::CallRequest;
use crate::scheduler::driver::{Accept, CallKey, Command, OPEN_CALLS, OfferOperation};

/// Maximum number of messages that are being sent, of at most 64 KiB each. Without a leader each
/// waits for ten seconds.
const OPEN_MESSAGES: usize = 512;

impl Session {
    pub(super) fn command(&mut self, now_ms: u64, command: Command) {
        match command {
            Command::Accept(key, accept) => self.accept(key, accept),
            Command::Decline {
                offer_ids,
                filter_ms,
                code,
                text,
            } => {
                let offer_ids = self.offers.decline(&offer_ids, filter_ms, now_ms);
                self.decline(offer_ids, filter_ms, code, text);
            }
            Command::Kill {
                key,
                task_id,
                grace_ms,
            } => self.kill(key, task_id, grace_ms),
            Command::UpdateLimits {
                key,
                task_id,
                limits,
            } => self.update_limits(key, task_id, *limits),
            Command::Acknowledge { task_id, revision } => {
                self.updates.acknowledge(&task_id, revision)
            }
            Command::Message {
                agent_id,
                executor_id,
                data,
            } => self.message(agent_id, executor_id, data),
            Command::Reconcile(key, task_ids) => self.reconcile_tasks(key, task_ids),
            Command::Suppress(key, roles) => {
                self.calls.add(
                    key,
                    CallRequest::Suppress(v1::SuppressRequest { call: None, roles }),
                );
            }
            Command::Revive(key, roles) => {
                self.offers.revive(&roles);
                let request = CallRequest::Revive(v1::ReviveRequest { call: None, roles });
                self.calls.add_after(key, request, self.last_decline);
            }
            Command::UpdateFramework(key, info) => self.update_framework(key, info),
            Command::Teardown(key) => self.teardown(key),
            Command::TooMany(key, task_ids) => {
                let why = format!("{} calls are open; wait for answers", OPEN_CALLS);
                self.answer(key, task_ids, CallOutcome::NotSent(why));
            }
            Command::Stop => self.is_stopping = true,
        }
    }

    fn accept(&mut self, key: CallKey, mut accept: Accept) {
        let tasks = accept.operations.iter().flat_map(OfferOperation::tasks);
        let ids = tasks.map(|task| task.task_id.clone()).collect();
        let refused = if accept.offer_ids.is_empty() {
            Some(local(
                "no-offers",
                "offers: none is given; give one that is open".into(),
            ))
        } else {
            repeated(&accept.offer_ids).map(|id| {
                local(
                    "offer-twice",
                    format!("offer {id} is given twice; give each offer once"),
                )
            })
        };
        if let Some(refusal) = refused {
            return self.answer(key, ids, CallOutcome::Refused(refusal));
        }
        let offers = match self.offers.take(&accept.offer_ids) {
            Ok(offers) => offers,
            Err(unknown) => {
                let why = format!(
                    "offer {unknown} is not in hand: used, declined or rescinded; give a newer one"
                );
                return self.answer(key, ids, CallOutcome::Refused(local("offer-used", why)));
            }
        };
        // An all-or-nothing accept is sent whole: the masters report that it is too large.
        if !accept.all_or_nothing
            && let Some(surplus) = ExcessTasks::split_off(&mut accept.operations)
        {
            self.excess.insert(key, surplus);
            // The rest of the offers is requested again.
            accept.filter_ms = Some(0);
        }
        let operations = accept.operations.into_iter().map(Into::into).collect();
        self.calls.add(
            key,
            CallRequest::Accept(v1::AcceptRequest {
                call: None,
                offers,
                operations,
                filter_ms: accept.filter_ms,
                all_or_nothing: accept.all_or_nothing,
            }),
        );
    }

    fn kill(&mut self, key: CallKey, task_id: String, grace_ms: Option<u64>) {
        let request = v1::KillRequest {
            call: None,
            task_id,
            grace_ms,
        };
        self.calls.add(key, CallRequest::Kill(request));
    }

    fn teardown(&mut self, key: CallKey) {
        // A repeated request does not delay the first one.
        if self.teardown_after <= self.updates.answered() {
            self.teardown_after = self.updates.answered_with_present();
        }
        let request = v1::TeardownRequest { call: None };
        self.calls.add(key, CallRequest::Teardown(request));
    }

    fn update_limits(&mut self, key: CallKey, task_id: String, limits: v1::Limits) {
        let request = v1::UpdateLimitsRequest {
            call: None,
            task_id,
            limits: Some(limits),
        };
        self.calls.add(key, CallRequest::UpdateLimits(request));
    }

    /// Sends a message to an executor. A framework that is not registered yet can have none.
    fn message(&mut self, agent_id: String, executor_id: String, data: Vec<u8>) {
        if data.len() > EXECUTOR_MESSAGE_BYTES || self.messages == OPEN_MESSAGES {
            let (bytes, open) = (data.len(), self.messages);
            tracing::warn!(
                bytes,
                open,
                executor_id,
                "a message to an executor is dropped: it is too large, or too many are being sent"
            );
            return;
        }
        if let Some(framework_id) = self.identity.framework_id.clone() {
            self.messages += 1;
            self.effects.push(Effect::Message(v1::MessageRequest {
                framework_id,
                session: self.identity.session,
                agent_id,
                executor_id,
                data,
            }));
        }
    }

    pub(super) fn decline(
        &mut self,
        offer_ids: Vec<String>,
        filter_ms: Option<u64>,
        code: String,
        text: String,
    ) {
        // Before the first subscription nothing was offered, so the id is set.
        let Some(framework_id) = self
            .identity
            .framework_id
            .clone()
            .filter(|_| !offer_ids.is_empty())
        else {
            return;
        };
        self.last_decline += 1;
        self.declines.insert(self.last_decline);
        self.effects.push(Effect::Decline {
            serial: self.last_decline,
            request: v1::DeclineRequest {
                framework_id,
                session: self.identity.session,
                offer_ids,
                filter_ms,
                reason_code: code,
                reason_text: text,
            },
        });
    }

    fn reconcile_tasks(&mut self, key: CallKey, task_ids: Vec<String>) {
        self.last_reconcile += 1;
        self.reconciles.push_back(PendingReconcile {
            serial: self.last_reconcile,
            key,
            task_ids,
            next_number: self.calls.next_number(),
            page_token: String::new(),
            is_in_flight: false,
        });
    }

    fn update_framework(&mut self, key: CallKey, info: v1::FrameworkInfo) {
        let request = v1::UpdateFrameworkRequest {
            call: None,
            info: Some(announcing(&info)),
        };
        // While it is open, each subscription would announce it, and be refused.
        if let Err(refusal) = check_size(&request) {
            return self.answer(key, Vec::new(), CallOutcome::Refused(refusal));
        }
        self.calls.add(key, CallRequest::UpdateFramework(request));
    }
}

fn repeated(ids: &[String]) -> Option<&String> {
    let mut seen = BTreeSet::new();
    ids.iter().find(|id| !seen.insert(*id))
}
