//! Epochs: the current leader, its start, and its feature level.

use sha2::{Digest, Sha256};

use super::CommandContext;
use crate::Registry;
use crate::access::TicketSecrets;
use crate::command::{ApplyOutcome, CommandReply, OpenEpoch, Rejection};
use crate::event::Event;
use crate::ids::{ClusterId, Epoch, Timestamp};
use crate::level::Level;
use crate::registry::RecordKey;

impl Registry {
    /// Opens an epoch. Its number is the log index of this entry, so it is higher than all earlier
    /// ones.
    pub(super) fn open_epoch(
        &mut self,
        context: &mut CommandContext,
        open: &OpenEpoch,
    ) -> ApplyOutcome {
        if self.cluster.facts.id == ClusterId::default() {
            let derive = |what: &[u8]| Sha256::digest([what, &open.entropy[..]].concat());
            let id: [u8; 16] = derive(b"cluster id")[..16]
                .try_into()
                .expect("SHA-256 has 32 bytes");
            self.cluster.facts.id = ClusterId(u128::from_be_bytes(id));
            self.cluster.facts.offer_key = derive(b"offer key").into();
        }
        self.cluster.epoch = Epoch(context.index);
        self.cluster.leader = open.node;
        self.cluster.process = open.process;
        self.cluster.term = open.term;
        self.changed.insert(RecordKey::Cluster);
        context.emit(Event::EpochOpened(self.cluster.epoch));
        self.set_level(self.cluster.level.max(open.level));
        self.rotate_ticket_secrets(context.at, &open.entropy);
        if self.sweeps().next().is_some() {
            context.emit(Event::SweepNeeded);
        }
        Ok(CommandReply::Epoch(self.cluster.epoch))
    }

    /// Draws secrets of tickets, or rotates them. Below level 3, there are none.
    fn rotate_ticket_secrets(&mut self, at: Timestamp, entropy: &[u8; 32]) {
        if self.level() < Level::RELEASE_0_2 {
            return;
        }
        match &mut self.cluster.ticket_secrets {
            Some(secrets) => {
                secrets.rotate(at, entropy);
            }
            none => *none = Some(TicketSecrets::first(at, entropy)),
        }
    }

    /// Raises the level of the cluster. All later entries are applied at the new level. A level is
    /// never lowered: a lower one changes nothing.
    ///
    /// A command raises the level by one, and not while records are being converted, because
    /// records that are not converted may have no place for the facts of the new level.
    pub(super) fn raise_level(
        &mut self,
        context: &mut CommandContext,
        level: Level,
    ) -> ApplyOutcome {
        if level > self.cluster.level {
            if level.0 != self.cluster.level.0 + 1 || self.cluster.layout.is_converting() {
                return Err(Rejection::Invalid {
                    field: "level".into(),
                    text: format!(
                        "the cluster is at {}: raise it by one, when its records are converted",
                        self.level()
                    ),
                });
            }
            self.set_level(level);
            self.changed.insert(RecordKey::Cluster);
            context.emit(Event::LevelRaised(level));
            if self.sweeps().next().is_some() {
                context.emit(Event::SweepNeeded);
            }
        }
        Ok(CommandReply::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, SweepTarget};
    use crate::ids::NodeId;
    use crate::testing::World;

    #[test]
    fn secrets_of_tickets_are_rotated_with_an_epoch_and_absent_below_level_3() {
        let mut world = World::empty();
        world.level = Level::RELEASE_0_1;
        world.open_epoch(NodeId(1));
        assert_eq!(world.registry.cluster().ticket_secrets, None);
        world.level = Level::RELEASE_0_2;
        world.open_epoch(NodeId(1));
        let first = world.registry.cluster().ticket_secrets.clone().unwrap();
        world.open_epoch(NodeId(2));
        let soon = world.reloaded().cluster().ticket_secrets.clone();
        assert_eq!(soon.as_ref(), Some(&first));
        world.pass(TicketSecrets::INTERVAL_MS);
        world.open_epoch(NodeId(1));
        let later = world.reloaded().cluster().ticket_secrets.clone().unwrap();
        assert_eq!((later.former, later.current), (first.current, first.next));
        assert_eq!(later.rotated_at, world.now);
    }

    #[test]
    fn a_level_is_raised_by_one_and_not_while_records_are_converted() {
        let mut world = World::empty();
        world.level = Level::RELEASE_0_1;
        world.open_epoch(NodeId(1));
        world.register("cpus:8");
        let (next, later) = (Level::RELEASE_0_2, Level(Level::RELEASE_0_2.0 + 1));
        let raise = |world: &World, level| {
            let mut registry = world.registry.clone();
            let entry = crate::command::LogEntry {
                at: world.now,
                commands: vec![crate::command::ProposedCommand {
                    ticket: crate::ids::Ticket {
                        epoch: registry.epoch(),
                        serial: 1 << 40,
                    },
                    actor: crate::actor::Actor::default(),
                    command: Command::RaiseLevel { level },
                }],
            };
            let applied = registry.apply(registry.applied() + 1, &entry);
            applied[0].outcome.is_ok()
        };
        assert!(!raise(&world, later), "two at once");
        assert!(raise(&world, next));
        world.level = next;
        let raised = world.apply(Command::RaiseLevel { level: next });
        assert_eq!(raised.outcome, Ok(CommandReply::Done));
        assert!(!raise(&world, later), "records are being converted");
        assert!(raise(&world, next), "a repeat");
        while world.registry.sweeps().next().is_some() {
            world
                .apply(Command::Sweep(SweepTarget::Layout))
                .outcome
                .unwrap();
        }
        assert!(raise(&world, later));
    }
}
