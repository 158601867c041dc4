//! The filters of one agent: which clients declined which of its resources.
//!
//! Clients that declined the same and see the same of the agent share a bundle. The number of
//! bundles is bounded, because each is compared with the free resources whenever these change.

use argosy_state::ids::Timestamp;
use argosy_state::resources::Resources;

use super::eligibility::VisibilityRules;

/// Maximum number of different bundles that clients decline of one agent.
pub(super) const MAX_BUNDLES: usize = 128;
/// Bundles that are compared with resources in about a microsecond.
const BUNDLES_PER_STEP: usize = 16;
/// Entries that are visited in about a microsecond.
const ENTRIES_PER_STEP: usize = 64;
/// Entries through which one is inserted in about a microsecond: half of them are moved.
const MOVED_PER_STEP: usize = 1_024;

/// One filter of an agent.
#[derive(Debug)]
pub(super) struct FilterEntry {
    pub(super) client: u32,
    pub(super) bundle: u32,
    pub(super) until: Timestamp,
}

/// The declined resources, shared by all clients that declined the same.
#[derive(Debug)]
struct DeclinedBundle {
    declined: Resources,
    /// The visibility rules to apply; `None` for an agent of which all clients see the same.
    visibility: Option<VisibilityRules>,
    hides: bool,
    users: u32,
    /// The latest end of the filters that it has had.
    until: Timestamp,
}

/// The result of a comparison of bundles with free resources.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Evaluated {
    /// Whether any bundle hides the agent now and did not before, or the reverse.
    pub(super) has_turned: bool,
    /// The steps that it took.
    pub(super) steps: usize,
}

#[derive(Debug, Default)]
pub(super) struct AgentFilters {
    /// Ascending by client.
    pub(super) entries: Vec<FilterEntry>,
    /// Bundles without users are free slots.
    bundles: Vec<DeclinedBundle>,
}

impl AgentFilters {
    pub(super) fn position(&self, client: u32) -> Result<usize, usize> {
        self.entries
            .binary_search_by_key(&client, |entry| entry.client)
    }

    pub(super) fn hides(&self, bundle: u32) -> bool {
        self.bundles[bundle as usize].hides
    }

    /// Returns the steps that it takes to add or remove one filter.
    pub(super) fn steps(&self) -> usize {
        self.bundles.len() / BUNDLES_PER_STEP + self.entries.len() / MOVED_PER_STEP
    }

    /// Returns the steps that it takes to visit all filters.
    pub(super) fn steps_of_all(&self) -> usize {
        self.entries.len() / ENTRIES_PER_STEP
    }

    /// Adds a user to the bundle of these resources, and compares it with the free ones. Returns
    /// its slot, and whether it has turned for its other users; `None` if there is no such bundle.
    pub(super) fn share_bundle(
        &mut self,
        declined: &Resources,
        visibility: Option<&VisibilityRules>,
        free: &Resources,
        until: Timestamp,
    ) -> Option<(u32, bool)> {
        let same = |bundle: &DeclinedBundle| {
            bundle.users > 0
                && bundle.declined == *declined
                && bundle.visibility.as_ref() == visibility
        };
        let at = self.bundles.iter().position(same)?;
        let bundle = &mut self.bundles[at];
        bundle.users += 1;
        bundle.until = bundle.until.max(until);
        let hides = covers(declined, visibility, free);
        let has_turned = std::mem::replace(&mut bundle.hides, hides) != hides;
        Some((at as u32, has_turned))
    }

    /// Adds a bundle with one user. Returns its slot.
    pub(super) fn insert_bundle(
        &mut self,
        declined: &Resources,
        visibility: Option<&VisibilityRules>,
        free: &Resources,
        until: Timestamp,
    ) -> u32 {
        let bundle = DeclinedBundle {
            declined: declined.clone(),
            visibility: visibility.cloned(),
            hides: covers(declined, visibility, free),
            users: 1,
            until,
        };
        match self.bundles.iter().position(|bundle| bundle.users == 0) {
            Some(at) => {
                self.bundles[at] = bundle;
                at as u32
            }
            None => {
                self.bundles.push(bundle);
                self.bundles.len() as u32 - 1
            }
        }
    }

    pub(super) fn release_bundle(&mut self, bundle: u32) {
        let bundle = &mut self.bundles[bundle as usize];
        bundle.users -= 1;
        if bundle.users == 0 {
            bundle.declined = Resources::none();
        }
    }

    /// Removes the bundle that matters least, with its filters, if there is no room for another
    /// one: preferably one that hides nothing now, and of these the one that ends first.
    pub(super) fn make_room(&mut self) -> Vec<FilterEntry> {
        let is_full = self.bundles.len() >= MAX_BUNDLES;
        if !is_full || self.bundles.iter().any(|bundle| bundle.users == 0) {
            return Vec::new();
        }
        let bundles = self.bundles.iter().enumerate();
        let least = bundles.min_by_key(|(_, bundle)| (bundle.hides, bundle.until));
        let Some((least, _)) = least else {
            return Vec::new();
        };
        let is_of_least = |entry: &mut FilterEntry| entry.bundle as usize == least;
        let removed: Vec<FilterEntry> = self.entries.extract_if(.., is_of_least).collect();
        for entry in &removed {
            self.release_bundle(entry.bundle);
        }
        removed
    }

    /// Compares all bundles with the free resources. These are reduced once for each visibility.
    pub(super) fn reevaluate(&mut self, free: &Resources) -> Evaluated {
        let mut visible: Vec<(VisibilityRules, Resources)> = Vec::new();
        let mut has_turned = false;
        for bundle in self.bundles.iter_mut().filter(|bundle| bundle.users > 0) {
            let hides = match &bundle.visibility {
                None => bundle.declined.contains(free),
                Some(rules) => {
                    let known = visible.iter().position(|(known, _)| known == rules);
                    let at = known.unwrap_or_else(|| {
                        visible.push((rules.clone(), rules.visible_part(free)));
                        visible.len() - 1
                    });
                    bundle.declined.contains(&visible[at].1)
                }
            };
            has_turned |= std::mem::replace(&mut bundle.hides, hides) != hides;
        }
        let steps = visible.len() + self.bundles.len() / BUNDLES_PER_STEP;
        Evaluated { has_turned, steps }
    }

    /// Returns the declined resources of all bundles.
    #[cfg(test)]
    pub(super) fn declined(&self) -> impl Iterator<Item = &Resources> {
        let used = self.bundles.iter().filter(|bundle| bundle.users > 0);
        used.map(|bundle| &bundle.declined)
    }
}

/// Returns whether a client that declined these resources sees none beyond them.
fn covers(declined: &Resources, visibility: Option<&VisibilityRules>, free: &Resources) -> bool {
    match visibility {
        None => declined.contains(free),
        Some(rules) => declined.contains(&rules.visible_part(free)),
    }
}
