//! The check after a power cut: acknowledged writes must still exist.
//!
//! Pure. A series of cuts on the same disks has one `AcknowledgedWrites`. Each boot is read back
//! before new load begins. The load is fixed: writer `w` sends batch 1, 2, 3 … one at a time. Batch
//! `n` has `size` operations, which set the numbers up to `n * size`, each to the key that follows
//! in turn. A batch with more operations than there are keys sets some keys more than once.

use std::collections::BTreeMap;

use super::report::Values;
use super::task_report::ObservedState;

/// Writers of one boot, each with one batch in flight.
pub(crate) const WRITERS: u64 = 4;
/// Keys of one writer. They are few: a change of an attribute costs a copy of all attributes of its
/// agent, and an emulated master must apply a large batch in one turn.
const KEYS: u64 = 16;

/// Returns the values that a batch of this size sets atomically, in this order.
pub(crate) fn batch(writer: u64, batch: u64, size: u64) -> Vec<(String, u64)> {
    ((batch - 1) * size + 1..=batch * size)
        .map(|number| (key(writer, number), number))
        .collect()
}

fn key(writer: u64, number: u64) -> String {
    format!("w{writer}-{}", number % KEYS)
}

/// Returns the values of a writer's keys after this many operations.
fn values_after(writer: u64, operations: u64) -> Values {
    (operations.saturating_sub(KEYS) + 1..=operations)
        .map(|number| (key(writer, number), number))
        .collect()
}

/// A violation: acknowledged data that is lost or wrong, or an impossible value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurabilityViolation {
    /// An agent whose registration was acknowledged is unknown.
    #[error("{agent} was registered and is unknown now")]
    AgentLost { agent: String },
    /// An acknowledged value is missing.
    #[error("{agent}: {key} was acknowledged as {acknowledged} and reads {found}")]
    ValueLost {
        agent: String,
        key: String,
        acknowledged: u64,
        found: u64,
    },
    /// A batch was applied in part.
    #[error("{agent}: batch {batch} of writer {writer} was applied in part")]
    PartialBatch {
        agent: String,
        writer: u64,
        batch: u64,
    },
    /// A value that was never written.
    #[error("{agent}: {key} reads {found}, which was never written")]
    NeverWritten {
        agent: String,
        key: String,
        found: u64,
    },
    /// A value that was read after an earlier cut has changed.
    #[error("{agent}: {key} read {before} after an earlier cut and {found} now")]
    Changed {
        agent: String,
        key: String,
        before: u64,
        found: u64,
    },
    /// The cluster is behind a revision that it acknowledged.
    #[error(
        "revision {acknowledged} was acknowledged, and all masters have applied only {applied}"
    )]
    RevisionLost { acknowledged: u64, applied: u64 },
    /// Two registries differ at the same index.
    #[error(
        "at index {applied} master-{master} has the digest {digest}, and {other} was reported, too"
    )]
    DigestsDiffer {
        master: u64,
        applied: u64,
        digest: String,
        other: String,
    },
    /// The agent returned under another id.
    #[error("the agent was registered as {before} and returns as {found}")]
    AgentIdentityLost { before: String, found: String },
    /// The framework returned under another id.
    #[error("the framework was registered as {before} and is {found} now")]
    FrameworkLost { before: String, found: String },
    /// An accepted launch is missing.
    #[error("the launch of task {task} was accepted, and the registry does not have it")]
    TaskLost { task: String },
    /// An acknowledged state of a task was undone.
    #[error("task {task} was acknowledged as {acknowledged} and is {found}")]
    StateUndone {
        task: String,
        acknowledged: ObservedState,
        found: ObservedState,
    },
    /// A task was started more than once.
    #[error("task {task} was started {starts} times")]
    StartedTwice { task: String, starts: u64 },
    /// A task that ended without a start was started.
    #[error("task {task} was dropped, and has started")]
    DroppedTaskStarted { task: String },
    /// A task was started before its launch was durable.
    #[error("task {task} has started, and the registry does not have it")]
    UnknownTaskStarted { task: String },
    /// Data that a task synced before its end is missing.
    #[error("task {task} has finished, and the synced record of its start is lost")]
    StartLost { task: String },
    /// A task of an earlier boot did not end.
    #[error("task {task} has not ended after its host was rebooted: {at}")]
    TaskNotEnded { task: String, at: ObservedState },
    /// A task ended for a reason that is not documented for a reboot of its host.
    #[error("task {task} ended as {at}, which a power cut does not explain: {why}")]
    UndocumentedEnd {
        task: String,
        at: ObservedState,
        why: String,
    },
    /// A process or cgroup of an ended task.
    #[error("all tasks have ended, and there is still {what}")]
    LeftBehind { what: String },
    /// The guest reports an error that must not happen.
    #[error("{why}")]
    Failed { why: String },
}

/// All acknowledgements in one series.
#[derive(Debug, Default)]
pub(crate) struct AcknowledgedWrites {
    read_values: BTreeMap<String, Values>,
    current: Option<CurrentLoad>,
    revision: u64,
    digests: BTreeMap<u64, String>,
    /// Batches that were acknowledged.
    pub(crate) acknowledged: u64,
    /// Values that were compared.
    pub(crate) compared: u64,
}

/// The agent that the newest load writes to, and the last acknowledged batch of each writer.
#[derive(Debug)]
struct CurrentLoad {
    agent: String,
    /// Operations of one batch.
    batch_size: u64,
    batches: [u64; WRITERS as usize],
}

impl AcknowledgedWrites {
    pub(crate) fn start_load(&mut self, agent: &str, batch_size: u64) {
        self.current = Some(CurrentLoad {
            agent: agent.to_owned(),
            batch_size,
            batches: [0; WRITERS as usize],
        });
    }

    /// Records an acknowledged batch.
    ///
    /// # Errors
    /// If the report of the guest is impossible.
    pub(crate) fn acknowledge(
        &mut self,
        writer: u64,
        batch: u64,
        revision: u64,
    ) -> Result<(), DurabilityViolation> {
        let current = self.current.as_mut();
        let last = current.and_then(|current| current.batches.get_mut(writer as usize));
        match last {
            Some(last) if *last + 1 == batch => *last = batch,
            Some(_) | None => {
                let why = format!("batch {batch} of writer {writer} is acknowledged out of turn");
                return Err(DurabilityViolation::Failed { why });
            }
        }
        self.revision = self.revision.max(revision);
        self.acknowledged += 1;
        Ok(())
    }

    /// Records a master's digest.
    ///
    /// # Errors
    /// If another digest was recorded at the same index.
    pub(crate) fn digest(
        &mut self,
        master: u64,
        applied: u64,
        digest: &str,
    ) -> Result<(), DurabilityViolation> {
        let known = self
            .digests
            .entry(applied)
            .or_insert_with(|| digest.to_owned());
        if known == digest {
            return Ok(());
        }
        Err(DurabilityViolation::DigestsDiffer {
            master,
            applied,
            digest: digest.to_owned(),
            other: known.clone(),
        })
    }

    /// Compares all values that were read in one boot with all earlier acknowledgements. For
    /// batches in flight at the cut, the result that is found counts as acknowledged.
    pub(crate) fn read_back(
        &mut self,
        found: &BTreeMap<String, Values>,
        applied: u64,
    ) -> Vec<DurabilityViolation> {
        let mut violations = Vec::new();
        if applied < self.revision {
            violations.push(DurabilityViolation::RevisionLost {
                acknowledged: self.revision,
                applied,
            });
        }
        let expected = self
            .read_values
            .keys()
            .chain(self.current.iter().map(|current| &current.agent));
        for agent in expected.filter(|agent| !found.contains_key(*agent)) {
            let agent = agent.clone();
            violations.push(DurabilityViolation::AgentLost { agent });
        }
        self.compared += found
            .values()
            .map(|values| values.len() as u64)
            .sum::<u64>();
        for (agent, before) in &self.read_values {
            if let Some(values) = found.get(agent) {
                violations.extend(changes(agent, before, values));
            }
        }
        if let Some(current) = self.current.take()
            && let Some(values) = found.get(&current.agent)
        {
            violations.extend(current.check(values));
        }
        // This includes an agent whose registration was in flight: from now on it must stay.
        self.read_values = found.clone();
        violations
    }
}

fn changes(agent: &str, before: &Values, found: &Values) -> Vec<DurabilityViolation> {
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(found.keys()).collect();
    let read = |values: &Values, key: &String| values.get(key).copied().unwrap_or(0);
    let differing = keys
        .into_iter()
        .filter(|key| read(before, key) != read(found, key));
    differing
        .map(|key| DurabilityViolation::Changed {
            agent: agent.to_owned(),
            key: key.clone(),
            before: read(before, key),
            found: read(found, key),
        })
        .collect()
}

impl CurrentLoad {
    fn check(&self, found: &Values) -> Vec<DurabilityViolation> {
        let mut violations = Vec::new();
        let mut known = 0;
        for (writer, last) in (0..WRITERS).zip(self.batches) {
            let prefix = format!("w{writer}-");
            let own: Values = found
                .iter()
                .filter(|(key, _)| key.starts_with(&prefix))
                .map(|(key, value)| (key.clone(), *value))
                .collect();
            known += own.len();
            violations.extend(self.check_writer(writer, last, &own));
        }
        if known != found.len() {
            let ours =
                |key: &str| (0..WRITERS).any(|writer| key.starts_with(&format!("w{writer}-")));
            let strange = found.iter().filter(|(key, _)| !ours(key));
            violations.extend(strange.map(|(key, value)| self.never_written(key, *value)));
        }
        violations
    }

    fn check_writer(&self, writer: u64, last: u64, found: &Values) -> Vec<DurabilityViolation> {
        let (acknowledged, in_flight) = (last * self.batch_size, (last + 1) * self.batch_size);
        let (expected, next) = (
            values_after(writer, acknowledged),
            values_after(writer, in_flight),
        );
        if *found == expected || *found == next {
            return Vec::new();
        }
        let mut violations = Vec::new();
        for (key, acknowledged) in &expected {
            let value = found.get(key).copied().unwrap_or(0);
            if value < *acknowledged {
                violations.push(DurabilityViolation::ValueLost {
                    agent: self.agent.clone(),
                    key: key.clone(),
                    acknowledged: *acknowledged,
                    found: value,
                });
            }
        }
        for (key, value) in found {
            // A value older than an acknowledged one is lost, which was reported above.
            let older = expected.get(key).is_some_and(|expected| value <= expected);
            // Each value of the batch in flight, also one that it replaces itself.
            let is_next =
                (acknowledged + 1..=in_flight).contains(value) && *key == self::key(writer, *value);
            if !older && !is_next {
                violations.push(self.never_written(key, *value));
            }
        }
        if violations.is_empty() {
            violations.push(DurabilityViolation::PartialBatch {
                agent: self.agent.clone(),
                writer,
                batch: last + 1,
            });
        }
        violations
    }

    fn never_written(&self, key: &str, found: u64) -> DurabilityViolation {
        DurabilityViolation::NeverWritten {
            agent: self.agent.clone(),
            key: key.to_owned(),
            found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of batches: fewer operations than keys, as many, more, and the most.
    const SIZES: [u64; 5] = [1, 4, 16, 64, 256];

    /// Returns the acknowledgements of a load with 20 acknowledged batches of writer 1.
    fn known_writes_of(batch_size: u64) -> AcknowledgedWrites {
        let mut known_writes = AcknowledgedWrites::default();
        known_writes.start_load("agent-1", batch_size);
        (1..=20).for_each(|batch| known_writes.acknowledge(1, batch, 100 + batch).unwrap());
        known_writes
    }

    fn known_writes() -> AcknowledgedWrites {
        known_writes_of(4)
    }

    fn found(values: Values) -> BTreeMap<String, Values> {
        [("agent-1".to_owned(), values)].into()
    }

    #[test]
    fn acknowledged_and_in_flight_batches_are_accepted() {
        for (size, batches) in SIZES.into_iter().flat_map(|size| [(size, 20), (size, 21)]) {
            let mut known_writes = known_writes_of(size);
            let found = found(values_after(1, batches * size));
            assert_eq!(known_writes.read_back(&found, 120), [], "{size}");
            assert_eq!(known_writes.read_back(&found, 130), [], "{size}");
        }
        let values = values_after(1, 80);
        assert_eq!(values.len(), 16, "old numbers are written over");
        assert_eq!((values["w1-0"], values["w1-1"]), (80, 65));
    }

    #[test]
    fn a_batch_sets_the_values_that_are_expected_after_it() {
        for size in SIZES {
            let mut values = values_after(1, 20 * size);
            values.extend(batch(1, 21, size));
            assert_eq!(values, values_after(1, 21 * size), "{size}");
        }
    }

    #[test]
    fn each_missing_acknowledged_value_is_reported() {
        for size in SIZES {
            let older = found(values_after(1, 19 * size));
            let violations = known_writes_of(size).read_back(&older, 120);
            let lost = |violation: &DurabilityViolation| {
                matches!(violation, DurabilityViolation::ValueLost { .. })
            };
            assert!(violations.iter().all(lost), "{size}: {violations:?}");
            assert_eq!(violations.len() as u64, size.min(KEYS), "{size}");
        }
        let violations = known_writes().read_back(&found(values_after(1, 76)), 120);
        let text = violations[0].to_string();
        assert_eq!(text, "agent-1: w1-0 was acknowledged as 80 and reads 64");
        let nothing = known_writes().read_back(&BTreeMap::new(), 120);
        assert_eq!(
            nothing[0].to_string(),
            "agent-1 was registered and is unknown now"
        );
    }

    #[test]
    fn a_partial_batch_is_reported() {
        for size in SIZES.into_iter().filter(|size| *size > 1) {
            // The first value of a large batch is one that the batch itself replaces.
            let mut values = values_after(1, 20 * size);
            let (key, value) = batch(1, 21, size).remove(0);
            values.insert(key, value);
            let violations = known_writes_of(size).read_back(&found(values), 120);
            assert!(
                matches!(
                    violations[..],
                    [DurabilityViolation::PartialBatch { batch: 21, .. }]
                ),
                "{size}: {violations:?}"
            );
        }
    }

    #[test]
    fn unwritten_values_are_reported() {
        for (key, value) in [("w1-3", 9_963), ("w9-3", 3), ("w2-5", 5)] {
            let mut values = values_after(1, 80);
            values.insert(key.into(), value);
            let violations = known_writes().read_back(&found(values), 120);
            let invented = |violation: &DurabilityViolation| {
                matches!(violation, DurabilityViolation::NeverWritten { .. })
            };
            assert!(violations.iter().any(invented), "{key}: {violations:?}");
        }
    }

    #[test]
    fn in_flight_batches_may_not_change_after_recovery() {
        let mut known_writes = known_writes();
        known_writes.read_back(&found(values_after(1, 80)), 120);
        known_writes.start_load("agent-2", 4);
        let mut later = found(values_after(1, 84));
        later.insert("agent-2".into(), Values::new());
        let violations = known_writes.read_back(&later, 130);
        assert_eq!(violations.len(), 4);
        assert!(matches!(violations[0], DurabilityViolation::Changed { .. }));
    }

    #[test]
    fn a_registry_behind_its_acknowledgements_is_reported() {
        let violations = known_writes().read_back(&found(values_after(1, 80)), 119);
        assert!(matches!(
            violations[..],
            [DurabilityViolation::RevisionLost {
                acknowledged: 120,
                applied: 119
            }]
        ));
    }

    #[test]
    fn digests_must_agree_at_an_index_over_all_boots() {
        let mut known_writes = known_writes();
        known_writes.digest(1, 90, "aa").unwrap();
        known_writes.digest(2, 90, "aa").unwrap();
        known_writes.digest(2, 91, "bb").unwrap();
        assert!(known_writes.digest(3, 90, "ab").is_err());
    }

    #[test]
    fn out_of_order_acknowledgements_are_rejected() {
        let mut known_writes = known_writes();
        assert!(known_writes.acknowledge(1, 22, 200).is_err());
        assert!(known_writes.acknowledge(WRITERS, 1, 200).is_err());
        assert!(AcknowledgedWrites::default().acknowledge(0, 1, 1).is_err());
    }
}
