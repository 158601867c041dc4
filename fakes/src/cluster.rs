//! The shared state of the fake masters.

use std::collections::{BTreeMap, VecDeque};

use argosy_proto::{convert, v1};
use argosy_state::command::Position;
use argosy_state::resources::Resources;
use tokio::sync::mpsc;
use tonic::Status;

use super::messages::{has_ended, host_network, resources, wire};

/// Capacity for events that a test's scheduler has not read; a test that needs more is wrong.
const EVENTS: usize = 10_000;

/// An input of the fake masters.
#[derive(Debug, Clone, PartialEq)]
pub enum ReceivedInput {
    /// A subscription.
    Subscribed {
        /// The framework id presented; empty the first time.
        framework_id: String,
        /// The session id presented.
        session: u64,
        /// Offers presented, each with its token.
        held: Vec<(String, Vec<u8>)>,
        /// Number of declines presented.
        filters: usize,
    },
    /// A numbered call, including repeats and calls that met a fault.
    Called {
        /// Kind of the call, such as "accept".
        kind: &'static str,
        /// Number of the call.
        number: u64,
        /// The lowest number for which the caller still waits.
        lowest_unanswered: u64,
        /// Content of the whole call, to compare repeats.
        content: String,
    },
    /// Acknowledgements: task and log index.
    Acknowledged(Vec<(String, u64)>),
    /// Declined offers.
    Declined(Vec<String>),
    /// A reconciliation, with the caller's next number.
    Reconciled(u64),
}

/// A fault of a unary call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFault {
    /// UNAVAILABLE, and the call had no effect.
    Unavailable,
    /// UNAVAILABLE, although the call took effect.
    LostReply,
    /// RESOURCE_EXHAUSTED without a code: the master has not read the call.
    NotRead,
    /// PERMISSION_DENIED: a rule denies the call.
    Denied,
}

/// One registry and one leader's book.
#[derive(Default)]
pub(super) struct FakeState {
    pub(super) addresses: Vec<String>,
    pub(super) leader: usize,
    pub(super) received: Vec<ReceivedInput>,
    pub(super) faults: VecDeque<CallFault>,
    pub(super) repeats_updates: bool,
    pub(super) is_silent: bool,
    /// The interval of heartbeats that is announced, if it is not the usual one.
    pub(super) heartbeat_ms: Option<u64>,
    /// Statuses in a page of an answer to a reconciliation.
    pub(super) page: Option<usize>,
    pub(super) scheduler_heartbeat_ms: u64,
    pub(super) heartbeats: usize,
    pub(super) script: Vec<v1::TaskState>,
    pub(super) open_offers: BTreeMap<String, v1::Offer>,
    pub(super) launches: BTreeMap<String, usize>,
    // Launched and not yet taken by the test; it must take them.
    pub(super) launched: Vec<v1::TaskSpec>,
    pub(super) agent_address: String,
    // Offers of former leaders that may still be presented.
    former_offers: BTreeMap<String, v1::Offer>,
    epoch: u64,
    serial: u64,
    index: u64,
    session: u64,
    past_sessions: Vec<u64>,
    is_removed: bool,
    low_water: u64,
    answers: BTreeMap<u64, (String, Result<v1::AcceptReply, String>)>,
    unacknowledged: BTreeMap<String, Vec<v1::TaskStatus>>,
    tasks: BTreeMap<String, v1::TaskStatus>,
    pub(super) link: Option<mpsc::Sender<Result<v1::Event, Status>>>,
    /// Streams of leaders that have not noticed their end.
    deposed_streams: Vec<mpsc::Sender<Result<v1::Event, Status>>>,
}

pub(super) const FRAMEWORK: &str = "framework-1";

impl FakeState {
    fn send_event(&mut self, event: v1::event::Event) {
        let event = Ok(v1::Event { event: Some(event) });
        if let Some(link) = &self.link
            && link.try_send(event).is_err()
        {
            self.link = None;
        }
    }

    pub(super) fn revision(&mut self) -> v1::Revision {
        self.index += 1;
        v1::Revision {
            index: self.index,
            position: 0,
        }
    }

    pub(super) fn offer(&mut self, agent: &str, text: &str) -> String {
        self.serial += 1;
        let offer_id = format!("{}.{}", self.epoch, self.serial);
        let offer = v1::Offer {
            offer_id: offer_id.clone(),
            framework_id: FRAMEWORK.into(),
            agent_id: agent.into(),
            host_name: format!("{agent}.test"),
            role: "*".into(),
            resources: wire(text),
            token: format!("token of {offer_id}").into_bytes().into(),
            agent_address: self.agent_address.clone(),
            allowed_opt_outs: Some(host_network()),
            ..Default::default()
        };
        self.open_offers.insert(offer_id.clone(), offer.clone());
        self.send_event(v1::event::Event::Offers(v1::Offers {
            offers: vec![offer],
        }));
        offer_id
    }

    pub(super) fn rescind(&mut self, offer_id: &str) {
        self.open_offers.remove(offer_id);
        let reason = "the test requests it".to_owned();
        let offer_id = offer_id.to_owned();
        self.send_event(v1::event::Event::Rescind(v1::Rescind { offer_id, reason }));
    }

    pub(super) fn update(&mut self, task_id: &str, state: v1::TaskState) {
        self.send_status(task_id, state, v1::TaskStatus::default());
    }

    pub(super) fn stop(&mut self, task_id: &str) {
        let stopped = v1::TaskStatus {
            stopped: true,
            ..Default::default()
        };
        self.send_status(task_id, v1::TaskState::Unreachable, stopped);
    }

    fn send_status(&mut self, task_id: &str, state: v1::TaskState, rest: v1::TaskStatus) {
        let status = v1::TaskStatus {
            framework_id: FRAMEWORK.into(),
            task_id: task_id.into(),
            agent_id: self
                .tasks
                .get(task_id)
                .map(|task| task.agent_id.clone())
                .unwrap_or_default(),
            state: state.into(),
            revision: Some(self.revision()),
            ..rest
        };
        self.tasks.insert(task_id.to_owned(), status.clone());
        self.unacknowledged
            .entry(task_id.to_owned())
            .or_default()
            .push(status.clone());
        for _ in 0..=usize::from(self.repeats_updates) {
            self.send_event(v1::event::Event::Update(status.clone()));
        }
    }

    pub(super) fn change_leader(&mut self) {
        self.leader = (self.leader + 1) % self.addresses.len();
        self.epoch += 1;
        self.link = None;
        self.is_silent = false;
        self.former_offers.append(&mut self.open_offers);
    }

    pub(super) fn depose_leader(&mut self) {
        self.deposed_streams.extend(self.link.take());
        self.change_leader();
    }

    pub(super) fn leadership(&self, index: usize) -> v1::Reign {
        v1::Reign {
            epoch: self.epoch,
            leader_address: self.addresses[self.leader].clone(),
            here: self.leader == index,
        }
    }

    pub(super) fn supersede(&mut self) {
        self.past_sessions.push(self.session);
        let message = "another scheduler has taken over framework-1".to_owned();
        self.send_event(v1::event::Event::Error(v1::Error {
            code: "superseded".into(),
            message,
            ..Default::default()
        }));
        self.link = None;
    }

    pub(super) fn heartbeat(&mut self, request: &v1::HeartbeatRequest) {
        if request.framework_id == FRAMEWORK && request.session == self.session {
            self.heartbeats += 1;
        }
    }

    pub(super) fn subscribe(
        &mut self,
        request: v1::SubscribeRequest,
    ) -> Result<mpsc::Receiver<Result<v1::Event, Status>>, (&'static str, String)> {
        let held: Vec<v1::Offer> = request
            .held
            .into_iter()
            .filter_map(|held| held.offer)
            .collect();
        self.received.push(ReceivedInput::Subscribed {
            framework_id: request.framework_id,
            session: request.session,
            held: held
                .iter()
                .map(|offer| (offer.offer_id.clone(), offer.token.to_vec()))
                .collect(),
            filters: request.filters.len(),
        });
        if self.past_sessions.contains(&request.session) {
            return Err((
                "superseded",
                "another scheduler has taken over framework-1".into(),
            ));
        }
        if self.is_removed {
            return Err(("unknown-framework", "no framework-1 in this cluster".into()));
        }
        if self.session != request.session {
            self.answers.clear();
            self.low_water = 0;
        }
        self.session = request.session;
        let (kept, rescinded) = self.adopt(held);
        // The bound is far above what a test sends.
        let (link, events) = mpsc::channel(EVENTS);
        self.link = Some(link);
        // Offers made while no stream was open are sent now.
        let undelivered = self
            .open_offers
            .values()
            .filter(|offer| !kept.contains(&offer.offer_id));
        let offers: Vec<_> = undelivered.cloned().collect();
        let subscribed = v1::Subscribed {
            framework_id: FRAMEWORK.into(),
            session: request.session,
            kept_offers: kept,
            rescinded_offers: rescinded,
            cluster_id: "fake".into(),
            // Usually longer than a busy machine stalls: a resumed stream would be another one.
            heartbeat_interval_ms: self.heartbeat_ms.unwrap_or(10_000),
            scheduler_heartbeat_interval_ms: self.scheduler_heartbeat_ms,
            epoch: self.epoch,
            leader_address: self.addresses[self.leader].clone(),
            ..Default::default()
        };
        self.send_event(v1::event::Event::Subscribed(subscribed));
        self.send_event(v1::event::Event::Offers(v1::Offers { offers }));
        for status in self
            .unacknowledged
            .values()
            .flatten()
            .cloned()
            .collect::<Vec<_>>()
        {
            self.send_event(v1::event::Event::Update(status));
        }
        Ok(events)
    }

    /// Opens the offers that are still valid again. Returns the ids of those and of the rest.
    fn adopt(&mut self, held: Vec<v1::Offer>) -> (Vec<String>, Vec<String>) {
        let (mut kept, mut rescinded) = (Vec::new(), Vec::new());
        for offer in held {
            let id = offer.offer_id.clone();
            let is_good = self.open_offers.contains_key(&id)
                || self
                    .former_offers
                    .remove(&id)
                    .is_some_and(|former| former == offer);
            if is_good {
                self.open_offers.insert(id.clone(), offer);
                kept.push(id);
            } else {
                rescinded.push(id);
            }
        }
        (kept, rescinded)
    }

    pub(super) fn acknowledge(&mut self, request: v1::AcknowledgeRequest) {
        let mut all = Vec::new();
        for one in request.acknowledgements {
            let index = one.revision.unwrap_or_default().index;
            if let Some(updates) = self.unacknowledged.get_mut(&one.task_id) {
                updates.retain(|status| status.revision.unwrap_or_default().index > index);
            }
            all.push((one.task_id, index));
        }
        self.received.push(ReceivedInput::Acknowledged(all));
    }

    pub(super) fn decline(&mut self, request: v1::DeclineRequest) {
        for id in &request.offer_ids {
            self.open_offers.remove(id);
        }
        self.received
            .push(ReceivedInput::Declined(request.offer_ids));
    }

    pub(super) fn reconcile(&mut self, request: &v1::ReconcileRequest) -> v1::ReconcileReply {
        self.received
            .push(ReceivedInput::Reconciled(request.next_number));
        let unknown = |id: &String| v1::TaskStatus {
            task_id: id.clone(),
            state: v1::TaskState::Unknown.into(),
            ..Default::default()
        };
        let live = self.tasks.values().filter(|task| !has_ended(task)).cloned();
        let mut statuses: Vec<_> = match request.task_ids.as_slice() {
            [] => live.collect(),
            ids => ids
                .iter()
                .map(|id| self.tasks.get(id).cloned().unwrap_or_else(|| unknown(id)))
                .collect(),
        };
        if statuses
            .iter()
            .any(|status| status.state() == v1::TaskState::Unknown)
        {
            self.low_water = self.low_water.max(request.next_number);
        }
        let mut next_page_token = String::new();
        if let Some(page) = self.page.filter(|_| request.paged) {
            let from: usize = request.page_token.parse().unwrap_or(0);
            statuses.drain(..from.min(statuses.len()));
            if statuses.len() > page {
                statuses.truncate(page);
                next_page_token = (from + page).to_string();
            }
        }
        v1::ReconcileReply {
            statuses,
            revision: Some(self.revision()),
            next_page_token,
        }
    }

    /// Handles a numbered call: it takes effect at most once, even if it is repeated.
    pub(super) fn call(
        &mut self,
        kind: &'static str,
        id: &v1::CallId,
        content: String,
        act: impl FnOnce(&mut Self) -> Result<Vec<v1::Refused>, String>,
    ) -> Result<v1::AcceptReply, (&'static str, String)> {
        self.received.push(ReceivedInput::Called {
            kind,
            number: id.number,
            lowest_unanswered: id.lowest_unanswered,
            content: content.clone(),
        });
        if let Some((before, answer)) = self.answers.get(&id.number) {
            if *before != content {
                return Err((
                    "call-reused",
                    format!("call {} was another request", id.number),
                ));
            }
            return answer.clone().map_err(|text| ("refused", text));
        }
        if self.is_removed {
            return Err(("framework-removed", "framework-1 is being removed".into()));
        }
        if id.session != self.session {
            return Err((
                "superseded",
                "another scheduler has taken over framework-1".into(),
            ));
        }
        if id.number < self.low_water {
            return Err((
                "late",
                format!("call {} is below {}", id.number, self.low_water),
            ));
        }
        self.low_water = self.low_water.max(id.lowest_unanswered);
        self.answers
            .retain(|number, _| *number >= id.lowest_unanswered);
        let answer = act(self).map(|refused| v1::AcceptReply {
            revision: Some(self.revision()),
            refused,
        });
        self.answers.insert(id.number, (content, answer.clone()));
        answer.map_err(|text| ("refused", text))
    }

    pub(super) fn accept(
        &mut self,
        request: &v1::AcceptRequest,
    ) -> Result<Vec<v1::Refused>, String> {
        let mut left = Vec::new();
        let mut agent = String::new();
        for offer in request.offers.iter().filter_map(|held| held.offer.as_ref()) {
            if self
                .open_offers
                .get(&offer.offer_id)
                .or(self.former_offers.get(&offer.offer_id))
                != Some(offer)
            {
                return Err(format!("offer {} is no longer open", offer.offer_id));
            }
            agent.clone_from(&offer.agent_id);
            left.extend(offer.resources.clone());
        }
        for offer in request.offers.iter().filter_map(|held| held.offer.as_ref()) {
            self.open_offers.remove(&offer.offer_id);
            self.former_offers.remove(&offer.offer_id);
        }
        let mut left = resources(&left).ok_or("the offers overlap")?;
        let refused = self.launch(request, &agent, &mut left);
        if !left.is_empty() {
            self.offer(&agent, &left.to_string());
        }
        Ok(refused)
    }

    fn launch(
        &mut self,
        request: &v1::AcceptRequest,
        agent: &str,
        left: &mut Resources,
    ) -> Vec<v1::Refused> {
        let launches = request
            .operations
            .iter()
            .filter_map(|operation| operation.operation.as_ref());
        // Rejections are per task, because no test of a scheduler needs more of a group.
        let tasks = launches.flat_map(|operation| match operation {
            v1::operation::Operation::Launch(launch) => &launch.tasks,
            v1::operation::Operation::LaunchGroup(launch) => &launch.tasks,
        });
        let shape = convert::shape(&request.operations).unwrap_or_default();
        let mut refused = Vec::new();
        for (number, task) in (0..).zip(tasks) {
            let wanted = resources(&task.resources).unwrap_or_default();
            let Some(rest) = left
                .minus(&wanted)
                .filter(|_| !self.tasks.contains_key(&task.task_id))
            else {
                let message = format!(
                    "task {} asks for too much, or is there already",
                    task.task_id
                );
                let position = shape.place(Position::counted(number));
                refused.push(convert::refused(&shape, position, "too-large", message));
                continue;
            };
            *left = rest;
            *self.launches.entry(task.task_id.clone()).or_default() += 1;
            self.launched.push(task.clone());
            let status = v1::TaskStatus {
                task_id: task.task_id.clone(),
                agent_id: agent.to_owned(),
                state: v1::TaskState::Staging.into(),
                ..Default::default()
            };
            self.tasks.insert(task.task_id.clone(), status);
            for state in self.script.clone() {
                self.update(&task.task_id, state);
            }
        }
        refused
    }

    pub(super) fn remove(&mut self) {
        self.is_removed = true;
        self.answers.clear();
    }
}
