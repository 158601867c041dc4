//! An operator that reads which tasks the registry has launched, under which orders. Every task
//! that started must be among them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use argosy_client::OperatorClient;
use argosy_proto::v1;
use argosy_state::ids::{AgentId, OrderIndex, TaskId, TaskKey};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::history::{Recorder, TaskFact};

/// Interval of reads. The registry keeps the ends of 10,000 tasks, and no workload here ends as
/// many in one interval.
const PAUSE: Duration = Duration::from_secs(3);
/// Tasks of one page. Full pages of the task history are not read again.
const PAGE: u32 = 500;
/// Prefix of a page token in the task history, which follows the tasks that have not ended.
const HISTORY: &str = "~0";

/// A reader that polls until it is finished.
pub(crate) struct RegistryObserver {
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl RegistryObserver {
    pub(crate) fn start(operator: OperatorClient, recorder: Recorder) -> Self {
        let stop = CancellationToken::new();
        let mut reader = RegistryReader {
            operator,
            recorder,
            page_token: HISTORY.to_owned(),
            known: BTreeSet::new(),
        };
        let ends = stop.clone();
        let looking = tokio::spawn(async move {
            while ends
                .run_until_cancelled(tokio::time::sleep(PAUSE))
                .await
                .is_some()
            {
                // Without a leader nothing can be read. The next round tries again.
                let _ = reader.read_ended().await;
            }
            reader.read_ended().await?;
            reader.read(String::new(), false).await.map(|_| ())
        });
        Self {
            stop,
            task: looking,
        }
    }

    /// Reads the rest, when no more tasks start.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) async fn finish(self) -> Result<()> {
        self.stop.cancel();
        self.task
            .await
            .context("the registry observer has failed")?
    }
}

struct RegistryReader {
    operator: OperatorClient,
    recorder: Recorder,
    /// The position from which the task history is read.
    page_token: String,
    known: BTreeSet<(TaskKey, OrderIndex)>,
}

impl RegistryReader {
    async fn read_ended(&mut self) -> Result<()> {
        self.page_token = self.read(self.page_token.clone(), true).await?;
        Ok(())
    }

    /// Reads from a position to the end. Returns the position of the last page.
    async fn read(&mut self, mut page_token: String, include_ended: bool) -> Result<String> {
        loop {
            let request = v1::ListRequest {
                page_size: PAGE,
                page_token: page_token.clone(),
                include_ended,
                ..Default::default()
            };
            let page = self.operator.list_tasks(request).await;
            let page = page.context("cannot read the registry's tasks")?;
            page.tasks.iter().for_each(|task| self.note(task));
            if page.next_page_token.is_empty() {
                return Ok(page_token);
            }
            page_token = page.next_page_token;
        }
    }

    fn note(&mut self, task: &v1::Task) {
        let Some((key, agent)) = names(task) else {
            return;
        };
        let order = OrderIndex(task.order_index);
        if self.known.insert((key.clone(), order)) {
            let task = key;
            let fact = TaskFact::Recorded { task, order, agent };
            self.recorder.observe("historian", fact);
        }
    }
}

fn names(task: &v1::Task) -> Option<(TaskKey, AgentId)> {
    let key = TaskKey {
        framework: task.framework_id.parse().ok()?,
        task: TaskId::new(&task.task_id).ok()?,
    };
    Some((key, task.agent_id.parse().ok()?))
}
