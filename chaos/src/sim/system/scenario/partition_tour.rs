//! A tour through connectivity graphs. For each one it makes a given master the leader, cuts the
//! links for some seconds under load, checks the consequences, and repairs everything.

use std::time::Duration;

use super::{MAX_DELAY, Scenario};
use crate::faults::graphs::{GraphCase, MASTERS};
use crate::sim::run::Simulation;
use crate::sim::system::world::{OperatorRequest, master_name};

/// Timeout for a healed group to carry out a transfer, and to be healthy again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of requests for a transfer.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
const GRAPH_DURATION: Duration = Duration::from_secs(8);
/// Deadline for the election of a leader, where one must be elected.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum time without a commit under a leader that stays.
const MAX_COMMIT_GAP: Duration = Duration::from_secs(1);
/// Time after the cut in which earlier commits become known everywhere.
const PROPAGATION_TIME: Duration = Duration::from_millis(250);
/// The last part of a graph, in which everything is stable.
const STABLE_TIME: Duration = Duration::from_secs(3);
/// Maximum number of leaders before one stays.
const MAX_EPOCHS: usize = 3;
/// Number of entries by which a follower may lag and still count as healthy.
const MAX_LAG: u64 = 20;

#[derive(Debug, Default)]
struct GraphObservations {
    /// The start times of epochs after the cut, with the indexes of their leaders.
    epochs: Vec<(Duration, usize)>,
    /// The longest time without a commit.
    longest_gap: Duration,
    /// The time of the last commit.
    last_commit: Duration,
    /// Writes that were acknowledged in the last part.
    late_writes: u64,
}

impl GraphObservations {
    /// Returns the kind of the case, and the missing consequences. `electable` returns the masters
    /// whose logs allow an election.
    fn check(
        &self,
        case: GraphCase,
        electable: impl FnOnce() -> Vec<String>,
    ) -> (&'static str, Vec<String>) {
        let mut findings = Vec::new();
        let mut must = |holds: bool, words: &str| {
            if !holds {
                findings.push(format!("{words}: {self:?}"));
            }
        };
        if case.graph.reaches_majority(case.leader) {
            let stays = self.epochs.is_empty();
            must(stays, "a leader with a majority was replaced");
            let commits = self.longest_gap <= MAX_COMMIT_GAP;
            must(commits, "a leader with a majority did not commit");
            must(self.late_writes > 0, "no client was served");
            return ("leaders that stayed", findings);
        }
        if !(0..MASTERS).any(|place| case.graph.reaches_majority(place)) {
            let nothing = self.last_commit <= PROPAGATION_TIME;
            must(nothing, "a master committed without a majority");
            return ("graphs without a majority", findings);
        }
        let Some((first, _)) = self.epochs.first() else {
            let electable = electable();
            if !electable.is_empty() {
                findings.push(format!("{electable:?} could lead, and no master does"));
            }
            return ("graphs in which no master was elected", findings);
        };
        must(
            *first <= ELECTION_TIMEOUT,
            "it took too long until a master led",
        );
        let settled = self
            .epochs
            .iter()
            .all(|(at, _)| *at <= GRAPH_DURATION - STABLE_TIME);
        let few = self.epochs.len() <= MAX_EPOCHS;
        must(settled && few, "leaders come and go");
        let majority = |(_, leader): &(Duration, usize)| case.graph.reaches_majority(*leader);
        let all = self.epochs.iter().all(majority);
        must(all, "one without a majority led");
        must(self.late_writes > 0, "no client was served");
        ("leaders that were elected", findings)
    }
}

impl Scenario {
    /// Runs these cases, one after the other, and then lets frameworks begin no more work until
    /// every message has arrived. Violations are reported at the end, so that the other cases are
    /// run, too.
    pub(in crate::sim::system) fn tour(
        mut self,
        simulation: &mut Simulation<'_>,
        cases: impl Iterator<Item = GraphCase>,
    ) {
        let mut findings = Vec::new();
        for case in cases {
            match self.run_case(simulation, case) {
                Some(found) => findings.extend(found.into_iter().map(|one| (case, one))),
                None => break,
            }
        }
        // An order may reach its agent before the store of a master has the entry that gave it.
        self.world.state().draining = true;
        let _ = self.run_for(simulation, MAX_DELAY);
        for (case, finding) in findings {
            simulation.notes.violation(format!("{case}: {finding}"));
        }
    }

    /// Runs one case. Returns `None` as soon as the tour cannot continue.
    fn run_case(
        &mut self,
        simulation: &mut Simulation<'_>,
        case: GraphCase,
    ) -> Option<Vec<String>> {
        self.establish(simulation, case.leader)?;
        self.nemesis.connect(simulation, &case);
        let seen = self.watch(simulation)?;
        let (what, findings) = seen.check(case, || self.electable(case));
        simulation.notes.count(what);
        self.nemesis.heal(simulation);
        self.recover(simulation)?;
        simulation.notes.count("graphs");
        Some(findings)
    }

    fn leader(&mut self) -> Option<usize> {
        self.nemesis.leader = self.audit.check().or(self.nemesis.leader);
        self.nemesis.leader
    }

    fn establish(&mut self, simulation: &mut Simulation<'_>, wanted: usize) -> Option<()> {
        let until = simulation.now() + RECOVERY_TIMEOUT;
        let mut ask = simulation.now();
        while self.leader() != Some(wanted) {
            if simulation.now() >= until {
                let message = format!(
                    "{} does not take over in a healed group",
                    master_name(wanted)
                );
                simulation.notes.violation(message);
                return None;
            }
            if simulation.now() >= ask {
                ask = simulation.now() + REQUEST_INTERVAL;
                let order = OperatorRequest::Transfer(Some(wanted));
                self.world.state().requests.push_back(order);
            }
            self.advance(simulation)?;
        }
        // By then the election is known everywhere, and clients have found the leader.
        self.run_for(simulation, Duration::from_millis(500))?;
        match self.leader() == Some(wanted) {
            true => Some(()),
            // The transfer was requested twice, or another election was necessary.
            false => self.establish(simulation, wanted),
        }
    }

    fn watch(&mut self, simulation: &mut Simulation<'_>) -> Option<GraphObservations> {
        let began = simulation.now();
        let mut seen = GraphObservations::default();
        let mut applied = self.audit.registry().applied();
        let mut epoch = self.audit.registry().epoch();
        let mut writes = 0;
        while simulation.now() < began + GRAPH_DURATION {
            self.advance(simulation)?;
            let now = simulation.now() - began;
            if now <= GRAPH_DURATION - STABLE_TIME {
                writes = simulation.notes.event_count("attributes set");
            }
            let registry = self.audit.registry();
            if registry.epoch() != epoch {
                epoch = registry.epoch();
                let leader = registry.cluster().leader.0 as usize - 1;
                seen.epochs.push((now, leader));
            }
            if registry.applied() > applied {
                applied = registry.applied();
                seen.last_commit = now;
            }
            seen.longest_gap = seen.longest_gap.max(now - seen.last_commit);
        }
        seen.late_writes = simulation.notes.event_count("attributes set") - writes;
        Some(seen)
    }

    /// Returns the masters that could be elected: a master forms a majority with the neighbours
    /// whose logs are not newer than its own.
    fn electable(&self, case: GraphCase) -> Vec<String> {
        let last: Vec<_> = self
            .world
            .stores
            .iter()
            .map(|one| one.last_entry())
            .collect();
        let could = |place: &usize| {
            let voters = case.graph.neighbours(*place);
            voters.filter(|voter| last[*voter] <= last[*place]).count() + 1 > MASTERS / 2
        };
        let all = (0..MASTERS).filter(could);
        all.map(|place| format!("{} with {last:?}", master_name(place)))
            .collect()
    }

    /// Waits until all masters follow one leader again, and it commits.
    fn recover(&mut self, simulation: &mut Simulation<'_>) -> Option<()> {
        let until = simulation.now() + RECOVERY_TIMEOUT;
        let before = self.audit.registry().applied();
        let is_whole = |stores: &[argosy_raft::MemoryStore]| {
            let applied: Vec<u64> = stores.iter().filter_map(|one| one.applied()).collect();
            let least = applied.iter().min().copied().unwrap_or(0);
            let most = applied.iter().max().copied().unwrap_or(0);
            applied.len() == MASTERS && least > before && least + MAX_LAG >= most
        };
        while !is_whole(&self.world.stores) {
            if simulation.now() >= until {
                let applied = self.world.stores.iter().map(|one| one.applied());
                let applied: Vec<_> = applied.collect();
                let message = format!(
                    "{RECOVERY_TIMEOUT:?} after the links were mended masters have applied {applied:?}, and before it {before}"
                );
                simulation.notes.violation(message);
                return None;
            }
            self.advance(simulation)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::graphs::Graph;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns a case in which master 1 reaches masters 2 and 3, and no other master reaches two.
    fn case(leader: usize) -> GraphCase {
        let graph = Graph::of(&[(0, 1), (0, 2)]);
        GraphCase { graph, leader }
    }

    fn found(case: GraphCase, seen: &GraphObservations, electable: &[&str]) -> String {
        let electable = electable.iter().map(|one| (*one).to_owned()).collect();
        seen.check(case, || electable).1.join("; ")
    }

    #[test]
    fn a_leader_with_a_majority_must_stay_and_serve() {
        let good = || GraphObservations {
            longest_gap: SECOND / 2,
            late_writes: 3,
            ..GraphObservations::default()
        };
        assert_eq!(found(case(0), &good(), &[]), "");
        let mut seen = good();
        seen.epochs = vec![(SECOND, 1)];
        assert!(found(case(0), &seen, &[]).contains("was replaced"));
        let mut seen = good();
        seen.longest_gap = 2 * SECOND;
        assert!(found(case(0), &seen, &[]).contains("did not commit"));
        let mut seen = good();
        seen.late_writes = 0;
        assert!(found(case(0), &seen, &[]).contains("no client"));
    }

    #[test]
    fn a_master_with_a_majority_must_lead_soon_and_stay() {
        let led = |epoch_records: &[(Duration, usize)]| GraphObservations {
            epochs: epoch_records.to_vec(),
            late_writes: 3,
            ..GraphObservations::default()
        };
        assert_eq!(found(case(4), &led(&[(SECOND, 0)]), &[]), "");
        let late = led(&[(4 * SECOND, 0)]);
        assert!(found(case(4), &late, &[]).contains("too long"));
        let flaps = led(&[(SECOND, 0), (6 * SECOND, 0)]);
        assert!(found(case(4), &flaps, &[]).contains("come and go"));
        assert!(found(case(4), &led(&[(SECOND, 0); 4]), &[]).contains("come and go"));
        let wrong = led(&[(SECOND, 1)]);
        assert!(found(case(4), &wrong, &[]).contains("without a majority led"));
        assert_eq!(found(case(4), &led(&[]), &[]), "", "the logs forbid it");
        assert!(found(case(4), &led(&[]), &["master-1"]).contains("could lead"));
    }

    #[test]
    fn no_commit_without_a_majority() {
        let case = GraphCase {
            graph: Graph::of(&[(0, 1), (2, 3)]),
            leader: 0,
        };
        let mut seen = GraphObservations::default();
        assert_eq!(found(case, &seen, &[]), "");
        seen.last_commit = SECOND;
        assert!(found(case, &seen, &[]).contains("without a majority"));
    }
}
