//! Comparison of this master's registry with its leader's, by their digests.
//!
//! The leader logs the digest of its registry after an entry. Every master compares it with the
//! digest that its own registry had then. The comparison is pure: applied entries come in, a result
//! goes out. `apply` is not involved.

use std::collections::VecDeque;

use argosy_raft::{CommittedEntry, RecordWrite};
use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::apply::AppliedProposal;
use argosy_state::command::{Command, CompareDigest, LogEntry, ProposedCommand};
use argosy_state::encode::{self, DecodeError};
use argosy_state::event::Event;
use argosy_state::ids::{Epoch, Ticket, Timestamp};
use argosy_state::level::Level;

/// Entries between two digests. The leader logs a digest in each epoch, and another one when this
/// many entries have been applied since. An idle cluster applies none, so it logs none.
pub(crate) const INTERVAL: u64 = 1_000;
/// Number of digests that are kept, 32 bytes each. Between an index and the entry with its digest
/// lie the entries that were in flight when it was proposed: at most 256 of a full queue and 8 of
/// raft.
const CAPACITY: usize = 1_024;

/// The registry of this master differs from the leader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the registry of this master differs from that of the leader: after entry {index} its digest is {own:032x}, the leader's is {logged:032x}; this master must not serve it: run `argosy master rejoin` on this host"
)]
pub struct Divergence {
    /// The log index after which both digests were taken.
    pub index: u64,
    /// The leader's digest, from the log.
    pub logged: u128,
    /// The digest of this master.
    pub own: u128,
}

/// The result for one digest in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ComparisonResult {
    /// Both registries were equal after that entry.
    Equal,
    /// This master does not have its digest for that entry: it has installed a snapshot or has just
    /// started.
    Unknown,
}

/// The digests after the newest entries that were applied here.
#[derive(Debug)]
pub(crate) struct DigestComparison {
    /// The index of the oldest entry whose digest is kept; the digests follow without gaps.
    first: u64,
    digests: VecDeque<u128>,
    /// The index and the epoch in which this master, as leader, last logged its digest.
    logged_at: u64,
    logged_epoch: Epoch,
}

impl DigestComparison {
    /// Starts with a registry that was loaded.
    pub(crate) fn of(registry: &Registry) -> Self {
        Self {
            first: registry.applied(),
            digests: VecDeque::from([registry.digest()]),
            logged_at: registry.applied(),
            logged_epoch: Epoch::default(),
        }
    }

    /// Records the digest after an entry that has just been applied to `registry`, and compares any
    /// logged digest in the entry.
    ///
    /// # Errors
    /// [`Divergence`] if this registry differed.
    pub(crate) fn applied(
        &mut self,
        registry: &Registry,
        all: &[AppliedProposal],
    ) -> Result<Vec<ComparisonResult>, Divergence> {
        self.push(registry.applied(), registry.digest());
        let events = all.iter().flat_map(|applied| &applied.events);
        let mut compared = Vec::new();
        for event in events {
            if let Event::DigestLogged { index, digest } = event {
                compared.push(self.compare(*index, *digest)?);
            }
        }
        Ok(compared)
    }

    fn compare(&self, index: u64, logged: u128) -> Result<ComparisonResult, Divergence> {
        let place = index.checked_sub(self.first);
        let place = place.and_then(|place| usize::try_from(place).ok());
        match place.and_then(|place| self.digests.get(place)) {
            None => Ok(ComparisonResult::Unknown),
            Some(own) if *own == logged => Ok(ComparisonResult::Equal),
            Some(own) => Err(Divergence {
                index,
                logged,
                own: *own,
            }),
        }
    }

    fn push(&mut self, index: u64, digest: u128) {
        if index != self.first + self.digests.len() as u64 {
            self.first = index;
            self.digests.clear();
        }
        if self.digests.len() == CAPACITY {
            self.digests.pop_front();
            self.first += 1;
        }
        self.digests.push_back(digest);
    }

    /// Returns the command that a leader proposes at a tick, if its digest is due. Every master
    /// then compares its registry with the leader's current one.
    pub(crate) fn due(&mut self, registry: &Registry) -> Option<ProposedCommand> {
        let (index, epoch) = (registry.applied(), registry.epoch());
        let has_digests = registry.level() >= Level::RELEASE_0_2;
        let is_due =
            has_digests && (epoch != self.logged_epoch || index >= self.logged_at + INTERVAL);
        is_due.then(|| {
            (self.logged_at, self.logged_epoch) = (index, epoch);
            let digest = registry.digest();
            // No caller waits for the outcome.
            let ticket = Ticket { epoch, serial: 0 };
            let command = Command::CompareDigest(CompareDigest { index, digest });
            ProposedCommand {
                ticket,
                actor: Actor::Cluster,
                command,
            }
        })
    }
}

/// Larger commands are proposed without being decoded again, which would take a good part of a
/// turn.
const READ_BACK_BYTES: usize = 64 << 10;

/// Checks that a command can be decoded when it is committed. A command that cannot would make
/// every master exit, again at each start.
///
/// # Errors
/// As [`encode::read_command`].
pub(crate) fn check_readable(command: &[u8]) -> Result<(), DecodeError> {
    if command.len() > READ_BACK_BYTES {
        return Ok(());
    }
    encode::read_command(command).map(drop)
}

/// Applies a committed entry and collects the records that it changed.
///
/// # Errors
/// If a command cannot be decoded: it is of a newer release, and continuing would diverge.
pub(crate) fn apply_quietly(
    registry: &mut Registry,
    committed: &CommittedEntry,
    writes: &mut Vec<RecordWrite>,
) -> Result<Vec<AppliedProposal>, String> {
    Ok(UnappliedEntry::read(committed)?.apply(registry, writes))
}

/// An entry that was decoded and is not applied yet.
pub(crate) struct UnappliedEntry {
    index: u64,
    entry: LogEntry,
}

impl UnappliedEntry {
    /// # Errors
    /// As [`apply_quietly`].
    pub(crate) fn read(committed: &CommittedEntry) -> Result<Self, String> {
        let index = committed.index;
        let commands = committed
            .commands
            .iter()
            .map(|bytes| encode::read_command(bytes))
            .collect::<Result<Vec<ProposedCommand>, _>>();
        let commands = commands.map_err(|why| format!("entry {index} cannot be read: {why}"))?;
        let at = Timestamp(committed.at_ms);
        let entry = LogEntry { at, commands };
        Ok(Self { index, entry })
    }

    pub(crate) fn commands(&self) -> impl Iterator<Item = &Command> {
        self.entry.commands.iter().map(|proposed| &proposed.command)
    }

    /// Applies the entry and adds the records that it changes to `writes`.
    pub(crate) fn apply(
        &self,
        registry: &mut Registry,
        writes: &mut Vec<RecordWrite>,
    ) -> Vec<AppliedProposal> {
        let applied = registry.apply(self.index, &self.entry);
        let changes = registry.take_changes();
        writes.extend(changes.into_iter().map(|write| RecordWrite {
            key: write.key.into(),
            value: write.value.map(Into::into),
        }));
        applied
    }
}

#[cfg(test)]
mod tests {
    use argosy_state::apply::AppliedProposal;
    use argosy_state::testing::World;

    use super::*;

    /// Applies a proposal as one entry.
    fn commit(world: &mut World, proposed: ProposedCommand) -> Vec<AppliedProposal> {
        let entry = LogEntry {
            at: world.now,
            commands: vec![proposed],
        };
        world.apply_entry(&entry).0
    }

    #[test]
    fn a_digest_is_compared_with_the_local_one_at_the_same_entry() {
        let mut world = World::new();
        let mut comparison = DigestComparison::of(&world.registry);
        let logged = comparison.due(&world.registry).unwrap();
        // Other entries come between the proposal and its commit.
        for _ in 0..3 {
            world.register("cpus:1");
            let compared = comparison.applied(&world.registry, &[]).unwrap();
            assert_eq!(compared, []);
        }
        let all = commit(&mut world, logged);
        let compared = comparison.applied(&world.registry, &all).unwrap();
        assert_eq!(compared, [ComparisonResult::Equal]);
    }

    #[test]
    fn different_digest_is_a_divergence_with_entry_digests_and_remedy() {
        let mut world = World::new();
        let mut comparison = DigestComparison::of(&world.registry);
        let mut logged = comparison.due(&world.registry).unwrap();
        let (index, own) = (world.registry.applied(), world.registry.digest());
        let wrong = own ^ 1;
        logged.command = Command::CompareDigest(CompareDigest {
            index,
            digest: wrong,
        });
        let all = commit(&mut world, logged);
        let divergence = comparison.applied(&world.registry, &all).unwrap_err();
        let text = divergence.to_string();
        for part in [
            format!("after entry {index} "),
            format!("its digest is {own:032x}"),
            format!("the leader's is {wrong:032x}"),
            "run `argosy master rejoin`".to_owned(),
        ] {
            assert!(text.contains(&part), "{part}: {text}");
        }
    }

    #[test]
    fn digest_of_entries_not_applied_individually_is_not_compared() {
        let mut world = World::new();
        let mut leader = DigestComparison::of(&world.registry);
        let logged = leader.due(&world.registry).unwrap();
        world.register("cpus:1");
        // The master starts here, or has installed a snapshot of this index.
        let mut comparison = DigestComparison::of(&world.registry);
        let all = commit(&mut world, logged);
        let compared = comparison.applied(&world.registry, &all).unwrap();
        assert_eq!(compared, [ComparisonResult::Unknown]);
        // The digest that was loaded counts: it detects a record that changed on the disk.
        let mut loaded = DigestComparison::of(&world.registry);
        let mut leader = DigestComparison::of(&world.registry);
        let logged = leader.due(&world.registry).unwrap();
        let all = commit(&mut world, logged);
        let compared = loaded.applied(&world.registry, &all).unwrap();
        assert_eq!(compared, [ComparisonResult::Equal]);
    }

    #[test]
    fn kept_digests_are_bounded_and_the_oldest_is_dropped() {
        let mut world = World::new();
        let mut comparison = DigestComparison::of(&world.registry);
        let first = comparison.due(&world.registry).unwrap();
        for _ in 0..CAPACITY {
            world.pass(1);
            world.apply(Command::Tick);
            comparison.applied(&world.registry, &[]).unwrap();
        }
        assert_eq!(comparison.digests.len(), CAPACITY);
        let all = commit(&mut world, first);
        let compared = comparison.applied(&world.registry, &all).unwrap();
        assert_eq!(compared, [ComparisonResult::Unknown]);
    }

    #[test]
    fn a_leader_logs_its_digest_once_per_epoch_and_every_thousand_entries() {
        let mut world = World::new();
        let mut comparison = DigestComparison::of(&world.registry);
        let logged = comparison.due(&world.registry).expect("the epoch is new");
        let begun = world.registry.applied();
        commit(&mut world, logged);
        while world.registry.applied() < begun + INTERVAL {
            // Its own entry does not make another digest due.
            assert_eq!(comparison.due(&world.registry), None);
            world.apply(Command::Tick);
        }
        assert!(comparison.due(&world.registry).is_some());
        assert_eq!(comparison.due(&world.registry), None);
        world.open_epoch(argosy_state::ids::NodeId(2));
        assert!(comparison.due(&world.registry).is_some());
    }

    #[test]
    fn undecodable_command_is_detected_before_it_is_proposed() {
        let world = World::new();
        let ticket = Ticket::default();
        let mut proposed = DigestComparison::of(&world.registry)
            .due(&world.registry)
            .unwrap();
        assert_eq!(
            check_readable(&encode::command(&proposed, Level::NEWEST)),
            Ok(())
        );
        let task = argosy_state::ids::TaskId::new_unchecked("a/b");
        let kill = argosy_state::command::OperatorOperation::KillTask {
            key: argosy_state::ids::TaskKey {
                framework: argosy_state::ids::FrameworkId(1),
                task,
            },
            grace_ms: None,
        };
        proposed = ProposedCommand {
            ticket,
            actor: Actor::default(),
            command: Command::Operate(argosy_state::command::Operate {
                request: None,
                hash: 0,
                operations: vec![kill],
                wall_ms: 0,
            }),
        };
        let why = check_readable(&encode::command(&proposed, Level::NEWEST)).unwrap_err();
        assert_eq!(why.to_string(), "the command has no valid task id");
    }
}
