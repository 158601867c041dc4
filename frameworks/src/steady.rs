//! Keeps a number of copies of a command running, each with a port, and replaces those that end.
//!
//! A copy on an unreachable agent is not replaced while it may still run there. It is replaced only
//! if the copies have a `stop_after_ms`, and only once the masters report that it has stopped.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use argosy_client::resources::{Remainder, from_wire, port_resource, to_wire};
use argosy_client::scheduler::{
    CallOutcome, CallResult, Scheduler, SchedulerDriver, Subscription, is_replaceable,
};
use argosy_proto::v1;
use serde::Serialize;

use crate::progress::ProgressFormat;

/// Time after its launch within which the end of a copy counts as a failure.
const MIN_LIFETIME: Duration = Duration::from_secs(2);
/// Longest pause before a failing copy is restarted.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The definition of the copies.
#[derive(Debug, Clone, Default)]
pub struct CopySpec {
    /// The number of copies.
    pub number: usize,
    /// Whether each gets a port of its host, as PORT0 in its environment. Only agents that allow
    /// tasks the host's network are used for such copies.
    pub with_port: bool,
    /// The task without id and port, and without the resources and variables of these.
    pub template: v1::TaskSpec,
}

#[derive(Debug, Clone, PartialEq)]
enum CopyState {
    Pending {
        not_before: Option<Instant>,
    },
    Launched {
        task_id: String,
        location: CopyLocation,
        since: Instant,
        state: v1::TaskState,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct CopyLocation {
    /// API address of its agent.
    pub agent: String,
    /// Address part of `agent`, where the copy's port is.
    pub address: String,
    /// The port of the copy, or 0 if it has none.
    pub port: u16,
}

#[derive(Debug, Clone)]
struct CopySlot {
    state: CopyState,
    attempt: u32,
    failures: u32,
}

#[derive(Serialize)]
struct CopyEvent<'a> {
    event: &'static str,
    copy: usize,
    task: &'a str,
    state: &'a str,
    message: &'a str,
    #[serde(flatten)]
    place: &'a CopyLocation,
}

/// The scheduler.
pub struct Steady {
    copies: CopySpec,
    // Part of every task id, so that a second run of a framework under the same id uses new ones.
    prefix: String,
    slots: Vec<CopySlot>,
    by_task: BTreeMap<String, usize>,
    is_suppressed: bool,
    progress: ProgressFormat,
    /// Number of copies that ended and were replaced.
    pub replaced: u64,
}

impl Steady {
    /// Creates the scheduler; nothing is launched yet. `prefix` begins every task id.
    #[must_use]
    pub fn new(copies: CopySpec, prefix: &str, progress: ProgressFormat) -> Self {
        let slot = CopySlot {
            state: CopyState::Pending { not_before: None },
            attempt: 0,
            failures: 0,
        };
        Self {
            slots: vec![slot; copies.number],
            copies,
            prefix: prefix.to_owned(),
            by_task: BTreeMap::new(),
            is_suppressed: false,
            progress,
            replaced: 0,
        }
    }

    /// Returns the running copies, each with its location.
    #[must_use]
    pub fn running(&self) -> Vec<(&str, &CopyLocation)> {
        self.slots
            .iter()
            .filter_map(|slot| match &slot.state {
                CopyState::Launched {
                    task_id,
                    location: place,
                    state,
                    ..
                } if *state == v1::TaskState::Running => Some((task_id.as_str(), place)),
                CopyState::Launched { .. } | CopyState::Pending { .. } => None,
            })
            .collect()
    }

    fn is_wanted(&self, now: Instant) -> bool {
        let due = |slot: &CopySlot| matches!(slot.state, CopyState::Pending { not_before } if not_before.is_none_or(|at| at <= now));
        self.slots.iter().any(due)
    }

    /// Launches one missing copy out of `rest`, if there is one and it fits.
    fn launch(
        &mut self,
        offer: &v1::Offer,
        rest: &mut Remainder,
        now: Instant,
    ) -> Option<v1::TaskSpec> {
        let due = |slot: &CopySlot| matches!(slot.state, CopyState::Pending { not_before } if not_before.is_none_or(|at| at <= now));
        let copy = self.slots.iter().position(due)?;
        let mut wanted = from_wire(&self.copies.template.resources)?;
        let before = rest.clone();
        let mut place = CopyLocation {
            agent: offer.agent_address.clone(),
            address: offer
                .agent_address
                .rsplit_once(':')
                .map_or("", |(host, _)| host)
                .to_owned(),
            port: 0,
        };
        if !rest.take(&wanted) {
            return None;
        }
        let mut spec = self.copies.template.clone();
        if self.copies.with_port {
            let allowed = offer.allowed_opt_outs.as_ref();
            let port = allowed
                .filter(|allowed| allowed.host_network)
                .and_then(|_| rest.take_port());
            let Some(port) = port else {
                *rest = before;
                return None;
            };
            // The copy listens on its port in the host's network.
            let mode = Some(v1::network::Mode::Host(v1::HostNetwork {}));
            spec.container.get_or_insert_default().network = Some(v1::Network { mode });
            place.port = port;
            wanted = wanted.plus(&port_resource(u64::from(port)))?;
            spec.environment.insert("PORT0".into(), port.to_string());
        }
        spec.resources = to_wire(&wanted);
        let slot = &mut self.slots[copy];
        slot.attempt += 1;
        spec.task_id = format!("{}-{copy}-{}", self.prefix, slot.attempt);
        self.by_task.insert(spec.task_id.clone(), copy);
        slot.state = CopyState::Launched {
            task_id: spec.task_id.clone(),
            location: place,
            since: now,
            state: v1::TaskState::Staging,
        };
        Some(spec)
    }

    fn ended(&mut self, task_id: &str, now: Instant) {
        let Some(copy) = self.by_task.remove(task_id) else {
            return;
        };
        let slot = &mut self.slots[copy];
        let lived = match slot.state {
            CopyState::Launched { since: at, .. } => now.duration_since(at),
            CopyState::Pending { .. } => return,
        };
        slot.failures = if lived < MIN_LIFETIME {
            slot.failures + 1
        } else {
            0
        };
        let pause = Duration::from_millis(100) * 2_u32.pow(slot.failures.min(10));
        let not_before = (slot.failures > 1).then(|| now + pause.min(LONGEST_PAUSE));
        slot.state = CopyState::Pending { not_before };
        self.replaced += 1;
    }

    /// Requests offers exactly while a copy is missing.
    fn revive(&mut self, driver: &SchedulerDriver) {
        let wanted = self.is_wanted(Instant::now());
        if wanted && self.is_suppressed {
            driver.revive(Vec::new());
        } else if !wanted && !self.is_suppressed {
            driver.suppress(Vec::new());
        }
        self.is_suppressed = !wanted;
    }
}

impl Scheduler for Steady {
    fn registered(&mut self, _: &SchedulerDriver, subscription: &Subscription) {
        let id = &subscription.framework_id;
        let event = serde_json::json!({"event": "registered", "framework": id, "epoch": subscription.epoch});
        self.progress.print(&event, &format!("registered as {id}"));
    }

    fn offers(&mut self, driver: &SchedulerDriver, offers: Vec<v1::Offer>) {
        let now = Instant::now();
        for offer in offers {
            let mut rest = Remainder::of(&offer);
            // One copy per offer, so that copies spread over the agents.
            match self.launch(&offer, &mut rest, now) {
                Some(spec) => drop(driver.accept(&offer, vec![spec])),
                None if self.is_wanted(now) => {
                    driver.decline_because(
                        vec![offer.offer_id],
                        None,
                        "too-small",
                        "a copy does not fit",
                    );
                }
                None => driver.decline_because(
                    vec![offer.offer_id],
                    None,
                    "no-demand",
                    "all copies run",
                ),
            }
        }
        self.revive(driver);
    }

    fn answered(&mut self, driver: &SchedulerDriver, answer: &CallResult) {
        for (task_id, why) in answer.not_launched() {
            tracing::info!(task_id, why, "a copy was not launched");
            self.ended(task_id, Instant::now());
        }
        if matches!(answer.outcome, CallOutcome::Lost(_)) {
            driver.reconcile(answer.task_ids.clone());
        }
        self.revive(driver);
    }

    fn update(&mut self, driver: &SchedulerDriver, status: &v1::TaskStatus) {
        let Some(copy) = self.by_task.get(&status.task_id).copied() else {
            return;
        };
        let new = status.state();
        if let CopyState::Launched {
            state,
            location: place,
            ..
        } = &mut self.slots[copy].state
        {
            *state = new;
            let name = new.as_str_name();
            let event = CopyEvent {
                event: "copy",
                copy,
                task: &status.task_id,
                state: name,
                message: &status.message,
                place,
            };
            let text = format!(
                "{} {name} at {}:{} {}",
                status.task_id, place.address, place.port, status.message
            );
            self.progress.print(&event, text.trim_end());
        }
        if is_replaceable(status) || new == v1::TaskState::Unknown {
            self.ended(&status.task_id, Instant::now());
            self.revive(driver);
        }
    }

    fn tick(&mut self, driver: &SchedulerDriver) {
        self.revive(driver);
    }

    fn reconnected(&mut self, _: &SchedulerDriver, subscription: &Subscription) {
        let epoch = subscription.epoch;
        let event = serde_json::json!({"event": "reconnected", "epoch": epoch});
        self.progress.print(&event, "");
    }
}
