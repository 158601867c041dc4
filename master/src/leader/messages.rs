//! Messages between frameworks and their executors: forwarded immediately or not at all, never in
//! the log.

use std::collections::BTreeMap;

use argosy_proto::v1;
use argosy_state::Registry;
use argosy_state::command::Rejection;
use argosy_state::ids::{AgentId, FrameworkId, TaskId, Timestamp};

use super::{Leader, LeaderTime, refused};
use crate::leader_reply::LeaderReply;
use crate::links::{LinkId, RequestId};

/// Maximum bytes per second from frameworks to one agent, and from agents to one framework. Excess
/// messages are rejected or lost, so that they never cause an important stream to be closed.
const BYTES_PER_SECOND: usize = 1024 * 1024;

/// A message of a framework to an executor.
#[derive(Debug, Clone)]
pub(crate) struct FrameworkMessage {
    pub(crate) framework: FrameworkId,
    pub(crate) session: u64,
    pub(crate) agent: AgentId,
    pub(crate) executor: TaskId,
    pub(crate) data: Vec<u8>,
}

/// Bytes that were forwarded in the current second.
#[derive(Debug, Default)]
pub(super) struct ForwardedBytes {
    since: Timestamp,
    to_agents: BTreeMap<AgentId, usize>,
    to_frameworks: BTreeMap<FrameworkId, usize>,
}

impl ForwardedBytes {
    fn window_at(&mut self, now: Timestamp) -> &mut Self {
        if now.since_ms(self.since) >= 1_000 {
            *self = Self {
                since: now,
                ..Self::default()
            };
        }
        self
    }
}

/// Returns whether there is room for `bytes` more.
fn admit<K: Ord>(forwarded: &mut BTreeMap<K, usize>, key: K, bytes: usize) -> bool {
    let sum = forwarded.entry(key).or_default();
    let fits = sum.saturating_add(bytes) <= BYTES_PER_SECOND;
    if fits {
        *sum += bytes;
    }
    fits
}

impl Leader {
    pub(super) fn message(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        request: RequestId,
        message: FrameworkMessage,
    ) {
        let FrameworkMessage {
            framework,
            session,
            agent,
            executor,
            data,
        } = message;
        match registry.framework(framework) {
            None => {
                let why = Rejection::UnknownFramework(framework);
                return self.answer(request, refused(&why));
            }
            Some(known) if known.session != session => {
                return self.answer(request, refused(&Rejection::Superseded(framework)));
            }
            Some(_) => {}
        }
        let is_there = registry
            .task_of_executor(agent, framework, &executor)
            .is_some();
        // Only delivered messages count: otherwise one framework could use up the budget for the
        // executors of others.
        if is_there
            && !admit(
                &mut self.forwarded.window_at(now.at).to_agents,
                agent,
                data.len(),
            )
        {
            let message = format!("{agent} is sent more than a mebibyte a second; send less");
            let code = "too-many-requests";
            return self.answer(request, LeaderReply::Refused { code, message });
        }
        if let Some(link) = self.linked_agents.get(&agent).copied().filter(|_| is_there) {
            let message = v1::ExecutorMessage {
                framework_id: framework.to_string(),
                agent_id: agent.to_string(),
                executor_id: executor.to_string(),
                data,
            };
            self.send_to_agent(link, v1::to_agent::Message::ExecutorMessage(message));
        }
        self.answer(request, LeaderReply::Forwarded);
    }

    /// Forwards a message of an executor that this agent runs to its framework. It is lost if the
    /// framework has no stream, or is behind.
    pub(super) fn agent_message(
        &mut self,
        registry: &Registry,
        now: LeaderTime,
        link: LinkId,
        message: v1::ExecutorMessage,
    ) {
        let agent = self.agent_links.get(&link).and_then(|state| state.agent);
        let framework = message.framework_id.parse::<FrameworkId>().ok();
        let executor = TaskId::new(&message.executor_id).ok();
        let (Some(agent), Some(framework), Some(executor)) = (agent, framework, executor) else {
            return;
        };
        let running = registry.task_of_executor(agent, framework, &executor);
        if running.is_none() {
            return;
        }
        let to = self.linked_frameworks.get(&framework).copied();
        let state = to.and_then(|to| self.framework_links.get(&to));
        let Some(to) = to.filter(|_| state.is_some_and(|state| !state.is_behind)) else {
            return;
        };
        let bytes = message.data.len();
        if admit(
            &mut self.forwarded.window_at(now.at).to_frameworks,
            framework,
            bytes,
        ) {
            let message = v1::ExecutorMessage {
                agent_id: agent.to_string(),
                ..message
            };
            self.send_to_framework(to, v1::event::Event::Message(message));
        }
    }
}
