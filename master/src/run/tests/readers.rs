//! Tests of readers outside the owner's turns: the ring of changes on every master, and
//! explanations of many agents.

use argosy_proto::v1;
use argosy_state::actor::Actor;
use argosy_state::command::Subscribe;
use argosy_state::encode;
use argosy_state::ids::{Epoch, Revision};
use argosy_state::registry::RecordKey;
use argosy_state::testing::{framework_info, registration};

use super::routes::services;
use super::*;
use crate::access::Reader;
use crate::change_ring::{HistoryLost, RecordChange};
use crate::service::{ListKind, one_agent};

/// More than any reader here requests.
const ALL: usize = 1_000_000;

/// Returns all changes that a master has after a log index.
fn changes(owner: &OwnerHandle, after: u64) -> Vec<RecordChange> {
    let page = owner.changes.since(after, ALL).unwrap();
    let entries = page.entries.iter().flat_map(|entry| entry.iter());
    entries.cloned().collect()
}

/// Writes the weight of a role through the current leader of these; returns the log index.
async fn write(masters: &[&SingleMaster], weight_milli: u64) -> u64 {
    loop {
        for alone in masters {
            if !alone.handle.leader_status.borrow().is_local {
                continue;
            }
            let operate = Operate {
                request: None,
                hash: 0,
                operations: vec![weight(weight_milli)],
                wall_ms: 0,
            };
            let asked = alone.handle.ask(|request| Input::Operate {
                request,
                actor: Actor::Unauthenticated,
                operate,
            });
            if let Ok(LeaderReply::Operated { revision, .. }) = asked.await {
                return revision.index;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_equal_on_every_master_and_a_reader_can_switch() {
    let masters = SingleMaster::start_three().await;
    let mut all: Vec<&SingleMaster> = masters.iter().collect();
    let first = write(&all, 2_000).await;
    let mut last = first;
    for step in 1..40 {
        // Every fourth write sets the default, which removes the record.
        let weight = if step % 4 == 0 { 1_000 } else { 1_000 + step };
        last = write(&all, weight).await;
    }
    for master in &all {
        master.handle.wait_applied(last).await.unwrap();
    }
    let seen = changes(&all[0].handle, first);
    let role = encode::key(&RecordKey::Weight(Role::new("ops").unwrap()));
    let of_role = |change: &&RecordChange| change.key == role;
    // A write whose answer was lost in a change of leader is repeated.
    assert!(seen.iter().filter(of_role).count() >= 39);
    let removed = seen
        .iter()
        .filter(of_role)
        .filter(|change| change.value.is_none());
    assert!(removed.count() >= 9);
    assert!(seen.is_sorted_by_key(|change| change.revision));
    for other in &all[1..] {
        let up_to_last = |changes: Vec<RecordChange>| {
            let known = changes.into_iter();
            known
                .filter(|change| change.revision.index <= last)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            up_to_last(changes(&other.handle, first)),
            up_to_last(seen.clone())
        );
    }
    // The leader ends; its reader continues at another master.
    let leader = all
        .iter()
        .position(|one| one.handle.leader_status.borrow().is_local);
    let leader = all.swap_remove(leader.expect("one leads"));
    let read = leader.handle.changes.since(first, ALL).unwrap();
    leader.stop.cancel();
    leader.node.stop().await;
    let newest = write(&all, 7_000).await;
    for master in &all {
        master.handle.wait_applied(newest).await.unwrap();
        let rest = changes(&master.handle, read.through);
        assert!(rest[0].revision.index > read.through);
        let changed = rest.iter().rev().find(of_role).unwrap();
        assert_eq!(
            changed.revision,
            Revision {
                index: newest,
                ..changed.revision
            }
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_before_start_are_reported_as_lost() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    let before = alone.handle.changes.since(0, ALL).map(|page| page.through);
    alone.operate(weight(2_000)).await;
    // Entries applied before its loop ran are missing, and everything since is present.
    match before {
        Err(HistoryLost { oldest }) => assert!(!changes(&alone.handle, oldest).is_empty()),
        Ok(_) => assert!(!changes(&alone.handle, 0).is_empty()),
    }
    alone.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_agents_are_evaluated_regardless_of_number() {
    const AGENTS: u64 = 2_345;
    let alone = SingleMaster::start().await;
    let epoch = Epoch(alone.active_leader().await.epoch);
    let subscribe = Subscribe {
        framework: None,
        session: 7,
        info: framework_info("waiting"),
    };
    let registered = (0..AGENTS).map(|nonce| {
        let agent = registration(nonce + 1, "cpus:1;mem:64");
        Command::RegisterAgent(agent)
    });
    let commands = registered.chain([Command::Subscribe(subscribe)]);
    alone.propose_all(epoch, commands).await;
    let question = v1::ExplainRequest {
        framework_id: "framework-1".to_owned(),
        ..Default::default()
    };
    let services = services(&alone.handle);
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    let explained = loop {
        match services
            .explain_here(question.clone(), Reader::Unrestricted)
            .await
        {
            Ok(explained) => break explained,
            Err(why) => assert!(tokio::time::Instant::now() < deadline, "{why}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let evaluated = explained.counts.iter().map(|count| u64::from(count.agents));
    assert_eq!(evaluated.sum::<u64>(), AGENTS);
    // The answer stays small, regardless of the number of agents.
    assert_eq!(explained.verdicts.len(), 100);
    assert_eq!(explained.verdicts[99].agent_id, "agent-100");
    alone.end().await;
}

/// The caller learns that it may try another master: this one may be the only one that lags.
#[tokio::test]
async fn a_read_that_this_master_cannot_answer_in_time_may_be_tried_at_another() {
    let alone = SingleMaster::start().await;
    alone.active_leader().await;
    tokio::time::pause();
    let late = alone.handle.wait_applied(u64::MAX).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::Unavailable, "{late}");
    let reason = tonic_types::StatusExt::get_details_error_info(&late).unwrap();
    assert_eq!(reason.reason, "no-leader");
}

/// A read of the leader may find that it leads no longer once the read is confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_agents_that_meets_a_step_down_is_tried_again() {
    let masters = SingleMaster::start_three().await;
    write(&masters.iter().collect::<Vec<_>>(), 2_000).await;
    let follows = |master: &&SingleMaster| !master.handle.leader_status.borrow().is_local;
    let follower = masters.iter().find(follows).expect("two follow");
    let services = services(&follower.handle);
    let list = |consistency: v1::Consistency| {
        let request = v1::ListRequest {
            consistency: consistency.into(),
            ..Default::default()
        };
        services.list_here(ListKind::Agents, request, Actor::default())
    };
    let get = |consistency: v1::Consistency| {
        let request = v1::GetRequest {
            id: "agent-1".to_owned(),
            consistency: consistency.into(),
            ..Default::default()
        };
        one_agent(&follower.handle, Reader::Unrestricted, request)
    };
    let unknown = get(v1::Consistency::Local).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound, "{unknown}");
    assert!(list(v1::Consistency::Local).await.is_ok());
    let read = get(v1::Consistency::Linearizable).await.unwrap_err();
    assert_eq!(read.code(), tonic::Code::Unavailable, "{read}");
    let listed = list(v1::Consistency::Linearizable).await.unwrap_err();
    assert_eq!(listed.code(), tonic::Code::Unavailable, "{listed}");
}
