//! The progress of each task of a job: one task, or those of a group. Pure.

use std::time::Duration;

use argosy_proto::v1;
use tokio_util::sync::CancellationToken;

use super::job::Job;
use super::outcome;
use crate::exit::DONE;

/// Begin of an agent's message that a task was ended because of another one of its group.
const FOR_ANOTHER: &str = "its group ended because";

#[derive(Debug)]
pub(super) struct JobTasks {
    all: Vec<JobTask>,
    /// Ended tasks, in order.
    ended: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct JobTask {
    pub(super) task: String,
    /// The prefix of its output, empty for a single task.
    pub(super) label: String,
    /// Time since the start of the program.
    pub(super) started: Option<Duration>,
    end: Option<v1::TaskStatus>,
    /// Cancelled when the task is known to have ended.
    pub(super) ended: CancellationToken,
}

impl JobTasks {
    pub(super) fn of(job: &Job) -> Self {
        let tasks = job.tasks().iter();
        let width = tasks.clone().map(|task| task.task_id.len()).max();
        let width = width.unwrap_or_default();
        let all = tasks.map(|task| JobTask {
            label: match job.group() {
                "" => String::new(),
                _ => format!("{:<width$} | ", task.task_id),
            },
            task: task.task_id.clone(),
            started: None,
            end: None,
            ended: CancellationToken::new(),
        });
        Self {
            all: all.collect(),
            ended: Vec::new(),
        }
    }

    pub(super) fn named(&mut self, task: &str) -> Option<&mut JobTask> {
        self.all.iter_mut().find(|member| member.task == task)
    }

    /// Returns a task whose kill ends all others: the first that has not ended. The end of a
    /// finished task does not affect the others.
    pub(super) fn first(&self) -> &str {
        let goes_on = self.all.iter().find(|member| member.end.is_none());
        &goes_on.unwrap_or(&self.all[0]).task
    }

    pub(super) fn all_started(&self) -> bool {
        self.all.iter().any(|member| member.started.is_some())
    }

    /// Records an end, and returns whether it was the last one.
    pub(super) fn record_end(&mut self, status: v1::TaskStatus) -> bool {
        let found = self.all.iter().position(|one| one.task == status.task_id);
        if let Some(at) = found.filter(|at| self.all[*at].end.is_none()) {
            self.all[at].ended.cancel();
            self.all[at].end = Some(status);
            self.ended.push(at);
        }
        self.ended.len() == self.all.len()
    }

    /// Returns the exit code of a single task. For a group, returns that of the first task that
    /// failed by itself, else of the first that did not end with 0.
    pub(super) fn exit_code(&self) -> u8 {
        let ends = self.ended.iter().filter_map(|at| {
            let member = &self.all[*at];
            let status = member.end.as_ref()?;
            let code = outcome::exit_code(status, member.started.is_some());
            Some((status, code)).filter(|(_, code)| *code != DONE)
        });
        let mut failed = ends.clone().filter(|(status, _)| {
            status.state() != v1::TaskState::Killed && !status.message.starts_with(FOR_ANOTHER)
        });
        let first = failed.next().or_else(|| ends.clone().next());
        first.map_or(DONE, |(_, code)| code)
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::GroupFile;
    use super::*;

    fn group() -> JobTasks {
        let text = r#"{"group": "g", "tasks": [
            {"name": "web", "command": ["x"]}, {"name": "reader", "command": ["x"]}]}"#;
        let file = GroupFile::read("g.json", text).unwrap();
        let job = Job::of_group(&file.group, &file.tasks, "*").unwrap();
        let mut members = JobTasks::of(&job);
        for task in ["web", "reader"] {
            members.named(task).unwrap().started = Some(Duration::ZERO);
        }
        members
    }

    fn end(task: &str, state: v1::TaskState, how: v1::exit::How, text: &str) -> v1::TaskStatus {
        v1::TaskStatus {
            task_id: task.to_owned(),
            state: state.into(),
            message: text.to_owned(),
            exit: Some(v1::Exit { how: Some(how) }),
            ..v1::TaskStatus::default()
        }
    }

    #[test]
    fn a_group_ends_with_its_last_task_and_the_code_of_the_failed_one() {
        use v1::TaskState::{Failed, Finished, Killed};
        use v1::exit::How::{Code, Signal};
        let mut members = group();
        assert_eq!(members.named("web").unwrap().label, "web    | ");
        let along = "its group ended because task web failed: it exited with 7";
        assert!(!members.record_end(end("reader", Killed, Signal(15), along)));
        assert!(!members.record_end(end("reader", Killed, Signal(15), along)));
        assert!(members.record_end(end("web", Failed, Code(7), "")));
        assert_eq!(members.exit_code(), 7);
        let mut members = group();
        assert_eq!(members.first(), "web");
        assert!(!members.record_end(end("web", Finished, Code(0), "")));
        assert_eq!(members.first(), "reader", "a finished one ends no other");
        assert!(members.record_end(end("reader", Finished, Code(0), "")));
        assert_eq!(members.exit_code(), DONE);
        let mut members = group();
        assert!(!members.record_end(end("reader", Killed, Signal(15), "")));
        assert!(members.record_end(end("web", Killed, Signal(9), along)));
        assert_eq!(members.exit_code(), 143);
    }
}
