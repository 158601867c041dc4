//! Epochs: who leads since when, and at which feature level.

use sha2::{Digest, Sha256};

use super::Scene;
use crate::Registry;
use crate::command::{OpenEpoch, Outcome, Reply};
use crate::event::Event;
use crate::ids::{ClusterId, Epoch};
use crate::level::Level;
use crate::registry::RecordKey;

impl Registry {
    /// A reign begins. Its number is the log index of this entry, so it is above all former ones.
    pub(super) fn open_epoch(&mut self, scene: &mut Scene, open: &OpenEpoch) -> Outcome {
        if self.cluster.facts.id == ClusterId::default() {
            let derive = |what: &[u8]| Sha256::digest([what, &open.entropy[..]].concat());
            let id: [u8; 16] = derive(b"cluster id")[..16]
                .try_into()
                .expect("SHA-256 has 32 bytes");
            self.cluster.facts.id = ClusterId(u128::from_be_bytes(id));
            self.cluster.facts.offer_key = derive(b"offer key").into();
        }
        self.cluster.epoch = Epoch(scene.index);
        self.cluster.leader = open.node;
        self.cluster.process = open.process;
        self.cluster.term = open.term;
        self.changed.insert(RecordKey::Cluster);
        scene.say(Event::EpochOpened(self.cluster.epoch));
        self.set_level(self.cluster.level.max(open.level));
        if self.sweeps().next().is_some() {
            scene.say(Event::SweepNeeded);
        }
        Ok(Reply::Epoch(self.cluster.epoch))
    }

    /// What follows in the log is applied at the new level. There is no way back: a lower one changes nothing.
    pub(super) fn raise_level(&mut self, scene: &mut Scene, level: Level) -> Reply {
        if level > self.cluster.level {
            self.set_level(level);
            self.changed.insert(RecordKey::Cluster);
            scene.say(Event::LevelRaised(level));
            if self.sweeps().next().is_some() {
                scene.say(Event::SweepNeeded);
            }
        }
        Reply::Done
    }
}
