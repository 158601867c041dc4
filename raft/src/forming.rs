//! How a node gets its identity: by forming a group with its peers, by founding a group of one, or by joining.
//!
//! A group forms only when every listed peer answers, empty, with the same list. Nobody leads that: each computes the same
//! ids and the same cluster key from the addresses and the incarnations of the data directories, so that it can be
//! interrupted anywhere and goes on. A wiped directory has another incarnation and is a stranger to every group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::error::{MembershipError, StartError};
use crate::membership::{self, Change};
use crate::network::{self, Peers};
use crate::service::{Door, Invitation};
use crate::settings::Timing;
use crate::types::Member;
use crate::wire::proto;

/// How long a peer may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two rounds of questions: soon at first, since the masters of a group are mostly started together.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often it is said whom the node waits for.
const REPORT: Duration = Duration::from_secs(5);

/// Which node of which group a data directory is. Given once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Tells clusters apart on the wire; made when the group is formed.
    pub(crate) cluster_key: u64,
    pub(crate) id: u64,
}

/// How the identity came about.
pub(crate) struct Beginning {
    pub(crate) identity: Identity,
    /// The members that openraft is to be initialized with, if this node is the one to do it.
    pub(crate) founders: Option<BTreeMap<u64, Member>>,
    /// The leader that waits for this node to run.
    pub(crate) accepted: Option<oneshot::Sender<()>>,
}

/// What a peer said, or that it said nothing.
type Answers = BTreeMap<String, Option<proto::AskResponse>>;

#[derive(Debug)]
enum Decision {
    /// Take this identity; initialize with the founders if given.
    Take(Identity, Option<BTreeMap<u64, Member>>),
    /// Ask the group of this peer to take this node in.
    Join(Member),
    /// These have not answered, or are not ready.
    Wait(Vec<String>),
    Refuse(StartError),
}

/// The key and the members of the group that these directories form: the same at every one of them.
fn compute(members: &[Member]) -> (u64, BTreeMap<u64, Member>) {
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
    // 0 stands for "no cluster" on the wire.
    (key.max(1), (1..).zip(sorted.into_iter().cloned()).collect())
}

/// What an empty node does, given what the others said.
fn decide(own: &Member, peers: &[String], answers: &Answers) -> Decision {
    let mut silent = Vec::new();
    let mut members = vec![own.clone()];
    let mut formed = Vec::new();
    for (address, answer) in answers {
        let Some(answer) = answer else {
            silent.push(address.clone());
            continue;
        };
        let Some(member) = &answer.member else {
            silent.push(address.clone());
            continue;
        };
        members.push(member.clone());
        match &answer.identity {
            Some(identity) => formed.push((address, answer, identity)),
            None if answer.peers != peers => {
                return Decision::Refuse(StartError::UnequalPeers {
                    peer: address.clone(),
                    ours: peers.to_vec(),
                    theirs: answer.peers.clone(),
                });
            }
            None => {}
        }
    }
    if let Some(refusal) = contradiction(&formed) {
        return Decision::Refuse(refusal);
    }
    // A group that knows this very directory: forming was interrupted here, after the others had finished it.
    for (_, answer, identity) in &formed {
        let known = answer
            .members
            .iter()
            .find(|node| node.member.as_ref() == Some(own));
        if let Some(node) = known {
            return Decision::Take(
                Identity {
                    cluster_key: identity.cluster_key,
                    id: node.id,
                },
                None,
            );
        }
    }
    if silent.is_empty() {
        let (cluster_key, founders) = compute(&members);
        if formed
            .iter()
            .all(|(_, _, identity)| identity.cluster_key == cluster_key)
        {
            let mine = founders.iter().find(|(_, member)| *member == own);
            let id = *mine.expect("this node is among the founders").0;
            let first = id == 1;
            return Decision::Take(Identity { cluster_key, id }, first.then_some(founders));
        }
    }
    // Only a group that runs can take anyone in; one that is still forming may yet turn out to be this node's own.
    match formed.iter().find(|(_, answer, _)| answer.initialized) {
        Some((_, answer, _)) => Decision::Join(
            answer
                .member
                .clone()
                .expect("answers without a member are left out"),
        ),
        None if silent.is_empty() => Decision::Wait(
            formed
                .iter()
                .map(|(address, ..)| (*address).clone())
                .collect(),
        ),
        None => Decision::Wait(silent),
    }
}

fn contradiction(
    formed: &[(&String, &proto::AskResponse, &proto::Identity)],
) -> Option<StartError> {
    let (_, _, first) = formed.first()?;
    let (peer, _, other) = formed
        .iter()
        .find(|(_, _, other)| other.cluster_key != first.cluster_key)?;
    Some(StartError::ForeignCluster {
        peer: (*peer).clone(),
        ours: first.cluster_key,
        theirs: other.cluster_key,
    })
}

async fn ask_all(addresses: &[String], timing: Timing, patience: Duration) -> Answers {
    let questions = addresses.iter().map(async |address| {
        let answer = network::ask(address, timing, patience).await;
        if let Err(status) = &answer
            && status.code() == tonic::Code::FailedPrecondition
        {
            warn!(peer = address, "{}", status.message());
        }
        (address.clone(), answer.ok())
    });
    join_all(questions).await.into_iter().collect()
}

/// Forming, for a node whose directory is empty.
pub(crate) struct Forming {
    pub(crate) door: Arc<Door>,
    pub(crate) peers: Peers,
    pub(crate) timing: Timing,
    pub(crate) invitations: mpsc::Receiver<Invitation>,
}

impl Forming {
    /// Founds a group of one, unless a listed master belongs to a group already.
    pub(crate) async fn bootstrap(&self) -> Result<Beginning, StartError> {
        let others = self.others();
        let answers = ask_all(&others, self.timing, PATIENCE).await;
        let formed = answers
            .into_iter()
            .find(|(_, answer)| answer.as_ref().is_some_and(|one| one.identity.is_some()));
        if let Some((peer, _)) = formed {
            return Err(StartError::AlreadyFormed { peer });
        }
        let (cluster_key, founders) = compute(std::slice::from_ref(&self.door.member));
        Ok(Beginning {
            identity: Identity { cluster_key, id: 1 },
            founders: Some(founders),
            accepted: None,
        })
    }

    /// Waits until this node has an identity.
    pub(crate) async fn run(mut self) -> Result<Beginning, StartError> {
        let own = self.door.member.clone();
        let listed = &self.door.peers;
        if listed.is_empty() {
            return Err(StartError::NoPeers);
        }
        if !listed.contains(&own.raft_address) {
            return Err(StartError::NotListed {
                own: own.raft_address,
                peers: listed.clone(),
            });
        }
        let others = self.others();
        let mut pause = FIRST_PAUSE;
        let mut report = Instant::now() + REPORT;
        loop {
            let answers = ask_all(&others, self.timing, PATIENCE).await;
            let said = match decide(&own, &self.door.peers, &answers) {
                Decision::Take(identity, founders) => {
                    return Ok(Beginning {
                        identity,
                        founders,
                        accepted: None,
                    });
                }
                Decision::Refuse(error) => return Err(error),
                Decision::Wait(silent) => format!("waiting for {}", silent.join(", ")),
                Decision::Join(peer) => match self.ask_to_join(&peer).await {
                    Ok(beginning) => return Ok(beginning),
                    Err(error) => format!(
                        "the group of {} does not take this master in: {error}",
                        peer.raft_address
                    ),
                },
            };
            if Instant::now() >= report || pause == FIRST_PAUSE {
                report = Instant::now() + REPORT;
                warn!("this master belongs to no group yet: {said}");
            }
            tokio::select! {
                Some(invitation) = self.invitations.recv() => return Ok(invited(invitation)),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    fn others(&self) -> Vec<String> {
        let own = &self.door.member.raft_address;
        self.door
            .peers
            .iter()
            .filter(|address| *address != own)
            .cloned()
            .collect()
    }

    /// The leader takes this node in by inviting it, so the invitation is the answer that counts.
    async fn ask_to_join(&mut self, peer: &Member) -> Result<Beginning, MembershipError> {
        let change = Change::Join {
            raft_address: self.door.member.raft_address.clone(),
            promote: false,
        };
        tokio::select! {
            Some(invitation) = self.invitations.recv() => Ok(invited(invitation)),
            answer = membership::forward(&self.peers, 0, peer, &change) => match answer {
                Ok(_id) => Err(MembershipError::Unfinished { reason: "no invitation came".to_owned() }),
                Err(error) => Err(error),
            },
        }
    }
}

fn invited(invitation: Invitation) -> Beginning {
    let Invitation { identity, accepted } = invitation;
    info!(id = identity.id, "this master is taken into a group");
    Beginning {
        identity,
        founders: None,
        accepted: Some(accepted),
    }
}

/// For a formed directory: listed masters that answer must belong to the same cluster. Silent ones do not matter.
pub(crate) async fn check_peers(
    door: &Door,
    timing: Timing,
    cluster_key: u64,
) -> Result<Answers, StartError> {
    let own = &door.member.raft_address;
    let others: Vec<String> = door
        .peers
        .iter()
        .filter(|address| *address != own)
        .cloned()
        .collect();
    let answers = ask_all(&others, timing, Duration::from_millis(timing.heartbeat_ms)).await;
    for (peer, answer) in &answers {
        if let Some(identity) = answer.as_ref().and_then(|answer| answer.identity.as_ref())
            && identity.cluster_key != cluster_key
        {
            let (peer, theirs) = (peer.clone(), identity.cluster_key);
            return Err(StartError::ForeignCluster {
                peer,
                ours: cluster_key,
                theirs,
            });
        }
    }
    Ok(answers)
}

/// Forming was interrupted after this node took its identity and before the group was initialized: the first of the
/// founders does that now, once all of them answer. `None` when this node is not the one, or the group runs.
pub(crate) async fn finish(
    door: &Door,
    timing: Timing,
    identity: Identity,
) -> Option<BTreeMap<u64, Member>> {
    let own = &door.member;
    if identity.id != 1 {
        return None;
    }
    let (alone, founders) = compute(std::slice::from_ref(own));
    if alone == identity.cluster_key {
        return Some(founders);
    }
    let others: Vec<String> = door
        .peers
        .iter()
        .filter(|address| **address != own.raft_address)
        .cloned()
        .collect();
    loop {
        let answers = ask_all(&others, timing, PATIENCE).await;
        let answered: Vec<&proto::AskResponse> = answers.values().flatten().collect();
        if answered.iter().any(|answer| answer.initialized) {
            return None;
        }
        let mut members: Vec<Member> = answered
            .iter()
            .filter_map(|answer| answer.member.clone())
            .collect();
        members.push(own.clone());
        let (cluster_key, founders) = compute(&members);
        if cluster_key == identity.cluster_key {
            return Some(founders);
        }
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
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

    fn answers<const N: usize>(said: [(&str, Option<proto::AskResponse>); N]) -> Answers {
        said.map(|(address, answer)| (address.to_owned(), answer))
            .into_iter()
            .collect()
    }

    #[test]
    fn three_empty_masters_compute_the_same_group_and_the_first_initializes_it() {
        let members = [member("a:1", 7), member("b:1", 8), member("c:1", 9)];
        let mut keys = Vec::new();
        for (position, own) in members.iter().enumerate() {
            let others = members.iter().filter(|member| *member != own);
            let said = others
                .map(|member| (member.raft_address.clone(), Some(empty(member))))
                .collect();
            let Decision::Take(identity, founders) = decide(own, &listed(), &said) else {
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
    fn a_silent_peer_is_waited_for_and_named() {
        let said = answers([("b:1", Some(empty(&member("b:1", 8)))), ("c:1", None)]);
        let decision = decide(&member("a:1", 7), &listed(), &said);
        assert!(matches!(decision, Decision::Wait(silent) if silent == ["c:1"]));
    }

    #[test]
    fn unequal_lists_are_refused_and_both_are_named() {
        let mut other = empty(&member("b:1", 8));
        other.peers.pop();
        let said = answers([("b:1", Some(other)), ("c:1", None)]);
        let Decision::Refuse(error) = decide(&member("a:1", 7), &listed(), &said) else {
            panic!("not refused")
        };
        let text = error.to_string();
        assert!(
            text.contains("ours is a:1, b:1, c:1") && text.contains("b:1 is a:1, b:1;"),
            "{text}"
        );
    }

    #[test]
    fn an_interrupted_founder_finds_the_group_that_knows_its_directory() {
        let (a, b, c) = (member("a:1", 7), member("b:1", 8), member("c:1", 9));
        let group = formed(&a, 5, 1, &[(1, &a), (2, &b), (3, &c)]);
        let said = answers([("a:1", Some(group)), ("b:1", None)]);
        let Decision::Take(identity, None) = decide(&c, &listed(), &said) else {
            panic!("not taken")
        };
        assert_eq!(
            identity,
            Identity {
                cluster_key: 5,
                id: 3
            }
        );
    }

    #[test]
    fn a_founder_that_took_its_identity_first_does_not_stop_the_others() {
        let (a, b, c) = (member("a:1", 7), member("b:1", 8), member("c:1", 9));
        let (key, _) = compute(&[a.clone(), b.clone(), c.clone()]);
        let said = answers([
            ("a:1", Some(formed(&a, key, 1, &[]))),
            ("b:1", Some(empty(&b))),
        ]);
        let Decision::Take(identity, None) = decide(&c, &listed(), &said) else {
            panic!("not taken")
        };
        assert_eq!(
            identity,
            Identity {
                cluster_key: key,
                id: 3
            }
        );
    }

    #[test]
    fn a_wiped_master_is_a_stranger_that_may_only_ask_to_join() {
        let (a, b, c) = (member("a:1", 7), member("b:1", 8), member("c:1", 9));
        let group = formed(&a, 5, 1, &[(1, &a), (2, &b), (3, &c)]);
        let said = answers([("a:1", Some(group)), ("b:1", None)]);
        let wiped = member("c:1", 10);
        assert!(matches!(decide(&wiped, &listed(), &said), Decision::Join(peer) if peer == a));
    }

    #[test]
    fn two_wiped_masters_found_nothing_while_the_third_is_away() {
        let said = answers([("b:1", Some(empty(&member("b:1", 80)))), ("c:1", None)]);
        assert!(matches!(
            decide(&member("a:1", 70), &listed(), &said),
            Decision::Wait(_)
        ));
        let c = member("c:1", 9);
        let back = formed(
            &c,
            5,
            3,
            &[(1, &member("a:1", 7)), (2, &member("b:1", 8)), (3, &c)],
        );
        let said = answers([
            ("b:1", Some(empty(&member("b:1", 80)))),
            ("c:1", Some(back)),
        ]);
        assert!(matches!(
            decide(&member("a:1", 70), &listed(), &said),
            Decision::Join(_)
        ));
    }

    #[test]
    fn masters_of_two_clusters_in_one_list_are_refused() {
        let (b, c) = (member("b:1", 8), member("c:1", 9));
        let said = answers([
            ("b:1", Some(formed(&b, 5, 2, &[(2, &b)]))),
            ("c:1", Some(formed(&c, 6, 3, &[(3, &c)]))),
        ]);
        let decision = decide(&member("a:1", 7), &listed(), &said);
        assert!(matches!(
            decision,
            Decision::Refuse(StartError::ForeignCluster { .. })
        ));
    }
}
