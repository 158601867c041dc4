//! One simulation from its first step to its last: faults, healing, one fault that is examined
//! closely, rest.

use std::time::Duration;

use argosy_state::buggify;

use super::SystemOptions;
use super::audit::{ClusterAudit, TaskSnapshot};
use super::hosts::FRAMEWORK_GRACE_MS;
use super::nemesis::Nemesis;
use super::votes::Votes;
use super::world::{OperatorRequest, SHORT_FAILOVER_MS, SingleFault, World};
use crate::history::{Expectation, RunPhase, TaskFact};
use crate::invariants::rule_named;
use crate::sim::process::STEP;
use crate::sim::run::Simulation;

mod acts;
mod partition_tour;

/// Interval of checks of the stored registries.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which the processes on all machines are recorded.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(1);
/// Deadline of the first commit after all repairs: less than twice the product's limit, which is 3
/// s after a quorum is back.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);
/// Deadline of the first offer to every framework after all repairs.
const OFFER_TIMEOUT: Duration = Duration::from_secs(15);
/// Deadline of the end of a killed task after all repairs.
const END_TIMEOUT: Duration = Duration::from_secs(15);
/// Deadline of the next active leader after the leader of a healthy group was killed: twice the
/// product's maximum. In simulations followers detect a crash by their timeout.
const FAILOVER_AFTER_KILL: Duration = Duration::from_millis(2 * 600);
/// The same after its links to the other masters were cut: twice the limit of the 99th percentile.
const FAILOVER_AFTER_CUT: Duration = Duration::from_millis(2 * 1_500);
/// Deadline of the next leader after a leadership transfer.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(4);
/// The time for which the operator tries a master of its list that is not a member: the timeout of
/// a client's connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Deadline for agents to leave a leader that was cut from the other masters.
const AGENT_MOVE_TIMEOUT: Duration = Duration::from_secs(8);

/// Maximum time for which frameworks stay idle.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// The time for which a healthy cluster must stay unchanged to count as at rest.
const STABLE_TIME: Duration = Duration::from_millis(700);
/// The maximum time until frameworks work again.
const RESUME_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum delay of a message that was sent when the cluster had come to rest.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// A running simulation.
pub(super) struct Scenario {
    world: World,
    options: SystemOptions,
    audit: ClusterAudit,
    votes: Votes,
    nemesis: Nemesis,
    next_check: Duration,
    next_observation: Duration,
}

impl Scenario {
    pub(super) fn new(world: World, options: &SystemOptions) -> Self {
        Self {
            audit: ClusterAudit::new(world.clone()),
            votes: Votes::new(world.clone()),
            nemesis: Nemesis::new(world.clone(), options.frameworks),
            options: options.clone(),
            world,
            next_check: CHECK_INTERVAL,
            next_observation: OBSERVE_INTERVAL,
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
        self.run_until(
            simulation,
            "is not as it should be",
            ClusterAudit::unhealthy,
        )?;
        self.check_at_rest(simulation)?;
        self.run_for(simulation, RESUME_TIMEOUT)?;
        self.follow(simulation, self.world.single_fault)?;
        self.check_at_rest(simulation)?;
        self.killed_end();
        self.world.state().draining = true;
        self.run_until(simulation, "has not come to rest", ClusterAudit::unsettled)?;
        // The last messages may still be in flight and cause changes.
        self.run_for(simulation, MAX_DELAY)?;
        self.run_until(simulation, "does not stay at rest", ClusterAudit::unsettled)?;
        simulation.notes.count("came to rest");
        self.note_end();
        Some(())
    }

    /// Records the final state. From here on all guarantees must hold.
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
        let within_ns = COMMIT_TIMEOUT.as_nanos() as u64;
        self.expect(Expectation::Commit { within_ns });
        let within_ns = OFFER_TIMEOUT.as_nanos() as u64;
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
        let within_ns = END_TIMEOUT.as_nanos() as u64;
        for task in self.audit.killed() {
            self.expect(Expectation::Ends { task, within_ns });
        }
    }

    /// Records the expectation that a framework that never returns is removed after its timeout,
    /// and that its tasks end, under any leader.
    fn retired_end(&self) {
        let timeout = Duration::from_millis(SHORT_FAILOVER_MS + FRAMEWORK_GRACE_MS);
        let within_ns = (timeout + END_TIMEOUT).as_nanos() as u64;
        for task in self.audit.tasks_of_retired() {
            self.expect(Expectation::Ends { task, within_ns });
        }
    }

    fn advance(&mut self, simulation: &mut Simulation<'_>) -> Option<()> {
        let goes_on = simulation.step();
        let now_ms = simulation.now().as_millis() as u64;
        for machine in self.world.machines.iter() {
            machine.advance(now_ms);
        }
        self.votes.check();
        self.audit.follow();
        self.world.forget_wiped();
        self.nemesis.follow_changes(simulation);
        if simulation.now() >= self.next_check {
            self.next_check = simulation.now() + CHECK_INTERVAL;
            self.nemesis.leader = self.audit.check().or(self.nemesis.leader);
        }
        if simulation.now() >= self.next_observation {
            self.next_observation = simulation.now() + OBSERVE_INTERVAL;
            for machine in self.world.machines.iter() {
                machine.note_alive();
            }
        }
        (goes_on && simulation.continues()).then_some(())
    }

    fn run_for(&mut self, simulation: &mut Simulation<'_>, time: Duration) -> Option<()> {
        let until = simulation.now() + time;
        while simulation.now() < until {
            self.advance(simulation)?;
        }
        Some(())
    }

    /// Continues until `open` returns nothing, or until the timeout.
    fn run_until(
        &mut self,
        simulation: &mut Simulation<'_>,
        what: &str,
        open: impl Fn(&ClusterAudit) -> Vec<String>,
    ) -> Option<()> {
        let until = simulation.now() + self.options.healing;
        let mut left = Vec::new();
        while simulation.now() < until {
            let is_look = simulation.now() + STEP >= self.next_check;
            self.advance(simulation)?;
            if is_look {
                let mut state = self.world.state();
                if state.requests.is_empty() {
                    // A request without a clear response may be carried out after a later one, so
                    // this repeats the last one.
                    let idle = self
                        .audit
                        .deactivated()
                        .into_iter()
                        .map(OperatorRequest::Reactivate);
                    state.requests.extend(idle);
                    if state.draining {
                        state.requests.push_back(OperatorRequest::ListOffers);
                    }
                }
                drop(state);
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
    fn check_at_rest(&mut self, simulation: &mut Simulation<'_>) -> Option<()> {
        self.world.state().idle = true;
        let until = simulation.now() + MAX_IDLE;
        let began_ms = simulation.now().as_millis() as u64;
        let mut work: Option<TaskSnapshot> = None;
        let mut since = simulation.now();
        while simulation.now() < until && (work.is_none() || simulation.now() < since + STABLE_TIME)
        {
            self.run_for(simulation, CHECK_INTERVAL)?;
            let now = self.audit.snapshot(began_ms);
            if now != work {
                since = simulation.now();
                work = now;
            }
        }
        if work.is_some() && simulation.now() >= since + STABLE_TIME {
            let now_ms = simulation.now().as_millis() as u64;
            self.audit.check_rest(now_ms);
            simulation.notes.count("rests checked");
        }
        self.world.state().idle = false;
        simulation.continues().then_some(())
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
            let message = format!("TaskSurvival: {what}, and {lost:?} were given up for it");
            simulation.notes.violation(message);
        }
    }

    /// Injects one fault in a healthy cluster, and checks its consequences.
    fn follow(&mut self, simulation: &mut Simulation<'_>, act: SingleFault) -> Option<()> {
        match act {
            SingleFault::Transfer => {
                let before = self.audit.registry().epoch();
                let left = self.world.state().absent.len() as u32;
                let timeout = TRANSFER_TIMEOUT + CONNECT_TIMEOUT * left;
                self.nemesis.transfer();
                self.run_for(simulation, timeout)?;
                if self.audit.registry().epoch() == before {
                    let reported = self.world.state().operator_error.clone();
                    simulation.notes.violation(format!(
                        "{timeout:?} after a transfer was requested in a healthy group no other master leads; the operator received: {reported}"
                    ));
                }
                self.check_no_agent_lost(simulation, "leadership was transferred");
            }
            SingleFault::Freeze => self.freeze_masters(simulation)?,
            SingleFault::CutLeader => {
                let former = self.nemesis.cut_leader(simulation);
                self.replaced_within(FAILOVER_AFTER_CUT);
                self.run_for(simulation, AGENT_MOVE_TIMEOUT)?;
                let stayed = self.audit.agents_of_former_epochs();
                if !stayed.is_empty() {
                    simulation.notes.violation(format!(
                        "Liveness: {AGENT_MOVE_TIMEOUT:?} after master-{} was cut from the others, {stayed:?} have not heard of the new leader",
                        former + 1
                    ));
                }
                self.nemesis.heal(simulation);
            }
            SingleFault::FrameworkLoss => {
                self.nemesis.retire(simulation, self.options.frameworks - 1);
                self.run_for(simulation, Duration::from_millis(2_600))?;
                self.nemesis.kill_leader(simulation);
                self.replaced_within(FAILOVER_AFTER_KILL);
                self.run_for(simulation, Duration::from_millis(700))?;
                self.nemesis.heal(simulation);
                self.retired_end();
            }
            SingleFault::AgentPartition => self.partition_agents(simulation, false)?,
            SingleFault::IdlePartition => self.partition_agents(simulation, true)?,
            SingleFault::TwoLeaders => self.two_leaders(simulation)?,
            SingleFault::NoQuorum => self.no_quorum(simulation)?,
            SingleFault::KeyRenewal => self.renew_keys(simulation)?,
        }
        Some(())
    }
}
