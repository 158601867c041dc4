//! Held offers, with their tokens, and declines in force.
//!
//! Pure. An offer is held until it is used, declined or rescinded; offers and declines are
//! presented again when the stream is resumed.

use std::collections::{BTreeMap, BTreeSet};

use argosy_proto::v1;
use prost::Message as _;

/// Maximum bytes of encoded filters that are presented. Beyond it, those that end first are left
/// out.
const FILTER_BYTES: usize = 64 * 1024;
/// Maximum bytes of encoded offers that are presented: a subscription is one message. The rest is
/// rescinded.
const HELD_BYTES: usize = 3 * 1024 * 1024;
/// Maximum number of offers that are presented, the newest first: a master validates this many. The
/// rest is rescinded.
const HELD_OFFERS: usize = 1_000;
/// Up to this number of declines, those that have ended are not removed.
const FEW_DECLINES: usize = 64;
/// Default duration of a decline, in milliseconds.
pub(crate) const DEFAULT_FILTER_MS: u64 = 5_000;

#[derive(Debug, Clone)]
struct ActiveDecline {
    resources: Vec<v1::Resource>,
    until_ms: u64,
}

/// A held offer.
#[derive(Debug)]
struct ReceivedOffer {
    /// Position in the order of arrival.
    arrival: u64,
    offer: v1::Offer,
}

/// The offers and declines of one session.
#[derive(Debug, Default)]
pub(crate) struct SessionOffers {
    /// Held offers by id.
    held: BTreeMap<String, ReceivedOffer>,
    /// Number of offers received so far.
    arrivals: u64,
    /// By agent and role, as masters keep them. Declines that have ended are removed in time.
    declines: BTreeMap<(String, String), ActiveDecline>,
    /// Number of declines above which those that have ended are removed.
    most_declines: usize,
}

impl SessionOffers {
    /// Adds offers and returns the new ones; an offer that is already held is a repeat.
    pub(crate) fn receive(
        &mut self,
        offers: Vec<v1::Offer>,
        used: &BTreeSet<String>,
    ) -> Vec<v1::Offer> {
        let is_new = |offer: &v1::Offer| {
            !self.held.contains_key(&offer.offer_id) && !used.contains(&offer.offer_id)
        };
        let new: Vec<_> = offers.into_iter().filter(is_new).collect();
        for offer in &new {
            self.arrivals += 1;
            let held = ReceivedOffer {
                arrival: self.arrivals,
                offer: offer.clone(),
            };
            self.held.insert(offer.offer_id.clone(), held);
        }
        new
    }

    /// Takes offers out to use them. If one is not held, returns the id of the first such offer
    /// instead.
    pub(crate) fn take(&mut self, offer_ids: &[String]) -> Result<Vec<v1::HeldOffer>, String> {
        if let Some(unknown) = offer_ids.iter().find(|id| !self.held.contains_key(*id)) {
            return Err(unknown.clone());
        }
        let take = |id| {
            self.held.remove(id).map(|held| v1::HeldOffer {
                offer: Some(held.offer),
            })
        };
        Ok(offer_ids.iter().filter_map(take).collect())
    }

    /// Declines offers, and remembers the duration. Returns the ids that were held.
    pub(crate) fn decline(
        &mut self,
        offer_ids: &[String],
        filter_ms: Option<u64>,
        now_ms: u64,
    ) -> Vec<String> {
        let until_ms = now_ms.saturating_add(filter_ms.unwrap_or(DEFAULT_FILTER_MS));
        let mut given_back = Vec::new();
        for id in offer_ids {
            let Some(ReceivedOffer { offer, .. }) = self.held.remove(id) else {
                continue;
            };
            if until_ms > now_ms {
                let decline = ActiveDecline {
                    resources: offer.resources,
                    until_ms,
                };
                self.declines.insert((offer.agent_id, offer.role), decline);
            }
            given_back.push(id.clone());
        }
        // Otherwise a framework remembers each agent that it ever declined.
        if self.declines.len() > self.most_declines.max(FEW_DECLINES) {
            self.remove_ended(now_ms);
            self.most_declines = 2 * self.declines.len();
        }
        given_back
    }

    fn remove_ended(&mut self, now_ms: u64) {
        self.declines.retain(|_, decline| decline.until_ms > now_ms);
    }

    /// Removes an offer; returns whether it was held.
    pub(crate) fn rescind(&mut self, offer_id: &str) -> bool {
        self.held.remove(offer_id).is_some()
    }

    /// Ends the declines of these roles; an empty list means all.
    pub(crate) fn revive(&mut self, roles: &[String]) {
        let stays = |role: &String| !roles.is_empty() && !roles.contains(role);
        self.declines.retain(|(_, role), _| stays(role));
    }

    /// Returns what to present at a subscription, and the ids that did not fit. First come the
    /// offers that unanswered calls have used (if they do not fit, others may be offered them
    /// before the call is repeated), then the newest.
    pub(crate) fn present<'a>(
        &mut self,
        used: impl Iterator<Item = &'a v1::HeldOffer>,
    ) -> (Vec<v1::HeldOffer>, Vec<String>) {
        let mut room = HELD_BYTES;
        let (mut presented, mut left_out) = (Vec::new(), Vec::new());
        let mut has_room = |presented: usize, bytes: usize| {
            let size = bytes + 16;
            let fits = size <= room && presented < HELD_OFFERS;
            room -= if fits { size } else { 0 };
            fits
        };
        for held in used {
            if has_room(presented.len(), held.encoded_len()) {
                presented.push(held.clone());
            }
        }
        let mut newest: Vec<_> = self.held.iter().collect();
        newest.sort_by_key(|(_, held)| std::cmp::Reverse(held.arrival));
        for (id, ReceivedOffer { offer, .. }) in newest {
            if !has_room(presented.len(), offer.encoded_len()) {
                left_out.push(id.clone());
                continue;
            }
            presented.push(v1::HeldOffer {
                offer: Some(offer.clone()),
            });
        }
        for id in &left_out {
            self.held.remove(id);
        }
        (presented, left_out)
    }

    /// Removes the offers that a new leader did not keep, and returns their ids.
    pub(crate) fn keep_only(&mut self, kept: &BTreeSet<&str>) -> Vec<String> {
        let lost: Vec<String> = self
            .held
            .keys()
            .filter(|id| !kept.contains(id.as_str()))
            .cloned()
            .collect();
        for id in &lost {
            self.held.remove(id);
        }
        lost
    }

    /// Returns the declines that are still in force.
    pub(crate) fn filters(&mut self, now_ms: u64) -> Vec<v1::Filter> {
        self.remove_ended(now_ms);
        let filter =
            |((agent_id, role), decline): (&(String, String), &ActiveDecline)| v1::Filter {
                agent_id: agent_id.clone(),
                role: role.clone(),
                resources: decline.resources.clone(),
                remaining_ms: decline.until_ms - now_ms,
            };
        let mut filters: Vec<_> = self.declines.iter().map(filter).collect();
        filters.sort_by_key(|filter| std::cmp::Reverse(filter.remaining_ms));
        let mut room = FILTER_BYTES;
        filters.retain(|filter| match room.checked_sub(filter.encoded_len() + 8) {
            Some(rest) => {
                room = rest;
                true
            }
            None => false,
        });
        filters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(id: &str, agent: &str) -> v1::Offer {
        v1::Offer {
            offer_id: id.into(),
            agent_id: agent.into(),
            role: "*".into(),
            token: vec![7; 32].into(),
            ..Default::default()
        }
    }

    fn holding(ids: &[&str]) -> SessionOffers {
        let mut offers = SessionOffers::default();
        let all = ids
            .iter()
            .map(|id| offer(id, &format!("agent-{id}")))
            .collect();
        offers.receive(all, &BTreeSet::new());
        offers
    }

    #[test]
    fn a_repeated_offer_is_delivered_once() {
        let mut offers = holding(&["1.1"]);
        let used = BTreeSet::from(["1.2".to_owned()]);
        let new = offers.receive(
            vec![offer("1.1", "a"), offer("1.2", "a"), offer("1.3", "a")],
            &used,
        );
        assert_eq!(new.len(), 1);
        assert_eq!(new[0].offer_id, "1.3");
    }

    #[test]
    fn held_offers_are_presented_with_tokens_and_others_are_rescinded() {
        let mut offers = holding(&["1.1", "1.2"]);
        let (presented, left_out) = offers.present(std::iter::empty());
        assert!(left_out.is_empty());
        assert!(
            presented
                .iter()
                .all(|held| held.offer.as_ref().unwrap().token.len() == 32)
        );
        assert_eq!(offers.keep_only(&BTreeSet::from(["1.2"])), ["1.1"]);
        assert_eq!(offers.take(&["1.1".into()]), Err("1.1".into()));
        assert_eq!(offers.take(&["1.2".into()]).unwrap().len(), 1);
    }

    #[test]
    fn presented_offers_are_bounded() {
        let ids: Vec<String> = (0..30_000).map(|serial| format!("1.{serial}")).collect();
        let mut offers = holding(&ids.iter().map(String::as_str).collect::<Vec<_>>());
        let used = v1::HeldOffer {
            offer: Some(offer("1.99999", "agent-used")),
        };
        let (presented, left_out) = offers.present([&used].into_iter());
        assert_eq!(presented[0], used, "what a call uses comes first");
        assert_eq!(presented.len(), HELD_OFFERS);
        assert_eq!(left_out.len(), 30_001 - HELD_OFFERS);
        let second = presented[1].offer.as_ref().unwrap();
        assert_eq!(second.offer_id, "1.29999", "then comes the newest");
        // Offers that were left out are no longer held.
        assert_eq!(offers.take(&left_out[..1]), Err(left_out[0].clone()));
        let mut large = offer("1.5", "agent-5");
        large.attributes = [("rack".to_owned(), "x".repeat(1 << 20))].into();
        let used: Vec<v1::HeldOffer> = (0..8)
            .map(|_| v1::HeldOffer {
                offer: Some(large.clone()),
            })
            .collect();
        let (presented, _) = SessionOffers::default().present(used.iter());
        let bytes: usize = presented.iter().map(prost::Message::encoded_len).sum();
        assert!(bytes <= HELD_BYTES && presented.len() == 2, "{bytes}");
    }

    #[test]
    fn declines_end_when_they_expire_or_at_a_revive() {
        let mut offers = holding(&["1.1", "1.2"]);
        offers.decline(&["1.1".into()], None, 1_000);
        offers.decline(&["1.2".into()], Some(60_000), 1_000);
        assert_eq!(offers.filters(2_000)[0].remaining_ms, 59_000);
        assert_eq!(offers.filters(6_000).len(), 1);
        offers.revive(&["ops".into()]);
        assert_eq!(offers.filters(6_000).len(), 1);
        offers.revive(&[]);
        assert!(offers.filters(6_000).is_empty());
    }

    #[test]
    fn declines_that_have_ended_do_not_accumulate() {
        let mut offers = SessionOffers::default();
        for serial in 0..10_000 {
            let id = format!("1.{serial}");
            let agent = format!("agent-{serial}");
            offers.receive(vec![offer(&id, &agent)], &BTreeSet::new());
            offers.decline(&[id], Some(100), serial);
            let in_force = usize::try_from(serial.min(99)).unwrap() + 1;
            assert!(offers.declines.len() >= in_force);
            assert!(offers.declines.len() <= 2 * in_force + FEW_DECLINES);
        }
        assert_eq!(offers.filters(9_999).len(), 100);
    }

    #[test]
    fn filters_beyond_the_bound_are_omitted() {
        let mut offers = SessionOffers::default();
        for serial in 0..10_000 {
            let id = format!("1.{serial}");
            offers.receive(
                vec![offer(&id, &format!("agent-{serial}"))],
                &BTreeSet::new(),
            );
            offers.decline(&[id], Some(10_000 + serial), 0);
        }
        let filters = offers.filters(0);
        let bytes: usize = filters.iter().map(prost::Message::encoded_len).sum();
        assert!(bytes <= FILTER_BYTES && filters.len() > 1_000);
        assert_eq!(
            filters[0].remaining_ms, 19_999,
            "those that end first are left out"
        );
    }
}
