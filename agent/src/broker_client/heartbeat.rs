//! Heartbeats that detect whether a broker responds. A stopped process (SIGSTOP, a debugger) does
//! not end, and answers nothing.

use std::time::Duration;

use argosy_isolation::service::PacketSocket;

use super::connections::BrokerConnections;
use super::link::{self, ControlMessage};
use super::request::ReplyResult;

/// The heartbeat interval.
const INTERVAL: Duration = Duration::from_secs(2);
/// The timeout is ten seconds, in parts: an agent that is stopped together with its broker for
/// longer loses only one of them.
const TIMEOUT_PARTS: u32 = 20;
const TIMEOUT_PART: Duration = Duration::from_millis(500);

/// Sends heartbeats to the broker until it has exited.
pub(super) fn watch(control: &PacketSocket, connections: &BrokerConnections, pid: Option<u32>) {
    // The broker sends nothing unrequested: readable means closed.
    while let Ok(false) = control.is_readable(INTERVAL) {
        if link::send(control, &ControlMessage::Heartbeat, &[]).is_err() {
            return;
        }
        let mut parts = 0;
        loop {
            match control.is_readable(TIMEOUT_PART) {
                Ok(true) => break,
                Ok(false) => parts += 1,
                Err(_) => return,
            }
            if parts == TIMEOUT_PARTS {
                connections.set_responds(false);
                ::metrics::gauge!("argosy_agent_broker_responds").set(0);
                tracing::error!(
                    pid,
                    "the broker of this agent does not respond: starts and removals wait until it is continued (kill -CONT)"
                );
            }
        }
        if !matches!(link::receive::<ReplyResult>(control), Ok(Some(_))) {
            return;
        }
        if parts >= TIMEOUT_PARTS {
            connections.set_responds(true);
            tracing::info!(pid, "the broker of this agent responds again");
        }
        ::metrics::gauge!("argosy_agent_broker_responds").set(1);
    }
}
