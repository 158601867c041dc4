//! The forms in which tasks are launched: each by itself, as a group, or in an executor. The number
//! of created tasks determines the form, so that no other choice depends on it.

use argosy_client::resources::{self, Remainder};
use argosy_client::scheduler::{Accept, CallHandle, OfferOperation, SchedulerDriver};
use argosy_proto::v1;

use super::SimFramework;

/// Resources of an executor without its tasks.
const EXECUTOR: &str = "cpus:0.1;mem:16";

/// The relation between the tasks of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaunchForm {
    Alone,
    /// A group whose id is soon used again.
    Group(u64),
    /// In an executor. Each agent has two: one that lasts, and one that fails.
    Executor(u64),
}

impl LaunchForm {
    /// Returns the form of the next call of a framework that has created this many tasks.
    pub(super) fn of(made: u64) -> Self {
        match made % 5 {
            1 => Self::Group(made / 5 % 6),
            3 => Self::Executor(made / 5 % 2),
            _ => Self::Alone,
        }
    }

    /// Takes the resources that the form needs in addition to its tasks. If they are missing, it
    /// returns `Alone`.
    pub(super) fn fit(self, left: &mut Remainder) -> Self {
        match self {
            Self::Executor(_) => {
                let own = EXECUTOR.parse().expect("the text is constant");
                if left.take(&own) { self } else { Self::Alone }
            }
            Self::Group(_) | Self::Alone => self,
        }
    }

    /// Returns the task in this form.
    pub(super) fn apply(self, task: v1::TaskSpec) -> v1::TaskSpec {
        match self {
            Self::Alone | Self::Group(_) => task,
            Self::Executor(number) => v1::TaskSpec {
                executor: Some(executor(number)),
                stop_after_ms: 0,
                max_completion_ms: 0,
                health_check: None,
                readiness_check: None,
                ..task
            },
        }
    }
}

fn executor(number: u64) -> v1::ExecutorSpec {
    let shell = match number {
        0 => "sim for-ever",
        _ => "sim 2500 1",
    };
    v1::ExecutorSpec {
        executor_id: format!("e{number}"),
        resources: resources::resources(EXECUTOR).expect("the text is constant"),
        shell: shell.to_owned(),
        grace_ms: 300,
        ..v1::ExecutorSpec::default()
    }
}

impl SimFramework {
    /// Launches tasks on one offer, in their form.
    pub(super) fn launch(
        &self,
        driver: &SchedulerDriver,
        offer: &v1::Offer,
        tasks: Vec<v1::TaskSpec>,
        form: LaunchForm,
    ) -> CallHandle {
        self.world.notes.count(match form {
            LaunchForm::Alone => "launches of single tasks",
            LaunchForm::Group(_) => "launches of groups",
            LaunchForm::Executor(_) => "launches in executors",
        });
        let operations = match form {
            LaunchForm::Group(number) => {
                let group_id = format!("g{number}");
                vec![OfferOperation::LaunchGroup { group_id, tasks }]
            }
            // All tasks but the first are in a second operation.
            LaunchForm::Alone if tasks.len() > 1 => {
                let mut first = tasks;
                let rest = first.split_off(1);
                vec![OfferOperation::Launch(first), OfferOperation::Launch(rest)]
            }
            LaunchForm::Alone | LaunchForm::Executor(_) => vec![OfferOperation::Launch(tasks)],
        };
        if let LaunchForm::Executor(number) = form
            && let Some(framework) = self.id
        {
            // The executor echoes messages. The id shows it that a message is for it.
            let id = format!("e{number}");
            let message = format!("{framework}/{id}");
            driver.message(&offer.agent_id, &id, message.into_bytes());
        }
        driver.accept_with(Accept {
            offer_ids: vec![offer.offer_id.clone()],
            operations,
            filter_ms: Some(0),
            all_or_nothing: false,
        })
    }

    /// Handles a message of an executor: an echo.
    pub(super) fn received(&self, message: &v1::ExecutorMessage) {
        let own = self.id.map(|framework| framework.to_string());
        let meant = format!("{}/{}", message.framework_id, message.executor_id);
        let is_own = own.as_ref() == Some(&message.framework_id);
        if !is_own || message.data != meant.as_bytes() {
            let output = String::from_utf8_lossy(&message.data);
            let words = format!("{} received {output:?} by executor {meant}", self.name);
            self.world.notes.violation(words);
        }
        self.world.notes.count("messages from executors");
    }
}
