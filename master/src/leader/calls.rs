//! Numbered calls, declines and operators' batches.

use std::collections::{BTreeSet, VecDeque};

use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::apply::check_descriptions;
use argosy_state::command::{
    Accept, ApplyOutcome, Call, CallAction, CallShape, Command, CommandReply, OfferTerms, Operate,
    Rejection,
};
use argosy_state::fingerprint;
use argosy_state::framework::{AnswerOutcome, CallAnswer as Stored};
use argosy_state::ids::{AgentId, FrameworkId, OfferId, Revision, Role};
use argosy_state::level::{self, Level};
use argosy_state::limits;
use argosy_state::planted_bug;
use argosy_state::resources::Resources;

use super::access::{self, DeniedTasks};
use super::{Decline, Leader, LeaderTime, ProposalOrigin, refused};
use crate::leader_reply::{LeaderReply, RejectedPart};
use crate::links::RequestId;
use crate::offers::{OfferState, verify};

/// Repeats of one call that wait with it. Beyond this number, the repeat that has waited longest is
/// asked to retry.
const MAX_REPEATS: usize = 16;

/// A call in flight in the log.
#[derive(Debug)]
pub(super) struct PendingCall {
    /// The waiting requests; a repeated call joins them.
    pub(super) requests: VecDeque<RequestId>,
    hash: u64,
    key: (FrameworkId, u64, u64),
    /// The shape of its operations: the log may hold them as one.
    shape: CallShape,
    /// The offers that it uses, all of one agent and role.
    offers: Option<CallOffers>,
    /// The tasks that its caller may not launch.
    denied: DeniedTasks,
}

impl PendingCall {
    /// Returns the used offers. Once the call is applied, facts alone determine which of their
    /// resources are free.
    pub(super) fn used_offers(&self) -> &[OfferId] {
        self.offers.as_ref().map_or(&[], |used| &used.ids)
    }
}

#[derive(Debug)]
pub(super) struct CallOffers {
    ids: Vec<OfferId>,
    pub(super) agent: AgentId,
    pub(super) role: Role,
    /// The sum of their resources.
    pub(super) resources: Resources,
    pub(super) filter_ms: u64,
}

impl Leader {
    /// Handles a call. A stored answer, or the same call in flight, is found before anything is
    /// checked.
    pub(super) fn call(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        (request, actor): (RequestId, Actor),
        mut call: Call,
        tokens: &[Vec<u8>],
        filter_ms: u64,
    ) {
        let key = (call.framework, call.session, call.number);
        if let Some(stored) = registry.answer(key) {
            return self.answer(request, stored_reply(stored, &call));
        }
        if let Some(ProposalOrigin::Call(pending)) = self
            .pending_calls
            .get(&key)
            .and_then(|serial| self.origins.get_mut(serial))
        {
            if pending.hash != call.hash {
                return self.answer(request, refused(&Rejection::CallReused(call.number)));
            }
            pending.requests.push_back(request);
            if pending.requests.len() > MAX_REPEATS
                && let Some(oldest) = pending.requests.pop_front()
            {
                let code = "repeated";
                let message = "a later repeat of this call waits for the answer".to_owned();
                self.answer(oldest, LeaderReply::Refused { code, message });
            }
            return;
        }
        let hash = self.reduce_to_level(&mut call);
        // The size first, because the rules are asked about each task.
        let denied =
            check_size(&call.action).and_then(|()| self.deny_launches(registry, &actor, &mut call));
        let denied = match denied {
            Ok(denied) => denied,
            Err(answer) => return self.answer(request, answer),
        };
        let mut used = None;
        if let CallAction::Accept(accept) = &call.action {
            match self.validate(registry, now, &call, accept, tokens) {
                Ok(()) => used = used_offers(accept, filter_ms),
                // The stored answer may have been dropped, and the call may itself have used these
                // offers, so they are not the actual error. The entry determines it; without offers
                // the call can do nothing else.
                Err(_) if registry.may_act(&call).is_err() => {
                    let offers = Vec::new();
                    let accept = accept.clone();
                    call.action = CallAction::Accept(Accept { offers, ..accept });
                }
                Err(why @ (Rejection::OfferUsed(_) | Rejection::OfferExpired(_))) => {
                    return self.confirm_refusal(request, why);
                }
                Err(why) => return self.answer(request, refused(&why)),
            }
        }
        used.iter().for_each(|used| self.take(used));
        let mut requests = VecDeque::from([request]);
        planted_bug!(AnswerBeforeCommit => self.answer_early(registry, &mut requests));
        let pending = PendingCall {
            requests,
            hash,
            key,
            shape: shape_of(&call),
            offers: used,
            denied,
        };
        let route = ProposalOrigin::Call(Box::new(pending));
        let serial = self.propose(actor, Command::Call(call), route);
        self.pending_calls.insert(key, serial);
    }

    /// Implements the planted bug `AnswerBeforeCommit`.
    fn answer_early(&mut self, registry: &Registry, requests: &mut VecDeque<RequestId>) {
        for request in requests.drain(..) {
            self.answer(request, done_reply(registry));
        }
    }

    /// Has the call stored under the hash of the cluster's level: a leader of release 0.1.0 may
    /// receive its repeat. Returns the former hash. Fields of a framework that the level does not
    /// have are removed.
    fn reduce_to_level(&self, call: &mut Call) -> u64 {
        let hash = call.hash;
        if self.level < Level::RELEASE_0_2 {
            call.hash = fingerprint::call_of_0_1_0(call);
        }
        if let CallAction::Update(info) = &mut call.action {
            *info = level::announced(self.level, info);
        }
        hash
    }

    /// Rejects a call for a reason that only the book and the clock of this leader show. If another
    /// master leads by now, the call may have been answered there. So the rejection waits for an
    /// entry, which a deposed leader cannot commit.
    fn confirm_refusal(&mut self, request: RequestId, why: Rejection) {
        self.decide(Command::Tick, ProposalOrigin::Refusal(request, why));
    }

    pub(super) fn refusal_confirmed(
        &mut self,
        request: RequestId,
        why: Rejection,
        outcome: ApplyOutcome,
    ) {
        let why = outcome.err().unwrap_or(why);
        self.answer(request, refused(&why));
    }

    /// Takes the used offers from the book. An offer of an earlier epoch that was never adopted is
    /// not in the book: `apply` checks it.
    fn take(&mut self, used: &CallOffers) {
        let ids = used.ids.iter().copied();
        let open: Vec<OfferId> = ids.filter(|id| self.book.get(*id).is_some()).collect();
        self.book
            .take(&open)
            .expect("each was just seen to be open");
    }

    /// Checks the facts about offers that only the leader knows: whether they are authentic, and
    /// open in its book; and whether any task can be launched by its description. Everything else
    /// is checked when the entry is applied.
    fn validate(
        &self,
        registry: &Registry,
        now: LeaderTime,
        call: &Call,
        accept: &Accept,
        tokens: &[Vec<u8>],
    ) -> Result<(), Rejection> {
        if accept.offers.len() > limits::RECORDS_PER_COMMAND {
            return Err(Rejection::Invalid {
                field: "offers".to_owned(),
                text: format!(
                    "{} of them; at most {}",
                    accept.offers.len(),
                    limits::RECORDS_PER_COMMAND
                ),
            });
        }
        let facts = &registry.cluster().facts;
        let mut seen = BTreeSet::new();
        let first = accept.offers.first();
        for (offer, token) in accept.offers.iter().zip(tokens) {
            let fits =
                |first: &OfferTerms| (first.agent, &first.role) == (offer.agent, &offer.role);
            if !first.is_some_and(fits) {
                return Err(Rejection::OfferMixed(offer.id));
            }
            if !seen.insert(offer.id) {
                return Err(Rejection::OfferTwice(offer.id));
            }
            if !verify(facts, offer, token) {
                return Err(Rejection::OfferForged(offer.id));
            }
            if offer.framework != call.framework || offer.session != call.session {
                return Err(Rejection::OfferForeign(offer.id));
            }
            match self.book.get(offer.id) {
                Some((_, OfferState::Open)) => continue,
                Some((_, OfferState::Pending)) => return Err(Rejection::OfferUsed(offer.id)),
                None => {}
            }
            if offer.expires <= now.at {
                return Err(Rejection::OfferExpired(offer.id));
            }
            if offer.id.epoch == self.epoch || !self.fits(registry, offer) {
                return Err(Rejection::OfferUsed(offer.id));
            }
        }
        // A description that no agent can run does not consume the offer.
        check_descriptions(accept)
    }

    /// Returns whether an offer fits: a token of an earlier epoch loses against an open offer.
    fn fits(&self, registry: &Registry, terms: &OfferTerms) -> bool {
        let free = registry.free(terms.agent);
        free.minus(&self.book.offered_on(terms.agent))
            .is_some_and(|left| left.contains(&terms.resources))
    }

    pub(super) fn call_applied(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        pending: PendingCall,
        outcome: ApplyOutcome,
    ) {
        self.pending_calls.remove(&pending.key);
        if let Some(used) = &pending.offers {
            let (framework, session, _) = pending.key;
            self.after_accept(registry, now, (framework, session), used);
        }
        let answer = match outcome {
            Ok(CommandReply::Call { revision, refused }) => {
                let refused = refused.into_iter().map(|(position, why)| {
                    let position = pending.shape.place(position);
                    access::rejected_part(&pending.denied, position, &why)
                });
                LeaderReply::Called {
                    revision,
                    refused: refused.collect(),
                }
            }
            Ok(CommandReply::Repeated(stored)) => repeated_reply(&stored, &pending.shape),
            Ok(_) => done_reply(registry),
            Err(why) => refused(&why),
        };
        for request in pending.requests {
            self.answer(request, answer.clone());
        }
    }

    pub(super) fn decline(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        request: RequestId,
        decline: &Decline,
    ) {
        match registry.framework(decline.framework) {
            None => {
                return self.answer(
                    request,
                    refused(&Rejection::UnknownFramework(decline.framework)),
                );
            }
            Some(framework) if framework.session != decline.session => {
                return self.answer(request, refused(&Rejection::Superseded(decline.framework)));
            }
            Some(_) => {}
        }
        // An offer that is gone, or belongs to another framework, needs no declining.
        self.offers_declined(now, decline);
        self.answer(request, LeaderReply::Declined);
    }

    /// Handles an operator's batch. A stored answer is returned again without an entry.
    pub(super) fn operate(
        &mut self,
        registry: &Registry,
        request: RequestId,
        actor: Actor,
        mut operate: Operate,
    ) {
        if self.level >= Level::RELEASE_0_2 {
            name_by_caller(registry, &actor, &mut operate);
        }
        let named = operate.request.as_ref();
        if let Some(answer) = named.and_then(|name| registry.operator_answer(name)) {
            // A batch that release 0.1.0 answered keeps the hash that it had there.
            if answer.hash == fingerprint::batch_of_0_1_0(&operate) {
                operate.hash = answer.hash;
            }
            let outcome = answer.repeated(&operate);
            return self.operation_applied(registry, request, outcome);
        }
        if self.level < Level::RELEASE_0_2 {
            // The same as for calls.
            operate.hash = fingerprint::batch_of_0_1_0(&operate);
        }
        self.propose(
            actor,
            Command::Operate(operate),
            ProposalOrigin::Operate(request),
        );
    }

    pub(super) fn operation_applied(
        &mut self,
        registry: &Registry,
        request: RequestId,
        outcome: ApplyOutcome,
    ) {
        let answer = match outcome {
            Ok(CommandReply::Operate { revision, outcomes }) => LeaderReply::Operated {
                // An earlier release stored none: by now the batch is applied.
                revision: match revision.index {
                    0 => Revision {
                        index: registry.applied(),
                        position: 0,
                    },
                    _ => revision,
                },
                outcomes: outcomes
                    .into_iter()
                    .map(|outcome| outcome.map_err(|why| (why.code(), why.to_string())))
                    .collect(),
            },
            Ok(_) => LeaderReply::Acknowledged,
            Err(why) => refused(&why),
        };
        self.answer(request, answer);
    }
}

/// Rejects an acceptance that is too large for one turn.
fn check_size(action: &CallAction) -> Result<(), LeaderReply> {
    let CallAction::Accept(accept) = action else {
        return Ok(());
    };
    let counts = [
        (accept.tasks().count(), "tasks", limits::TASKS_PER_CALL),
        (
            accept.operations.len(),
            "operations",
            limits::OPERATIONS_PER_ACCEPT,
        ),
    ];
    match counts.iter().find(|(count, _, most)| count > most) {
        None => Ok(()),
        Some((count, what, most)) => Err(refused(&Rejection::Invalid {
            field: "operations".to_owned(),
            text: format!(
                "{count} {what}; at most {most} in one accept: launch the others on what comes back"
            ),
        })),
    }
}

fn shape_of(call: &Call) -> CallShape {
    match &call.action {
        CallAction::Accept(accept) => accept.shape(),
        CallAction::Kill { .. }
        | CallAction::UpdateLimits { .. }
        | CallAction::Suppress(_)
        | CallAction::Revive(_)
        | CallAction::Update(_)
        | CallAction::Teardown => CallShape::default(),
    }
}

/// Returns the answer to a call whose operations all succeeded.
fn done_reply(registry: &Registry) -> LeaderReply {
    let revision = Revision {
        index: registry.applied(),
        position: 0,
    };
    LeaderReply::Called {
        revision,
        refused: Vec::new(),
    }
}

fn used_offers(accept: &Accept, filter_ms: u64) -> Option<CallOffers> {
    let first = accept.offers.first()?;
    let ids = accept.offers.iter().map(|offer| offer.id).collect();
    // Two valid offers of one agent never overlap.
    let add = |sum: Resources, offer: &OfferTerms| sum.plus(&offer.resources).unwrap_or(sum);
    let resources = accept.offers.iter().fold(Resources::none(), add);
    Some(CallOffers {
        ids,
        agent: first.agent,
        role: first.role.clone(),
        resources,
        filter_ms,
    })
}

/// Returns the answer to a call whose number has a stored answer.
fn stored_reply(stored: &Stored, call: &Call) -> LeaderReply {
    // Release 0.1.0 may have answered the first one.
    let same = stored.hash == call.hash || stored.hash == fingerprint::call_of_0_1_0(call);
    match same {
        true => repeated_reply(stored, &shape_of(call)),
        false => refused(&Rejection::CallReused(call.number)),
    }
}

/// Returns a stored answer, with the messages of its codes.
fn repeated_reply(stored: &Stored, shape: &CallShape) -> LeaderReply {
    match &stored.outcome {
        AnswerOutcome::Done { refused } => {
            let refused = refused.iter().map(|(position, number)| {
                let code = Rejection::code_of(*number);
                RejectedPart {
                    position: shape.place(*position),
                    code,
                    message: format!("refused before: {code}"),
                }
            });
            LeaderReply::Called {
                revision: stored.revision,
                refused: refused.collect(),
            }
        }
        AnswerOutcome::Refused(refusal) => LeaderReply::Refused {
            code: Rejection::code_of(refusal.code),
            message: refusal.message_text(),
        },
    }
}

/// Names a batch by the proven principal of its caller instead of the claimed one, so that callers
/// with the same request id do not get each other's answers. The repetition of a batch that an
/// earlier release has answered keeps its name.
fn name_by_caller(registry: &Registry, actor: &Actor, operate: &mut Operate) {
    let (Some(claimed), Actor::Principal(principal)) = (&operate.request, actor) else {
        return;
    };
    let answered = registry.operator_answer(claimed);
    let is_repeat = answered.is_some_and(|answer| {
        answer.hash == operate.hash || answer.hash == fingerprint::batch_of_0_1_0(operate)
    });
    if is_repeat {
        return;
    }
    // The end of a text of ASCII; longer names than this differ in it.
    let mut name = principal.to_string();
    name.drain(..name.len().saturating_sub(limits::NAME_BYTES));
    operate.request = Some((name, claimed.1.clone()));
}
