//! The raft transport's messages, and their conversion to and from openraft's types.
//!
//! Every incoming message is checked here: one that lacks a field is an error, never a panic.

use std::collections::{BTreeMap, BTreeSet};

use argosy_state::buggify;
use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use prost::Message as _;
use tonic::Status;

use crate::types::{
    Batch, CommittedLeaderId, Entry, LeaderId, LogId, Member, Membership, TypeConfig, Vote,
};

/// The generated messages.
#[allow(unreachable_pub, clippy::too_many_lines, reason = "generated code")]
pub(crate) mod proto {
    tonic::include_proto!("argosy.raft.v1");
}

/// The maximum size of a message of the transport.
pub(crate) const MESSAGE_LIMIT_BYTES: usize = 4 << 20;

/// The maximum size of one append, unless a single entry is larger.
const APPEND_LIMIT_BYTES: usize = 1 << 20;

/// The largest term and the largest log index in a message. No group reaches them, and a successor
/// of either can always be computed.
pub(crate) const POSITION_LIMIT: u64 = 1 << 62;

fn absent(field: &str) -> Status {
    Status::invalid_argument(format!("the message lacks the field {field}"))
}

pub(crate) fn vote(vote: &Vote) -> proto::Vote {
    proto::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

fn check_term(term: u64) -> Result<(), Status> {
    if term <= POSITION_LIMIT {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "the term {term} is larger than that of any group"
    )))
}

pub(crate) fn vote_from(vote: Option<proto::Vote>) -> Result<Vote, Status> {
    let vote = vote.ok_or_else(|| absent("vote"))?;
    check_term(vote.term)?;
    let leader_id = LeaderId {
        term: vote.term,
        voted_for: vote.node,
    };
    Ok(Vote {
        leader_id,
        committed: vote.committed,
    })
}

pub(crate) fn log_id(id: &LogId) -> proto::LogId {
    proto::LogId {
        term: id.leader_id.term,
        index: id.index,
    }
}

pub(crate) fn log_id_from(id: proto::LogId) -> Result<LogId, Status> {
    let id = LogId::new(CommittedLeaderId { term: id.term }, id.index);
    check_position(&id).map(|()| id)
}

/// Checks term and index of a log id.
pub(crate) fn check_position(id: &LogId) -> Result<(), Status> {
    check_term(id.leader_id.term)?;
    if id.index <= POSITION_LIMIT {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "the log index {} is larger than that of any group",
        id.index
    )))
}

pub(crate) fn node(id: u64, member: &Member) -> proto::Node {
    proto::Node {
        id,
        member: Some(member.clone()),
    }
}

pub(crate) fn membership(membership: &Membership) -> proto::Membership {
    let set = |ids: &BTreeSet<u64>| proto::VoterSet {
        ids: ids.iter().copied().collect(),
    };
    proto::Membership {
        voters: membership.get_joint_config().iter().map(set).collect(),
        nodes: membership
            .nodes()
            .map(|(id, member)| node(*id, member))
            .collect(),
    }
}

pub(crate) fn membership_from(membership: proto::Membership) -> Result<Membership, Status> {
    let mut nodes = BTreeMap::new();
    for node in membership.nodes {
        nodes.insert(node.id, node.member.ok_or_else(|| absent("node.member"))?);
    }
    let voters = membership
        .voters
        .into_iter()
        .map(|set| set.ids.into_iter().collect())
        .collect();
    Membership::new(voters, nodes)
        .map_err(|error| Status::invalid_argument(format!("invalid membership: {error}")))
}

/// Returns the size that an entry adds to the log.
pub(crate) fn commands_bytes(entry: &Entry) -> u64 {
    match &entry.payload {
        EntryPayload::Normal(batch) => batch.bytes() as u64,
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

fn entry(entry: &Entry) -> proto::Entry {
    use proto::entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(true),
        EntryPayload::Normal(batch) => Payload::Commands(proto::Commands {
            at_ms: batch.at_ms,
            commands: batch.commands.clone(),
        }),
        EntryPayload::Membership(members) => Payload::Membership(membership(members)),
    };
    proto::Entry {
        id: Some(log_id(&entry.log_id)),
        payload: Some(payload),
    }
}

fn entry_from(entry: proto::Entry) -> Result<Entry, Status> {
    use proto::entry::Payload;
    let log_id = log_id_from(entry.id.ok_or_else(|| absent("entry.id"))?)?;
    let payload = match entry.payload.ok_or_else(|| absent("entry.payload"))? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Commands(batch) => EntryPayload::Normal(Batch {
            at_ms: batch.at_ms,
            commands: batch.commands,
        }),
        Payload::Membership(members) => EntryPayload::Membership(membership_from(members)?),
    };
    Ok(Entry { log_id, payload })
}

/// Returns the request on the wire, and how many of its entries fit: openraft sends the others
/// again.
pub(crate) fn append(
    header: proto::Header,
    request: &AppendEntriesRequest<TypeConfig>,
) -> (proto::AppendRequest, usize) {
    let mut entries = Vec::with_capacity(request.entries.len());
    let mut bytes = 0;
    let most = buggify!(OneEntryAnAppend, APPEND_LIMIT_BYTES, 1);
    for one in &request.entries {
        let encoded = entry(one);
        bytes += encoded.encoded_len();
        if bytes > most && !entries.is_empty() {
            break;
        }
        entries.push(encoded);
    }
    let taken = entries.len();
    let message = proto::AppendRequest {
        header: Some(header),
        vote: Some(vote(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id),
        entries,
        committed: request.leader_commit.as_ref().map(log_id),
    };
    (message, taken)
}

pub(crate) fn append_from(
    message: proto::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    let vote = vote_from(message.vote)?;
    let prev_log_id = message.previous.map(log_id_from).transpose()?;
    let entries = message
        .entries
        .into_iter()
        .map(entry_from)
        .collect::<Result<Vec<_>, _>>()?;
    // openraft assumes that entries are in order.
    let mut last = prev_log_id;
    for one in &entries {
        let follows = match last {
            Some(last) => last.index.checked_add(1) == Some(one.log_id.index) && last <= one.log_id,
            None => one.log_id.index == 0,
        };
        if !follows {
            let last = last.map_or_else(|| "the start of the log".to_owned(), |id| id.to_string());
            return Err(Status::invalid_argument(format!(
                "entry {} does not follow {last}",
                one.log_id
            )));
        }
        last = Some(one.log_id);
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit: message.committed.map(log_id_from).transpose()?,
    })
}

pub(crate) fn append_answer(answer: AppendEntriesResponse<TypeConfig>) -> proto::AppendResponse {
    use proto::append_response::Outcome;
    let outcome = match answer {
        AppendEntriesResponse::Success => Outcome::Success(true),
        AppendEntriesResponse::PartialSuccess(last) => Outcome::Partial(proto::Partial {
            last: last.as_ref().map(log_id),
        }),
        AppendEntriesResponse::Conflict => Outcome::Conflict(true),
        AppendEntriesResponse::HigherVote(higher) => Outcome::HigherVote(vote(&higher)),
    };
    proto::AppendResponse {
        outcome: Some(outcome),
    }
}

pub(crate) fn append_answer_from(
    answer: proto::AppendResponse,
) -> Result<AppendEntriesResponse<TypeConfig>, Status> {
    use proto::append_response::Outcome;
    Ok(match answer.outcome.ok_or_else(|| absent("outcome"))? {
        Outcome::Success(_) => AppendEntriesResponse::Success,
        Outcome::Partial(partial) => {
            AppendEntriesResponse::PartialSuccess(partial.last.map(log_id_from).transpose()?)
        }
        Outcome::Conflict(_) => AppendEntriesResponse::Conflict,
        Outcome::HigherVote(higher) => AppendEntriesResponse::HigherVote(vote_from(Some(higher))?),
    })
}

pub(crate) fn vote_request(
    header: proto::Header,
    request: &VoteRequest<TypeConfig>,
    pre_vote: bool,
) -> proto::VoteRequest {
    proto::VoteRequest {
        header: Some(header),
        vote: Some(vote(&request.vote)),
        last_log: request.last_log_id.as_ref().map(log_id),
        leadership_transfer: request.leadership_transfer,
        pre_vote,
    }
}

pub(crate) fn vote_request_from(
    message: proto::VoteRequest,
) -> Result<VoteRequest<TypeConfig>, Status> {
    let last_log = message.last_log.map(log_id_from).transpose()?;
    let mut request = VoteRequest::new(vote_from(message.vote)?, last_log);
    request.leadership_transfer = message.leadership_transfer;
    Ok(request)
}

pub(crate) fn vote_answer(answer: &VoteResponse<TypeConfig>) -> proto::VoteResponse {
    proto::VoteResponse {
        vote: Some(vote(&answer.vote)),
        granted: answer.vote_granted,
        last_log: answer.last_log_id.as_ref().map(log_id),
    }
}

pub(crate) fn vote_answer_from(
    message: proto::VoteResponse,
) -> Result<VoteResponse<TypeConfig>, Status> {
    Ok(VoteResponse::new(
        vote_from(message.vote)?,
        message.last_log.map(log_id_from).transpose()?,
        message.granted,
    ))
}

pub(crate) fn transfer(
    header: proto::Header,
    request: &TransferLeaderRequest<TypeConfig>,
) -> proto::TransferRequest {
    proto::TransferRequest {
        header: Some(header),
        from_leader: Some(vote(request.from_leader())),
        to_node: *request.to_node_id(),
        last_log: request.last_log_id().map(log_id),
    }
}

pub(crate) fn transfer_from(
    message: proto::TransferRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, Status> {
    let from = vote_from(message.from_leader)?;
    Ok(TransferLeaderRequest::new(
        from,
        message.to_node,
        message.last_log.map(log_id_from).transpose()?,
    ))
}

pub(crate) fn transfer_answer(
    answer: TransferLeaderResponse<TypeConfig>,
) -> proto::TransferResponse {
    use proto::transfer_response::Outcome;
    let outcome = match answer {
        Ok(()) => Outcome::Accepted(true),
        Err(TransferLeaderError::VoteChanged { actual, .. }) => Outcome::VoteIs(vote(&actual)),
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            Outcome::FlushedIs(proto::Partial {
                last: actual.as_ref().map(log_id),
            })
        }
    };
    proto::TransferResponse {
        outcome: Some(outcome),
    }
}

pub(crate) fn transfer_answer_from(
    request: &TransferLeaderRequest<TypeConfig>,
    message: proto::TransferResponse,
) -> Result<TransferLeaderResponse<TypeConfig>, Status> {
    use proto::transfer_response::Outcome;
    Ok(match message.outcome.ok_or_else(|| absent("outcome"))? {
        Outcome::Accepted(_) => Ok(()),
        Outcome::VoteIs(actual) => Err(TransferLeaderError::VoteChanged {
            expected: *request.from_leader(),
            actual: vote_from(Some(actual))?,
        }),
        Outcome::FlushedIs(actual) => Err(TransferLeaderError::LogNotFlushed {
            expected: request.last_log_id().copied(),
            actual: actual.last.map(log_id_from).transpose()?,
        }),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId { term }, index)
    }

    fn request(entries: Vec<Entry>) -> AppendEntriesRequest<TypeConfig> {
        let vote = Vote {
            leader_id: LeaderId {
                term: 3,
                voted_for: 2,
            },
            committed: true,
        };
        AppendEntriesRequest {
            vote,
            prev_log_id: Some(id(2, 6)),
            entries,
            leader_commit: Some(id(2, 5)),
        }
    }

    fn commands(index: u64, bytes: usize) -> Entry {
        let batch = Batch {
            at_ms: 9,
            commands: vec![Bytes::from(vec![7; bytes]), Bytes::new()],
        };
        Entry {
            log_id: id(3, index),
            payload: EntryPayload::Normal(batch),
        }
    }

    #[test]
    fn append_requests_round_trip() {
        let member = Member {
            raft_address: "a:1".into(),
            api_address: "a:2".into(),
            incarnation: 5,
        };
        let voters = vec![BTreeSet::from([1]), BTreeSet::from([1, 4])];
        let members =
            Membership::new(voters, BTreeMap::from([(1, member.clone()), (4, member)])).unwrap();
        let entries = vec![
            Entry {
                log_id: id(3, 7),
                payload: EntryPayload::Blank,
            },
            Entry {
                log_id: id(3, 8),
                payload: EntryPayload::Membership(members),
            },
            commands(9, 100),
        ];
        let sent = request(entries);
        let (message, taken) = append(proto::Header::default(), &sent);
        let bytes = message.encode_to_vec();
        let received =
            append_from(proto::AppendRequest::decode(bytes.as_slice()).unwrap()).unwrap();
        assert_eq!(taken, 3);
        assert_eq!(received.vote, sent.vote);
        assert_eq!(received.prev_log_id, sent.prev_log_id);
        assert_eq!(received.leader_commit, sent.leader_commit);
        assert_eq!(received.entries, sent.entries);
    }

    #[test]
    fn an_append_contains_at_most_a_mebibyte_and_at_least_one_entry() {
        let sent = request((7..12).map(|index| commands(index, 400 << 10)).collect());
        assert_eq!(append(proto::Header::default(), &sent).1, 2);
        let sent = request((7..12).map(|index| commands(index, 2 << 20)).collect());
        assert_eq!(append(proto::Header::default(), &sent).1, 1);
    }

    #[test]
    fn entries_out_of_order_are_refused() {
        let gap = request(vec![commands(8, 1)]);
        assert!(append_from(append(proto::Header::default(), &gap).0).is_err());
        let missing = proto::AppendRequest::default();
        assert!(append_from(missing).is_err());
    }

    #[test]
    fn answers_with_terms_and_indexes_beyond_any_group_are_refused() {
        let answer = |term, last| proto::VoteResponse {
            vote: Some(proto::Vote {
                term,
                ..proto::Vote::default()
            }),
            last_log: Some(last),
            ..proto::VoteResponse::default()
        };
        let log_id = |term, index| proto::LogId { term, index };
        let (limit, beyond) = (POSITION_LIMIT, POSITION_LIMIT + 1);
        vote_answer_from(answer(limit, log_id(limit, limit))).unwrap();
        for answer in [
            answer(beyond, log_id(1, 1)),
            answer(1, log_id(beyond, 1)),
            answer(1, log_id(1, beyond)),
        ] {
            let refused = vote_answer_from(answer).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        }
    }

    #[test]
    fn entries_after_the_last_possible_index_are_refused() {
        let mut after_the_last = request(vec![commands(0, 1)]);
        for last in [u64::MAX, POSITION_LIMIT] {
            after_the_last.prev_log_id = Some(id(2, last));
            after_the_last.entries = vec![commands(last.wrapping_add(1), 1)];
            let message = append(proto::Header::default(), &after_the_last).0;
            let refused = append_from(message).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
        }
    }
}
