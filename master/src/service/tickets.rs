//! Tickets, with which agents accept a caller of this master itself. Every master issues them from
//! its own copy of the registry.

use argosy_proto::convert::{self, InvalidMessage};
use argosy_proto::server::audit::RequestAudit;
use argosy_proto::server::callers::ApiPart;
use argosy_proto::ticket::{
    DEFAULT_VALIDITY_MS, MAX_PATH_BYTES, MAX_VALIDITY_MS, SandboxPath, Ticket, TicketKey,
    TicketScope, TicketVerb,
};
use argosy_proto::transport::{ConnectionAddresses, PeerIdentity};
use argosy_proto::{trace, v1};
use argosy_state::ids::{AgentId, TaskKey};
use tonic::{Request, Status};

use super::actor::actor;
use super::audited;
use super::task_access::{self, AgentRequest};
use super::{Services, endpoint_of, malformed, not_found};
use crate::access::Reader;
use crate::ticket_keys;

/// Maximum number of tickets of one call.
const TARGETS: usize = 256;

impl Services {
    pub(super) async fn issue(
        &self,
        request: Request<v1::IssueTicketsRequest>,
    ) -> Result<v1::IssuedTickets, Status> {
        let holder = actor(request.metadata(), request.extensions())?;
        let verb = verb_of(request.get_ref().verb()).map_err(|why| malformed(&why))?;
        let caller = request.extensions();
        let audit = RequestAudit::of(caller);
        let peer = caller.get::<PeerIdentity>().cloned();
        let addresses = caller.get::<ConnectionAddresses>().copied();
        let wanted = request.into_inner();
        let (agent, scopes, valid_ms) = parsed(verb, &wanted).map_err(|why| malformed(&why))?;
        match self.owner.reader(holder.clone()) {
            Reader::Unrestricted => self.permit(verb, peer.as_ref(), addresses)?,
            Reader::As(actor) => {
                for scope in &scopes {
                    let request = AgentRequest::of_ticket(verb, scope);
                    let checked =
                        task_access::check(&self.owner, actor.clone(), &wanted.agent_id, request);
                    checked.await?;
                }
            }
        }
        let key = self.key_for(agent, &scopes).await?;
        let record = v1::GetRequest {
            id: wanted.agent_id,
            consistency: v1::Consistency::Local.into(),
            ..Default::default()
        };
        let agent_address = endpoint_of(&self.owner, record).await?.address;
        let now_ms = self.owner.node.wall_clock().now_ms();
        let expires_ms = u64::try_from(now_ms).unwrap_or_default() + valid_ms;
        let request = trace::current().map_or(0, |context| context.id().number());
        audited::tickets(audit.as_ref(), (verb, agent), &scopes);
        let tickets = scopes.into_iter().map(|scope| {
            let ticket = Ticket {
                agent,
                verb,
                scope,
                holder: holder.clone(),
                expires_ms,
                request,
            };
            ticket.sign(&key)
        });
        Ok(v1::IssuedTickets {
            tickets: tickets.collect(),
            expires_wall_ms: i64::try_from(expires_ms).unwrap_or(i64::MAX),
            agent_address,
        })
    }

    /// Returns the key with which tickets of an agent are signed. The agent and the tasks must be
    /// known, and the tasks must be there.
    async fn key_for(&self, agent: AgentId, scopes: &[TicketScope]) -> Result<TicketKey, Status> {
        let tasks: Vec<TaskKey> = scopes.iter().filter_map(task_of).cloned().collect();
        let file = self.secret_keys.clone();
        let known = self.owner.query(move |facts| {
            let facts = &facts.registry;
            let mut tasks = tasks.into_iter();
            if let Some(task) = tasks.find(|task| task_access::is_elsewhere(facts, task, agent)) {
                return Err(task);
            }
            let key = ticket_keys::current(facts.cluster(), file.as_deref(), agent);
            Ok(facts.agent(agent).map(|_| key))
        });
        let key = known
            .await?
            .map_err(|task| task_access::elsewhere(&task, agent))?;
        key.ok_or_else(|| not_found("agent", &agent.to_string(), &[]))
    }

    /// Checks without rules that a caller may use this part of an agent. It gets a ticket only for
    /// what this master would do for it.
    fn permit(
        &self,
        verb: TicketVerb,
        peer: Option<&PeerIdentity>,
        addresses: Option<ConnectionAddresses>,
    ) -> Result<(), Status> {
        let part = match verb {
            TicketVerb::ReadFiles => ApiPart::Files,
            TicketVerb::Exec | TicketVerb::Attach => ApiPart::Exec,
            TicketVerb::Metrics => ApiPart::Status,
        };
        let checked = self.access.check(part, peer, addresses);
        checked.map_err(Status::permission_denied)
    }
}

fn task_of(scope: &TicketScope) -> Option<&TaskKey> {
    match scope {
        TicketScope::Task(task) | TicketScope::Path(task, _) => Some(task),
        TicketScope::Agent => None,
    }
}

fn verb_of(verb: v1::TicketVerb) -> Result<TicketVerb, InvalidMessage> {
    match verb {
        v1::TicketVerb::ReadFiles => Ok(TicketVerb::ReadFiles),
        v1::TicketVerb::Exec => Ok(TicketVerb::Exec),
        v1::TicketVerb::Attach => Ok(TicketVerb::Attach),
        v1::TicketVerb::Metrics => Ok(TicketVerb::Metrics),
        v1::TicketVerb::Unspecified => Err(InvalidMessage::new(
            "verb",
            "name TICKET_VERB_READ_FILES, TICKET_VERB_EXEC, TICKET_VERB_ATTACH or TICKET_VERB_METRICS",
        )),
    }
}

type Parsed = (AgentId, Vec<TicketScope>, u64);

fn parsed(verb: TicketVerb, wanted: &v1::IssueTicketsRequest) -> Result<Parsed, InvalidMessage> {
    let agent = convert::id("agent_id", &wanted.agent_id)?;
    let valid_ms = match wanted.valid_ms {
        0 => DEFAULT_VALIDITY_MS,
        given if given <= MAX_VALIDITY_MS => given,
        _ => {
            let text = format!("a ticket is valid for {MAX_VALIDITY_MS} ms at most");
            return Err(InvalidMessage::new("valid_ms", text));
        }
    };
    let targets = &wanted.targets;
    let invalid = |text: &str| Err(InvalidMessage::new("targets", text));
    if verb == TicketVerb::Metrics {
        return match targets.is_empty() {
            true => Ok((agent, vec![TicketScope::Agent], valid_ms)),
            false => invalid("metrics are those of the agent: name none"),
        };
    }
    if targets.is_empty() || targets.len() > TARGETS {
        return invalid(&format!("name 1 to {TARGETS}"));
    }
    let scopes = targets.iter().map(|target| scope(verb, target));
    Ok((agent, scopes.collect::<Result<_, _>>()?, valid_ms))
}

fn scope(verb: TicketVerb, target: &v1::TicketTarget) -> Result<TicketScope, InvalidMessage> {
    let task = convert::key(&target.framework_id, &target.task_id)?;
    if target.path.is_empty() {
        return Ok(TicketScope::Task(task));
    }
    let invalid = |text: &str| InvalidMessage::new("targets.path", text);
    if verb != TicketVerb::ReadFiles {
        return Err(invalid("only files have a path: leave it empty"));
    }
    let path = SandboxPath::new(&target.path);
    let rule = || {
        invalid(&format!(
            "name a file or directory below the sandbox, without .., in {MAX_PATH_BYTES} bytes at most"
        ))
    };
    Ok(TicketScope::Path(task, path.ok_or_else(rule)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(verb: v1::TicketVerb, paths: &[&str]) -> v1::IssueTicketsRequest {
        let targets = paths.iter().map(|path| v1::TicketTarget {
            framework_id: "framework-3".into(),
            task_id: "web".into(),
            path: (*path).to_owned(),
        });
        v1::IssueTicketsRequest {
            agent_id: "agent-7".into(),
            verb: verb.into(),
            targets: targets.collect(),
            valid_ms: 0,
        }
    }

    fn parse(wanted: &v1::IssueTicketsRequest) -> Result<Parsed, InvalidMessage> {
        parsed(verb_of(wanted.verb())?, wanted)
    }

    #[test]
    fn a_request_names_tasks_paths_or_the_agent() {
        use v1::TicketVerb::{Exec, Metrics, ReadFiles};
        let (agent, scopes, valid_ms) = parse(&wanted(ReadFiles, &["", "./a//b"])).unwrap();
        assert_eq!((agent, valid_ms), (AgentId(7), DEFAULT_VALIDITY_MS));
        let shown: Vec<_> = scopes.iter().map(ToString::to_string).collect();
        let task = "the task framework-3/web";
        assert_eq!(
            shown,
            [task.to_owned(), format!("the path \"a/b\" of {task}")]
        );
        let (_, scopes, _) = parse(&wanted(Exec, &[""])).unwrap();
        assert_eq!(scopes[0].to_string(), task);
        let (_, scopes, _) = parse(&wanted(Metrics, &[])).unwrap();
        assert_eq!(scopes, [TicketScope::Agent]);
    }

    #[test]
    fn other_requests_are_refused_with_the_field() {
        use v1::TicketVerb::{Attach, Exec, Metrics, ReadFiles, Unspecified};
        let whole = wanted(ReadFiles, &[""]);
        let long = v1::IssueTicketsRequest {
            valid_ms: MAX_VALIDITY_MS + 1,
            ..whole.clone()
        };
        let nameless = v1::IssueTicketsRequest {
            agent_id: "7".into(),
            ..whole.clone()
        };
        let mut foreign = whole;
        foreign.targets[0].framework_id = "web".into();
        for (wanted, field) in [
            (wanted(Unspecified, &[""]), "verb"),
            (wanted(Metrics, &[""]), "targets"),
            (wanted(Exec, &[]), "targets"),
            (wanted(ReadFiles, &[""; TARGETS + 1]), "targets"),
            (wanted(Exec, &["a"]), "targets.path"),
            (wanted(Attach, &["a"]), "targets.path"),
            (wanted(ReadFiles, &["a/../b"]), "targets.path"),
            (wanted(ReadFiles, &["/"]), "targets.path"),
            (long, "valid_ms"),
            (nameless, "agent_id"),
            (foreign, "framework_id"),
        ] {
            assert_eq!(parse(&wanted).unwrap_err().field, field);
        }
    }
}
