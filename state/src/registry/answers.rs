//! Remembered answers to operators' batches, with the derived indexes.

use super::index::Sign;
use super::{DeadlineKind, Indexes, OperatorAnswer, RecordKey, Registry};
use crate::ids::Timestamp;
use crate::subject::Subject;

impl Indexes {
    pub(super) fn add_operator_answer(&mut self, name: &(String, String), answer: &OperatorAnswer) {
        self.weigh_answer(name, answer, Sign::Add);
        self.answer_deadline(name, answer.at, Sign::Add);
    }
}

impl Registry {
    pub(crate) fn put_operator_answer(&mut self, name: (String, String), answer: OperatorAnswer) {
        self.index.add_operator_answer(&name, &answer);
        self.changed
            .insert(RecordKey::OperatorAnswer(Box::new(name.clone())));
        self.operator_answers.insert(name, answer);
    }

    /// Removes the oldest answer to operators if it was given before this time. Returns whether it
    /// did.
    pub(crate) fn drop_operator_answer(&mut self, before: Timestamp) -> bool {
        let oldest = self.index.deadlines.of(DeadlineKind::Answer, None).next();
        let Some((at, Subject::Request { principal, id })) = oldest.filter(|(at, _)| *at < before)
        else {
            return false;
        };
        let name = (principal.clone(), id.clone());
        self.index.answer_deadline(&name, at, Sign::Remove);
        if let Some(answer) = self.operator_answers.remove(&name) {
            self.index.weigh_answer(&name, &answer, Sign::Remove);
        }
        self.changed
            .insert(RecordKey::OperatorAnswer(Box::new(name)));
        true
    }
}
