//! The way in which a node gets its identity: by forming a group with its peers, by forming a group
//! of one, or by joining.
//!
//! Performs the network calls; `decision` decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use super::decision::{BootstrapDecision, PeerAnswers, compute, decide};
use crate::error::{MembershipError, StartError};
use crate::membership::{MemberChange, forwarding};
use crate::port::{Invitation, RaftPort};
use crate::settings::Timing;
use crate::storage::store::Store;
use crate::transport::connections::{self, Peers};
use crate::transport::wire::proto;
use crate::types::{Member, NodeIdentity};

/// The timeout of a peer's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The time for which a listed master may be silent before it is decided without its answer.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two rounds of requests: short at first, since the masters of a group are
/// mostly started together.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The interval at which the missing masters are logged.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// The identity of a node, and how it was obtained.
pub(crate) struct InitialIdentity {
    pub(crate) identity: NodeIdentity,
    /// The members with which this node must initialize openraft; `None` if another node does it.
    pub(crate) founders: Option<BTreeMap<u64, Member>>,
    /// The leader that waits until this node runs.
    pub(crate) accepted: Option<oneshot::Sender<()>>,
}

/// Returns the identity of a node that forms a group of one.
pub(crate) fn alone(own: &Member) -> NodeIdentity {
    let (cluster_key, _) = compute(std::slice::from_ref(own));
    NodeIdentity { cluster_key, id: 1 }
}

/// Asks all listed masters.
async fn ask_all(port: &RaftPort, peers: &Peers, timeout: Duration) -> PeerAnswers {
    ask_each(port, peers, timeout, connections::ask_request()).await
}

/// Asks all listed masters, and names the list: each that is empty compares it with its own.
async fn ask_founders(port: &RaftPort, peers: &Peers) -> PeerAnswers {
    let question = proto::AskRequest {
        raft_address: port.member.raft_address.clone(),
        peers: port.peers.clone(),
        ..connections::ask_request()
    };
    ask_each(port, peers, ANSWER_TIMEOUT, question).await
}

async fn ask_each(
    port: &RaftPort,
    peers: &Peers,
    timeout: Duration,
    question: proto::AskRequest,
) -> PeerAnswers {
    let own = &port.member.raft_address;
    let others = port.peers.iter().filter(|address| *address != own);
    let questions = others.map(async |address| {
        let answer = peers.query(address, question.clone(), timeout).await;
        if let Err(status) = &answer
            && status.code() == tonic::Code::FailedPrecondition
        {
            warn!(peer = address, "{}", status.message());
        }
        (address.clone(), answer.ok())
    });
    join_all(questions).await.into_iter().collect()
}

/// The formation of a group, for a node whose directory is empty.
pub(crate) struct GroupFormation {
    pub(crate) port: Arc<RaftPort>,
    pub(crate) peers: Peers,
    pub(crate) invitations: mpsc::Receiver<Invitation>,
}

impl GroupFormation {
    /// Forms a group of one, unless a listed master belongs to a group already, or may belong to
    /// one.
    pub(crate) async fn bootstrap(&self) -> Result<InitialIdentity, StartError> {
        let silent = self.silent_masters().await?;
        if silent.is_empty() {
            return Ok(self.alone());
        }
        Err(StartError::SilentPeers { peers: silent })
    }

    /// Returns the listed masters that are silent for long: each of them may belong to a group. One
    /// that refuses connections does not run, and is not silent. Fails if a listed master belongs
    /// to a group.
    async fn silent_masters(&self) -> Result<Vec<String>, StartError> {
        let end = Instant::now() + SILENCE_TIMEOUT;
        let mut pause = FIRST_PAUSE;
        loop {
            let answers = ask_all(&self.port, &self.peers, SILENCE_TIMEOUT / 2).await;
            // Under another of its names, this master answers itself.
            let own = self.port.process_incarnation;
            let is_formed = |answer: &proto::AskResponse| {
                answer.identity.is_some() && answer.process_incarnation != own
            };
            let formed = answers
                .iter()
                .find(|(_, answer)| answer.as_ref().is_some_and(is_formed));
            if let Some((peer, _)) = formed {
                let peer = peer.clone();
                return Err(StartError::AlreadyFormed { peer });
            }
            let mut silent = Vec::new();
            for (peer, answer) in answers {
                if answer.is_none() && !self.peers.is_refused_by(&peer).await {
                    silent.push(peer);
                }
            }
            if silent.is_empty() || Instant::now() >= end {
                return Ok(silent);
            }
            if pause == FIRST_PAUSE {
                warn!("waiting for an answer of {}", silent.join(", "));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn alone(&self) -> InitialIdentity {
        let (cluster_key, founders) = compute(std::slice::from_ref(&self.port.member));
        InitialIdentity {
            identity: NodeIdentity { cluster_key, id: 1 },
            founders: Some(founders),
            accepted: None,
        }
    }

    /// Continues a restored registry as a group of one, unless a listed master belongs to a group
    /// already: that may be the cluster that the registry is of. A master that is silent for long
    /// prevents nothing: it may be lost, and the reason of the restore.
    pub(crate) async fn continue_alone(
        &self,
        store: &Store,
    ) -> Result<InitialIdentity, StartError> {
        let silent = match self.silent_masters().await {
            Err(StartError::AlreadyFormed { peer }) => Err(StartError::RestoredBeside { peer }),
            other => other,
        }?;
        if !silent.is_empty() {
            warn!(
                "{} does not answer: do not start it again with data of the former cluster",
                silent.join(", ")
            );
        }
        let founded = store.found_alone(self.port.member.clone()).await;
        founded.map_err(|source| StartError::Identity { source })?;
        info!("this master forms a new group with a restored registry");
        Ok(InitialIdentity {
            founders: None,
            ..self.alone()
        })
    }

    /// Waits until this node has an identity.
    pub(crate) async fn run(mut self) -> Result<InitialIdentity, StartError> {
        let own = self.port.member.clone();
        let listed = &self.port.peers;
        if listed.is_empty() {
            return Err(StartError::NoPeers);
        }
        if !listed.contains(&own.raft_address) {
            return Err(StartError::NotListed {
                own: own.raft_address,
                peers: listed.clone(),
            });
        }
        let mut pause = FIRST_PAUSE;
        let mut report = Instant::now() + REPORT_INTERVAL;
        loop {
            let answers = ask_founders(&self.port, &self.peers).await;
            if let Some((peer, theirs)) = self.port.unequal.get() {
                let (peer, theirs) = (peer.clone(), theirs.clone());
                let ours = self.port.peers.clone();
                return Err(StartError::UnequalPeers { peer, ours, theirs });
            }
            let output = match decide(&own, &self.port.peers, &answers) {
                BootstrapDecision::Take(identity, founders) => {
                    return Ok(InitialIdentity {
                        identity,
                        founders,
                        accepted: None,
                    });
                }
                BootstrapDecision::Refuse(error) => return Err(error),
                BootstrapDecision::Wait(silent) => format!("waiting for {}", silent.join(", ")),
                BootstrapDecision::Join(peer) => match self.ask_to_join(&peer).await {
                    Ok(beginning) => return Ok(beginning),
                    Err(error) => format!(
                        "the group of {} does not accept this master: {error}",
                        peer.raft_address
                    ),
                },
            };
            if Instant::now() >= report || pause == FIRST_PAUSE {
                report = Instant::now() + REPORT_INTERVAL;
                warn!("this master does not belong to a group yet: {output}");
            }
            tokio::select! {
                Some(invitation) = self.invitations.recv() => return Ok(accept_invitation(invitation)),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    /// Requests to join. The leader accepts this node by inviting it, so the invitation is the
    /// answer that counts.
    async fn ask_to_join(&mut self, peer: &Member) -> Result<InitialIdentity, MembershipError> {
        let change = MemberChange::Join {
            raft_address: self.port.member.raft_address.clone(),
            promote: false,
        };
        tokio::select! {
            Some(invitation) = self.invitations.recv() => Ok(accept_invitation(invitation)),
            answer = forwarding::forward(&self.peers, 0, peer, &change) => match answer {
                Ok(_id) => Err(MembershipError::Unfinished { reason: "no invitation arrived".to_owned() }),
                Err(error) => Err(error),
            },
        }
    }
}

fn accept_invitation(invitation: Invitation) -> InitialIdentity {
    let Invitation { identity, accepted } = invitation;
    info!(id = identity.id, "accepted an invitation to a group");
    InitialIdentity {
        identity,
        founders: None,
        accepted: Some(accepted),
    }
}

/// Checks the peers of a directory with an identity: listed masters that answer must belong to the
/// same cluster. Silent ones do not matter.
pub(crate) async fn check_peers(
    port: &RaftPort,
    peers: &Peers,
    timing: Timing,
    cluster_key: u64,
) -> Result<PeerAnswers, StartError> {
    let answers = ask_all(port, peers, Duration::from_millis(timing.heartbeat_ms)).await;
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

/// Finishes a formation that was interrupted after this node took its identity and before the group
/// was initialized. The first of the founders initializes it, once all of them answer. Returns
/// `None` if this node is not the first, or the group runs.
pub(crate) async fn finish(
    port: &RaftPort,
    peers: &Peers,
    identity: NodeIdentity,
) -> Option<BTreeMap<u64, Member>> {
    let own = &port.member;
    if identity.id != 1 {
        return None;
    }
    let (alone, founders) = compute(std::slice::from_ref(own));
    if alone == identity.cluster_key {
        return Some(founders);
    }
    let mut report = Instant::now() + REPORT_INTERVAL;
    loop {
        let answers = ask_all(port, peers, ANSWER_TIMEOUT).await;
        if Instant::now() >= report {
            report = Instant::now() + REPORT_INTERVAL;
            warn!("{}", unfinished(&answers));
        }
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

/// Explains why a formation does not end.
fn unfinished(answers: &PeerAnswers) -> String {
    let silent: Vec<_> = answers
        .iter()
        .filter(|(_, answer)| answer.is_none())
        .map(|(peer, _)| peer.as_str())
        .collect();
    match silent.is_empty() {
        true => "the masters of --peers are not those with which this one began to form its \
                 group: list the same ones, or empty the directories of all"
            .to_owned(),
        false => format!(
            "the group of this master is not formed yet: waiting for {}",
            silent.join(", ")
        ),
    }
}
