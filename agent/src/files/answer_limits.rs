//! Limits on requests that follow files of this agent's tasks: each reads its file several times a
//! second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use argosy_state::ids::TaskKey;

use super::FilesError;

/// Maximum number of followers of one agent.
const MAX_ANSWERS: usize = 512;
/// Maximum number of followers of one task.
const MAX_TASK_ANSWERS: usize = 64;

/// The current followers. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct AnswerLimits(Arc<Mutex<AnswerCounts>>);

#[derive(Default)]
struct AnswerCounts {
    total: usize,
    /// It contains no task without a follower.
    tasks: HashMap<TaskKey, usize>,
}

/// One follower, counted until it is dropped.
pub(super) struct AnswerSlot {
    limits: AnswerLimits,
    task: TaskKey,
}

impl AnswerLimits {
    /// Admits a follower.
    ///
    /// # Errors
    /// If this task, or this agent, has the maximum number of followers.
    pub(super) fn admit(&self, task: &TaskKey) -> Result<AnswerSlot, FilesError> {
        let mut counts = self.counts();
        if counts
            .tasks
            .get(task)
            .is_some_and(|count| *count >= MAX_TASK_ANSWERS)
        {
            return Err(FilesError::FollowedTask {
                task: task.clone(),
                most: MAX_TASK_ANSWERS,
            });
        }
        if counts.total >= MAX_ANSWERS {
            return Err(FilesError::Followed { most: MAX_ANSWERS });
        }
        counts.total += 1;
        *counts.tasks.entry(task.clone()).or_default() += 1;
        Ok(AnswerSlot {
            limits: self.clone(),
            task: task.clone(),
        })
    }

    fn counts(&self) -> MutexGuard<'_, AnswerCounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn followers_of_one_task_do_not_exhaust_the_total() {
        let followers = AnswerLimits::default();
        let held: Vec<_> = (0..MAX_TASK_ANSWERS)
            .map(|_| followers.admit(&task(0)).ok().unwrap())
            .collect();
        let error = followers.admit(&task(0)).err().unwrap();
        let text = "64 requests follow files of framework-1/web-0 already; end one first";
        assert_eq!(error.to_string(), text);
        assert!(followers.admit(&task(1)).is_ok());
        drop(held);
        assert!(followers.admit(&task(0)).is_ok());
        assert!(followers.counts().tasks.is_empty());
    }

    #[test]
    fn the_total_of_followers_is_bounded() {
        let followers = AnswerLimits::default();
        let held: Vec<_> = (0..MAX_ANSWERS)
            .map(|number| followers.admit(&task(number)).ok().unwrap())
            .collect();
        let error = followers.admit(&task(MAX_ANSWERS)).err().unwrap();
        let text = "512 requests follow files of this agent already; end one first";
        assert_eq!(error.to_string(), text);
        drop(held);
        assert_eq!(followers.counts().total, 0);
    }
}
