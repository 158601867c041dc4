//! Tests of the queue without an owner.

use std::time::Duration;

use argosy_state::access::Subject;
use tokio::sync::mpsc;

use super::*;
use crate::inbox::{Inbox, OwnerCalls, OwnerMessage};
use crate::leader::Input;
use crate::links::RequestId;

fn account(name: &str) -> Account {
    Account::Principal(format!("framework/{name}").parse().unwrap())
}

/// Adds a call that shows its number.
fn call(
    queue: &OwnerCalls,
    account: &Account,
    number: u64,
) -> Result<oneshot::Receiver<LeaderReply>, LimitReached> {
    let (waiter, answer) = CallWaiter::new();
    let input = Box::new(Input::Tick);
    let message = OwnerMessage::Ask(RequestId(number), input, waiter, None);
    queue.add_call(account, (8, 0), message)?;
    Ok(answer)
}

fn numbers(batch: &[OwnerMessage]) -> Vec<u64> {
    let number = |message: &OwnerMessage| match message {
        OwnerMessage::Ask(request, ..) => request.0,
        _ => panic!("another message"),
    };
    batch.iter().map(number).collect()
}

#[tokio::test]
async fn a_full_account_is_refused_and_others_are_served_soon() {
    let queue = OwnerCalls::new();
    let (flood, other) = (account("flood"), account("other"));
    let mut answers = Vec::new();
    for number in 0..BOUNDS.of_account as u64 {
        answers.push(call(&queue, &flood, number).unwrap());
    }
    let refused = call(&queue, &flood, 0).unwrap().try_recv();
    assert!(matches!(refused, Ok(LeaderReply::Refused { code, .. }) if code == RATE_LIMITED));
    let probe = OwnerMessage::Probe(Instant::now());
    let refused = queue.begin_stream(&flood, 0, probe).unwrap_err();
    assert_eq!(refused, LimitReached::PrincipalQueue);
    answers.push(call(&queue, &other, 1 << 40).unwrap());
    let mut batch = Vec::new();
    queue.take(&mut batch, 128);
    assert!(numbers(&batch).contains(&(1 << 40)));
}

#[tokio::test]
async fn the_largest_calls_of_an_account_wait_in_64_mib() {
    let queue = OwnerCalls::new();
    let flood = account("flood");
    let mut answers = Vec::new();
    for number in 0..=64 {
        let (waiter, answer) = CallWaiter::new();
        let message = OwnerMessage::Ask(RequestId(number), Box::new(Input::Tick), waiter, None);
        queue.add_call(&flood, (8, 1 << 20), message).unwrap();
        answers.push(answer);
    }
    let refused = answers.pop().unwrap().try_recv();
    assert!(matches!(refused, Ok(LeaderReply::Refused { code, .. }) if code == RATE_LIMITED));
    assert_eq!(queue.waiting(), 64);
    call(&queue, &account("other"), 0).unwrap();
    assert_eq!(queue.waiting(), 65);
}

#[tokio::test]
async fn a_full_queue_refuses_a_call_of_the_account_with_most() {
    let queue = OwnerCalls::new();
    let mut answers = Vec::new();
    let full = BOUNDS.total / BOUNDS.of_account;
    for one in 0..full {
        for number in 0..BOUNDS.of_account as u64 {
            let queued = call(&queue, &account(&one.to_string()), number);
            answers.push(queued.unwrap());
        }
    }
    let mut last = call(&queue, &account("last"), 0).unwrap();
    assert!(last.try_recv().is_err(), "it waits");
    let replies = answers
        .iter_mut()
        .filter_map(|answer| answer.try_recv().ok());
    let replies: Vec<_> = replies.collect();
    let [LeaderReply::Refused { code, .. }] = &replies[..] else {
        panic!("{replies:?}");
    };
    assert_eq!(*code, RATE_LIMITED);
    assert_eq!(queue.waiting(), BOUNDS.total);
}

#[tokio::test]
async fn calls_without_callers_are_dropped() {
    let queue = OwnerCalls::new();
    let one = account("one");
    let _first = call(&queue, &one, 1).unwrap();
    drop(call(&queue, &one, 2).unwrap());
    let _third = call(&queue, &one, 3).unwrap();
    let mut batch = Vec::new();
    queue.take(&mut batch, 128);
    assert_eq!(numbers(&batch), [1, 3]);
}

/// The owner of an idle leader would otherwise take the next ones at its next tick.
#[tokio::test(start_paused = true)]
async fn a_call_behind_calls_without_callers_is_served_at_once() {
    let calls = OwnerCalls::new();
    let (_links, received) = mpsc::channel(8);
    let mut inbox = Inbox {
        links: received,
        calls: calls.clone(),
    };
    let one = account("one");
    for number in 0..1_000 {
        drop(call(&calls, &one, number).unwrap());
    }
    let _answer = call(&calls, &one, 5_000).unwrap();
    let mut batch = Vec::new();
    let received = inbox.receive(&mut batch, 256);
    let received = tokio::time::timeout(Duration::from_secs(1), received).await;
    assert!(received.unwrap());
    assert_eq!(numbers(&batch), [5_000]);
}

#[tokio::test]
async fn a_place_is_held_until_the_answer() {
    let queue = OwnerCalls::new();
    let (one, other) = (account("one"), account("other"));
    let mut answers = Vec::new();
    for number in 0..4_000 {
        answers.push(call(&queue, &one, number).unwrap());
    }
    answers.push(call(&queue, &other, 5_000).unwrap());
    queue.tick();
    let mut batch = Vec::new();
    queue.take(&mut batch, 4_000);
    let held = batch.len();
    assert!(held < 1_000, "{held}");
    let mut more = Vec::new();
    queue.take(&mut more, 4_000);
    assert!(more.is_empty(), "no place is free");
    let Some(OwnerMessage::Ask(_, _, waiter, _)) = batch.pop() else {
        panic!("it has calls only");
    };
    waiter.answer(LeaderReply::Acknowledged);
    queue.take(&mut more, 4_000);
    assert_eq!(more.len(), 1);
}

#[tokio::test]
async fn the_lanes_share_a_batch() {
    let calls = OwnerCalls::new();
    let (links, received) = mpsc::channel(1_000);
    let mut inbox = Inbox {
        links: received,
        calls: calls.clone(),
    };
    let one = account("one");
    let mut answers = Vec::new();
    for number in 0..500 {
        answers.push(call(&calls, &one, number).unwrap());
        links
            .try_send(OwnerMessage::Probe(Instant::now()))
            .ok()
            .unwrap();
    }
    assert_eq!(inbox.waiting(), 1_000);
    let mut batch = Vec::new();
    assert!(inbox.receive(&mut batch, 256).await);
    let probes = batch.iter();
    let probes = probes.filter(|message| matches!(message, OwnerMessage::Probe(_)));
    assert_eq!((batch.len(), probes.count()), (256, 128));
    // A call wakes an owner that waits.
    batch.clear();
    while inbox.waiting() > 0 {
        assert!(inbox.receive(&mut batch, 256).await);
        batch.clear();
    }
    let (received, queued) = tokio::join!(inbox.receive(&mut batch, 256), async {
        tokio::task::yield_now().await;
        call(&calls, &one, 7)
    });
    assert!(received && queued.is_ok());
    assert_eq!(numbers(&batch), [7]);
    drop(links);
    assert!(!inbox.receive(&mut Vec::new(), 256).await);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_grants_no_burst() {
    let limit = RateLimit {
        calls_per_second: 1,
        burst: 10,
    };
    let queue = OwnerCalls::new();
    let mut facts = AccessFacts::default();
    facts.limits.insert(Subject::Everyone, limit);
    queue.set_limits(&facts);
    let one = account("one");
    assert!(call(&queue, &one, 1).is_ok());
    queue.begin_leading();
    assert!(call(&queue, &one, 2).is_err());
    tokio::time::advance(std::time::Duration::from_secs(2)).await;
    let admitted = (0..10).filter(|number| call(&queue, &one, *number).is_ok());
    assert_eq!(admitted.count(), 2);
    queue.set_limits(&AccessFacts::default());
    assert!(call(&queue, &one, 3).is_ok(), "it has no limit any more");
}
