//! Tests of the book: random operations, and each operation alone.

use std::sync::Arc;

use argosy_state::command::{OfferTerms, OperatorOperation};
use argosy_state::ids::{AgentId, Epoch, FrameworkId, OfferId, Revision, Timestamp};

use super::{OfferBook, OfferState, RescindReason, TakeError, revalidate, sign, verify};
use crate::allocator::AllocatorSettings;
use crate::allocator::tests::fixture::{World, parse, role};
use crate::allocator::tests::random::TestRng;

fn terms(framework: u64, agent: u64, expires: u64) -> OfferTerms {
    OfferTerms {
        id: OfferId::default(),
        framework: FrameworkId(framework),
        session: 1,
        agent: AgentId(agent),
        role: role("a"),
        resources: parse("cpus:1;ports:[1-9]"),
        offer_revision: Revision::default(),
        expires: Timestamp(expires),
    }
}

fn book() -> OfferBook {
    OfferBook::new(Epoch(5))
}

#[test]
fn pending_offer_stays_held_until_settled() {
    let mut book = book();
    let offer = book.open(terms(1, 1, 100));
    assert_eq!(offer.id.to_string(), "5.1");
    assert_eq!(book.take(&[offer.id]), Ok(vec![Arc::clone(&offer)]));
    assert_eq!(book.offered_on(AgentId(1)), offer.resources);
    assert_eq!(book.take(&[offer.id]), Err(TakeError::Pending(offer.id)));
    assert_eq!(book.decline(FrameworkId(1), offer.id), None);
    assert_eq!(book.rescind_agent(AgentId(1)), []);
    assert_eq!(
        book.expire(Timestamp(1_000), 9),
        [],
        "used ones never lapse"
    );
    book.settle(&[offer.id]);
    assert!(book.is_empty() && book.offered_on(AgentId(1)).is_empty());
    assert_eq!(book.take(&[offer.id]), Err(TakeError::NotOpen(offer.id)));
}

#[test]
fn offers_are_taken_all_or_none() {
    let mut book = book();
    let (a, b) = (book.open(terms(1, 1, 9)), book.open(terms(1, 2, 9)));
    let missing = OfferId {
        epoch: Epoch(5),
        serial: 77,
    };
    assert_eq!(
        book.take(&[a.id, missing]),
        Err(TakeError::NotOpen(missing))
    );
    assert_eq!(
        book.take(&[a.id, b.id, a.id]),
        Err(TakeError::Duplicate(a.id))
    );
    assert!(
        book.iter()
            .all(|(_, standing)| standing == OfferState::Open)
    );
    assert_eq!(book.take(&[b.id, a.id]).unwrap().len(), 2);
}

#[test]
fn only_its_framework_declines_an_offer() {
    let mut book = book();
    let offer = book.open(terms(1, 1, 9));
    assert_eq!(book.decline(FrameworkId(2), offer.id), None);
    assert_eq!(book.decline(FrameworkId(1), offer.id), Some(offer));
}

#[test]
fn offers_expire_in_order_of_their_time() {
    let mut book = book();
    let late = book.open(terms(1, 1, 30));
    let early = book.open(terms(1, 2, 10));
    let middle = book.open(terms(2, 3, 20));
    assert_eq!(book.next_expiry(), Some(Timestamp(10)));
    assert_eq!(book.expire(Timestamp(9), 9), []);
    assert_eq!(book.expire(Timestamp(25), 1), [early]);
    assert_eq!(book.expire(Timestamp(25), 9), [middle]);
    assert_eq!(book.next_expiry(), Some(late.expires));
}

#[test]
fn rescinds_return_the_withdrawn_offers() {
    let mut book = book();
    let mut other = terms(1, 2, 9);
    other.session = 2;
    let mut role_b = terms(1, 3, 9);
    role_b.role = role("b");
    let (a, other, role_b) = (
        book.open(terms(1, 1, 9)),
        book.open(other),
        book.open(role_b),
    );
    let second = book.open(terms(2, 4, 9));
    assert_eq!(book.rescind_role(FrameworkId(1), &role("b")), [role_b]);
    assert_eq!(book.rescind_other_sessions(FrameworkId(1), 2), [a]);
    assert_eq!(book.rescind_agent(AgentId(4)), [second]);
    assert_eq!(book.rescind_framework(FrameworkId(1)), [other]);
    assert!(book.is_empty());
}

#[test]
fn every_index_agrees_with_the_offers_after_random_operations() {
    for seed in 1..=20 {
        let mut dice = TestRng::new(seed * 104_729);
        let mut book = book();
        for step in 0..600 {
            let id = OfferId {
                epoch: Epoch(5 - dice.below(2) as u64),
                serial: dice.below(200) as u64,
            };
            let framework = FrameworkId(dice.below(4) as u64);
            match dice.below(10) {
                0..=3 => {
                    let mut new = terms(framework.0, dice.below(300) as u64, step + 50);
                    new.role = [role("a"), role("b")][dice.below(2)].clone();
                    new.session = dice.below(3) as u64;
                    // No two offers of an agent may overlap: each has a different port.
                    new.resources = parse(&format!("cpus:1;ports:[{step}-{step}]"));
                    if dice.below(5) == 0 {
                        new.id = id;
                        new.id.epoch = Epoch(4);
                        book.adopt(new, Timestamp(0));
                    } else {
                        book.open(new);
                    }
                }
                4 => drop(book.take(&[id])),
                5 => book.settle(&[id]),
                6 => drop(book.decline(framework, id)),
                7 => drop(book.rescind_other_sessions(framework, 1)),
                8 => drop(book.rescind_agent(AgentId(dice.below(300) as u64))),
                _ => drop(book.expire(Timestamp(step), 5)),
            }
            book.check_indexes()
                .unwrap_or_else(|why| panic!("seed {seed}, step {step}: {why}"));
        }
        assert!(!book.is_empty(), "seed {seed}");
    }
}

#[test]
fn check_finds_overlaps_and_offers_of_used_resources() {
    let mut world = World::new();
    let framework = world.framework(&["a"]);
    let agent = world.agent("cpus:2;ports:[1-9]");
    let offer = world.offers().remove(0);
    assert_eq!(world.book.check(&world.registry), Ok(()));
    let mut copy = (*offer).clone();
    world.book.open(copy.clone());
    let why = world.book.check(&world.registry).unwrap_err();
    assert!(why.contains("has resources of another offer"), "{why}");
    world.book.rescind_framework(framework);
    copy.resources = parse("cpus:2.001");
    world.book.open(copy);
    let why = world.book.check(&world.registry).unwrap_err();
    assert!(
        why.starts_with(&format!("{agent}: cpus:2.001 is offered")),
        "{why}"
    );
}

/// Returns an offer that was made in one epoch, after the next epoch has begun.
fn held_over_a_failover() -> (World, OfferTerms) {
    let mut world = World::new();
    world.framework(&["a"]);
    world.agent("cpus:4;mem:64;ports:[1-9]");
    let offer = world.offers().remove(0);
    world.new_leader(AllocatorSettings::default());
    (world, (*offer).clone())
}

fn check_offer(world: &World, offer: &OfferTerms) -> Result<(), RescindReason> {
    revalidate(&world.registry, &world.book, offer, world.now)
}

#[test]
fn an_offer_held_across_a_failover_is_adopted_once_under_its_old_id() {
    let (mut world, offer) = held_over_a_failover();
    let token = sign(&world.registry.cluster().facts, &offer);
    assert!(verify(&world.registry.cluster().facts, &offer, &token));
    assert_eq!(check_offer(&world, &offer), Ok(()));
    world.book.adopt(offer.clone(), Timestamp(0));
    assert_eq!(check_offer(&world, &offer), Ok(()), "again: it is open");
    world.book.adopt(offer.clone(), Timestamp(0));
    assert_eq!(world.book.len(), 1);
    assert_eq!(world.offered(), [], "nothing of it is offered again");
    world.accept(&offer, &[("t", "cpus:1")]);
    assert_eq!(check_offer(&world, &offer), Err(RescindReason::Used));
    assert_eq!(
        world.offers()[0].resources,
        parse("cpus:3;mem:64;ports:[1-9]")
    );
}

#[test]
fn changes_that_invalidate_a_held_offer_are_detected_at_failover() {
    let (mut world, offer) = held_over_a_failover();
    let with = |change: fn(&mut OfferTerms)| {
        let mut other = offer.clone();
        change(&mut other);
        check_offer(&world, &other)
    };
    assert_eq!(
        with(|offer| offer.session += 1),
        Err(RescindReason::OtherSession(offer.framework))
    );
    assert_eq!(
        with(|offer| offer.framework.0 += 1),
        Err(RescindReason::UnknownFramework(FrameworkId(
            offer.framework.0 + 1
        )))
    );
    assert_eq!(
        with(|offer| offer.role = role("b")),
        Err(RescindReason::LeftRole(role("b")))
    );
    assert_eq!(
        with(|offer| offer.agent.0 += 1),
        Err(RescindReason::UnknownAgent(AgentId(offer.agent.0 + 1)))
    );
    assert_eq!(
        with(|offer| offer.offer_revision.index += 1),
        Err(RescindReason::Outdated(offer.agent))
    );
    assert_eq!(
        with(|offer| offer.resources = parse("cpus:5")),
        Err(RescindReason::NotFree(offer.agent))
    );
    assert_eq!(
        with(|offer| offer.id.epoch.0 += 1_000),
        Err(RescindReason::Used),
        "of this epoch or a later one, and not in the book"
    );
    world.wait_ms(59_999);
    assert_eq!(check_offer(&world, &offer), Ok(()));
    world.wait_ms(1);
    assert_eq!(check_offer(&world, &offer), Err(RescindReason::Expired));
}

#[test]
fn held_offer_yields_to_an_open_one_and_to_an_unreachable_agent() {
    let (mut world, offer) = held_over_a_failover();
    assert_eq!(world.offers().len(), 1, "the new leader was faster");
    assert_eq!(
        check_offer(&world, &offer),
        Err(RescindReason::NotFree(offer.agent))
    );
    world.operate(OperatorOperation::Deactivate(offer.agent));
    assert!(matches!(
        check_offer(&world, &offer),
        Err(RescindReason::AgentNotActive(..))
    ));
}

#[test]
fn an_offer_in_use_is_not_adopted_again() {
    let (mut world, offer) = held_over_a_failover();
    world.book.adopt(offer.clone(), Timestamp(0));
    world.book.take(&[offer.id]).unwrap();
    assert_eq!(check_offer(&world, &offer), Err(RescindReason::InFlight));
}
