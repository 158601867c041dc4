//! What of a simulated cluster outlives its processes: disks, machines, and what frameworks have stored.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use argosy_raft::MemoryStore;
use argosy_state::ids::{Epoch, OfferId};
use tokio::sync::watch;

use super::Options;
use super::deliveries::{Deliveries, Dialed};
use super::machine::Machine;
use super::task_oracle::Ledger;
use crate::rng::Chance;
use crate::sim::network::{Cuts, WallClocks};
use crate::sim::process::Starts;
use crate::sim::run::{Notes, Stage};

/// Ports, as the executable has them.
pub(super) const API: u16 = 5050;
pub(super) const RAFT: u16 = 5052;
pub(super) const AGENT_API: u16 = 5051;

/// A group can grow to so many masters.
const MOST_MASTERS: usize = 5;

/// How long a framework may be away before it is removed, so that this comes about within a simulation, in milliseconds.
pub(super) const SHORT_PATIENCE_MS: u64 = 4_000;

/// The host that a copied disk is put into.
pub(super) const COPY: &str = "copy";
/// The host of a second scheduler.
pub(super) const RIVAL: &str = "rival";

/// A fault that comes alone, when all is well, and what must follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Another master leads, and nobody is given up for it.
    Transfer,
    /// Nobody is given up for it.
    Freeze,
    /// Agents and frameworks go to the new leader.
    CutLeader,
    /// A framework never comes back, and the leader that has seen it go dies.
    Retire,
    /// All agents are away until they are given up, launches on their way to them: none of those is delivered any more.
    Away,
    /// The same while frameworks hold still: whatever ran is back with its agent.
    Still,
    /// A leader that was replaced goes on for seconds, and agents are restarted between it and the new one: none
    /// obeys a reign before the one that it knows.
    TwoLeaders,
    /// No master reaches another one: whoever led acts as a leader no more.
    NoQuorum,
}

impl Act {
    fn of(seed: u64) -> Self {
        const ALL: [Act; 8] = [
            Act::Transfer,
            Act::Freeze,
            Act::CutLeader,
            Act::Retire,
            Act::Away,
            Act::Still,
            Act::TwoLeaders,
            Act::NoQuorum,
        ];
        // Eight seeds have one of each, and in the next eight each comes with another number of masters.
        ALL[((seed + seed / 8) % 8) as usize]
    }

    /// How long masters act as leaders without having heard of a quorum, if not as shipped. Clocks that stand still
    /// make it long, and nothing but promptness may suffer.
    pub(super) fn office_lease_ms(self) -> Option<u64> {
        match self {
            Self::Freeze | Self::TwoLeaders => Some(5_500),
            Self::Transfer
            | Self::CutLeader
            | Self::Retire
            | Self::Away
            | Self::Still
            | Self::NoQuorum => None,
        }
    }
}

/// Everything that lasts. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) act: Act,
    pub(super) notes: Notes,
    pub(super) ledger: Ledger,
    pub(super) deliveries: Deliveries,
    pub(super) cuts: Cuts,
    pub(super) starts: Starts,
    pub(super) walls: WallClocks,
    /// Of all masters that there can be; the first are the founders.
    pub(super) stores: Arc<Vec<MemoryStore>>,
    pub(super) founders: usize,
    /// When an operator raises the feature level of a cluster that begins at a former one.
    pub(super) raise_at: Option<Duration>,
    pub(super) machines: Arc<Vec<Machine>>,
    /// How long all masters do not run, and then go on as if nothing had been.
    pub(super) freezes: watch::Sender<Duration>,
    // One thread runs the simulation; the lock is for the types of asynchronous code.
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
pub(super) struct Kept {
    /// How often each process was started, by its host.
    lives: BTreeMap<String, u64>,
    /// What each framework has stored, by its place.
    pub(super) frameworks: BTreeMap<usize, Stored>,
    /// No more faults come, but for those that are followed.
    pub(super) healing: bool,
    /// Frameworks ask for nothing at present, neither launches nor kills.
    pub(super) still: bool,
    /// No new work: what is there comes to its end.
    pub(super) quiet: bool,
    /// The master whose disk is new, until it is a member again and has everything.
    pub(super) wiped: Option<Wiped>,
    /// The master that is being removed, until it is gone for good.
    pub(super) leaving: Option<Leaving>,
    /// Places of masters that are no members: not yet, or not any more.
    pub(super) absent: BTreeSet<usize>,
    /// By which id the group knows the master at a place, if not as one of its founders.
    pub(super) ids: BTreeMap<usize, u64>,
    /// What the hand is to do.
    pub(super) orders: VecDeque<Order>,
    /// It is at one of them: a dead connection may hold it up for seconds after all is healed.
    pub(super) hand_works: bool,
    /// Why the last thing that it could not do was not done.
    pub(super) hand_was_told: String,
    /// The machine with a copied disk, while there is one.
    pub(super) copy: Option<Machine>,
    /// The framework that a second scheduler is to take over, and has taken over since.
    pub(super) rival: Option<usize>,
    /// Frameworks that had a rival: an earlier scheduler of theirs is superseded, as it must be.
    pub(super) rivalled: BTreeSet<usize>,
    /// How often all masters were frozen.
    pub(super) frozen: u64,
    /// Offers in the hands of the newest session of each framework, by its place.
    pub(super) held: BTreeMap<usize, Held>,
    /// Offers that the leader has, as it said last.
    pub(super) open: Option<BTreeSet<OfferId>>,
    /// The newest epoch, and the place of its leader.
    pub(super) leader: Option<(Epoch, usize)>,
    /// The framework that never comes back.
    pub(super) retired: Option<usize>,
}

/// Offers that one session of a framework holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    pub(super) session: u64,
    pub(super) offers: BTreeSet<OfferId>,
}

/// A master that lost its disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wiped {
    pub(super) place: usize,
    /// The group has taken it in again.
    pub(super) joined: bool,
}

/// A master that is no longer wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    pub(super) place: usize,
    /// The group has let it go.
    pub(super) removed: bool,
}

impl Kept {
    /// Whether the group is changing: one change at a time.
    pub(super) fn is_changing(&self) -> bool {
        self.wiped.is_some() || self.leaving.is_some()
    }

    /// The id of the master at this place.
    pub(super) fn id(&self, place: usize) -> u64 {
        self.ids.get(&place).copied().unwrap_or(place as u64 + 1)
    }
}

/// What an operator is asked to do to the cluster.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// To the master at this place, or to whomever the leader chooses.
    Transfer(Option<usize>),
    /// Takes the master at this place in, until it is done.
    Join(usize),
    /// Takes the master at this place out, until it is done.
    Remove(usize),
    Teardown(String),
    Deactivate(String),
    Reactivate(String),
    MarkGone(String),
    /// Raises the feature level, until it is done.
    RaiseLevel,
    /// Asks the leader which offers are open.
    ListOffers,
}

/// What a framework has on a disk of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    /// Its id, once it has one.
    pub(super) framework: Option<String>,
    /// Tasks that it has launched, or tried to, and the last state that it knows to be final.
    pub(super) tasks: BTreeMap<String, bool>,
    /// Counts its tasks.
    pub(super) made: u64,
}

pub(super) fn master_name(place: usize) -> String {
    format!("master-{}", place + 1)
}

/// Of its host: the agent's own name is the cluster's to give.
pub(super) fn agent_name(place: usize) -> String {
    format!("host-{}", place + 1)
}

pub(super) fn framework_name(place: usize) -> String {
    format!("framework-{}", place + 1)
}

impl World {
    pub(super) fn new(stage: &Stage<'_>, seed: u64, options: &Options) -> Self {
        let notes = stage.notes.clone();
        let chance = Chance::new(seed);
        let ledger = Ledger::new(notes.clone());
        let store = |place: usize| MemoryStore::seeded(chance.fork(place as u64 + 100).next());
        let machine = |place: usize| {
            let chance = chance.fork(place as u64 + 200);
            Machine::new(&agent_name(place), ledger.clone(), chance)
        };
        let latest_ms = options.faults.as_millis() as u64;
        let raise_at = Duration::from_millis(chance.fork(300).between(1_000, latest_ms.max(2_000)));
        let places = options.masters.max(MOST_MASTERS);
        let kept = Kept {
            absent: (options.masters..places).collect(),
            ..Kept::default()
        };
        Self {
            seed,
            act: Act::of(seed),
            stores: Arc::new((0..places).map(store).collect()),
            founders: options.masters,
            raise_at: options.upgrade.then_some(raise_at),
            machines: Arc::new((0..options.agents).map(machine).collect()),
            freezes: watch::Sender::new(Duration::ZERO),
            notes,
            ledger,
            deliveries: Deliveries::default(),
            cuts: Cuts::default(),
            starts: stage.processes.starts.clone(),
            walls: WallClocks::default(),
            kept: Arc::new(Mutex::new(kept)),
        }
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts a start of the process on this host, and gives it choices of its own.
    pub(super) fn new_life(&self, host: &str) -> Chance {
        let mut kept = self.kept();
        let lives = kept.lives.entry(host.to_owned()).or_default();
        *lives += 1;
        let text = host.bytes().fold(*lives, |mixed, byte| {
            mixed.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        Chance::new(self.seed).fork(text)
    }

    /// A master that lost its disk is whole again once it has what the others have.
    pub(super) fn forget_wiped(&self) {
        let Some(Wiped {
            place,
            joined: true,
        }) = self.kept().wiped
        else {
            return;
        };
        let index = |store: &MemoryStore| store.applied().unwrap_or(0);
        let most = self.stores.iter().map(index).max().unwrap_or(0);
        if index(&self.stores[place]) + 3 > most {
            self.kept().wiped = None;
        }
    }

    /// The most that cluster time can be: what has passed, and a second for each time that masters were frozen.
    pub(super) fn cluster_time_ms(&self) -> u64 {
        self.notes.recorder.now_ns() / 1_000_000 + 1_000 * self.kept().frozen
    }

    /// Where the master with this id is.
    pub(super) fn place(&self, id: u64) -> Option<usize> {
        let kept = self.kept();
        (0..self.stores.len()).find(|place| kept.id(*place) == id)
    }

    /// What the newest leader has applied now, for an agent that dials.
    pub(super) fn dialed(&self) -> Dialed {
        let leader = self.kept().leader;
        leader.map_or_else(Dialed::default, |(epoch, place)| Dialed {
            epoch,
            applied: self.stores[place].applied().unwrap_or(0),
        })
    }

    /// The API addresses of all masters.
    pub(super) fn masters(&self) -> Vec<String> {
        let all = 0..self.stores.len();
        all.map(|place| format!("{}:{API}", master_name(place)))
            .collect()
    }
}
