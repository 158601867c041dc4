//! Batches of changes by operators. The changes are in `operation`.

use super::CommandContext;
use crate::Registry;
use crate::command::{
    ApplyOutcome, CommandReply, Operate, OperatorOperation, Rejection, StoredRejection,
};
use crate::ids::{Revision, Timestamp};
use crate::level::Level;
use crate::limits;
use crate::registry::{OperatorAnswer, usage};

/// More than the single answer that a request adds, so that old answers do not accumulate.
const OLD_REQUESTS_DROPPED: usize = 4;

impl Registry {
    pub(super) fn operate(
        &mut self,
        context: &mut CommandContext,
        operate: &Operate,
    ) -> ApplyOutcome {
        let mut remembered = operate.request.as_ref();
        if operate.operations.len() > limits::OPERATIONS_PER_BATCH {
            return Err(Rejection::TooManyOperations);
        }
        if let Some(key) = &operate.request {
            if key.0.len() > limits::NAME_BYTES || key.1.len() > limits::NAME_BYTES {
                return Err(Rejection::Invalid {
                    field: "request_id".into(),
                    text: format!(
                        "it and its principal take {} bytes at most",
                        limits::NAME_BYTES
                    ),
                });
            }
            if let Some(answer) = self.operator_answers.get(key) {
                return answer.repeated(operate);
            }
            self.drop_old_requests(context);
            if !self.has_room_for_answer(&key.0, operate.operations.len()) {
                // A caller that fills the memory must not prevent that it is stopped.
                if !operate.changes_only_access() {
                    return Err(Rejection::TooManyRequests);
                }
                remembered = None;
            }
        }
        let revision = Revision {
            index: context.index,
            position: 0,
        };
        let outcomes: Vec<_> = operate
            .operations
            .iter()
            .map(|operation| self.operation(context, operation, operate.wall_ms))
            .collect();
        if let Some(key) = remembered {
            let level = self.level();
            let refusals = outcomes.iter().map(|outcome| outcome.as_ref().err());
            let kept = refusals.map(|why| why.map(|why| StoredRejection::of(why, level)));
            let answer = OperatorAnswer {
                hash: operate.hash,
                at: context.at,
                // Release 0.1.0 did not store it.
                revision: match self.level() >= Level::RELEASE_0_2 {
                    true => revision,
                    false => Revision::default(),
                },
                outcomes: kept.collect(),
            };
            self.put_operator_answer(key.clone(), answer);
        }
        Ok(CommandReply::Operate { revision, outcomes })
    }

    /// Returns whether the answer to a batch of a principal can be remembered. A principal has at
    /// most [`limits::OPERATOR_ANSWER_SHARE`] times the space that is free, so there is always some
    /// for another one: the dynamic thresholds of Choudhury and Hahne (1998).
    fn has_room_for_answer(&self, principal: &str, operations: usize) -> bool {
        let records = self.operator_answers.len() + 1;
        if !self.is_bounded() {
            return records <= limits::OPERATOR_ANSWERS;
        }
        let own = self.index.answers_by_principal.get(principal);
        let own = own.copied().unwrap_or_default();
        let most = usage::most_of_answer(operations);
        let bytes = self.index.bytes.operator_answers + most;
        let fits = |own: u64, all: u64, bound: u64| {
            let free = bound.checked_sub(all);
            free.is_some_and(|free| own <= limits::OPERATOR_ANSWER_SHARE * free)
        };
        fits(
            own.records as u64 + 1,
            records as u64,
            limits::OPERATOR_ANSWERS as u64,
        ) && fits(own.bytes + most, bytes, limits::OPERATOR_ANSWER_BYTES)
    }

    /// Removes a few expired answers with each named request, so that no timer is needed.
    fn drop_old_requests(&mut self, context: &CommandContext) {
        let oldest = context.at.0.checked_sub(limits::OPERATOR_ANSWER_MS);
        let Some(oldest) = oldest.map(|at| Timestamp(at + 1)) else {
            return;
        };
        for _ in 0..OLD_REQUESTS_DROPPED {
            if !self.drop_operator_answer(oldest) {
                return;
            }
        }
    }
}

impl Operate {
    /// Returns true if all operations change rules, tokens, keys or limits. A repetition of such a
    /// change has no further effect, or is refused.
    fn changes_only_access(&self) -> bool {
        let is_access =
            |operation: &OperatorOperation| matches!(operation, OperatorOperation::Access(_));
        self.operations.iter().all(is_access)
    }
}

impl OperatorAnswer {
    /// Returns the remembered outcome of a repeated request. A different request with the same name
    /// is rejected.
    ///
    /// # Errors
    /// [`Rejection::RequestReused`].
    pub fn repeated(&self, operate: &Operate) -> ApplyOutcome {
        if self.hash != operate.hash {
            let request = operate.request.as_ref().map(|(_, id)| id.clone());
            return Err(Rejection::RequestReused(request.unwrap_or_default()));
        }
        let again = |kept: &Option<StoredRejection>| match kept {
            None => Ok(()),
            Some(refusal) => Err(Rejection::Repeated {
                code: refusal.code,
                text: refusal.message_text(),
            }),
        };
        Ok(CommandReply::Operate {
            revision: self.revision,
            outcomes: self.outcomes.iter().map(again).collect(),
        })
    }
}

#[cfg(test)]
mod tests;
