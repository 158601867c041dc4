//! Checks of the invariants of the registry and of the offer book, one slice at a time: at each
//! tick while the owner is idle, and once a second while it is busy.
//!
//! This module decides what is checked when. The checks themselves are `Registry::check_slice` and
//! `OfferBook::check_slice`.

use argosy_state::Registry;
use argosy_state::check::CheckRound;
use argosy_state::ids::OfferId;

use crate::offers::OfferBook;

/// Records, and offers, in one slice: about a millisecond.
const SLICE: usize = 200;
/// Minimum ticks from the start of one round to the start of the next.
const TICKS_PER_ROUND: u32 = 100;

/// Consecutive busy ticks after which a slice is checked although other work waits: one second.
const BUSY_TICKS: u32 = 10;

/// Whether other work waits for the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnerLoad {
    Idle,
    Busy,
}

/// The result of one slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SliceSummary {
    pub(crate) records: usize,
    pub(crate) offers: usize,
    /// Agents and frameworks with too many tasks for a slice.
    pub(crate) left_out: usize,
}

#[derive(Debug, Default)]
pub(crate) struct CheckProgress {
    round: CheckRound,
    /// The offer that was checked last; `None` starts over.
    offer: Option<OfferId>,
    /// Whether this round is complete for the registry, and for the book.
    is_done: [bool; 2],
    /// Ticks since the start of this round.
    ticks: u32,
    /// Consecutive busy ticks.
    busy_ticks: u32,
    /// The applied log index at the start of this round.
    start_index: u64,
    /// The applied log index if a whole round found no error and no entry was applied during it.
    settled_index: Option<u64>,
}

impl CheckProgress {
    /// Checks the next slice, if one is due at this tick. `book` is the leader's, if this master
    /// leads.
    ///
    /// # Errors
    /// Names the invariant that is broken.
    pub(crate) fn tick(
        &mut self,
        load: OwnerLoad,
        registry: &Registry,
        book: Option<&OfferBook>,
    ) -> Result<SliceSummary, String> {
        self.ticks = self.ticks.saturating_add(1);
        self.busy_ticks = match load {
            OwnerLoad::Idle => 0,
            OwnerLoad::Busy => self.busy_ticks.wrapping_add(1),
        };
        if !self.busy_ticks.is_multiple_of(BUSY_TICKS) {
            return Ok(SliceSummary::default());
        }
        if self.is_done == [true, true] {
            if self.start_index == registry.applied() {
                self.settled_index = Some(self.start_index);
            }
            if self.ticks < TICKS_PER_ROUND || self.settled_index == Some(registry.applied()) {
                return Ok(SliceSummary::default());
            }
            self.begin(registry.applied());
        }
        let mut checked = SliceSummary::default();
        if !self.is_done[0] {
            let slice = registry
                .check_slice(&mut self.round, SLICE)
                .map_err(|broken| violation("registry", registry, &broken.to_string()))?;
            checked.records = slice.records;
            checked.left_out = slice.skipped;
            self.is_done[0] = slice.is_last;
        }
        if !self.is_done[1] {
            let (offers, next) = match book {
                None => (0, None),
                Some(book) => book
                    .check_slice(registry, self.offer, SLICE)
                    .map_err(|broken| violation("offer book", registry, &broken))?,
            };
            checked.offers = offers;
            self.offer = next;
            self.is_done[1] = next.is_none();
        }
        Ok(checked)
    }

    fn begin(&mut self, applied: u64) {
        *self = Self {
            start_index: applied,
            ..Self::default()
        };
    }
}

fn violation(what: &str, registry: &Registry, broken: &str) -> String {
    let applied = registry.applied();
    format!(
        "a check of the {what} failed after entry {applied}: {broken}; this is a defect: please report it with the log of this master"
    )
}

#[cfg(test)]
mod tests {
    use argosy_state::command::OfferTerms;
    use argosy_state::ids::{Role, Timestamp};
    use argosy_state::testing::{World, amounts};

    use super::*;

    /// Returns the number of ticks until a round examines records again.
    fn ticks_to_records(checks: &mut CheckProgress, registry: &Registry) -> Option<u32> {
        (1..=3 * TICKS_PER_ROUND).find(|_| {
            checks
                .tick(OwnerLoad::Idle, registry, None)
                .unwrap()
                .records
                > 0
        })
    }

    #[test]
    fn rounds_run_every_hundred_ticks_if_entries_were_applied() {
        let mut world = World::with_running_task("web");
        let mut checks = CheckProgress::default();
        assert_eq!(ticks_to_records(&mut checks, &world.registry), Some(1));
        world.register("cpus:1");
        let again = ticks_to_records(&mut checks, &world.registry);
        assert_eq!(again, Some(TICKS_PER_ROUND - 1));
        // That round saw the current state of everything.
        assert_eq!(ticks_to_records(&mut checks, &world.registry), None);
        world.register("cpus:1");
        assert_eq!(ticks_to_records(&mut checks, &world.registry), Some(1));
    }

    #[test]
    fn busy_owner_checks_one_slice_per_second() {
        let world = World::with_running_task("web");
        let mut checks = CheckProgress::default();
        let mut records = |load| checks.tick(load, &world.registry, None).unwrap().records > 0;
        let first = (1..=3 * BUSY_TICKS).find(|_| records(OwnerLoad::Busy));
        assert_eq!(first, Some(BUSY_TICKS));
    }

    #[test]
    fn offer_of_used_resources_is_found_and_named() {
        let mut world = World::new();
        let agent = world.register("cpus:4;mem:64");
        let framework = world.subscribe("web");
        let mut book = OfferBook::new(world.registry.epoch());
        let terms = OfferTerms {
            id: OfferId {
                epoch: world.registry.epoch(),
                serial: 0,
            },
            framework,
            session: 1,
            agent,
            role: Role::default(),
            resources: amounts("cpus:3"),
            offer_revision: world.registry.agent(agent).unwrap().offer_revision,
            expires: Timestamp(99_999),
        };
        book.open(terms);
        let mut checks = CheckProgress::default();
        let checked = checks
            .tick(OwnerLoad::Idle, &world.registry, Some(&book))
            .unwrap();
        assert_eq!(checked.offers, 1);
        world.launch(framework, agent, "big", "cpus:2");
        let found = (0..2 * TICKS_PER_ROUND)
            .find_map(|_| {
                checks
                    .tick(OwnerLoad::Idle, &world.registry, Some(&book))
                    .err()
            })
            .expect("it is found");
        assert!(found.contains("cpus:3 is offered and"), "{found}");
        assert!(found.contains("check of the offer book failed"), "{found}");
    }
}
