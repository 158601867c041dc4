//! Offers that a framework presents when it subscribes: each is kept or rescinded, and counted by
//! the reason.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::Registry;
use argosy_state::command::OfferTerms;
use argosy_state::ids::{FrameworkId, OfferId};
use argosy_state::limits;

use super::{Leader, LeaderTime};
use crate::offers::{RescindReason, revalidate, verify};

/// The results of presented offers, as labels of their count.
pub(crate) const PRESENTATION_RESULTS: [&str; 13] = [
    "kept",
    "not-checked",
    "invalid",
    "expired",
    "unknown-framework",
    "other-session",
    "left-role",
    "unknown-agent",
    "agent-not-active",
    "outdated",
    "used",
    "taken",
    "not-free",
];

/// Presented offers by result, until the rim records them.
pub(super) type PresentedOffers = BTreeMap<&'static str, u64>;

impl Leader {
    /// Revalidates the offers that a resuming framework holds: each is kept or rescinded.
    pub(super) fn revalidate(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        id: FrameworkId,
        held: Vec<(OfferTerms, Vec<u8>)>,
    ) -> (Vec<OfferId>, Vec<OfferId>) {
        let session = registry
            .framework(id)
            .map_or(0, |framework| framework.session);
        let stale = self.book.rescind_other_sessions(id, session);
        let mut presented = BTreeSet::new();
        let (mut kept, mut rescinded) = (Vec::new(), Vec::new());
        for (at, (offer, token)) in held.into_iter().enumerate() {
            // Validation is expensive: beyond the time of a turn, resources are offered again.
            let result = match at < limits::RECORDS_PER_COMMAND {
                true => self.presentation_result(registry, now, id, &offer, &token),
                false => "not-checked",
            };
            *self.presented.entry(result).or_default() += 1;
            if result == "kept" {
                presented.insert(offer.id);
                kept.push(offer.id);
                self.book.adopt(offer, now.at);
            } else {
                rescinded.push(offer.id);
            }
        }
        // Offers that the framework does not know were lost with its stream: they are free again.
        let open: Vec<OfferId> = self.book.offers_of(id).map(|(offer, _)| offer.id).collect();
        for lost in open.into_iter().filter(|lost| !presented.contains(lost)) {
            self.book.rescind(lost);
        }
        drop(stale);
        (kept, rescinded)
    }

    fn presentation_result(
        &self,
        registry: &Registry,
        now: LeaderTime,
        id: FrameworkId,
        offer: &OfferTerms,
        token: &[u8],
    ) -> &'static str {
        if offer.framework != id || !verify(&registry.cluster().facts, offer, token) {
            return "invalid";
        }
        if self.book.get(offer.id).is_some() {
            return "kept";
        }
        if offer.id.epoch >= self.epoch {
            return RescindReason::Used.code();
        }
        let checked = revalidate(registry, &self.book, offer, now.at);
        checked.map_or_else(|reason| reason.code(), |()| "kept")
    }

    /// Returns the counts of presented offers by result since the last call.
    pub(crate) fn take_presented(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.presented)
    }
}
