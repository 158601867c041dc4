//! Outcomes of proposals that are not committed immediately.

use argosy_state::command::LogEntry;
use argosy_state::encode;
use argosy_state::level::Level;

use super::{World, clocks};
use crate::leader::Input;

impl World {
    /// Another master leads, and the last proposals of this leader are committed after the new
    /// epoch.
    pub(in crate::leader::tests) fn new_leader_before_proposals(&mut self) {
        let late = std::mem::take(&mut self.queue);
        self.new_leader();
        self.queue.extend(late);
    }

    /// Commits the proposals as one entry; its events are delivered when all of it is applied.
    pub(in crate::leader::tests) fn commit_together(&mut self) {
        let entry = LogEntry {
            at: self.now,
            commands: self.queue.drain(..).collect(),
        };
        let all = self.registry.apply(self.registry.applied() + 1, &entry);
        drop(self.registry.take_changes());
        self.leader.settle(&all);
        for applied in all {
            let input = Input::Applied(applied);
            let effects = self.leader.step(&self.registry, clocks(self.now), input);
            self.perform(effects);
        }
        self.commit();
    }

    /// Commits the oldest proposals, one entry each, and loses the proposals that follow from them.
    pub(in crate::leader::tests) fn commit_first(&mut self, count: usize) {
        self.queue.truncate(count);
        while let Some(proposed) = self.queue.pop_front() {
            let entry = LogEntry {
                at: self.now,
                commands: vec![proposed],
            };
            drop(self.registry.apply(self.registry.applied() + 1, &entry));
            drop(self.registry.take_changes());
        }
    }

    /// Reports the oldest proposal as too large for an entry of the log.
    pub(in crate::leader::tests) fn too_large(&mut self) {
        let proposed = self.queue.pop_front().expect("something was proposed");
        self.feed(Input::TooLarge {
            serial: proposed.ticket.serial,
            bytes: 2_000_000,
        });
    }

    /// Returns the size of each waiting proposal, in bytes.
    pub(in crate::leader::tests) fn proposed_bytes(&self) -> Vec<usize> {
        let all = self.queue.iter();
        all.map(|proposed| encode::command(proposed, Level::NEWEST).len())
            .collect()
    }
}
