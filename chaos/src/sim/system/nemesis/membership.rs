//! The group of masters changes: one is removed (the leader, too) and comes back with a new disk or stays out, others
//! join, all while other faults come. One change at a time, and never so that lost disks could lose what was agreed.

use std::time::Duration;

use argosy_state::ids::NodeId;

use super::{Broken, Nemesis};
use crate::history::FaultKind;
use crate::sim::run::Stage;
use crate::sim::system::world::{Leaving, Order, Wiped, master_name};

/// A group of fewer voters loses none of them, and no disk.
const LEAST: usize = 3;
/// As many voters as a group may have.
const MOST: usize = 5;

impl Nemesis {
    /// Places of masters that are members, or may be.
    pub(in crate::sim::system) fn members(&self) -> Vec<usize> {
        let kept = self.world.kept();
        let all = 0..self.world.stores.len();
        all.filter(|place| !kept.absent.contains(place)).collect()
    }

    fn is_absent(&self, place: usize) -> bool {
        self.world.kept().absent.contains(&place)
    }

    /// Whether this is a master that nobody may start.
    pub(super) fn is_out(&self, name: &str) -> bool {
        let all = 0..self.world.stores.len();
        let mut named = all.filter(|place| master_name(*place) == name);
        named.any(|place| self.is_absent(place))
    }

    /// Whether a disk may go, or a voter.
    fn may_lose_one(&self) -> bool {
        !self.world.kept().is_changing() && self.members().len() >= LEAST
    }

    /// A new disk: the group must take it in as somebody else.
    pub(super) fn wipe(&mut self, stage: &mut Stage<'_>) {
        let place = self.master();
        let name = master_name(place);
        if self.is_down(&name) || !self.may_lose_one() {
            return;
        }
        self.note_wipe(place, "");
        self.down(stage, &name, 3_000);
        self.world.stores[place].wipe();
        self.take_in(place);
    }

    /// By the id that the group knows the master by, if it has one: no other may have this id again.
    fn note_wipe(&self, place: usize, detail: &str) {
        let name = master_name(place);
        let target = match self.world.stores[place].node_id() {
            Some(id) => NodeId(id).to_string(),
            None => name.clone(),
        };
        let words = format!("{name} {detail}");
        self.note(FaultKind::WipeDisk, &target, words.trim_end());
    }

    fn take_in(&self, place: usize) {
        let mut kept = self.world.kept();
        kept.absent.remove(&place);
        kept.wiped = Some(Wiped {
            place,
            joined: false,
        });
        kept.orders.push_back(Order::Join(place));
    }

    /// Somebody has to go, more often the leader than any other.
    pub(super) fn remove_master(&mut self) {
        let place = self.master();
        if !self.may_lose_one() {
            return;
        }
        self.note(FaultKind::MembershipChange, &master_name(place), "removed");
        let mut kept = self.world.kept();
        kept.leaving = Some(Leaving {
            place,
            removed: false,
        });
        kept.orders.push_back(Order::Remove(place));
    }

    /// A master that is no member joins, with an empty disk.
    pub(super) fn add_master(&mut self, stage: &mut Stage<'_>) {
        let absent: Vec<usize> = self.world.kept().absent.iter().copied().collect();
        let Some(place) = self.chance.pick(&absent).copied() else {
            return;
        };
        if self.members().len() >= MOST || self.world.kept().is_changing() {
            return;
        }
        let name = master_name(place);
        self.note(FaultKind::MembershipChange, &name, "joins");
        self.take_in(place);
        stage.bounce(&name);
    }

    /// Who was removed runs on for a while as if nothing had been, then is stopped for good; or comes back empty.
    pub(in crate::sim::system) fn follow_changes(&mut self, stage: &mut Stage<'_>) {
        let leaving = self.world.kept().leaving;
        let Some(Leaving {
            place,
            removed: true,
        }) = leaving
        else {
            return;
        };
        let Some(until) = self.leaves else {
            let stays = Duration::from_millis(self.chance.between(0, 3_000));
            self.leaves = Some(stage.now() + stays);
            return;
        };
        if stage.now() < until {
            return;
        }
        self.leaves = None;
        let name = master_name(place);
        self.note_wipe(place, "of a removed master");
        stage.crash(&name);
        self.world.stores[place].wipe();
        let is_this = |broken: &Broken| match broken {
            Broken::Down(one) => *one == name,
            Broken::SickDisk(one) => *one == place,
            _ => false,
        };
        self.broken.retain(|broken| !is_this(broken));
        let mut kept = self.world.kept();
        kept.leaving = None;
        kept.absent.insert(place);
        drop(kept);
        self.world.notes.count("masters removed");
        if self.members().len() < LEAST || self.chance.percent(60) {
            self.add_master(stage);
        }
    }
}
