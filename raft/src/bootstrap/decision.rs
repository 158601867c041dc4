//! The decision of an empty node about the answers of its peers: wait, take an identity, join, or
//! reject.
//!
//! Decisions only, no network. A group forms only when every listed peer answers, is empty, and has
//! the same list. No node coordinates this: each computes the same ids and the same cluster key
//! from the addresses and the incarnations of the data directories. The process can therefore be
//! interrupted and resumed at any point. A wiped directory has another incarnation, so no node
//! takes it for its predecessor.

use std::collections::BTreeMap;

use argosy_state::planted_bug;
use sha2::{Digest, Sha256};

use crate::error::StartError;
use crate::membership::MAX_VOTERS;
use crate::transport::wire::proto;
use crate::types::{Member, NodeIdentity};

/// The answers of peers by address; `None`: no answer.
pub(crate) type PeerAnswers = BTreeMap<String, Option<proto::AskResponse>>;

#[derive(Debug)]
pub(crate) enum BootstrapDecision {
    /// Take this identity; initialize with the founders if given.
    Take(NodeIdentity, Option<BTreeMap<u64, Member>>),
    /// Request to join the group of this peer.
    Join(Member),
    /// Wait for these peers, which have not answered or are not ready.
    Wait(Vec<String>),
    Refuse(StartError),
}

/// Returns the key and the members of the group that these directories form: every node computes
/// the same result.
pub(crate) fn compute(members: &[Member]) -> (u64, BTreeMap<u64, Member>) {
    let mut sorted: Vec<&Member> = members.iter().collect();
    sorted.sort_by(|one, other| one.raft_address.cmp(&other.raft_address));
    let mut hash = Sha256::new();
    for member in &sorted {
        hash.update((member.raft_address.len() as u64).to_be_bytes());
        hash.update(member.raft_address.as_bytes());
        hash.update(member.incarnation.to_be_bytes());
    }
    let digest = hash.finalize();
    let key = u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"));
    // 0 means "no cluster" on the wire.
    (key.max(1), (1..).zip(sorted.into_iter().cloned()).collect())
}

#[derive(Default)]
struct AnswersByKind<'a> {
    silent: Vec<String>,
    members: Vec<Member>,
    formed: Vec<(&'a proto::AskResponse, &'a Member, &'a proto::Identity)>,
}

/// Decides what an empty node does, given the answers of its peers.
pub(crate) fn decide(own: &Member, peers: &[String], answers: &PeerAnswers) -> BootstrapDecision {
    let by_kind = match classify(own, peers, answers) {
        Ok(heard) => heard,
        Err(refusal) => return BootstrapDecision::Refuse(refusal),
    };
    // A group already knows this directory: formation was interrupted here after the others had
    // finished it.
    for (answer, _, identity) in &by_kind.formed {
        let known = answer.members.iter().find(|node| {
            node.member
                .as_ref()
                .is_some_and(|known| is_same(known, own))
        });
        if let Some(node) = known {
            let (cluster_key, id) = (identity.cluster_key, node.id);
            return BootstrapDecision::Take(NodeIdentity { cluster_key, id }, None);
        }
    }
    if by_kind.silent.is_empty() {
        let count = by_kind.members.len();
        if by_kind.formed.is_empty() && count > MAX_VOTERS {
            return BootstrapDecision::Refuse(StartError::Settings {
                reason: format!(
                    "--peers names {count} masters, and a group has at most {MAX_VOTERS}: \
                     remove some from --peers"
                ),
            });
        }
        let (cluster_key, founders) = compute(&by_kind.members);
        if by_kind
            .formed
            .iter()
            .all(|(_, _, identity)| identity.cluster_key == cluster_key)
        {
            let mine = founders.iter().find(|(_, member)| *member == own);
            let id = *mine.expect("this node is among the founders").0;
            return BootstrapDecision::Take(
                NodeIdentity { cluster_key, id },
                (id == 1).then_some(founders),
            );
        }
    }
    // Only a running group accepts new members; a group that is still forming may prove to be this
    // node's own.
    match by_kind
        .formed
        .iter()
        .find(|(answer, _, _)| answer.initialized)
    {
        Some((_, member, _)) => BootstrapDecision::Join((*member).clone()),
        None if by_kind.silent.is_empty() => {
            let formed = by_kind.formed.iter();
            BootstrapDecision::Wait(
                formed
                    .map(|(_, member, _)| member.raft_address.clone())
                    .collect(),
            )
        }
        None => BootstrapDecision::Wait(by_kind.silent),
    }
}

/// Returns whether it is the same directory at the same addresses, unless a mutant is enabled.
fn is_same(known: &Member, own: &Member) -> bool {
    let has_address = known.raft_address == own.raft_address;
    known == own || (has_address && planted_bug!(NodeIdReused))
}

fn classify<'a>(
    own: &Member,
    peers: &[String],
    answers: &'a PeerAnswers,
) -> Result<AnswersByKind<'a>, StartError> {
    let mut by_kind = AnswersByKind::default();
    by_kind.members.push(own.clone());
    for (address, answer) in answers {
        let Some((answer, member)) = answer
            .as_ref()
            .and_then(|one| Some((one, one.member.as_ref()?)))
        else {
            by_kind.silent.push(address.clone());
            continue;
        };
        let same = by_kind
            .members
            .iter()
            .any(|one| one.incarnation == member.incarnation);
        if same
            || by_kind
                .members
                .iter()
                .any(|one| one.raft_address == member.raft_address)
        {
            let reason = format!(
                "{address} in --peers is the address of {}, which is listed already",
                member.raft_address
            );
            return Err(StartError::Settings { reason });
        }
        by_kind.members.push(member.clone());
        match &answer.identity {
            Some(identity) => by_kind.formed.push((answer, member, identity)),
            None if answer.peers != peers => {
                return Err(StartError::UnequalPeers {
                    peer: address.clone(),
                    ours: peers.to_vec(),
                    theirs: answer.peers.clone(),
                });
            }
            None => {}
        }
    }
    contradiction(&by_kind).map_or(Ok(by_kind), Err)
}

fn contradiction(by_kind: &AnswersByKind<'_>) -> Option<StartError> {
    let (_, _, first) = by_kind.formed.first()?;
    let other = by_kind
        .formed
        .iter()
        .find(|(_, _, other)| other.cluster_key != first.cluster_key);
    other.map(|(_, member, other)| StartError::ForeignCluster {
        peer: member.raft_address.clone(),
        ours: first.cluster_key,
        theirs: other.cluster_key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(address: &str, incarnation: u64) -> Member {
        Member {
            raft_address: address.into(),
            api_address: format!("{address}0"),
            incarnation,
        }
    }

    fn listed() -> Vec<String> {
        ["a:1", "b:1", "c:1"].map(str::to_owned).to_vec()
    }

    fn empty(member: &Member) -> proto::AskResponse {
        proto::AskResponse {
            member: Some(member.clone()),
            peers: listed(),
            ..proto::AskResponse::default()
        }
    }

    fn formed(
        member: &Member,
        cluster_key: u64,
        id: u64,
        members: &[(u64, &Member)],
    ) -> proto::AskResponse {
        let members: Vec<proto::Node> = members
            .iter()
            .map(|(id, member)| proto::Node {
                id: *id,
                member: Some((*member).clone()),
            })
            .collect();
        let identity = Some(proto::Identity { cluster_key, id });
        proto::AskResponse {
            identity,
            initialized: !members.is_empty(),
            members,
            ..empty(member)
        }
    }

    fn answers<const N: usize>(output: [(&str, Option<proto::AskResponse>); N]) -> PeerAnswers {
        output
            .map(|(address, answer)| (address.to_owned(), answer))
            .into_iter()
            .collect()
    }

    #[test]
    fn three_empty_masters_compute_the_same_group_and_the_first_initializes_it() {
        let members = [member("a:1", 7), member("b:1", 8), member("c:1", 9)];
        let mut keys = Vec::new();
        for (position, own) in members.iter().enumerate() {
            let others = members.iter().filter(|member| *member != own);
            let output = others
                .map(|member| (member.raft_address.clone(), Some(empty(member))))
                .collect();
            let BootstrapDecision::Take(identity, founders) = decide(own, &listed(), &output)
            else {
                panic!("{own:?} waits")
            };
            assert_eq!(identity.id, position as u64 + 1);
            assert_eq!(founders.is_some(), identity.id == 1);
            keys.push(identity.cluster_key);
        }
        keys.dedup();
        assert_eq!(keys.len(), 1);
    }

    #[test]
    fn no_group_of_more_than_five_masters_is_formed() {
        let members: Vec<Member> = (0..6).map(|at| member(&format!("m{at}:1"), at)).collect();
        let listed: Vec<String> = members.iter().map(|one| one.raft_address.clone()).collect();
        let answers_to = |own: &Member, among: &[Member]| -> PeerAnswers {
            let others = among.iter().filter(|member| *member != own);
            let answer = |member: &Member| proto::AskResponse {
                peers: listed.clone(),
                ..empty(member)
            };
            others
                .map(|member| (member.raft_address.clone(), Some(answer(member))))
                .collect()
        };
        let output = answers_to(&members[0], &members);
        let BootstrapDecision::Refuse(error) = decide(&members[0], &listed, &output) else {
            panic!("not refused")
        };
        let text = error.to_string();
        assert!(
            text.contains("6 masters, and a group has at most 5"),
            "{text}"
        );
        let output = answers_to(&members[0], &members[..5]);
        let decision = decide(&members[0], &listed, &output);
        assert!(matches!(decision, BootstrapDecision::Take(..)));
    }

    #[test]
    fn silent_peer_is_awaited_and_named() {
        let output = answers([("b:1", Some(empty(&member("b:1", 8)))), ("c:1", None)]);
        let decision = decide(&member("a:1", 7), &listed(), &output);
        assert!(matches!(decision, BootstrapDecision::Wait(silent) if silent == ["c:1"]));
    }

    #[test]
    fn unequal_lists_are_rejected_and_reported() {
        let mut other = empty(&member("b:1", 8));
        other.peers.pop();
        let output = answers([("b:1", Some(other)), ("c:1", None)]);
        let BootstrapDecision::Refuse(error) = decide(&member("a:1", 7), &listed(), &output) else {
            panic!("not refused")
        };
        let text = error.to_string();
        assert!(
            text.contains("ours is a:1, b:1, c:1") && text.contains("b:1 is a:1, b:1;"),
            "{text}"
        );
    }

    #[test]
    fn interrupted_founder_rejoins_its_group() {
        let (a, b, c) = (member("a:1", 7), member("b:1", 8), member("c:1", 9));
        let group = formed(&a, 5, 1, &[(1, &a), (2, &b), (3, &c)]);
        let output = answers([("a:1", Some(group)), ("b:1", None)]);
        let BootstrapDecision::Take(identity, None) = decide(&c, &listed(), &output) else {
            panic!("not taken")
        };
        assert_eq!(
            identity,
            NodeIdentity {
                cluster_key: 5,
                id: 3
            }
        );
    }

    #[test]
    fn a_founder_with_an_identity_does_not_prevent_the_others_from_forming() {
        let (a, b, c) = (member("a:1", 7), member("b:1", 8), member("c:1", 9));
        let (key, _) = compute(&[a.clone(), b.clone(), c.clone()]);
        let output = answers([
            ("a:1", Some(formed(&a, key, 1, &[]))),
            ("b:1", Some(empty(&b))),
        ]);
        let BootstrapDecision::Take(identity, None) = decide(&c, &listed(), &output) else {
            panic!("not taken")
        };
        assert_eq!(
            identity,
            NodeIdentity {
                cluster_key: key,
                id: 3
            }
        );
    }

    #[test]
    fn wiped_master_can_only_request_to_join() {
        let (a, b, c) = (member("a:1", 7), member("b:1", 8), member("c:1", 9));
        let group = formed(&a, 5, 1, &[(1, &a), (2, &b), (3, &c)]);
        let output = answers([("a:1", Some(group)), ("b:1", None)]);
        let wiped = member("c:1", 10);
        assert!(
            matches!(decide(&wiped, &listed(), &output), BootstrapDecision::Join(peer) if peer == a)
        );
    }

    #[test]
    fn two_wiped_masters_form_no_group_without_the_third() {
        let output = answers([("b:1", Some(empty(&member("b:1", 80)))), ("c:1", None)]);
        assert!(matches!(
            decide(&member("a:1", 70), &listed(), &output),
            BootstrapDecision::Wait(_)
        ));
        let c = member("c:1", 9);
        let back = formed(
            &c,
            5,
            3,
            &[(1, &member("a:1", 7)), (2, &member("b:1", 8)), (3, &c)],
        );
        let output = answers([
            ("b:1", Some(empty(&member("b:1", 80)))),
            ("c:1", Some(back)),
        ]);
        assert!(matches!(
            decide(&member("a:1", 70), &listed(), &output),
            BootstrapDecision::Join(_)
        ));
    }

    #[test]
    fn two_names_of_one_master_are_refused() {
        let output = answers([("b:1", Some(empty(&member("a:1", 7)))), ("c:1", None)]);
        let decision = decide(&member("a:1", 7), &listed(), &output);
        assert!(matches!(
            decision,
            BootstrapDecision::Refuse(StartError::Settings { .. })
        ));
    }

    #[test]
    fn masters_of_two_clusters_in_one_list_are_refused() {
        let (b, c) = (member("b:1", 8), member("c:1", 9));
        let output = answers([
            ("b:1", Some(formed(&b, 5, 2, &[(2, &b)]))),
            ("c:1", Some(formed(&c, 6, 3, &[(3, &c)]))),
        ]);
        let decision = decide(&member("a:1", 7), &listed(), &output);
        assert!(matches!(
            decision,
            BootstrapDecision::Refuse(StartError::ForeignCluster { .. })
        ));
    }
}
