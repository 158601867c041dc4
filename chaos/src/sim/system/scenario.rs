//! One simulation from its first step to its last: faults, healing, one fault that is examined
//! closely, rest.

use std::time::Duration;

use argosy_state::buggify;

use super::SystemOptions;
use super::audit::{ClusterAudit, TaskSnapshot};
use super::hosts::FRAMEWORK_GRACE_MS;
use super::nemesis::Nemesis;
use super::votes::Votes;
use super::world::{OperatorRequest, SHORT_PATIENCE_MS, SingleFault, World};
use crate::history::{Expectation, RunPhase, TaskFact};
use crate::invariants::rule_named;
use crate::sim::run::{STEP, Simulation};

mod acts;
mod partition_tour;

/// Interval of checks of the stored registries.
const LOOK: Duration = Duration::from_millis(100);
/// Interval at which the processes on all machines are recorded.
const SIGHT: Duration = Duration::from_secs(1);
/// Deadline of the first commit after all repairs: less than twice the product's limit, which is 3
/// s after a quorum is back.
const COMMIT: Duration = Duration::from_secs(5);
/// Deadline of the first offer to every framework after all repairs.
const OFFER: Duration = Duration::from_secs(15);
/// Deadline of the end of a killed task after all repairs.
const ENDS: Duration = Duration::from_secs(15);
/// Deadline of the next active leader after the leader of a healthy group was killed: twice the
/// product's maximum. In simulations followers detect a crash by their timeout.
const KILLED: Duration = Duration::from_millis(2 * 600);
/// The same after its links to the other masters were cut: twice the limit of the 99th percentile.
const SILENT: Duration = Duration::from_millis(2 * 1_500);
/// Deadline of the next leader after a leadership transfer.
const HANDED_OVER: Duration = Duration::from_secs(4);
/// How long the operator tries a master of its list that is not a member, removed or spare: the
/// timeout of a client's connection.
const LOOKED_FOR: Duration = Duration::from_secs(2);
/// Deadline for agents to leave a leader that was cut from the other masters.
const LEAVES: Duration = Duration::from_secs(8);

/// Maximum time for which frameworks stay idle.
const RESTS: Duration = Duration::from_secs(10);
/// How long a healthy cluster must stay unchanged to count as at rest.
const RESTED: Duration = Duration::from_millis(700);
/// How long frameworks may take to work again.
const RESUMES: Duration = Duration::from_secs(2);
/// Maximum delay of a message that was sent when the cluster had come to rest.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// A running simulation.
pub(super) struct Scenario {
    world: World,
    options: SystemOptions,
    audit: ClusterAudit,
    votes: Votes,
    nemesis: Nemesis,
    next_look: Duration,
    next_sight: Duration,
}

impl Scenario {
    pub(super) fn new(world: World, options: &SystemOptions) -> Self {
        Self {
            audit: ClusterAudit::new(world.clone()),
            votes: Votes::new(world.clone()),
            nemesis: Nemesis::new(world.clone(), options.frameworks),
            options: options.clone(),
            world,
            next_look: LOOK,
            next_sight: SIGHT,
        }
    }

    pub(super) fn run(mut self, simulation: &mut Simulation<'_>) {
        // Any early end has been recorded.
        let _ = self.perform(simulation);
    }

    /// Runs all steps. Returns `None` after the first violation.
    fn perform(&mut self, simulation: &mut Simulation<'_>) -> Option<()> {
        self.expect(Expectation::Phase {
            phase: RunPhase::Faults,
        });
        simulation.enable_buggify(self.world.seed);
        while simulation.now() < self.options.faults {
            self.nemesis.act(simulation);
            self.nemesis.use_copy(simulation, self.audit.registry());
            self.advance(simulation)?;
        }
        buggify::end();
        self.nemesis.heal(simulation);
        self.check_recovered();
        self.until(
            simulation,
            "is not as it should be",
            ClusterAudit::unhealthy,
        )?;
        self.rest(simulation)?;
        self.pass(simulation, RESUMES)?;
        self.follow(simulation, self.world.act)?;
        self.rest(simulation)?;
        self.killed_end();
        self.world.state().quiet = true;
        self.until(simulation, "has not come to rest", ClusterAudit::unsettled)?;
        // The last messages may still be in flight and cause changes.
        self.pass(simulation, ON_ITS_WAY)?;
        self.until(simulation, "does not stay at rest", ClusterAudit::unsettled)?;
        simulation.notes.count("came to rest");
        self.note_end();
        Some(())
    }

    /// Records the final state. From here on all promises must hold.
    fn note_end(&self) {
        self.expect(Expectation::Phase {
            phase: RunPhase::Final,
        });
        for task in self.world.deliveries.never_received() {
            let delivered = false;
            let fact = TaskFact::KillCommitted { task, delivered };
            self.world.notes.recorder.observe("harness", fact);
        }
        self.audit.note_end();
    }

    fn expect(&self, expected: Expectation) {
        self.world.notes.recorder.observe("harness", expected);
    }

    /// Records the expectations after the end of the last fault.
    fn check_recovered(&self) {
        self.world.state().healing = true;
        self.expect(Expectation::Phase {
            phase: RunPhase::Healing,
        });
        let within_ns = COMMIT.as_nanos() as u64;
        self.expect(Expectation::Commit { within_ns });
        let within_ns = OFFER.as_nanos() as u64;
        for framework in self.audit.present_frameworks() {
            self.expect(Expectation::Offer {
                framework,
                within_ns,
            });
        }
        self.killed_end();
    }

    /// Records the expectation that killed tasks end soon in a healthy cluster.
    fn killed_end(&self) {
        let within_ns = ENDS.as_nanos() as u64;
        for task in self.audit.killed() {
            self.expect(Expectation::Ends { task, within_ns });
        }
    }

    /// Records the expectation that a framework that never returns is removed after its timeout,
    /// and that its tasks end, under any leader.
    fn retired_end(&self) {
        let patience = Duration::from_millis(SHORT_PATIENCE_MS + FRAMEWORK_GRACE_MS);
        let within_ns = (patience + ENDS).as_nanos() as u64;
        for task in self.audit.tasks_of_retired() {
            self.expect(Expectation::Ends { task, within_ns });
        }
    }

    fn advance(&mut self, simulation: &mut Simulation<'_>) -> Option<()> {
        let goes_on = simulation.step();
        let now_ms = simulation.now().as_millis() as u64;
        for machine in self.world.machines.iter() {
            machine.settle(now_ms);
        }
        self.votes.check();
        self.audit.follow();
        self.world.forget_wiped();
        self.nemesis.follow_changes(simulation);
        if simulation.now() >= self.next_look {
            self.next_look = simulation.now() + LOOK;
            self.nemesis.leader = self.audit.check().or(self.nemesis.leader);
        }
        if simulation.now() >= self.next_sight {
            self.next_sight = simulation.now() + SIGHT;
            for machine in self.world.machines.iter() {
                machine.note_alive();
            }
        }
        (goes_on && simulation.goes_on()).then_some(())
    }

    fn pass(&mut self, simulation: &mut Simulation<'_>, time: Duration) -> Option<()> {
        let until = simulation.now() + time;
        while simulation.now() < until {
            self.advance(simulation)?;
        }
        Some(())
    }

    /// Continues until `open` returns nothing, or until the timeout.
    fn until(
        &mut self,
        simulation: &mut Simulation<'_>,
        what: &str,
        open: impl Fn(&ClusterAudit) -> Vec<String>,
    ) -> Option<()> {
        let until = simulation.now() + self.options.healing;
        let mut left = Vec::new();
        while simulation.now() < until {
            let is_look = simulation.now() + STEP >= self.next_look;
            self.advance(simulation)?;
            if is_look {
                let mut kept = self.world.state();
                if kept.orders.is_empty() {
                    // An order without a clear response may be carried out after a later one, so
                    // this repeats the last one.
                    let idle = self
                        .audit
                        .deactivated()
                        .into_iter()
                        .map(OperatorRequest::Reactivate);
                    kept.orders.extend(idle);
                    if kept.quiet {
                        kept.orders.push_back(OperatorRequest::ListOffers);
                    }
                }
                drop(kept);
                left = open(&self.audit);
                if left.is_empty() {
                    return Some(());
                }
            }
        }
        simulation.notes.violation(format!(
            "{:?} after the last fault the cluster {what}: {left:#?}",
            self.options.healing
        ));
        for words in left {
            if rule_named(&words).is_some() {
                simulation.notes.violation(words);
            }
        }
        // The rules check the remaining state after this time as they check a cluster at rest.
        self.note_end();
        None
    }

    /// Keeps frameworks idle until nothing has changed for a while, and checks that state. Services
    /// continue to run.
    fn rest(&mut self, simulation: &mut Simulation<'_>) -> Option<()> {
        self.world.state().still = true;
        let until = simulation.now() + RESTS;
        let began_ms = simulation.now().as_millis() as u64;
        let mut work: Option<TaskSnapshot> = None;
        let mut since = simulation.now();
        while simulation.now() < until && (work.is_none() || simulation.now() < since + RESTED) {
            self.pass(simulation, LOOK)?;
            let now = self.audit.work(began_ms);
            if now != work {
                since = simulation.now();
                work = now;
            }
        }
        if work.is_some() && simulation.now() >= since + RESTED {
            let now_ms = simulation.now().as_millis() as u64;
            self.audit.check_rest(now_ms);
            simulation.notes.count("rests judged");
        }
        self.world.state().still = false;
        simulation.goes_on().then_some(())
    }

    /// Records the expectation of a new leader: the leader was just lost, and no other fault is
    /// active.
    fn replaced_within(&self, time: Duration) {
        // Two masters have no majority without their leader.
        if self.nemesis.members().len() > 2 {
            let within_ns = time.as_nanos() as u64;
            self.expect(Expectation::NextLeader { within_ns });
        }
    }

    fn check_no_agent_lost(&self, simulation: &Simulation<'_>, what: &str) {
        let lost = self.audit.unreachable();
        if !lost.is_empty() {
            let words = format!("TaskSurvival: {what}, and {lost:?} were given up for it");
            simulation.notes.violation(words);
        }
    }

    /// Performs one act in a healthy cluster, and checks its consequences.
    fn follow(&mut self, simulation: &mut Simulation<'_>, act: SingleFault) -> Option<()> {
        match act {
            SingleFault::Transfer => {
                let before = self.audit.registry().epoch();
                let left = self.world.state().absent.len() as u32;
                let patience = HANDED_OVER + LOOKED_FOR * left;
                self.nemesis.transfer();
                self.pass(simulation, patience)?;
                if self.audit.registry().epoch() == before {
                    let told = self.world.state().hand_was_told.clone();
                    simulation.notes.violation(format!(
                        "{patience:?} after a transfer was asked for in a healthy group nobody else leads; the hand was told: {told}"
                    ));
                }
                self.check_no_agent_lost(simulation, "leadership was handed over");
            }
            SingleFault::Freeze => self.frozen(simulation)?,
            SingleFault::CutLeader => {
                let former = self.nemesis.cut_leader(simulation);
                self.replaced_within(SILENT);
                self.pass(simulation, LEAVES)?;
                let stayed = self.audit.agents_of_former_reigns();
                if !stayed.is_empty() {
                    simulation.notes.violation(format!(
                        "Liveness: {LEAVES:?} after master-{} was cut from the others, {stayed:?} have not heard of the new leader",
                        former + 1
                    ));
                }
                self.nemesis.heal(simulation);
            }
            SingleFault::FrameworkLoss => {
                self.nemesis.retire(simulation, self.options.frameworks - 1);
                self.pass(simulation, Duration::from_millis(2_600))?;
                self.nemesis.kill_leader(simulation);
                self.replaced_within(KILLED);
                self.pass(simulation, Duration::from_millis(700))?;
                self.nemesis.heal(simulation);
                self.retired_end();
            }
            SingleFault::AgentPartition => self.partition_agents(simulation, false)?,
            SingleFault::IdlePartition => self.partition_agents(simulation, true)?,
            SingleFault::TwoLeaders => self.two_leaders(simulation)?,
            SingleFault::NoQuorum => self.no_quorum(simulation)?,
        }
        Some(())
    }
}
