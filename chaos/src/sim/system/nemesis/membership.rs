//! Membership changes during other faults: a master, even the leader, is removed and returns with a
//! new disk or stays out, and others join. There is one change at a time, and never one in which
//! lost disks could lose committed entries.

use std::time::Duration;

use argosy_state::ids::NodeId;

use super::{Nemesis, SystemActiveFault};
use crate::history::FaultKind;
use crate::sim::run::Simulation;
use crate::sim::system::world::{LeavingMaster, OperatorRequest, WipedMaster, master_name};

/// The minimum number of voters of a group that loses a voter or a disk.
const LEAST: usize = 3;
/// The maximum number of voters of a group.
const MOST: usize = 5;

impl Nemesis {
    /// Returns the places of masters that are members, or may be.
    pub(in crate::sim::system) fn members(&self) -> Vec<usize> {
        let state = self.world.state();
        let all = 0..self.world.stores.len();
        all.filter(|place| !state.absent.contains(place)).collect()
    }

    fn is_absent(&self, place: usize) -> bool {
        self.world.state().absent.contains(&place)
    }

    /// Whether this is a master that must not be started.
    pub(super) fn is_out(&self, name: &str) -> bool {
        let all = 0..self.world.stores.len();
        let mut named = all.filter(|place| master_name(*place) == name);
        named.any(|place| self.is_absent(place))
    }

    /// Whether the group may lose a disk or a voter.
    fn may_lose_one(&self) -> bool {
        !self.world.state().is_changing() && self.members().len() >= LEAST
    }

    /// Wipes a disk. The master must join the group under a new id.
    pub(super) fn wipe(&mut self, simulation: &mut Simulation<'_>) {
        let place = self.master();
        let name = master_name(place);
        if self.is_down(&name) || !self.may_lose_one() {
            return;
        }
        self.note_wipe(place, "");
        self.down(simulation, &name, 3_000);
        self.world.stores[place].wipe();
        self.request_join(place);
    }

    /// Records the wipe under the id that the group has for the master, if it has one. No other
    /// master may have this id again.
    fn note_wipe(&self, place: usize, detail: &str) {
        let name = master_name(place);
        let target = match self.world.stores[place].node_id() {
            Some(id) => NodeId(id).to_string(),
            None => name.clone(),
        };
        let message = format!("{name} {detail}");
        self.note(FaultKind::WipeDisk, &target, message.trim_end());
    }

    fn request_join(&self, place: usize) {
        let mut state = self.world.state();
        state.absent.remove(&place);
        state.wiped = Some(WipedMaster {
            index: place,
            joined: false,
        });
        state.requests.push_back(OperatorRequest::Join(place));
    }

    /// Removes a master, more often the leader than any other.
    pub(super) fn remove_master(&mut self) {
        let place = self.master();
        if !self.may_lose_one() {
            return;
        }
        self.note(FaultKind::MembershipChange, &master_name(place), "removed");
        let mut state = self.world.state();
        state.leaving = Some(LeavingMaster {
            index: place,
            removed: false,
        });
        state.requests.push_back(OperatorRequest::Remove(place));
    }

    /// Lets a master that is not a member join with an empty disk.
    pub(super) fn add_master(&mut self, simulation: &mut Simulation<'_>) {
        let absent: Vec<usize> = self.world.state().absent.iter().copied().collect();
        let Some(place) = self.rng.pick(&absent).copied() else {
            return;
        };
        if self.members().len() >= MOST || self.world.state().is_changing() {
            return;
        }
        let name = master_name(place);
        self.note(FaultKind::MembershipChange, &name, "joins");
        self.request_join(place);
        simulation.restart_host(&name);
    }

    /// Lets a removed master run for a while, then stops it permanently or lets it return with an
    /// empty disk.
    pub(in crate::sim::system) fn follow_changes(&mut self, simulation: &mut Simulation<'_>) {
        let leaving = self.world.state().leaving;
        let Some(LeavingMaster {
            index: place,
            removed: true,
        }) = leaving
        else {
            return;
        };
        let Some(until) = self.stop_removed_at else {
            let stays = Duration::from_millis(self.rng.between(0, 3_000));
            self.stop_removed_at = Some(simulation.now() + stays);
            return;
        };
        if simulation.now() < until {
            return;
        }
        self.stop_removed_at = None;
        let name = master_name(place);
        self.note_wipe(place, "of a removed master");
        simulation.crash(&name);
        self.world.stores[place].wipe();
        let is_this = |broken: &SystemActiveFault| match broken {
            SystemActiveFault::Down(one) => *one == name,
            SystemActiveFault::FailingDisk(one) => *one == place,
            _ => false,
        };
        self.active.retain(|broken| !is_this(broken));
        let mut state = self.world.state();
        state.leaving = None;
        state.absent.insert(place);
        drop(state);
        self.world.notes.count("masters removed");
        if self.members().len() < LEAST || self.rng.percent(60) {
            self.add_master(simulation);
        }
    }
}
