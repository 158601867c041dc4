//! Finished work whose outputs can no longer be fetched, and is repeated.

use std::ops::Range;

use super::{Job, WorkItem, WorkSlot, WorkState};

/// The end of an agent's message about a file that the server does not have.
const NOT_FOUND: &str = "the server answered 404";

impl Job {
    /// Repeats the finished work of a lost agent, as far as its outputs are still needed. A task
    /// that runs there is waited for.
    pub fn agent_lost(&mut self, agent_id: &str) {
        let reduces = self.maps..self.slots.len();
        let count = reduces.len();
        let is_lost = |slot: &WorkSlot| slot.agent_id == agent_id;
        self.repeat(reduces, is_lost);
        // Reduces that run may have fetched their inputs, or fail for lack of them.
        if self.reduces_done < count {
            self.repeat(0..self.maps, is_lost);
        }
    }

    /// Repeats the maps of an agent that answers a fetch with 404. The message does not show which
    /// output is missing: the path is in the query of the URI, and messages have no queries.
    pub(super) fn repeat_lost_maps(&mut self, message: &str) {
        if message.contains(NOT_FOUND) {
            let is_named = |slot: &WorkSlot| message.contains(&format!("//{}/", slot.agent));
            self.repeat(0..self.maps, is_named);
        }
    }

    /// Repeats those of these pieces that are finished and whose outputs are lost.
    fn repeat(&mut self, pieces: Range<usize>, is_lost: impl Fn(&WorkSlot) -> bool) {
        for at in pieces {
            let slot = &self.slots[at];
            if slot.state != WorkState::Done || !is_lost(slot) {
                continue;
            }
            match slot.item {
                WorkItem::Map(_) => self.maps_done -= 1,
                WorkItem::Reduce(_) => self.reduces_done -= 1,
            }
            self.slots[at].state = WorkState::Waiting;
            self.enqueue(at);
        }
    }
}
