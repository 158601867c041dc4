//! Calls that need rights which are given and taken, to all masters: of the operator `prober`, and
//! with a token.

use std::time::Duration;

use argosy_proto::transport::ExpectedPeer;
use tonic::transport::Endpoint;

use super::administrator::{self, ProbedRight};
use super::ticket_prober::TicketProbe;
use super::world::World;
use crate::history::DecidedBy;
use crate::rng::Rng;
use crate::sim::network;
use crate::workload::rights::{ProbeCall, RightProbe, token_name};

const NAME: &str = "prober";
/// Timeout of a connection and of a call, each.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The part of the probes that are tickets, in percent.
const TICKETS_PERCENT: u64 = 5;

/// Runs its process.
pub(super) async fn prober(world: World) -> turmoil::Result {
    if !world.enforces_access {
        return std::future::pending().await;
    }
    administrator::await_rules(&world).await;
    let mut rng = world.new_incarnation(NAME);
    let dialer = network::dialer(NAME, &world.cuts);
    let mut channels = Vec::new();
    for master in world.masters() {
        let endpoint = Endpoint::from_shared(format!("http://{master}"))?.timeout(TIMEOUT);
        let connector = dialer.connector(TIMEOUT, ExpectedPeer::MASTER);
        channels.push(endpoint.connect_with_connector_lazy(connector));
    }
    let mut tickets = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(rng.between(20, 120))).await;
        let Some(channel) = rng.pick(&channels).cloned() else {
            continue;
        };
        // Each ends after its timeouts, so there are few at a time.
        if rng.percent(TICKETS_PERCENT) {
            tickets += 1;
            let ticket = TicketProbe {
                world: world.clone(),
                name: NAME,
                dialer: dialer.clone(),
                number: tickets,
                agent: format!("agent-{}", rng.between(1, world.machines.len() as u64)),
            };
            tokio::spawn(ticket.run(channel));
        } else if let Some(probe) = choose(&world, &mut rng) {
            let notes = world.notes.clone();
            tokio::spawn(async move {
                match probe.perform(&notes.recorder, NAME, channel).await {
                    Some(true) => notes.count("probes of rights served"),
                    Some(false) => notes.count("probes of rights refused"),
                    None => {}
                }
            });
        }
    }
}

/// Returns a random call; `None` as long as there is no token.
fn choose(world: &World, rng: &mut Rng) -> Option<RightProbe> {
    let (newest, changed_at) = {
        let state = world.state();
        (state.access.newest_token, state.access.changed_at)
    };
    let (call, right) = match rng.below(10) {
        0..=3 => {
            let call = ProbeCall::SetAttribute(rng.next());
            (call, ProbedRight::SetAttribute)
        }
        number => {
            let decided_by = match number {
                4..=5 => DecidedBy::Leader,
                6..=7 => DecidedBy::Master { min_index: 0 },
                _ => DecidedBy::Master {
                    min_index: changed_at,
                },
            };
            (ProbeCall::ListAgents(decided_by), ProbedRight::ViewAgent)
        }
    };
    if rng.percent(50) {
        let (right, token) = (right.to_string(), None);
        return Some(RightProbe { right, token, call });
    }
    // The newest token, or the one before it, which is revoked.
    let number = newest - u64::from(newest > 1 && rng.percent(20));
    (number > 0).then(|| RightProbe {
        right: token_name(number),
        token: Some(number),
        call,
    })
}
