//! Tickets for the outputs of tasks: with TLS, agents send a file only to their masters and to
//! holders of a ticket.
//!
//! `TicketBook` is pure; `TicketDesk` requests tickets from the masters, in a task next to the
//! scheduler, whose callbacks do not wait.

use std::collections::BTreeMap;

use argosy_client::{CallError, OperatorClient};
use argosy_proto::v1;
use tokio::sync::mpsc;

/// The validity of requested tickets, in milliseconds: the longest.
const VALID_MS: u64 = 600_000;
/// The age at which a ticket is replaced, in milliseconds. An older one is not used for a launch:
/// the task may wait for the agent, and its files are fetched one after another.
const REPLACED_MS: u64 = VALID_MS / 2;
/// Maximum number of tickets of one call.
const TARGETS: usize = 256;
/// Consecutive failures to get tickets after which the job fails: masters are elected in the
/// meantime.
const MAX_FAILURES: u32 = 300;

/// The output of a task, on an agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskOutput {
    /// The id of the agent.
    pub agent_id: String,
    /// The id of the task.
    pub task_id: String,
}

/// The tickets for the outputs of tasks.
#[derive(Debug, Default)]
pub struct TicketBook {
    // By task.
    held: BTreeMap<String, HeldTicket>,
    now_ms: u64,
}

#[derive(Debug)]
struct HeldTicket {
    text: String,
    since_ms: u64,
}

impl TicketBook {
    /// Sets the time of the scheduler, in milliseconds.
    pub fn advance(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Adds the ticket of a task. It was requested at this time or later.
    pub fn insert(&mut self, task_id: String, text: String, since_ms: u64) {
        self.held.insert(task_id, HeldTicket { text, since_ms });
    }

    /// Returns the ticket of a task, if it remains valid for long enough.
    #[must_use]
    pub fn of(&self, task_id: &str) -> Option<&str> {
        let held = self.held.get(task_id)?;
        let age_ms = self.now_ms.saturating_sub(held.since_ms);
        (age_ms < REPLACED_MS).then_some(held.text.as_str())
    }
}

/// The result of a request: the ticket of each task.
type Issued = Result<Vec<(String, String)>, String>;

/// A request for the outputs of a framework, by agent.
struct TicketRequest {
    framework_id: String,
    outputs: BTreeMap<String, Vec<String>>,
}

/// The requests to the masters, one at a time.
pub struct TicketDesk {
    requests: mpsc::Sender<TicketRequest>,
    issued: mpsc::Receiver<Issued>,
    /// The time of the request in progress.
    pending_since_ms: Option<u64>,
    failures: u32,
}

impl TicketDesk {
    /// Starts the task that calls the masters. It ends with this value.
    #[must_use]
    pub fn start(client: OperatorClient) -> Self {
        // A request waits for the answer to the one before it, so there is never more than one.
        let (requests, mut requested) = mpsc::channel::<TicketRequest>(1);
        let (sender, issued) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(request) = requested.recv().await {
                if sender.send(issue(&client, request).await).await.is_err() {
                    return;
                }
            }
        });
        Self {
            requests,
            issued,
            pending_since_ms: None,
            failures: 0,
        }
    }

    /// Requests the tickets of these outputs, unless a request is in progress.
    pub fn request(&mut self, framework_id: &str, missing: Vec<TaskOutput>, now_ms: u64) {
        if missing.is_empty() || self.pending_since_ms.is_some() {
            return;
        }
        let mut outputs = BTreeMap::<_, Vec<_>>::new();
        for TaskOutput { agent_id, task_id } in missing {
            outputs.entry(agent_id).or_default().push(task_id);
        }
        let request = TicketRequest {
            framework_id: framework_id.to_owned(),
            outputs,
        };
        if self.requests.try_send(request).is_ok() {
            self.pending_since_ms = Some(now_ms);
        }
    }

    /// Moves issued tickets into the book.
    ///
    /// # Errors
    /// The masters have failed to issue tickets too often; the last failure.
    pub fn receive(&mut self, book: &mut TicketBook) -> Result<(), String> {
        let Ok(issued) = self.issued.try_recv() else {
            return Ok(());
        };
        let since_ms = self.pending_since_ms.take().unwrap_or_default();
        match issued {
            Ok(tickets) => {
                self.failures = 0;
                for (task_id, text) in tickets {
                    book.insert(task_id, text, since_ms);
                }
                Ok(())
            }
            Err(why) => {
                self.failures += 1;
                tracing::warn!(why, "no tickets for the outputs of tasks");
                match self.failures < MAX_FAILURES {
                    true => Ok(()),
                    false => Err(format!("no tickets for the outputs of tasks: {why}")),
                }
            }
        }
    }
}

async fn issue(client: &OperatorClient, request: TicketRequest) -> Issued {
    let mut issued = Vec::new();
    for (agent_id, tasks) in request.outputs {
        for tasks in tasks.chunks(TARGETS) {
            let targets = tasks.iter().map(|task_id| v1::TicketTarget {
                framework_id: request.framework_id.clone(),
                task_id: task_id.clone(),
                path: String::new(),
            });
            let call = v1::IssueTicketsRequest {
                agent_id: agent_id.clone(),
                verb: v1::TicketVerb::ReadFiles.into(),
                targets: targets.collect(),
                valid_ms: VALID_MS,
            };
            let answer = client.issue_tickets(call).await;
            let answer = answer.map_err(|error: CallError| error.to_string())?;
            if answer.tickets.len() != tasks.len() {
                return Err(format!(
                    "a master has issued {} tickets for {} tasks",
                    answer.tickets.len(),
                    tasks.len()
                ));
            }
            issued.extend(tasks.iter().cloned().zip(answer.tickets));
        }
    }
    Ok(issued)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_used_for_the_first_half_of_its_validity() {
        let mut book = TicketBook::default();
        book.advance(1_000);
        assert_eq!(book.of("map-0"), None);
        book.insert("map-0".into(), "t".into(), 1_000);
        assert_eq!(book.of("map-0"), Some("t"));
        book.advance(1_000 + REPLACED_MS - 1);
        assert_eq!(book.of("map-0"), Some("t"));
        book.advance(1_000 + REPLACED_MS);
        assert_eq!(book.of("map-0"), None);
    }
}
