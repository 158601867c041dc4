//! The ids of requests, from orders to the work on containers that results from them.

use std::collections::BTreeMap;

use argosy_proto::trace::{self, TraceContext};
use argosy_proto::v1;

use crate::core::{ContainerEffect, Instance};

/// Maximum number of launches whose requests are known; then the oldest is dropped.
const CAPACITY: usize = 4_096;

/// The requests of the launches of this run, by order.
#[derive(Debug, Default)]
pub(crate) struct LaunchTraces(BTreeMap<u64, TraceContext>);

impl LaunchTraces {
    /// Returns the request that a message of a master comes from, and records it if the message is
    /// a launch.
    pub(crate) fn received(&mut self, message: &v1::ToAgent) -> Option<TraceContext> {
        let Some(v1::to_agent::Message::Order(order)) = &message.message else {
            return None;
        };
        let context = TraceContext::parse(&order.traceparent)?;
        if let Some(v1::order::Order::Launch(_)) = &order.order {
            self.0.insert(order.index, context);
            if self.0.len() > CAPACITY {
                self.0.pop_first();
            }
        }
        Some(context)
    }

    /// Returns the present request, else the one that launched the container of this effect.
    pub(crate) fn of(&self, effect: &ContainerEffect) -> Option<TraceContext> {
        let launch = || Some(*self.0.get(&instance(effect)?.order.0)?);
        trace::current().or_else(launch)
    }
}

fn instance(effect: &ContainerEffect) -> Option<Instance> {
    use ContainerEffect as Of;
    match effect {
        Of::Fetch(start) | Of::Prepare(start) | Of::Start(start) => Some(start.name.instance),
        Of::CancelFetch(instance) | Of::CancelStart(instance) => Some(*instance),
        Of::Find { name, .. }
        | Of::Measure { name, .. }
        | Of::Limit { name, .. }
        | Of::Destroy { name, .. } => Some(name.instance),
        Of::Kill { instance, .. }
        | Of::Renew { instance, .. }
        | Of::Probe { instance, .. }
        | Of::CancelProbe { instance, .. }
        | Of::DeliverSecrets { instance, .. }
        | Of::SendToExecutor { instance, .. } => Some(*instance),
        Of::DestroyGroup { .. } | Of::Listen(_) | Of::StopListening(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use argosy_proto::trace::TraceIds;
    use argosy_state::ids::{AgentId, OrderIndex};

    use super::*;

    fn order(index: u64, order: v1::order::Order, traceparent: String) -> v1::ToAgent {
        let order = v1::Order {
            index,
            order: Some(order),
            traceparent,
            ..Default::default()
        };
        v1::ToAgent {
            message: Some(v1::to_agent::Message::Order(order)),
            ..Default::default()
        }
    }

    fn start(order: u64) -> ContainerEffect {
        ContainerEffect::CancelStart(Instance {
            agent: AgentId(1),
            order: OrderIndex(order),
        })
    }

    #[test]
    fn effects_have_the_request_of_their_launch_or_the_present_one() {
        let (mut traces, ids) = (LaunchTraces::default(), TraceIds::new(3));
        let (launched, killed) = (ids.next(), ids.next());
        let launch = v1::order::Order::Launch(v1::LaunchOrder::default());
        let kill = v1::order::Order::Kill(v1::KillOrder::default());
        let seen = traces.received(&order(5, launch.clone(), launched.to_string()));
        assert_eq!(seen, Some(launched));
        let seen = traces.received(&order(6, kill, killed.to_string()));
        assert_eq!(seen, Some(killed));
        assert_eq!(traces.of(&start(5)), Some(launched));
        assert_eq!(traces.of(&start(6)), None, "a kill starts no container");
        let during = trace::within(Some(killed), || traces.of(&start(5)));
        assert_eq!(during, Some(killed));
        // As from an earlier release, and from one that is broken.
        for text in ["", "00-0-0-0", "\u{1b}[2J"] {
            let seen = traces.received(&order(7, launch.clone(), text.to_owned()));
            assert_eq!((seen, traces.of(&start(7))), (None, None), "{text:?}");
        }
    }

    #[test]
    fn the_oldest_launches_are_dropped() {
        let (mut traces, ids) = (LaunchTraces::default(), TraceIds::new(3));
        let launch = v1::order::Order::Launch(v1::LaunchOrder::default());
        for index in 0..=CAPACITY as u64 {
            traces.received(&order(index, launch.clone(), ids.next().to_string()));
        }
        assert_eq!(traces.0.len(), CAPACITY);
        assert_eq!(traces.of(&start(0)), None);
        assert!(traces.of(&start(1)).is_some());
    }
}
