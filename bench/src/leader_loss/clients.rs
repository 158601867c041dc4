//! The clients during a loss: the same writers for Argosy and its peers, spread over all members.

use anyhow::Result;

use super::writer::Writer;
use crate::load::{LoadLevel, PersistentClient, PersistentClients};

/// Starts the clients. `members` has a writer for each member.
pub(super) fn start(members: &[Writer], load: LoadLevel) -> PersistentClients {
    let client = |number: usize| LoadClient {
        members: members.iter().map(Writer::new_client).collect(),
        member: number % members.len(),
        writer: members[number % members.len()].new_client(),
    };
    PersistentClients::of((0..load.clients()).map(client), load.interval())
}

struct LoadClient {
    members: Vec<Writer>,
    member: usize,
    writer: Writer,
}

impl PersistentClient for LoadClient {
    async fn write(&mut self, serial: u64) -> Result<()> {
        self.writer.write(serial).await
    }

    fn change_member(&mut self) {
        self.member = (self.member + 1) % self.members.len();
        self.writer.move_to(&self.members[self.member]);
    }
}
