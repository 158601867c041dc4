//! What becomes of proposals, where it is not committed at once.

use argosy_state::command::Entry;
use argosy_state::encode;
use argosy_state::level::Level;

use super::{World, clocks};
use crate::leader::Input;

impl World {
    /// Another master leads, and what this leader proposed last is committed behind the new epoch.
    pub(in crate::leader::tests) fn new_leader_before_proposals(&mut self) {
        let late = std::mem::take(&mut self.queue);
        self.new_leader();
        self.queue.extend(late);
    }

    /// Commits what was proposed as one entry; its events are told when all of it is true.
    pub(in crate::leader::tests) fn commit_together(&mut self) {
        let entry = Entry {
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

    /// Commits the oldest proposals, one entry each, and loses what follows from them.
    pub(in crate::leader::tests) fn commit_first(&mut self, count: usize) {
        self.queue.truncate(count);
        while let Some(proposed) = self.queue.pop_front() {
            let entry = Entry {
                at: self.now,
                commands: vec![proposed],
            };
            drop(self.registry.apply(self.registry.applied() + 1, &entry));
            drop(self.registry.take_changes());
        }
    }

    /// The log has no entry that would hold the oldest proposal.
    pub(in crate::leader::tests) fn too_large(&mut self) {
        let proposed = self.queue.pop_front().expect("something was proposed");
        self.feed(Input::TooLarge {
            serial: proposed.ticket.serial,
            bytes: 2_000_000,
        });
    }

    /// The size of each proposal that waits, in bytes.
    pub(in crate::leader::tests) fn proposed_bytes(&self) -> Vec<usize> {
        let all = self.queue.iter();
        all.map(|proposed| encode::command(proposed, Level::NEWEST).len())
            .collect()
    }
}
