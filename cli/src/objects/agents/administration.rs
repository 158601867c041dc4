//! `agent attribute|deactivate|reactivate|gone`: changes of an agent's record.

use std::time::Instant;

use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;
use clap::Args;

use crate::args::{ConnectionArguments, WriteArguments};
use crate::commands::confirm;
use crate::exit::{DONE, Failure, VerbResult};
use crate::objects::tasks::POLL_INTERVAL;
use crate::operator::ClusterClient;
use crate::output::{StatusLine, StatusMode, mode_word, note, span_ms};
use crate::parsers;

#[derive(Debug, Args)]
pub(crate) struct AgentAttribute {
    /// Id, unique prefix of an id, or host name
    agent: String,
    /// Name and value; an empty value removes an attribute that this command has set
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = parsers::pair)]
    attributes: Vec<(String, String)>,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct AgentChange {
    /// Id, unique prefix of an id, or host name
    agent: String,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct AgentGone {
    /// Id, unique prefix of an id, or host name
    agent: String,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Do not wait until its tasks have ended
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    write: WriteArguments,
    #[command(flatten)]
    reach: ConnectionArguments,
}

pub(crate) async fn attribute(arguments: &AgentAttribute) -> VerbResult {
    let wanted = parsers::unique(&arguments.attributes, "attribute").map_err(Failure::usage)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    let agent = operator.find_agent(&arguments.agent).await?;
    let change = format!("{}: {}", shown(&agent), changes(&agent, &wanted));
    if arguments.write.dry_run {
        note(&format!("would change {change}"));
        return Ok(DONE);
    }
    let set = |(name, value): (String, String)| {
        Operation::SetAttribute(v1::SetAttribute {
            agent_id: agent.agent_id.clone(),
            name,
            value,
        })
    };
    let operations = wanted.into_iter().map(set).collect();
    let request_id = arguments.write.request_id.as_ref();
    operator.write_all(request_id, operations).await?;
    note(&format!("changed {change}"));
    Ok(DONE)
}

/// Returns `disk=ssd instead of hdd, without rack`.
fn changes<'a>(
    agent: &v1::Agent,
    wanted: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> String {
    let present = agent.info.as_ref().map(|info| &info.attributes);
    let change = |(name, value): (&String, &String)| {
        let before = present.and_then(|attributes| attributes.get(name));
        match (before, value.is_empty()) {
            (_, true) => format!("without {name}"),
            (Some(before), false) if before != value => {
                format!("{name}={value} instead of {before}")
            }
            (_, false) => format!("{name}={value}"),
        }
    };
    let all: Vec<_> = wanted.into_iter().map(change).collect();
    all.join(", ")
}

pub(crate) async fn deactivate(arguments: &AgentChange) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let agent = operator.find_agent(&arguments.agent).await?;
    let shown = shown(&agent);
    if agent.mode() == v1::AgentMode::Deactivated {
        note(&format!("{shown} was deactivated before"));
        return Ok(DONE);
    }
    if arguments.write.dry_run {
        note(&format!(
            "would stop offers of {shown}, {} now; its {} would continue",
            mode_word(agent.mode),
            tasks(agent.live_tasks)
        ));
        return Ok(DONE);
    }
    let order = v1::DeactivateAgent {
        agent_id: agent.agent_id.clone(),
    };
    let request_id = arguments.write.request_id.as_ref();
    operator
        .write(request_id, Operation::DeactivateAgent(order))
        .await?;
    note(&format!(
        "{shown} is not offered any more, and its {} {}; argosy agent reactivate {} resumes the offers",
        tasks(agent.live_tasks),
        if agent.live_tasks == 1 {
            "continues"
        } else {
            "continue"
        },
        agent.agent_id
    ));
    Ok(DONE)
}

pub(crate) async fn reactivate(arguments: &AgentChange) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let agent = operator.find_agent(&arguments.agent).await?;
    let shown = shown(&agent);
    if agent.mode() == v1::AgentMode::Registered {
        note(&format!("{shown} is not deactivated"));
        return Ok(DONE);
    }
    if arguments.write.dry_run {
        let mode = mode_word(agent.mode);
        note(&format!("would resume offers of {shown}, {mode} now"));
        return Ok(DONE);
    }
    let order = v1::ReactivateAgent {
        agent_id: agent.agent_id.clone(),
    };
    let request_id = arguments.write.request_id.as_ref();
    operator
        .write(request_id, Operation::ReactivateAgent(order))
        .await?;
    note(&match agent.mode() {
        // It may also be deactivated; then this takes effect when it returns.
        v1::AgentMode::Unreachable => {
            format!("{shown} is unreachable; it is offered when it returns")
        }
        _ => format!("{shown} is offered again"),
    });
    Ok(DONE)
}

pub(crate) async fn gone(arguments: &AgentGone) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    // Only the leader knows which agents are connected.
    let leader = operator.at_leader().await?;
    let agent = leader.find_agent(&arguments.agent).await?;
    let (id, shown) = (&agent.agent_id, shown(&agent));
    if agent.mode() == v1::AgentMode::Gone {
        note(&format!("{shown} was declared gone before"));
        return Ok(DONE);
    }
    let ends = format!("ends its {}", tasks(agent.live_tasks));
    if arguments.write.dry_run {
        note(&format!(
            "would refuse {shown} permanently, and {}",
            ends.replacen("ends", "end", 1)
        ));
        return Ok(DONE);
    }
    let connected = match agent.connected {
        true => "; it is connected now, and kills them",
        false => "",
    };
    confirm(
        &format!("this refuses {shown} permanently and {ends}{connected}"),
        arguments.yes,
    )?;
    let order = v1::MarkAgentGone {
        agent_id: id.clone(),
    };
    let request_id = arguments.write.request_id.as_ref();
    operator
        .write(request_id, Operation::MarkAgentGone(order))
        .await?;
    if arguments.detach {
        note(&format!("{shown} is gone, and its tasks are ending"));
        return Ok(DONE);
    }
    let deadline = Instant::now() + operator.timeout();
    let mut line = StatusLine::new(StatusMode::Shown);
    while Instant::now() < deadline {
        let now = operator.agent(id).await?;
        let left = now.map_or(0, |now| now.live_tasks);
        if left == 0 {
            note(&format!("{shown} is gone, and its tasks have ended"));
            return Ok(DONE);
        }
        line.show(|_| format!("waiting for the tasks of {shown}: {left} left"));
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let waited = span_ms(operator.timeout().as_millis() as u64);
    let text = format!("{shown} is gone, but some of its tasks have not ended after {waited}");
    Err(Failure::failed(text).advise(format!(
        "argosy task list --agent {id} shows them; --timeout waits longer"
    )))
}

fn shown(agent: &v1::Agent) -> String {
    let host = agent.info.as_ref().map(|info| info.host_name.as_str());
    format!("{} ({})", agent.agent_id, host.unwrap_or_default())
}

fn tasks(count: u32) -> String {
    match count {
        1 => "1 task".to_owned(),
        count => format!("{count} tasks"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_attributes_name_the_former_value() {
        let agent = v1::Agent {
            info: Some(v1::AgentInfo {
                attributes: [("disk".to_owned(), "hdd".to_owned())].into(),
                ..v1::AgentInfo::default()
            }),
            ..v1::Agent::default()
        };
        let pairs = [("disk", "ssd"), ("rack", ""), ("zone", "a")];
        let owned = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let wanted = owned.iter().map(|(name, value)| (name, value));
        assert_eq!(
            changes(&agent, wanted),
            "disk=ssd instead of hdd, without rack, zone=a"
        );
    }
}
