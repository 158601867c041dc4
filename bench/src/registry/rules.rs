//! Rules of access that a leader weighs for each write.

use anyhow::{Context, Result};
use argosy_proto::v1;

use crate::cluster::{Cluster, MasterClient};
use crate::writer::done;

/// One of so many rules is about the writer and its action; the others are about other operators.
const OWN: usize = 100;
/// No cluster of a measurement has as many agents.
const ABSENT: usize = 1_000_000_000;

/// Sets this number of rules, in addition to those that let operators and agents in. None of them
/// denies a measured write.
///
/// # Errors
/// If the leader does not set them.
pub(super) async fn set(cluster: &Cluster, leader: usize, count: usize) -> Result<()> {
    let policy = v1::SetPolicy {
        rules: (0..count)
            .map(rule)
            .chain(["allow agent/* connect-agent *".into()])
            .collect(),
        groups: vec!["group admin = operator/*".into()],
        replaces: None,
    };
    let operation = v1::WriteOperation {
        operation: Some(v1::write_operation::Operation::SetPolicy(policy)),
    };
    let batch = v1::WriteBatch {
        operations: vec![operation],
        ..Default::default()
    };
    let mut client = MasterClient::new(cluster.connect(leader).await?);
    let reply = client.write_one(batch).await.context("cannot set rules")?;
    done(reply.get_ref())
}

/// Denies an operator to change the attributes of an agent that does not exist.
fn rule(number: usize) -> String {
    let operator = match number % OWN {
        0 => "bench-operator".to_owned(),
        _ => format!("other-{number}"),
    };
    format!(
        "deny operator/{operator} set-attribute agent:agent-{}",
        ABSENT + number
    )
}

#[cfg(test)]
mod tests {
    use argosy_state::access::Rule;

    use super::*;

    #[test]
    fn all_rules_are_valid() {
        for number in [0, 1, OWN, 8_999] {
            let rule = rule(number);
            assert!(rule.parse::<Rule>().is_ok(), "{rule}");
        }
    }
}
