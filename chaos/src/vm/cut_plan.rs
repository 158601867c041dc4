//! The plan of one boot: the size of the batches, the moment of the cut, and what is lost.
//!
//! Pure: the seed of a cut determines its plan.

use super::disk::UnflushedLoss;
use super::guest::DISKS;
use crate::rng::Rng;

/// The acknowledged operations of one boot from which its load counts as long.
pub(super) const LOADED_OPERATIONS: u64 = 1_000;
/// Operations of one batch where other moments are chosen. Most batches are small, so that a cut
/// meets many.
const BATCH_SIZES: [u64; 4] = [4, 4, 16, 64];
/// Operations of one batch where a long load is needed: an emulated machine acknowledges few
/// batches in a second.
const LOADED_BATCH_SIZES: [u64; 3] = [32, 64, 128];

/// The last write after the chosen moment at which the power may be cut.
const LAST_WRITE: u64 = 64;

/// The cuts of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CutKinds {
    /// Any moment.
    Any,
    /// Only moments after [`LOADED_OPERATIONS`].
    Loaded,
}

/// The moment at which the machine loses its power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CutTime {
    pub(super) after: BootMilestone,
    pub(super) ms: u64,
}

/// The mark from which a moment is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BootMilestone {
    PowerOn,
    Mounted,
    Loading,
    /// [`LOADED_OPERATIONS`] of this boot are acknowledged.
    Loaded,
    DiskOff,
    DiskBack,
    /// Never: everything is read back, and the machine ends.
    Settled,
}

/// The plan of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CutPlan {
    pub(super) time: CutTime,
    /// The write after that moment at which the power is cut, counted from 1 over all disks.
    /// Without it, the power is cut at the moment itself, when there is rarely unflushed data.
    pub(super) at_write: Option<u64>,
    /// Operations of one batch.
    pub(super) batch_size: u64,
    /// Disks that lose power separately, with the delay after the load has begun.
    partial: Option<PartialCut>,
    pub(super) loss: UnflushedLoss,
}

/// Masters whose disks lose power while the others continue.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PartialCut {
    disks: Vec<u64>,
    after_ms: u64,
}

impl CutPlan {
    pub(super) fn choose(rng: &mut Rng, kinds: CutKinds) -> Self {
        let place = rng.below(20);
        let (after, bound_ms) = match (kinds, place) {
            (CutKinds::Loaded, _) | (CutKinds::Any, 9..=13) => (BootMilestone::Loaded, 2_500),
            (CutKinds::Any, 0..=1) => (BootMilestone::PowerOn, 6_000),
            (CutKinds::Any, 2..=4) => (BootMilestone::Mounted, 3_000),
            (CutKinds::Any, 5..=8) => (BootMilestone::Loading, 2_500),
            (CutKinds::Any, 14..=16) => (BootMilestone::DiskOff, 3_000),
            (CutKinds::Any, _) => (BootMilestone::DiskBack, 500),
        };
        let moment = CutTime {
            after,
            ms: rng.below(bound_ms),
        };
        let alone = matches!(after, BootMilestone::DiskOff | BootMilestone::DiskBack)
            .then(|| PartialCut::choose(rng));
        let sizes: &[u64] = match after {
            BootMilestone::Loaded => &LOADED_BATCH_SIZES,
            BootMilestone::PowerOn
            | BootMilestone::Mounted
            | BootMilestone::Loading
            | BootMilestone::DiskOff
            | BootMilestone::DiskBack
            | BootMilestone::Settled => &BATCH_SIZES,
        };
        Self {
            time: moment,
            at_write: (rng.below(4) > 0).then(|| 1 + rng.below(LAST_WRITE)),
            batch_size: sizes[rng.below(sizes.len() as u64) as usize],
            partial: alone,
            loss: UnflushedLoss::choose(rng),
        }
    }

    pub(super) fn last() -> Self {
        Self {
            time: CutTime {
                after: BootMilestone::Settled,
                ms: 0,
            },
            at_write: None,
            batch_size: BATCH_SIZES[0],
            partial: None,
            loss: UnflushedLoss::Nothing,
        }
    }

    /// Returns the parameters of the guest for the kernel's command line.
    pub(super) fn kernel_args(&self) -> String {
        let mut words = format!("argosy.cases=power argosy.batch={}", self.batch_size);
        if self.time.after == BootMilestone::Settled {
            words.push_str(" argosy.last=1");
        }
        if let Some(alone) = &self.partial {
            let disks: Vec<String> = alone.disks.iter().map(u64::to_string).collect();
            words.push_str(&format!(
                " argosy.alone={} argosy.alone_ms={}",
                disks.join(","),
                alone.after_ms
            ));
        }
        words
    }
}

impl PartialCut {
    fn choose(rng: &mut Rng) -> Self {
        let first = rng.below(DISKS as u64) + 1;
        let mut disks = vec![first];
        if rng.below(4) == 0 {
            disks.push(first % DISKS as u64 + 1);
        }
        Self {
            disks,
            after_ms: 200 + rng.below(1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_plan_and_every_kind_of_plan_occurs() {
        let plan = |seed| CutPlan::choose(&mut Rng::new(seed), CutKinds::Any);
        assert_eq!(plan(3), plan(3));
        let plans: Vec<CutPlan> = (0..200).map(plan).collect();
        for mark in [
            BootMilestone::PowerOn,
            BootMilestone::Mounted,
            BootMilestone::Loading,
            BootMilestone::Loaded,
            BootMilestone::DiskOff,
            BootMilestone::DiskBack,
        ] {
            assert!(plans.iter().any(|plan| plan.time.after == mark), "{mark:?}");
        }
        let alone = |count| {
            move |plan: &&CutPlan| {
                plan.partial
                    .as_ref()
                    .is_some_and(|alone| alone.disks.len() == count)
            }
        };
        assert!(plans.iter().filter(alone(1)).count() > plans.iter().filter(alone(2)).count());
        assert!(plans.iter().any(|plan| alone(2)(&plan)));
        assert!(plans.iter().any(|plan| plan.at_write.is_none()));
        for write in [1, LAST_WRITE] {
            let near = |plan: &CutPlan| plan.at_write.is_some_and(|at| at.abs_diff(write) < 8);
            assert!(plans.iter().any(near), "write {write}");
        }
        for plan in plans {
            let needs_disk = matches!(
                plan.time.after,
                BootMilestone::DiskOff | BootMilestone::DiskBack
            );
            assert_eq!(plan.partial.is_some(), needs_disk, "{plan:?}");
            if let Some(alone) = plan.partial {
                assert!(alone.disks.iter().all(|disk| (1..=3).contains(disk)));
                assert!(alone.disks.windows(2).all(|pair| pair[0] != pair[1]));
            }
        }
    }

    #[test]
    fn a_run_of_long_loads_has_every_size_of_their_batches_and_no_other_moment() {
        let plan = |seed| CutPlan::choose(&mut Rng::new(seed), CutKinds::Loaded);
        let plans: Vec<CutPlan> = (0..60).map(plan).collect();
        for plan in &plans {
            assert_eq!(plan.time.after, BootMilestone::Loaded);
            assert!(LOADED_BATCH_SIZES.contains(&plan.batch_size), "{plan:?}");
        }
        for size in LOADED_BATCH_SIZES {
            assert!(plans.iter().any(|plan| plan.batch_size == size), "{size}");
        }
    }

    #[test]
    fn the_guest_receives_its_part_of_the_plan() {
        let mut plan = CutPlan::last();
        let words = "argosy.cases=power argosy.batch=4 argosy.last=1";
        assert_eq!(plan.kernel_args(), words);
        plan.batch_size = 16;
        plan.time.after = BootMilestone::DiskBack;
        plan.partial = Some(PartialCut {
            disks: vec![3, 1],
            after_ms: 250,
        });
        let words = "argosy.cases=power argosy.batch=16 argosy.alone=3,1 argosy.alone_ms=250";
        assert_eq!(plan.kernel_args(), words);
    }
}
