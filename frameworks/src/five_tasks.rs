//! The classic first framework: it runs five tasks, acknowledges each, and exits.
//!
//! It is a complete framework, written as an example.

use std::collections::BTreeSet;

use argosy_client::resources::{Remainder, resources};
use argosy_client::scheduler::{CallOutcome, CallResult, Scheduler, SchedulerDriver, is_terminal};
use argosy_proto::v1;

/// A framework that runs five tasks of one kind.
pub struct FiveTasks {
    /// The command of each task, run by `/bin/sh -c`.
    pub command: String,
    to_launch: BTreeSet<String>,
    finished: BTreeSet<String>,
    /// The reason of an early end, if any.
    pub failure: Option<String>,
}

impl FiveTasks {
    /// Creates the framework; nothing is launched yet.
    #[must_use]
    pub fn new(command: &str) -> Self {
        Self {
            command: command.to_owned(),
            to_launch: (1..=5).map(|number| format!("task-{number}")).collect(),
            finished: BTreeSet::new(),
            failure: None,
        }
    }

    /// Returns the number of tasks that have finished.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.finished.len()
    }

    fn task(&self, task_id: &str) -> v1::TaskSpec {
        v1::TaskSpec {
            task_id: task_id.to_owned(),
            shell: self.command.clone(),
            resources: resources("cpus:0.1;mem:32").expect("it is written right"),
            ..Default::default()
        }
    }
}

impl Scheduler for FiveTasks {
    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        let one = "cpus:0.1;mem:32".parse().expect("it is written right");
        for offer in offers {
            let mut rest = Remainder::of(&offer);
            let mut tasks = Vec::new();
            while rest.take(&one)
                && let Some(task_id) = self.to_launch.pop_first()
            {
                tasks.push(self.task(&task_id));
            }
            if tasks.is_empty() {
                driver.decline(&offer, None);
            } else {
                driver.accept(&offer, tasks);
            }
        }
    }

    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {
        for (task_id, why) in answer.not_launched() {
            println!("{task_id} was not launched ({why}); it is launched with the next offer");
            self.to_launch.insert(task_id.to_owned());
        }
        if matches!(answer.outcome, CallOutcome::Lost(_)) {
            // The tasks may run, or may never run: the masters know.
            driver.reconcile(answer.task_ids.clone());
        }
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        println!(
            "{} is {} {}",
            status.task_id,
            status.state().as_str_name(),
            status.message
        );
        if status.state() == v1::TaskState::Finished {
            self.finished.insert(status.task_id.clone());
        } else if status.state() == v1::TaskState::Unknown {
            // The answer to a reconciliation: no earlier call starts the task any more.
            if !self.finished.contains(&status.task_id) {
                self.to_launch.insert(status.task_id.clone());
            }
        } else if is_terminal(status.state()) {
            self.failure = Some(format!(
                "{} did not finish: {}",
                status.task_id, status.message
            ));
        }
        if self.finished.len() == 5 || self.failure.is_some() {
            driver.teardown();
        }
    }
}
