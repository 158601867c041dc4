//! Records without anything that may be secret. Each message is built from named fields: what a
//! later release adds is left out until it is named here.

#![allow(
    clippy::needless_update,
    reason = "a message that gets a field must be left without it"
)]

use std::collections::BTreeMap;

use argosy_proto::v1;

use super::lines;

/// Hides what may be secret in text from outside: user information and parameters of URIs, and
/// values with the name of a secret.
pub(crate) fn text(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(lines::scrubbed).collect();
    lines.join("\n")
}

pub(super) fn cluster(from: v1::Cluster) -> v1::Cluster {
    v1::Cluster {
        cluster_id: from.cluster_id,
        leader: from.leader,
        epoch: from.epoch,
        term: from.term,
        masters: from.masters,
        agents: from.agents,
        agents_unreachable: from.agents_unreachable,
        frameworks: from.frameworks,
        tasks_live: from.tasks_live,
        applied_index: from.applied_index,
        committed_index: from.committed_index,
        cluster_time_ms: from.cluster_time_ms,
        total: from.total,
        used: from.used,
        digest: from.digest,
        answered_by: from.answered_by,
        protocol: from.protocol,
        offers: from.offers,
        without_leader_ms: from.without_leader_ms,
        failovers: from.failovers,
        feature_level: from.feature_level,
        wall_ms: from.wall_ms,
        ..Default::default()
    }
}

/// Keeps the names of attributes and labels, and not their values.
fn names<I: IntoIterator<Item = (String, String)>, O: FromIterator<(String, String)>>(
    from: I,
) -> O {
    let names: BTreeMap<_, _> = from.into_iter().collect();
    let hidden = names.into_keys().map(|name| (name, "hidden".to_owned()));
    hidden.collect()
}

pub(super) fn agent(from: v1::Agent) -> v1::Agent {
    let info = from.info.unwrap_or_default();
    let info = v1::AgentInfo {
        host_name: info.host_name,
        address: info.address,
        resources: info.resources,
        attributes: names(info.attributes),
        version: info.version,
        missing_controllers: info.missing_controllers,
        isolation: info.isolation,
        capabilities: info.capabilities,
        allowed_opt_outs: info.allowed_opt_outs,
        ..Default::default()
    };
    v1::Agent {
        agent_id: from.agent_id,
        info: Some(info),
        mode: from.mode,
        connected: from.connected,
        used: from.used,
        live_tasks: from.live_tasks,
        revision: from.revision,
        mode_since_ms: from.mode_since_ms,
        ..Default::default()
    }
}

pub(super) fn framework(from: v1::Framework) -> v1::Framework {
    let info = from.info.unwrap_or_default();
    let info = v1::FrameworkInfo {
        name: info.name,
        user: info.user,
        roles: info.roles,
        failover_timeout_ms: info.failover_timeout_ms,
        principal: info.principal,
        labels: names(info.labels),
        detached: info.detached,
        offer_timeout_ms: info.offer_timeout_ms,
        capabilities: info.capabilities,
        ..Default::default()
    };
    v1::Framework {
        framework_id: from.framework_id,
        info: Some(info),
        connected: from.connected,
        active: from.active,
        suppressed_roles: from.suppressed_roles,
        live_tasks: from.live_tasks,
        used: from.used,
        revision: from.revision,
        expires_in_ms: from.expires_in_ms,
        removed: from.removed,
        ..Default::default()
    }
}

/// Keeps neither the command of a task nor its environment, files, volumes and image.
pub(super) fn task(from: v1::Task) -> v1::Task {
    let spec = from.spec.unwrap_or_default();
    let spec = v1::TaskSpec {
        task_id: spec.task_id,
        name: spec.name,
        resources: spec.resources,
        environment: names(spec.environment),
        labels: names(spec.labels),
        max_completion_ms: spec.max_completion_ms,
        stop_after_ms: spec.stop_after_ms,
        limits: spec.limits,
        tty: spec.tty,
        stdin: spec.stdin,
        group: spec.group,
        ..Default::default()
    };
    v1::Task {
        framework_id: from.framework_id,
        task_id: from.task_id,
        agent_id: from.agent_id,
        role: from.role,
        spec: Some(spec),
        state: from.state,
        kill_wanted: from.kill_wanted,
        latest: from.latest.map(status),
        unacknowledged_updates: from.unacknowledged_updates,
        revision: from.revision,
        order_index: from.order_index,
        agent_address: from.agent_address,
        limits: from.limits,
        ..Default::default()
    }
}

/// Keeps messages of masters and agents. Those of executors may contain anything.
fn status(from: v1::TaskStatus) -> v1::TaskStatus {
    use v1::Source;
    let is_own = [Source::Master, Source::Agent].map(i32::from);
    let is_own = is_own.contains(&from.source);
    v1::TaskStatus {
        framework_id: from.framework_id,
        task_id: from.task_id,
        agent_id: from.agent_id,
        state: from.state,
        source: from.source,
        reason: from.reason,
        message: if is_own {
            text(&from.message)
        } else {
            String::new()
        },
        exit: from.exit,
        revision: from.revision,
        wall_ms: from.wall_ms,
        healthy: from.healthy,
        ready: from.ready,
        stopped: from.stopped,
        ..Default::default()
    }
}

/// Keeps no token: it proves that a leader made the offer.
pub(super) fn offer(from: v1::Offer) -> v1::Offer {
    v1::Offer {
        offer_id: from.offer_id,
        framework_id: from.framework_id,
        agent_id: from.agent_id,
        host_name: from.host_name,
        role: from.role,
        resources: from.resources,
        expires_ms: from.expires_ms,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "hunter2";

    fn secrets() -> std::collections::HashMap<String, String> {
        [("PASSWORD".to_owned(), SECRET.to_owned())].into()
    }

    /// Asserts that the JSON form names `kept` and not the secret, which the message had.
    fn expect<T: serde::Serialize, S: serde::Serialize>(before: &T, after: &S, kept: &str) {
        let text = |value: &dyn erased::Json| value.text();
        let (before, after) = (text(before), text(after));
        assert!(before.contains(SECRET), "{before}");
        assert!(!after.contains(SECRET), "{after}");
        assert!(after.contains(kept), "{after}");
    }

    /// Values with a JSON form, of any type.
    mod erased {
        pub(super) trait Json {
            fn text(&self) -> String;
        }
        impl<T: serde::Serialize> Json for T {
            fn text(&self) -> String {
                serde_json::to_string(self).unwrap()
            }
        }
    }

    #[test]
    fn tasks_have_no_command_environment_or_files() {
        let uri = v1::Uri {
            value: format!("https://me:{SECRET}@host/file"),
            ..Default::default()
        };
        let message = format!("cannot fetch https://me:{SECRET}@host/file?sig={SECRET} now");
        let full = v1::Task {
            task_id: "web".to_owned(),
            spec: Some(v1::TaskSpec {
                shell: format!("curl -u me:{SECRET} host"),
                argv: vec![SECRET.to_owned()],
                environment: secrets().into_iter().collect(),
                labels: secrets().into_iter().collect(),
                uris: vec![uri],
                ..Default::default()
            }),
            latest: Some(v1::TaskStatus {
                source: v1::Source::Agent.into(),
                message,
                ..Default::default()
            }),
            ..Default::default()
        };
        expect(&full, &task(full.clone()), "PASSWORD");
        let message = task(full.clone()).latest.unwrap().message;
        assert_eq!(message, "cannot fetch https://host/file?… now");
        let mut of_executor = full;
        let status = of_executor.latest.as_mut().unwrap();
        status.source = v1::Source::Task.into();
        assert_eq!(task(of_executor).latest.unwrap().message, "");
    }

    #[test]
    fn offers_have_no_token_and_infos_no_values() {
        let offered = v1::Offer {
            offer_id: "12.7".to_owned(),
            token: b"0123".to_vec().into(),
            attributes: secrets().into_iter().collect(),
            ..Default::default()
        };
        expect(&offered, &offer(offered.clone()), "12.7");
        assert!(offer(offered).token.is_empty());
        let info = v1::AgentInfo {
            attributes: secrets().into_iter().collect(),
            ..Default::default()
        };
        let known = v1::Agent {
            agent_id: "agent-1".to_owned(),
            info: Some(info),
            ..Default::default()
        };
        expect(&known, &agent(known.clone()), "agent-1");
        let info = v1::FrameworkInfo {
            labels: secrets().into_iter().collect(),
            web_url: format!("http://host/?token={SECRET}"),
            ..Default::default()
        };
        let known = v1::Framework {
            framework_id: "framework-1".to_owned(),
            info: Some(info),
            ..Default::default()
        };
        expect(&known, &framework(known.clone()), "framework-1");
    }

    #[test]
    fn uris_in_lines_are_redacted_and_other_words_kept() {
        let line = format!("a\n b=https://u:{SECRET}@h:1/p?t={SECRET} c  /d?e#f");
        assert_eq!(
            text(&line),
            "a\n h:1/p?… c  /d?e#f".replace(" h:1", " b=https://h:1")
        );
    }
}
