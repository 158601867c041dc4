//! The state of a simulated cluster that outlives its processes: disks, machines, and what
//! frameworks have stored.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use argosy_raft::MemoryStore;
use argosy_state::ids::{Epoch, OfferId};
use tokio::sync::watch;

use super::SystemOptions;
use super::administrator::AccessState;
use super::deliveries::{Deliveries, LeaderAtDial};
use super::machine::SimMachine;
use super::task_oracle::TaskOracle;
use crate::rng::Rng;
use crate::sim::host_keys::HostKeys;
use crate::sim::network::{CutLinks, WallClocks};
use crate::sim::process::StartQueue;
use crate::sim::run::{SimContext, Simulation};

/// Ports, as in the executable.
pub(super) const API: u16 = 5050;
pub(super) const RAFT: u16 = 5052;
pub(super) const AGENT_API: u16 = 5051;

/// The maximum number of masters of a group.
const MOST_MASTERS: usize = 5;

/// A short failover timeout in milliseconds, so that removals happen within a simulation.
pub(super) const SHORT_FAILOVER_MS: u64 = 4_000;

/// The host of a second scheduler.
pub(super) const RIVAL: &str = "rival";

/// A single fault in a healthy cluster, with checked consequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SingleFault {
    /// Another master becomes leader, and no agent becomes unreachable because of it.
    Transfer,
    /// All masters freeze, and no agent becomes unreachable because of it.
    Freeze,
    /// Agents and frameworks move to the new leader.
    CutLeader,
    /// A framework never returns, and the leader that has recorded its absence is killed.
    FrameworkLoss,
    /// All agents are cut off until they are unreachable, with launches in flight: none of those is
    /// delivered later.
    AgentPartition,
    /// The same while frameworks are idle: all running tasks return with their agents.
    IdlePartition,
    /// A replaced leader continues for seconds, and agents are restarted between it and the new
    /// one. None obeys an epoch before the one that it has stored.
    TwoLeaders,
    /// No master reaches another one: every former leader steps down.
    NoQuorum,
    /// The keys of all members are renewed, which ends no stream, and the former ones are revoked
    /// later: all members return with their new keys.
    KeyRenewal,
}

impl SingleFault {
    fn of(seed: u64) -> Self {
        const ALL: [SingleFault; 9] = [
            SingleFault::Transfer,
            SingleFault::Freeze,
            SingleFault::CutLeader,
            SingleFault::FrameworkLoss,
            SingleFault::AgentPartition,
            SingleFault::IdlePartition,
            SingleFault::TwoLeaders,
            SingleFault::NoQuorum,
            SingleFault::KeyRenewal,
        ];
        // Nine seeds have one of each. In the next nine each is combined with another number of
        // masters, because that has a period of four.
        ALL[(seed % 9) as usize]
    }

    /// Returns the lease of leaders in milliseconds, if it is not the default. A stopped clock
    /// makes the lease long, which may delay reactions but must break nothing else.
    pub(super) fn lease_ms(self) -> Option<u64> {
        match self {
            Self::Freeze | Self::TwoLeaders => Some(5_500),
            Self::Transfer
            | Self::CutLeader
            | Self::FrameworkLoss
            | Self::AgentPartition
            | Self::IdlePartition
            | Self::NoQuorum
            | Self::KeyRenewal => None,
        }
    }
}

/// The state that outlives processes. Cheap to clone; all clones share it.
#[derive(Clone)]
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) single_fault: SingleFault,
    pub(super) notes: SimContext,
    pub(super) oracle: TaskOracle,
    pub(super) deliveries: Deliveries,
    pub(super) cuts: CutLinks,
    pub(super) keys: HostKeys,
    pub(super) starts: StartQueue,
    pub(super) clocks: WallClocks,
    /// The stores of all masters that may exist. The first ones are the founders.
    pub(super) stores: Arc<Vec<MemoryStore>>,
    pub(super) founders: usize,
    /// The time at which an operator raises the feature level of a cluster that begins at a former
    /// one.
    pub(super) raise_at: Option<Duration>,
    /// Whether masters enforce access. A cluster that begins at the feature level of release 0.1.0
    /// cannot have rules.
    pub(super) enforces_access: bool,
    pub(super) machines: Arc<Vec<SimMachine>>,
    /// The time for which all masters are paused, before they continue as if no time had passed.
    pub(super) freezes: watch::Sender<Duration>,
    // One thread runs the simulation. The lock satisfies the types of asynchronous code.
    state: Arc<Mutex<WorldState>>,
}

#[derive(Default)]
pub(super) struct WorldState {
    /// The number of starts of each process, by its host.
    incarnations: BTreeMap<String, u64>,
    /// The stored state of each framework, by its index.
    pub(super) frameworks: BTreeMap<usize, StoredFramework>,
    /// Whether random faults are over. Single faults still follow.
    pub(super) healing: bool,
    /// Whether frameworks are idle: they request neither launches nor kills.
    pub(super) idle: bool,
    /// Whether no new work begins, and the existing work comes to its end.
    pub(super) draining: bool,
    /// The master with a new disk, until it is a member again and has all entries.
    pub(super) wiped: Option<WipedMaster>,
    /// The master that is being removed, until it is gone permanently.
    pub(super) leaving: Option<LeavingMaster>,
    /// Indexes of masters that are not members: not yet, or not any more.
    pub(super) absent: BTreeSet<usize>,
    /// The group's id of the master with an index, if it differs from that of a founder.
    pub(super) ids: BTreeMap<usize, u64>,
    /// The pending requests to the operator.
    pub(super) requests: VecDeque<OperatorRequest>,
    /// Whether the operator is carrying out a request. A dead connection may delay it for seconds
    /// after all is healed.
    pub(super) operator_busy: bool,
    /// The reason of the operator's last failure.
    pub(super) operator_error: String,
    /// The machine with a copied disk, while there is one.
    pub(super) copy: Option<SimMachine>,
    /// The framework that a second scheduler takes over, or has taken over.
    pub(super) rival: Option<usize>,
    /// Frameworks that had a rival. Their earlier scheduler must be superseded.
    pub(super) had_rival: BTreeSet<usize>,
    /// The number of times that all masters were frozen.
    pub(super) freeze_count: u64,
    /// Offers that the newest session of each framework holds, by the framework's index.
    pub(super) held: BTreeMap<usize, HeldOffers>,
    /// The open offers that the leader reported last.
    pub(super) open: Option<BTreeSet<OfferId>>,
    /// The newest epoch, and the index of its leader.
    pub(super) leader: Option<(Epoch, usize)>,
    /// The framework that never returns.
    pub(super) retired: Option<usize>,
    /// The rules and tokens.
    pub(super) access: AccessState,
    /// The number of streams to a leader that each agent and framework has begun, by its host.
    pub(super) streams: BTreeMap<String, u64>,
}

/// Offers that one session of a framework holds.
#[derive(Debug, Clone, Default)]
pub(super) struct HeldOffers {
    pub(super) session: u64,
    pub(super) offers: BTreeSet<OfferId>,
}

/// A master that lost its disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct WipedMaster {
    pub(super) index: usize,
    /// Whether the master has joined the group again.
    pub(super) joined: bool,
}

/// A master that is being removed.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeavingMaster {
    pub(super) index: usize,
    /// Whether the group has removed it.
    pub(super) removed: bool,
}

impl WorldState {
    /// Whether the group is changing. There is one change at a time.
    pub(super) fn is_changing(&self) -> bool {
        self.wiped.is_some() || self.leaving.is_some()
    }

    /// Returns the id of the master at this place.
    pub(super) fn id(&self, place: usize) -> u64 {
        self.ids.get(&place).copied().unwrap_or(place as u64 + 1)
    }
}

#[derive(Debug, Clone)]
pub(super) enum OperatorRequest {
    /// Transfer leadership to the master with this index, or to one that the leader chooses.
    Transfer(Option<usize>),
    /// Let the master with this index join. Repeated until it is done.
    Join(usize),
    /// Remove the master with this index. Repeated until it is done.
    Remove(usize),
    Teardown(String),
    Deactivate(String),
    Reactivate(String),
    MarkGone(String),
    /// Raise the feature level. Repeated until it is done.
    RaiseLevel,
    /// Ask the leader for the open offers.
    ListOffers,
}

/// The stored state of a framework.
#[derive(Debug, Clone, Default)]
pub(super) struct StoredFramework {
    /// Its id, once it has one.
    pub(super) framework: Option<String>,
    /// The tasks that it has launched or tried to launch, and whether the last known state is
    /// final.
    pub(super) tasks: BTreeMap<String, bool>,
    pub(super) task_count: u64,
}

pub(super) fn master_name(place: usize) -> String {
    format!("master-{}", place + 1)
}

/// Returns the name of the agent's host. The cluster assigns the agent's own id.
pub(super) fn agent_name(place: usize) -> String {
    format!("host-{}", place + 1)
}

pub(super) fn framework_name(place: usize) -> String {
    format!("framework-{}", place + 1)
}

impl World {
    pub(super) fn new(simulation: &Simulation<'_>, seed: u64, options: &SystemOptions) -> Self {
        let notes = simulation.notes.clone();
        let rng = Rng::new(seed);
        let oracle = TaskOracle::new(notes.clone());
        let store = |place: usize| MemoryStore::seeded(rng.fork(place as u64 + 100).next());
        let machine = |place: usize| {
            let rng = rng.fork(place as u64 + 200);
            SimMachine::new(&agent_name(place), oracle.clone(), rng)
        };
        let latest_ms = options.faults.as_millis() as u64;
        let raise_at = Duration::from_millis(rng.fork(300).between(1_000, latest_ms.max(2_000)));
        let places = options.masters.max(MOST_MASTERS);
        let kept = WorldState {
            absent: (options.masters..places).collect(),
            ..WorldState::default()
        };
        Self {
            seed,
            single_fault: SingleFault::of(seed),
            stores: Arc::new((0..places).map(store).collect()),
            founders: options.masters,
            raise_at: options.upgrade.then_some(raise_at),
            enforces_access: !options.upgrade,
            machines: Arc::new((0..options.agents).map(machine).collect()),
            freezes: watch::Sender::new(Duration::ZERO),
            notes,
            oracle,
            deliveries: Deliveries::default(),
            cuts: CutLinks::default(),
            keys: HostKeys::default(),
            starts: simulation.processes.starts.clone(),
            clocks: WallClocks::default(),
            state: Arc::new(Mutex::new(kept)),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, WorldState> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts a start of the process on this host, and returns its random choices.
    pub(super) fn new_incarnation(&self, host: &str) -> Rng {
        let mut kept = self.state();
        let count = kept.incarnations.entry(host.to_owned()).or_default();
        *count += 1;
        let text = host.bytes().fold(*count, |mixed, byte| {
            mixed.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        Rng::new(self.seed).fork(text)
    }

    /// Counts a stream to a leader that this host begins.
    pub(super) fn note_stream(&self, host: &str) {
        *self.state().streams.entry(host.to_owned()).or_default() += 1;
    }

    /// Ends the recovery of a master that lost its disk once it has the entries of the others.
    pub(super) fn forget_wiped(&self) {
        let Some(WipedMaster {
            index: place,
            joined: true,
        }) = self.state().wiped
        else {
            return;
        };
        let index = |store: &MemoryStore| store.applied().unwrap_or(0);
        let most = self.stores.iter().map(index).max().unwrap_or(0);
        if index(&self.stores[place]) + 3 > most {
            self.state().wiped = None;
        }
    }

    /// Returns the maximum cluster time: the elapsed time, and a second for each freeze of all
    /// masters.
    pub(super) fn cluster_time_ms(&self) -> u64 {
        self.notes.recorder.now_ns() / 1_000_000 + 1_000 * self.state().freeze_count
    }

    /// Returns the place of the master with this id.
    pub(super) fn place(&self, id: u64) -> Option<usize> {
        let kept = self.state();
        (0..self.stores.len()).find(|place| kept.id(*place) == id)
    }

    /// Returns what the newest leader has applied now, for an agent that dials.
    pub(super) fn dialed(&self) -> LeaderAtDial {
        let leader = self.state().leader;
        leader.map_or_else(LeaderAtDial::default, |(epoch, place)| LeaderAtDial {
            epoch,
            applied: self.stores[place].applied().unwrap_or(0),
        })
    }

    /// Returns the API addresses of all masters.
    pub(super) fn masters(&self) -> Vec<String> {
        let all = 0..self.stores.len();
        all.map(|place| format!("{}:{API}", master_name(place)))
            .collect()
    }
}
