//! The administrator: it sets the rules that the processes of a cluster need.

use std::time::Duration;

use argosy_client::{CallError, Connector, ConnectorConfig, Masters, OperatorClient};
use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation as Write;
use argosy_state::ids::Revision;
use tonic::Code;

use super::world::World;
use crate::sim::network;

pub(super) const NAME: &str = "admin";
/// Timeout of one attempt.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed attempt, and the interval at which frameworks wait for rules.
const PAUSE: Duration = Duration::from_millis(50);

/// The groups: each process has the rights that its work needs.
const GROUPS: &[&str] = &[
    "group admin = operator/admin operator/hand",
    "group operator = operator/operator-1 operator/operator-2",
    "group viewer = operator/lister operator/watcher",
    "group framework:* = framework/*",
];
const RULES: &[&str] = &["allow agent/* connect-agent *"];

/// The state of the rules and tokens.
#[derive(Debug, Default)]
pub(super) struct AccessState {
    /// Whether the rules that all processes need are in force.
    is_ready: bool,
}

/// Waits until the rules that frameworks need are in force.
pub(super) async fn await_rules(world: &World) {
    while world.enforces_access && !world.state().access.is_ready {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs its process.
pub(super) async fn administrator(world: World) -> turmoil::Result {
    if !world.enforces_access {
        return std::future::pending().await;
    }
    let mut rng = world.new_incarnation(NAME);
    let config = ConnectorConfig {
        dialer: network::dialer(NAME, &world.cuts),
        seed: rng.next(),
    };
    let masters = Masters::new(world.masters())?;
    let client = OperatorClient::new(Connector::new(masters, config)).with_deadline(TIMEOUT);
    let mut administrator = Administrator {
        world,
        client,
        requests: 0,
    };
    let rules = administrator.rules();
    administrator.perform(rules).await;
    administrator.world.state().access.is_ready = true;
    std::future::pending().await
}

struct Administrator {
    world: World,
    client: OperatorClient,
    /// The number of its requests.
    requests: u64,
}

impl Administrator {
    /// Returns the change that sets all rules and groups.
    fn rules(&self) -> Write {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Write::SetPolicy(v1::SetPolicy {
            rules: texts(RULES),
            groups: texts(GROUPS),
        })
    }

    /// Performs a change, and repeats its request until it is acknowledged. Returns its revision;
    /// `None` if it was refused.
    async fn perform(&mut self, operation: Write) -> Option<Revision> {
        self.requests += 1;
        let batch = v1::WriteBatch {
            request_id: format!("{NAME}-{}", self.requests),
            operations: vec![v1::WriteOperation {
                operation: Some(operation),
            }],
            ..Default::default()
        };
        loop {
            let refused = match self.client.write(batch.clone()).await {
                Ok(reply) if reply.outcomes.iter().all(|outcome| outcome.done) => {
                    self.world.notes.count("changes of access");
                    return Some(argosy_proto::convert::revision_from(reply.revision));
                }
                Ok(reply) => format!("{:?}", reply.outcomes),
                Err(CallError::Refused(why)) if is_denial(why.code) => why.message,
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let message = format!("a change of access was refused: {refused}");
            self.world.notes.violation(message);
            return None;
        }
    }
}

/// Whether a call was refused because of its caller.
pub(super) fn is_denial(code: Code) -> bool {
    matches!(code, Code::PermissionDenied | Code::Unauthenticated)
}
