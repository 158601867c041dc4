//! The clients during a loss: the same writers for Argosy and its peers, spread over all members.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::writer::Writer;
use crate::load::LoadLevel;

/// Pause of a client whose write failed.
const RETRY_DELAY: Duration = Duration::from_millis(10);

/// Clients that continue after errors. Each begins at its own member, and changes to the next one
/// after an error. They end when this value is dropped.
pub(super) struct Clients {
    _clients: JoinSet<()>,
    answered: Arc<AtomicU64>,
}

impl Clients {
    /// Starts the clients. `members` has a writer for each member.
    pub(super) fn start(members: &[Writer], load: LoadLevel) -> Self {
        let answered = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for number in 0..load.clients() {
            let place = number % members.len();
            let client = LoadClient {
                members: members.iter().map(Writer::new_client).collect(),
                member: place,
                writer: members[place].new_client(),
                answered: Arc::clone(&answered),
            };
            clients.spawn(client.run(load.interval()));
        }
        Self {
            _clients: clients,
            answered,
        }
    }

    /// Returns the number of answered writes.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

struct LoadClient {
    members: Vec<Writer>,
    member: usize,
    writer: Writer,
    answered: Arc<AtomicU64>,
}

impl LoadClient {
    async fn run(mut self, interval: Option<Duration>) {
        let mut ticks = interval.map(tokio::time::interval);
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        }
        for serial in 1.. {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            if self.writer.write(serial).await.is_ok() {
                self.answered.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // Expected while a leader is lost: the client tries another member.
            self.member = (self.member + 1) % self.members.len();
            self.writer.move_to(&self.members[self.member]);
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }
}
