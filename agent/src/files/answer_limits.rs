//! Limits on answers with the content of files. Each holds descriptors until its client has read it
//! or is gone, and one that follows reads its file several times a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_proto::server::outgoing;
use argosy_state::ids::TaskKey;

use super::FilesError;

/// Maximum number of answers of one kind at one agent. Fewer if the limit of open files is low.
const MAX_ANSWERS: usize = 512;
/// Maximum number of answers of one kind about one task.
const MAX_TASK_ANSWERS: usize = 64;

/// The current answers of one kind. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AnswerLimits {
    /// The verb of their requests, for error messages.
    verb: &'static str,
    most: usize,
    counts: Arc<Mutex<AnswerCounts>>,
}

#[derive(Default)]
struct AnswerCounts {
    total: usize,
    /// It contains no task without an answer.
    tasks: HashMap<TaskKey, usize>,
}

/// One answer, counted until it is dropped.
pub(super) struct AnswerSlot {
    limits: AnswerLimits,
    task: TaskKey,
}

impl AnswerLimits {
    /// Returns the limits on requests that do this with files.
    pub(super) fn new(verb: &'static str) -> Self {
        Self::at_most(outgoing(MAX_ANSWERS), verb)
    }

    fn at_most(most: usize, verb: &'static str) -> Self {
        Self {
            verb,
            most,
            counts: Arc::default(),
        }
    }

    /// Admits an answer.
    ///
    /// # Errors
    /// If this task, or this agent, has the maximum number of answers.
    pub(super) fn admit(&self, task: &TaskKey) -> Result<AnswerSlot, FilesError> {
        let mut counts = self.counts();
        let of_task = counts.tasks.get(task).copied().unwrap_or(0);
        if of_task >= MAX_TASK_ANSWERS {
            return Err(FilesError::BusyTask {
                verb: self.verb,
                task: task.clone(),
                most: MAX_TASK_ANSWERS,
            });
        }
        if counts.total >= self.most {
            return Err(FilesError::BusyAgent {
                verb: self.verb,
                most: self.most,
            });
        }
        counts.total += 1;
        counts.tasks.insert(task.clone(), of_task + 1);
        Ok(AnswerSlot {
            limits: self.clone(),
            task: task.clone(),
        })
    }

    fn counts(&self) -> MutexGuard<'_, AnswerCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AnswerSlot {
    fn drop(&mut self) {
        let mut counts = self.limits.counts();
        counts.total -= 1;
        if let Some(count) = counts.tasks.get_mut(&self.task) {
            *count -= 1;
            if *count == 0 {
                counts.tasks.remove(&self.task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(number: usize) -> TaskKey {
        crate::core::task_key("framework-1", &format!("web-{number}")).unwrap()
    }

    #[test]
    fn answers_about_one_task_do_not_exhaust_the_total() {
        let followers = AnswerLimits::at_most(MAX_ANSWERS, "follow");
        let held: Vec<_> = (0..MAX_TASK_ANSWERS)
            .map(|_| followers.admit(&task(0)).ok().unwrap())
            .collect();
        let error = followers.admit(&task(0)).err().unwrap();
        let text =
            "64 requests follow files of framework-1/web-0 already; end one first, or retry later";
        assert_eq!(error.to_string(), text);
        assert!(followers.admit(&task(1)).is_ok());
        drop(held);
        assert!(followers.admit(&task(0)).is_ok());
        assert!(followers.counts().tasks.is_empty());
    }

    #[test]
    fn the_total_of_answers_is_bounded() {
        let readers = AnswerLimits::at_most(MAX_ANSWERS, "read");
        let held: Vec<_> = (0..MAX_ANSWERS)
            .map(|number| readers.admit(&task(number)).ok().unwrap())
            .collect();
        let error = readers.admit(&task(MAX_ANSWERS)).err().unwrap();
        let text = "512 requests read files of this agent already; end one first, or retry later";
        assert_eq!(error.to_string(), text);
        drop(held);
        assert_eq!(readers.counts().total, 0);
    }
}
