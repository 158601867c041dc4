//! `argosy.v1.Agents`: one stream for each agent.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use argosy_proto::convert::{self, InvalidMessage};
use argosy_proto::server::audit::RequestAudit;
use argosy_proto::trace;
use argosy_proto::v1;
use argosy_proto::v1::agents_client::AgentsClient;
use argosy_proto::v1::agents_server::Agents;
use argosy_proto::versions;
use argosy_state::actor::Actor;
use argosy_state::digest::DigestKind;
use argosy_state::ids::{Epoch, OrderIndex};
use argosy_state::limits;
use futures::{Stream, StreamExt, TryStreamExt, future, stream};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, warn};

use super::audited::{self, SentSecrets};
use super::forward::{CallRoute, REFER, forwarded, leader_moved, name_leader, readable};
use super::peers::ConnectionUse;
use super::rate_limit::paced;
use super::status_codes::correct_status;
use super::{MESSAGE_BYTES, Services, check_protocol, malformed};
use crate::inbox::OwnerMessage;
use crate::leader::{Hello, Input};
use crate::links::{self, LinkId, WeakLinkSender};
use crate::owner_handle::unavailable;

/// The path of the call in the audit log.
const CONNECT: &str = "/argosy.v1.Agents/Connect";

type AgentMessages = Pin<Box<dyn Stream<Item = Result<v1::ToAgent, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for Services {
    type ConnectStream = AgentMessages;

    async fn connect(
        &self,
        request: Request<Streaming<v1::FromAgent>>,
    ) -> Result<Response<AgentMessages>, Status> {
        let (metadata, extensions) = (request.metadata(), request.extensions());
        let refers = metadata.contains_key(REFER);
        let audit = RequestAudit::of(extensions);
        let recorded = audit.clone();
        let audited = |messages| audited::stream(messages, audit, CONNECT, audited::refusal_code);
        let (place, actor) = self
            .call_route(metadata, extensions, ConnectionUse::Streams)
            .await?;
        match place {
            CallRoute::Local => {
                let opened = self
                    .connect_here(request.into_inner(), actor, recorded)
                    .await?;
                let mut response = Response::new(audited(opened));
                name_leader(response.metadata_mut(), &self.owner.own_address);
                Ok(response)
            }
            CallRoute::Forward(_, address, _) if refers => Err(leader_moved(&address)),
            CallRoute::Forward(lease, address, caller) => {
                let mut client =
                    AgentsClient::new(lease.channel()).max_decoding_message_size(MESSAGE_BYTES);
                let (messages, unreadable) = readable(request.into_inner());
                let messages = forwarded(paced(messages), &caller);
                let opened = async move { client.connect(messages).await };
                let stream = self.forward_stream(opened, &address, lease).await?;
                let mut response: Response<AgentMessages> =
                    Response::new(audited(unreadable.after(stream)));
                name_leader(response.metadata_mut(), &address);
                Ok(response)
            }
        }
    }
}

impl Services {
    async fn connect_here(
        &self,
        messages: Streaming<v1::FromAgent>,
        actor: Actor,
        audit: Option<RequestAudit>,
    ) -> Result<AgentMessages, Status> {
        let link = self.owner.new_link();
        let (sender, receiver) = links::link();
        // Weak: the stream ends when the owner drops its end.
        let refusals = sender.weak();
        self.owner
            .send(OwnerMessage::AgentLink(link, sender))
            .await?;
        let services = self.clone();
        // Set when the agent's direction has ended; before that, this master ends the stream.
        let ended = Arc::new(OnceLock::new());
        let over = Arc::clone(&ended);
        // Log lines about the stream have the id of this request. Its messages are separate ones.
        self.tasks.spawn(trace::scope(trace::current(), async move {
            let reading = services.read_agent(link, actor, messages, (&refusals, audit));
            let read = reading.await;
            if let Err(why) = &read {
                debug!(link = link.0, %why, "a stream of an agent ended");
                let code = match why.code() {
                    tonic::Code::InvalidArgument => Some("malformed"),
                    tonic::Code::FailedPrecondition => Some(versions::CODE),
                    _ => None,
                };
                if let Some(code) = code {
                    services.refuse(&refusals, code, why.message()).await;
                }
            }
            // The only place that sets it.
            let _ = over.set(read);
            // The owner may have ended by now, and its links with it.
            let _ = services
                .owner
                .send(OwnerMessage::Input(Input::AgentClosed { link }))
                .await;
        }));
        let last = future::lazy(move |_| last_status(ended.get()).map(Err));
        let last = stream::once(last).filter_map(future::ready);
        Ok(receiver.map(Ok).chain(last).boxed())
    }

    /// Reports a malformed message, or one of another version, to the agent, so that its log shows
    /// the reason.
    async fn refuse(&self, refusals: &WeakLinkSender<v1::ToAgent>, code: &str, text: &str) {
        let facts = self.owner.query(|facts| {
            let cluster = facts.registry.cluster();
            (cluster.epoch.0, cluster.facts.id.to_string())
        });
        let (Ok((epoch, cluster_id)), Some(sender)) = (facts.await, refusals.upgrade()) else {
            return;
        };
        let refused = v1::RefusedAgent {
            code: code.to_owned(),
            text: text.to_owned(),
        };
        let message = Some(v1::to_agent::Message::Refused(refused));
        let message = v1::ToAgent {
            epoch,
            cluster_id,
            message,
        };
        // The stream may be closed already.
        let _ = sender.send(message);
    }

    /// Sends the messages of an agent to the owner, until it closes its direction.
    pub(crate) async fn read_agent(
        &self,
        link: LinkId,
        actor: Actor,
        mut messages: impl Stream<Item = Result<v1::FromAgent, Status>> + Unpin,
        (answers, audit): (&WeakLinkSender<v1::ToAgent>, Option<RequestAudit>),
    ) -> Result<(), Status> {
        let mut sent = SentSecrets::new(audit);
        let memory = self.owner.link_memory.stream();
        while let Some(mut message) = messages.try_next().await.map_err(correct_status)? {
            if let Some(v1::from_agent::Message::SecretsWanted(wanted)) = &mut message.message {
                let wanted = std::mem::take(wanted);
                self.send_secrets(link, wanted, (answers, &mut sent))
                    .await?;
                continue;
            }
            if let Some(v1::from_agent::Message::UnsupportedOrder(order)) = &message.message {
                let order = order.order_index;
                warn!(
                    link = link.0,
                    order, "an agent does not support an order of this kind"
                );
                continue;
            }
            let version = match &message.message {
                Some(v1::from_agent::Message::Hello(hello)) => {
                    check_protocol("the agent", hello.protocol.as_ref())?
                }
                Some(_) | None => 0,
            };
            let bytes = message.encoded_len();
            let input = input(link, &actor, message, version).map_err(|why| malformed(&why))?;
            let reserved = memory.reserve(bytes).await;
            let input = OwnerMessage::AgentInput(input, reserved);
            self.owner.send(input).await?;
        }
        Ok(())
    }
}

/// Returns the status with which a stream ends, depending on how the agent's direction ended.
fn last_status(ended: Option<&Result<(), Status>>) -> Option<Status> {
    match ended {
        // The agent closed its direction.
        Some(Ok(())) => None,
        Some(Err(why)) => Some(why.clone()),
        None => Some(unavailable(
            "this master has ended the stream: it leads no longer, another stream of this agent has replaced it, or \
             the agent did not read it; connect again",
        )),
    }
}

/// Converts a message. `version` is the protocol version that the hello negotiated.
fn input(
    link: LinkId,
    actor: &Actor,
    message: v1::FromAgent,
    version: u32,
) -> Result<Input, InvalidMessage> {
    use v1::from_agent::Message as From;
    match message
        .message
        .ok_or_else(|| InvalidMessage::new("message", "it is empty"))?
    {
        From::Hello(wire) => Ok(Input::AgentHello {
            link,
            actor: actor.clone(),
            hello: Box::new(hello(wire, version)?),
        }),
        From::Report(report) => {
            // Agents send at most 500. The leader proposes all of one message in one turn.
            let (count, most) = (report.updates.len(), limits::RECORDS_PER_COMMAND);
            if count > most {
                let text = format!("{count} of them; at most {most} in one message");
                return Err(InvalidMessage::new("updates", text));
            }
            let updates = report
                .updates
                .into_iter()
                .map(convert::update_from)
                .collect::<Result<_, _>>()?;
            Ok(Input::AgentReport { link, updates })
        }
        From::TaskList(list) => {
            let held = list
                .tasks
                .iter()
                .map(convert::held_task)
                .collect::<Result<_, _>>()?;
            Ok(Input::AgentList {
                link,
                floor: OrderIndex(list.floor),
                held,
                last: list.last,
            })
        }
        From::ExecutorMessage(message) => Ok(Input::AgentMessage { link, message }),
        // Handled earlier: it needs no decision.
        From::UnsupportedOrder(_) | From::SecretsWanted(_) => {
            Err(InvalidMessage::new("message", "it needs no decision"))
        }
        From::Ping(ping) => Ok(Input::AgentPing {
            link,
            serial: ping.serial,
        }),
    }
}

fn hello(wire: v1::Hello, version: u32) -> Result<Hello, InvalidMessage> {
    let mut digests = BTreeMap::from([(DigestKind::Task, sum("digest", &wire.digest)?)]);
    for named in &wire.digests {
        // A kind that this master does not know is not compared.
        if let Some(kind) = DigestKind::named(&named.kind) {
            digests.insert(kind, sum("digests", &named.digest)?);
        }
    }
    let info = wire
        .info
        .ok_or_else(|| InvalidMessage::new("info", "it is missing"))?;
    Ok(Hello {
        cluster: if wire.cluster_id.is_empty() {
            None
        } else {
            Some(convert::id("cluster_id", &wire.cluster_id)?)
        },
        follows: if wire.follows_cluster_id.is_empty() {
            None
        } else {
            Some(convert::id("follows_cluster_id", &wire.follows_cluster_id)?)
        },
        agent: if wire.agent_id.is_empty() {
            None
        } else {
            Some(convert::id("agent_id", &wire.agent_id)?)
        },
        confirmed: wire.confirmed_incarnation,
        tried: wire.tried_incarnations,
        nonce: wire.nonce,
        boot_id: wire.boot_id,
        highest_epoch: Epoch(wire.highest_epoch),
        info: convert::agent_info_from(info)?,
        floor: OrderIndex(wire.floor),
        digests,
        version,
    })
}

/// Returns a wrapping sum of digests; an absent one means that the agent holds none.
fn sum(field: &str, bytes: &[u8]) -> Result<u128, InvalidMessage> {
    match bytes {
        [] => Ok(0),
        bytes => {
            let bytes = bytes.try_into();
            let bytes = bytes.map_err(|_| InvalidMessage::new(field, "it has 16 bytes"))?;
            Ok(u128::from_be_bytes(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(digests: &[(&str, &[u8])]) -> v1::Hello {
        let digests = digests.iter().map(|(kind, digest)| v1::HeldDigest {
            kind: (*kind).to_owned(),
            digest: digest.to_vec(),
        });
        v1::Hello {
            protocol: Some(versions::VersionRange::OWN.first_message()),
            info: Some(v1::AgentInfo::default()),
            digest: 7_u128.to_be_bytes().to_vec(),
            digests: digests.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_report_has_a_maximum_number_of_updates() {
        let updates = vec![v1::NumberedUpdate::default(); limits::RECORDS_PER_COMMAND + 1];
        let report = v1::from_agent::Message::Report(v1::Report { updates });
        let message = v1::FromAgent {
            message: Some(report),
        };
        let wrong = input(LinkId(1), &Actor::Unauthenticated, message, 1).unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "updates: 1001 of them; at most 1000 in one message"
        );
    }

    #[test]
    fn digests_are_read_by_kind_and_those_of_an_unknown_kind_are_not_compared() {
        let tasks = |digest: u128| BTreeMap::from([(DigestKind::Task, digest)]);
        // Agents of release 0.1 report the digest of tasks alone.
        assert_eq!(hello(wire(&[]), 1).unwrap().digests, tasks(7));
        let nine = 9_u128.to_be_bytes();
        let later = wire(&[("volume", &[1, 2]), ("task", &nine)]);
        assert_eq!(hello(later, 1).unwrap().digests, tasks(9));
        let wrong = hello(wire(&[("task", &[1, 2])]), 1).unwrap_err();
        assert!(wrong.to_string().contains("digests"), "{wrong}");
    }
}
