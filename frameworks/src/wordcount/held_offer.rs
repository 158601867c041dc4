//! One offer that is always held, to show that it outlives the leader that made it.
//!
//! Pure. The held offer is used when a new epoch has begun, when it is old and there is another, or
//! when no work can continue without it.

use std::collections::{BTreeMap, VecDeque};

use argosy_client::Resources;
use argosy_client::resources::Remainder;
use argosy_client::scheduler::{CallKey, CallResult};
use argosy_proto::v1;
use serde::Serialize;

/// An offer that was made in one epoch and used in another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CrossEpochOffer {
    /// The id of the offer, which never changes.
    pub offer: String,
    /// The epoch that made it.
    pub made_in_epoch: u64,
    /// The epoch in which it was accepted.
    pub used_in_epoch: u64,
    /// Tasks launched on it.
    pub tasks: Vec<String>,
}

#[derive(Debug)]
struct HeldOffer {
    offer: v1::Offer,
    since_ms: u64,
}

/// The held offer and its history; see the module.
#[derive(Debug, Default)]
pub struct OfferHold {
    // Time after which a newer offer replaces the held one; `None` holds no offer.
    longest_ms: Option<u64>,
    held: Option<HeldOffer>,
    // A held offer that a newer one has replaced.
    replaced: Option<v1::Offer>,
    in_use: BTreeMap<CallKey, CrossEpochOffer>,
    crossings: Vec<CrossEpochOffer>,
}

impl OfferHold {
    /// Creates a hold of an offer for `longest_ms` milliseconds, or until the epoch ends.
    /// `None` holds none.
    #[must_use]
    pub fn new(longest_ms: Option<u64>) -> Self {
        Self {
            longest_ms,
            ..Self::default()
        }
    }

    /// Returns whether an offer is held.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    /// Removes the smallest offer that fits one task from `offers`, and holds it.
    pub fn choose(&mut self, offers: &mut VecDeque<v1::Offer>, needs: &Resources, now_ms: u64) {
        let Some(longest_ms) = self.longest_ms else {
            return;
        };
        let is_fresh = self
            .held
            .as_ref()
            .is_some_and(|kept| now_ms < kept.since_ms.saturating_add(longest_ms));
        if is_fresh || self.replaced.is_some() {
            return;
        }
        let size = |offer: &v1::Offer| {
            let mut rest = Remainder::of(offer);
            let cpus = rest.resources().scalar_milli("cpus");
            rest.take(needs).then_some(cpus)
        };
        let good = offers
            .iter()
            .enumerate()
            .filter_map(|(at, offer)| Some((size(offer)?, at)));
        let Some(offer) = good.min().and_then(|(_, at)| offers.remove(at)) else {
            return;
        };
        let old = self.held.replace(HeldOffer {
            offer,
            since_ms: now_ms,
        });
        self.replaced = old.map(|kept| kept.offer);
    }

    /// Returns the offer to use now, if there is one. `is_stuck`: nothing can run without it.
    pub fn take_due(&mut self, epoch: u64, is_stuck: bool) -> Option<v1::Offer> {
        if let Some(offer) = self.replaced.take() {
            return Some(offer);
        }
        let made_in = epoch_of(&self.held.as_ref()?.offer);
        if is_stuck || made_in < epoch {
            return self.held.take().map(|kept| kept.offer);
        }
        None
    }

    /// Records that an offer of [`Self::take_due`] was accepted by this call.
    pub fn record_use(&mut self, offer: &v1::Offer, epoch: u64, call: Option<CallKey>) {
        let made_in = epoch_of(offer);
        if let Some(call) = call.filter(|_| made_in < epoch) {
            let crossing = CrossEpochOffer {
                offer: offer.offer_id.clone(),
                made_in_epoch: made_in,
                used_in_epoch: epoch,
                tasks: Vec::new(),
            };
            self.in_use.insert(call, crossing);
        }
    }

    /// Processes the answer of a call. Returns the crossing, if it was one and at least one task
    /// was launched.
    pub fn answered(&mut self, answer: &CallResult) -> Option<CrossEpochOffer> {
        let mut crossing = self.in_use.remove(&answer.call)?;
        let refused = answer.not_launched();
        let is_launched =
            |id: &&String| answer.is_done() && !refused.iter().any(|(task, _)| task == id);
        crossing.tasks = answer
            .task_ids
            .iter()
            .filter(is_launched)
            .cloned()
            .collect();
        if crossing.tasks.is_empty() {
            return None;
        }
        self.crossings.push(crossing.clone());
        Some(crossing)
    }

    /// Removes an offer that became invalid.
    pub fn rescinded(&mut self, offer_id: &str) {
        self.held.take_if(|kept| kept.offer.offer_id == offer_id);
        self.replaced.take_if(|offer| offer.offer_id == offer_id);
    }

    /// Returns all crossings so far.
    #[must_use]
    pub fn crossings(&self) -> &[CrossEpochOffer] {
        &self.crossings
    }
}

/// Returns the first part of an offer's id, or 0 if it has none.
fn epoch_of(offer: &v1::Offer) -> u64 {
    let epoch = offer
        .offer_id
        .split_once('.')
        .and_then(|(epoch, _)| epoch.parse().ok());
    epoch.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use argosy_client::resources::resources;

    fn offer(id: &str, text: &str) -> v1::Offer {
        v1::Offer {
            offer_id: id.into(),
            resources: resources(text).unwrap(),
            ..Default::default()
        }
    }

    fn needs() -> Resources {
        "cpus:0.1;mem:32".parse().unwrap()
    }

    fn id(offer: Option<v1::Offer>) -> Option<String> {
        offer.map(|offer| offer.offer_id)
    }

    #[test]
    fn the_smallest_sufficient_offer_is_held_until_the_next_epoch() {
        let mut hold = OfferHold::new(Some(8_000));
        let mut offers = VecDeque::from([
            offer("1.1", "cpus:4;mem:64"),
            offer("1.2", "cpus:1;mem:64"),
            offer("1.3", "cpus:0.05;mem:64"),
        ]);
        hold.choose(&mut offers, &needs(), 0);
        assert_eq!(offers.len(), 2);
        assert_eq!(hold.take_due(1, false), None);
        assert_eq!(id(hold.take_due(2, false)), Some("1.2".into()));
        assert!(!hold.is_holding());
    }

    #[test]
    fn an_old_offer_is_released_only_for_a_newer_one() {
        let mut hold = OfferHold::new(Some(8_000));
        hold.choose(
            &mut VecDeque::from([offer("1.1", "cpus:1;mem:64")]),
            &needs(),
            0,
        );
        hold.choose(&mut VecDeque::new(), &needs(), 9_000);
        assert_eq!(hold.take_due(1, false), None);
        hold.choose(
            &mut VecDeque::from([offer("1.2", "cpus:1;mem:64")]),
            &needs(),
            9_000,
        );
        assert_eq!(id(hold.take_due(1, false)), Some("1.1".into()));
        assert!(hold.is_holding());
        assert_eq!(
            id(hold.take_due(1, true)),
            Some("1.2".into()),
            "nothing else gets on"
        );
    }

    #[test]
    fn no_offer_is_held_without_the_option_or_if_insufficient() {
        let mut off = OfferHold::new(None);
        let mut offers = VecDeque::from([offer("1.1", "cpus:1;mem:64")]);
        off.choose(&mut offers, &needs(), 0);
        assert_eq!(offers.len(), 1);
        let mut hold = OfferHold::new(Some(1));
        hold.choose(&mut offers, &needs(), 0);
        hold.rescinded("1.1");
        assert_eq!(hold.take_due(9, true), None);
    }
}
