//! The ids of requests, from their calls to the log lines and orders that result from them.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use argosy_proto::trace::{self, TraceContext};
use argosy_proto::v1;
use argosy_state::event::Event;
use argosy_state::ids::{FrameworkId, OrderIndex, TaskKey};

/// Maximum number of commands in flight, and of orders that are not sent, whose requests are known.
/// Then one of them is dropped.
const CAPACITY: usize = 16_384;

/// The requests of commands that are not applied, and of orders that are not sent.
#[derive(Debug, Default)]
pub(super) struct RequestTraces {
    commands: BTreeMap<u64, TraceContext>,
    /// By a hash of task and order: two tasks with one hash would only confuse their log lines.
    orders: BTreeMap<u64, TraceContext>,
}

impl RequestTraces {
    /// Records that the present request has led to the command of this serial number.
    pub(super) fn record(&mut self, serial: u64) {
        if let Some(context) = trace::current() {
            insert(&mut self.commands, serial, context);
        }
    }

    /// Returns and removes the request of a command.
    pub(super) fn take(&mut self, serial: u64) -> Option<TraceContext> {
        self.commands.remove(&serial)
    }

    /// Records that the present request has led to the orders of these events.
    pub(super) fn record_orders(&mut self, events: &[Event]) {
        let Some(context) = trace::current() else {
            return;
        };
        for event in events {
            if let Event::TaskLaunched { key, order, .. }
            | Event::TaskKillRequested { key, order, .. }
            | Event::TaskLimitsRequested { key, order, .. } = event
            {
                insert(&mut self.orders, of_task(key, *order), context);
            }
        }
    }

    /// Names the request in an order to an agent, if it is known. An order that is sent again does
    /// not name it.
    pub(super) fn name_request(&mut self, message: &mut v1::ToAgent) {
        if let Some(v1::to_agent::Message::Order(order)) = &mut message.message
            && !self.orders.is_empty()
            && let Some(context) = of_order(order).and_then(|hash| self.orders.remove(&hash))
        {
            order.traceparent = context.to_string();
        }
    }

    /// Forgets all: their epoch has ended.
    pub(super) fn clear(&mut self) {
        self.commands.clear();
        self.orders.clear();
    }
}

fn insert(map: &mut BTreeMap<u64, TraceContext>, key: u64, context: TraceContext) {
    map.insert(key, context);
    if map.len() > CAPACITY {
        map.pop_first();
    }
}

fn of_task(key: &TaskKey, order: OrderIndex) -> u64 {
    hash(key.framework, key.task.as_str(), order.0)
}

fn of_order(order: &v1::Order) -> Option<u64> {
    let v1::subject::Subject::Task(task) = order.subject.as_ref()?.subject.as_ref()?;
    let framework = task.framework_id.parse().ok()?;
    Some(hash(framework, &task.task_id, order.index))
}

fn hash(framework: FrameworkId, task: &str, order: u64) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one((framework.0, task, order))
}

#[cfg(test)]
mod tests {
    use argosy_proto::trace::TraceIds;
    use argosy_state::ids::{AgentId, TaskId};

    use super::*;

    #[test]
    fn requests_are_known_until_their_commands_are_applied() {
        let (mut traces, context) = (RequestTraces::default(), TraceIds::new(1).next());
        trace::within(Some(context), || traces.record(7));
        traces.record(8);
        assert_eq!(traces.take(8), None, "it has no request");
        assert_eq!(traces.take(7), Some(context));
        assert_eq!(traces.take(7), None);
        trace::within(Some(context), || {
            (0..=CAPACITY as u64).for_each(|serial| traces.record(serial));
        });
        assert_eq!((traces.take(0), traces.take(1)), (None, Some(context)));
    }

    fn launched(task: &str, order: u64) -> Event {
        Event::TaskLaunched {
            key: TaskKey {
                framework: FrameworkId(3),
                task: TaskId::new(task).unwrap(),
            },
            agent: AgentId(1),
            order: OrderIndex(order),
        }
    }

    fn order(task: &str, index: u64) -> v1::ToAgent {
        let task = v1::TaskSubject {
            framework_id: "framework-3".to_owned(),
            task_id: task.to_owned(),
        };
        let order = v1::Order {
            index,
            subject: Some(v1::Subject {
                subject: Some(v1::subject::Subject::Task(task)),
            }),
            ..Default::default()
        };
        v1::ToAgent {
            message: Some(v1::to_agent::Message::Order(order)),
            ..Default::default()
        }
    }

    #[test]
    fn each_order_names_its_own_request_whenever_it_is_sent() {
        let (mut traces, ids) = (RequestTraces::default(), TraceIds::new(1));
        let contexts = [ids.next(), ids.next()];
        for (at, context) in contexts.iter().enumerate() {
            let events = [launched("web", at as u64 + 1)];
            trace::within(Some(*context), || traces.record_orders(&events));
        }
        let mut named = |task: &str, index| {
            let mut message = order(task, index);
            // The request during which it is sent may be another one.
            trace::within(Some(ids.next()), || traces.name_request(&mut message));
            match message.message {
                Some(v1::to_agent::Message::Order(order)) => order.traceparent,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(named("web", 2), contexts[1].to_string());
        assert_eq!(named("web", 1), contexts[0].to_string());
        assert_eq!(named("web", 1), "", "it is sent again");
        assert_eq!(named("other", 2), "");
    }
}
