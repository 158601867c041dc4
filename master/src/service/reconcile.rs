//! Answers to `Reconcile`: pages, so that neither a turn of the owner nor a message holds all
//! tasks.

use argosy_proto::convert::InvalidMessage;
use argosy_proto::v1;
use argosy_state::actor::Actor;
use argosy_state::ids::TaskId;
use argosy_state::limits;
use prost::Message as _;
use tonic::Status;

use super::calls::{framework, task};
use super::{MESSAGE_BYTES, Services, accepted, malformed, refused};
use crate::leader::{Input, ReconcileQuery};
use crate::leader_reply::LeaderReply;

/// Size in bytes at which a page is sent. One turn of the owner adds less than that, so that a page
/// is one message.
const PAGE_BYTES: usize = MESSAGE_BYTES / 2;

impl Services {
    pub(super) async fn reconcile_here(
        &self,
        wire: v1::ReconcileRequest,
        actor: Actor,
    ) -> Result<v1::ReconcileReply, Status> {
        let mut share = self
            .owner
            .reconciliations
            .reserve(2 * MESSAGE_BYTES, PAGE_BYTES)
            .await?;
        let reply = page(wire, PAGE_BYTES, |part| {
            self.reconcile_part(part, actor.clone())
        })
        .await?;
        share.resize(2 * reply.encoded_len());
        share.attach_to_answer();
        Ok(reply)
    }

    async fn reconcile_part(
        &self,
        reconcile: ReconcileQuery,
        actor: Actor,
    ) -> Result<ReconcilePart, Status> {
        let asked = self.owner.ask(move |request| Input::Reconcile {
            request,
            actor,
            reconcile,
        });
        match accepted(asked.await?)? {
            LeaderReply::Reconciled { reply, more } => Ok((reply, more)),
            other => Err(Status::internal(format!(
                "an answer of another kind: {other:?}"
            ))),
        }
    }
}

/// The answer of one turn of the owner, and the position at which to continue.
type ReconcilePart = (v1::ReconcileReply, Option<TaskId>);

/// The start of a page: after a task, or at a position in the list of named tasks.
struct ReconcileCursor {
    tasks: Vec<TaskId>,
    position: usize,
    after: Option<TaskId>,
}

impl ReconcileCursor {
    fn read(wire: &v1::ReconcileRequest) -> Result<Self, Status> {
        let named: Vec<TaskId> = wire
            .task_ids
            .iter()
            .map(|id| task(id))
            .collect::<Result<_, _>>()?;
        let token = wire.page_token.as_str();
        let foreign = || {
            let text = format!("{token:?} is not the token of a previous page");
            malformed(&InvalidMessage::new("page_token", text))
        };
        let (position, after) = match (token, named.is_empty()) {
            ("", _) => (0, None),
            (token, true) => (0, Some(TaskId::new(token).map_err(|_| foreign())?)),
            (token, false) => (token.parse().map_err(|_| foreign())?, None),
        };
        Ok(Self {
            tasks: named,
            position,
            after,
        })
    }

    /// Returns the tasks of one turn; an empty list means all that have not ended.
    fn part(&self) -> Vec<TaskId> {
        let rest = self.tasks.iter().skip(self.position);
        rest.take(limits::RECORDS_PER_COMMAND).cloned().collect()
    }

    /// Advances past the tasks that a turn has answered. Returns the token of the rest.
    fn advance(&mut self, more: Option<TaskId>) -> Option<String> {
        if self.tasks.is_empty() {
            self.after = more;
            return self.after.as_ref().map(ToString::to_string);
        }
        self.position = self.position.saturating_add(limits::RECORDS_PER_COMMAND);
        (self.position < self.tasks.len()).then(|| self.position.to_string())
    }
}

/// Returns one page, from as many turns of the owner as fit. A caller that does not support pages
/// gets the whole answer or a rejection: a partial answer would look complete.
async fn page<Asked: Future<Output = Result<ReconcilePart, Status>>>(
    wire: v1::ReconcileRequest,
    page_bytes: usize,
    mut ask: impl FnMut(ReconcileQuery) -> Asked,
) -> Result<v1::ReconcileReply, Status> {
    let mut cursor = ReconcileCursor::read(&wire)?;
    let framework = framework(&wire.framework_id)?;
    let mut page = v1::ReconcileReply::default();
    let mut bytes = 0;
    loop {
        let part = ReconcileQuery {
            framework,
            session: wire.session,
            tasks: cursor.part(),
            after: cursor.after.clone(),
            next_number: wire.next_number,
        };
        if part.tasks.is_empty() && !cursor.tasks.is_empty() {
            return Ok(page);
        }
        let (mut reply, more) = ask(part).await?;
        bytes += reply.encoded_len();
        page.statuses.append(&mut reply.statuses);
        // The oldest revision: newer records may have changed since.
        page.revision = page.revision.or(reply.revision);
        let Some(token) = cursor.advance(more) else {
            break;
        };
        if wire.paged && bytes >= page_bytes {
            page.next_page_token = token;
            break;
        }
        if bytes >= 2 * page_bytes {
            let text = format!(
                "the answer takes more than {} bytes: request it in pages, with `paged`",
                2 * page_bytes
            );
            return Err(refused("invalid", &text));
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use argosy_state::Registry;
    use argosy_state::ids::Timestamp;
    use argosy_state::testing::{World, spec};

    use super::*;
    use crate::config::LeaderTimeouts;
    use crate::leader::{Effect, Leader, LeaderTime};
    use crate::links::RequestId;

    const NOW: LeaderTime = LeaderTime {
        at: Timestamp(2_000),
        wall_ms: 0,
    };
    const TASKS: usize = 3_500;
    /// A thousand short answers take some 90 KiB.
    const PAGE: usize = 40_000;

    /// Returns a registry with one framework with `PAGE` tasks that have not ended.
    fn registry() -> Registry {
        let mut world = World::new();
        let agent = world.register("cpus:64;mem:65536");
        let framework = world.subscribe("many");
        for part in 0..TASKS / 500 {
            let offer = world.offer(framework, agent, "cpus:5;mem:500");
            let specs = (0..500).map(|at| {
                let name = format!("task-{:05}", part * 500 + at);
                spec(&name, "cpus:0.01;mem:1")
            });
            world.accept(framework, vec![offer], specs.collect());
        }
        world.registry
    }

    fn request(registry: &Registry) -> v1::ReconcileRequest {
        let framework = registry.frameworks().next().unwrap();
        v1::ReconcileRequest {
            framework_id: framework.id.to_string(),
            session: framework.session,
            ..Default::default()
        }
    }

    async fn reconcile(
        registry: &Registry,
        wire: v1::ReconcileRequest,
    ) -> Result<v1::ReconcileReply, Status> {
        let limits = LeaderTimeouts {
            agent_timeout_ms: 15_000,
            framework_grace_ms: 10_000,
            lost_agent_ms: 3_600_000,
            resume_ms: 100,
            framework_timeout_ms: 15_000,
            deposed_leader_ms: 400,
        };
        let mut leader = Leader::new(registry, NOW, limits);
        page(wire, PAGE, move |reconcile| {
            let request = RequestId(1);
            let effects = leader.step(
                registry,
                NOW,
                Input::Reconcile {
                    request,
                    actor: Actor::default(),
                    reconcile,
                },
            );
            let answers = effects.into_iter().filter_map(|effect| match effect {
                Effect::Answer(_, LeaderReply::Reconciled { reply, more }) => Some((reply, more)),
                _ => None,
            });
            std::future::ready(Ok(answers.last().expect("it is answered")))
        })
        .await
    }

    #[tokio::test]
    async fn answers_are_split_into_pages_that_fit_messages() {
        let registry = registry();
        let named: Vec<String> = (0..TASKS).map(|at| format!("task-{at:05}")).collect();
        for task_ids in [Vec::new(), named.clone()] {
            let mut wire = v1::ReconcileRequest {
                paged: true,
                task_ids,
                ..request(&registry)
            };
            let (mut reported, mut pages) = (Vec::new(), 0);
            loop {
                let page = reconcile(&registry, wire.clone()).await.unwrap();
                assert!(page.encoded_len() < 3 * PAGE, "{}", page.encoded_len());
                assert!(page.revision.is_some());
                reported.extend(page.statuses.into_iter().map(|status| status.task_id));
                pages += 1;
                if page.next_page_token.is_empty() {
                    break;
                }
                wire.page_token = page.next_page_token;
            }
            assert_eq!((&reported, pages), (&named, 4));
        }
    }

    #[tokio::test]
    async fn caller_without_paging_gets_all_or_an_error() {
        let registry = registry();
        let refused = reconcile(&registry, request(&registry)).await.unwrap_err();
        assert!(refused.message().contains("`paged`"), "{refused}");
        let wire = v1::ReconcileRequest {
            task_ids: vec!["task-00007".to_owned()],
            ..request(&registry)
        };
        let whole = reconcile(&registry, wire.clone()).await.unwrap();
        assert_eq!(
            (whole.statuses.len(), whole.next_page_token),
            (1, String::new())
        );
        let page_token = "x".to_owned();
        let foreign = reconcile(&registry, v1::ReconcileRequest { page_token, ..wire });
        assert_eq!(
            foreign.await.unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
    }
}
