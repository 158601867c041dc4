//! Single faults in a healthy cluster, and the checks of their consequences.

use std::time::Duration;

use super::{CHECK_INTERVAL, Scenario};
use crate::sim::run::Simulation;
use crate::sim::system::hosts::AGENT_TIMEOUT_MS;
use crate::sim::system::nemesis::FormerKey;
use crate::sim::system::world::{AGENT_API, RAFT};

/// Time by which the absence of agents exceeds the agent timeout.
const TIMEOUT_MARGIN: Duration = Duration::from_millis(1_500);
/// Deadline of the return of an agent and its tasks after it can connect again.
const RETURN_TIMEOUT: Duration = Duration::from_secs(8);
/// Delay of the masters' disks, so that decisions wait for their commit.
const DISK_DELAY: Duration = Duration::from_millis(120);
/// Deadline for a leader without contact to other masters to step down.
const STEP_DOWN_TIMEOUT: Duration = Duration::from_millis(1_500);
/// The number of restarts of agents between two leaders.
const RESTARTS: u32 = 12;
/// Time for which all streams must continue after the keys of all members were renewed.
const RENEWED_TIME: Duration = Duration::from_secs(3);
/// Deadline of the acknowledgement of all revocations.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline of the end of the connections with a revoked key that masters and agents end.
const CONNECTION_END_TIMEOUT: Duration = Duration::from_secs(2);

impl Scenario {
    /// Freezes all masters for longer than the agent timeout, twice: the first time no other master
    /// can be elected, the second time another one may be.
    pub(super) fn freeze_masters(&mut self, simulation: &mut Simulation<'_>) -> Option<()> {
        // Agents that were disconnected until now are back, or are known to be lost.
        self.run_for(simulation, RETURN_TIMEOUT)?;
        self.nemesis.cut_followers(simulation);
        for _ in 0..2 {
            self.nemesis
                .freeze(Duration::from_millis(AGENT_TIMEOUT_MS) + TIMEOUT_MARGIN);
            let before = self.audit.unreachable_since(0).len();
            // Any agent that became unreachable because of the freeze is recorded by then, and may
            // be back.
            self.run_for(simulation, Duration::from_secs(2))?;
            let lost = self.audit.unreachable_since(before);
            if !lost.is_empty() {
                simulation.notes.violation(format!(
                    "TaskSurvival: all masters were frozen, and {lost:?} were given up for it"
                ));
            }
            self.nemesis.heal(simulation);
        }
        Some(())
    }

    /// Cuts all agents off until they are unreachable, and lets them return.
    pub(super) fn partition_agents(
        &mut self,
        simulation: &mut Simulation<'_>,
        still: bool,
    ) -> Option<()> {
        self.world.state().idle = still;
        // Agents that were disconnected until now are back: a hello in flight when the links are
        // cut would be waited for much longer. If all frameworks are idle, earlier requests are
        // done, and no order is pending.
        self.run_for(simulation, Duration::from_secs(2))?;
        if !still {
            self.nemesis.slow_masters(DISK_DELAY);
        }
        self.nemesis.cut_agents(simulation);
        self.run_for(
            simulation,
            Duration::from_millis(AGENT_TIMEOUT_MS) + TIMEOUT_MARGIN,
        )?;
        self.nemesis.slow_masters(Duration::ZERO);
        self.nemesis.heal(simulation);
        self.run_for(simulation, RETURN_TIMEOUT)?;
        let lost = self.audit.unreachable_agents();
        if !lost.is_empty() {
            simulation.notes.violation(format!(
                "AgentReturns: {RETURN_TIMEOUT:?} after all agents could come back {lost:?}"
            ));
        }
        self.world.state().idle = false;
        Some(())
    }

    /// Cuts all links between masters. All other links work.
    pub(super) fn no_quorum(&mut self, simulation: &mut Simulation<'_>) -> Option<()> {
        self.nemesis.cut_masters(simulation);
        self.run_for(simulation, STEP_DOWN_TIMEOUT)?;
        let since_ms = simulation.now().as_millis() as u64;
        self.run_for(simulation, Duration::from_secs(3))?;
        let led = self.audit.obeying_since(since_ms);
        if !led.is_empty() {
            simulation.notes.violation(format!(
                "Liveness: {STEP_DOWN_TIMEOUT:?} after the masters lost each other {led:?} still obey a leader"
            ));
        }
        self.nemesis.heal(simulation);
        Some(())
    }

    /// Renews the keys of all members, which ends no stream. Then revokes the former keys: the
    /// members return with their new ones.
    pub(super) fn renew_keys(&mut self, simulation: &mut Simulation<'_>) -> Option<()> {
        // Members that were disconnected until now are back.
        self.run_for(simulation, RETURN_TIMEOUT)?;
        let streams = self.world.state().streams.clone();
        let epoch = self.audit.registry().epoch();
        let former = self.nemesis.renew_keys();
        self.run_for(simulation, RENEWED_TIME)?;
        let renewed = self.world.state().streams.clone();
        if (self.audit.registry().epoch(), &renewed) != (epoch, &streams) {
            simulation.notes.violation(format!(
                "AccessEnforcement: the keys of all members were renewed, and streams ended: {streams:?} before, {renewed:?} after"
            ));
        }
        if !self.world.enforces_access {
            return Some(());
        }
        former.iter().for_each(|key| self.nemesis.revoke(key));
        let until = simulation.now() + REVOKE_TIMEOUT;
        while !self.are_revoked(&former) {
            if simulation.now() > until {
                simulation.notes.violation(format!(
                    "Liveness: the former keys of all members are not revoked after {REVOKE_TIMEOUT:?}"
                ));
                return None;
            }
            self.run_for(simulation, CHECK_INTERVAL)?;
        }
        self.run_for(simulation, CONNECTION_END_TIMEOUT)?;
        self.check_connections_ended(simulation, &former);
        self.run_for(simulation, RETURN_TIMEOUT)?;
        let returned = self.world.state().streams.clone();
        let left = streams.iter().filter(|(host, _)| {
            let is_member = former.iter().any(|key| key.host == **host);
            is_member && returned.get(*host) == streams.get(*host)
        });
        let mut away: Vec<String> = left.map(|(host, _)| host.clone()).collect();
        // The rest of a group whose member has failed just now may still run.
        away.extend(self.audit.unrecovered());
        if !away.is_empty() {
            simulation.notes.violation(format!(
                "AccessEnforcement: {RETURN_TIMEOUT:?} after the former keys of all members were revoked, these have not returned with their new ones: {away:?}"
            ));
        }
        simulation.notes.count("renewals of all keys checked");
        Some(())
    }

    fn are_revoked(&self, former: &[FormerKey]) -> bool {
        let state = self.world.state();
        let mut former = former.iter();
        former.all(|former| state.access.revoked_keys.contains(&former.key))
    }

    fn check_connections_ended(&self, simulation: &Simulation<'_>, former: &[FormerKey]) {
        for FormerKey { host, key } in former {
            for port in [RAFT, AGENT_API] {
                let open = self.world.keys.open_connections(port, *key);
                if open > 0 {
                    simulation.notes.violation(format!(
                        "AccessEnforcement: {CONNECTION_END_TIMEOUT:?} after the former key of {host} was revoked, {open} connections to port {port} prove it"
                    ));
                }
            }
        }
    }

    /// Replaces a leader that does not detect this, and lets agents search for a leader repeatedly.
    pub(super) fn two_leaders(&mut self, simulation: &mut Simulation<'_>) -> Option<()> {
        self.nemesis.cut_leader(simulation);
        for _ in 0..RESTARTS {
            self.run_for(simulation, Duration::from_millis(350))?;
            self.nemesis.restart_agents(simulation);
        }
        self.nemesis.heal(simulation);
        Some(())
    }
}
