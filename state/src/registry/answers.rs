//! Remembered answers to operators' batches, with the indexes that follow from them.

use super::index::Sign;
use super::{OperatorAnswer, RecordKey, Registry};
use crate::ids::Timestamp;

impl Registry {
    pub(crate) fn put_operator_answer(&mut self, name: (String, String), answer: OperatorAnswer) {
        self.index.weigh_answer(&name, &answer, Sign::Add);
        self.index.requests.insert((answer.at, name.clone()));
        self.changed
            .insert(RecordKey::OperatorAnswer(name.0.clone(), name.1.clone()));
        self.operator_answers.insert(name, answer);
    }

    /// Forgets the oldest answer to operators, if it was given before this time.
    pub(crate) fn drop_operator_answer(&mut self, before: Timestamp) -> bool {
        let Some((at, name)) = self.index.requests.first().cloned() else {
            return false;
        };
        if at >= before {
            return false;
        }
        self.index.requests.pop_first();
        if let Some(answer) = self.operator_answers.remove(&name) {
            self.index.weigh_answer(&name, &answer, Sign::Remove);
        }
        self.changed
            .insert(RecordKey::OperatorAnswer(name.0, name.1));
        true
    }
}
