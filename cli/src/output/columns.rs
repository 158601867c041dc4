//! The columns of each object, and the words for states.

use argosy_proto::v1;

use super::amounts::{ago, bytes, cpus, milli, resources, scalar, span_ms};
use super::table::Row;
use crate::files::executor_of;

/// Returns the word of a task state in flags and tables: `running`, `gone-by-operator`.
pub(crate) fn state_word(state: i32) -> String {
    let name = v1::TaskState::try_from(state)
        .unwrap_or_default()
        .as_str_name();
    word(name, "TASK_STATE_")
}

/// Returns the word of an agent's mode.
pub(crate) fn mode_word(mode: i32) -> String {
    let name = v1::AgentMode::try_from(mode)
        .unwrap_or_default()
        .as_str_name();
    word(name, "AGENT_MODE_")
}

/// Returns the word of a reason, empty if there is none.
pub(crate) fn reason_word(reason: i32) -> String {
    match v1::Reason::try_from(reason).unwrap_or_default() {
        v1::Reason::Unspecified => String::new(),
        reason => word(reason.as_str_name(), "REASON_"),
    }
}

fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix)
        .unwrap_or(name)
        .to_ascii_lowercase()
        .replace('_', "-")
}

/// Returns how a process ended: `exit 7`, `signal 9`.
pub(crate) fn exit_word(exit: Option<&v1::Exit>) -> String {
    match exit.and_then(|exit| exit.how.as_ref()) {
        Some(v1::exit::How::Code(code)) => format!("exit {code}"),
        Some(v1::exit::How::Signal(signal)) => format!("signal {signal}"),
        None => String::new(),
    }
}

/// Returns the results of a task's checks: `healthy, not ready`; empty if nothing is known.
pub(crate) fn check_results_text(status: &v1::TaskStatus) -> String {
    let healthy = status.healthy.map(|healthy| match healthy {
        true => "healthy",
        false => "unhealthy",
    });
    let ready = status.ready.map(|ready| match ready {
        true => "ready",
        false => "not ready",
    });
    let known: Vec<_> = healthy.into_iter().chain(ready).collect();
    known.join(", ")
}

/// Returns the state of a task. A running task has the results of its checks: `running (healthy)`.
/// A task that may be replaced is `unreachable (stopped)`.
pub(crate) fn task_state(state: v1::TaskState, latest: Option<&v1::TaskStatus>) -> String {
    let runs = matches!(state, v1::TaskState::Running | v1::TaskState::Killing);
    let word = state_word(state.into());
    let known = latest.map(check_results_text);
    if latest.is_some_and(|latest| latest.stopped) {
        return format!("{word} (stopped)");
    }
    match known.filter(|known| runs && !known.is_empty()) {
        Some(known) => format!("{word} ({known})"),
        None => word,
    }
}

/// Formats thousandths of MiB in the most readable unit.
pub(crate) fn mib(milli: i64) -> String {
    let bytes_of = u64::try_from(milli).unwrap_or(0).saturating_mul(1_048_576) / 1_000;
    bytes(bytes_of)
}

fn used_of(used: &[v1::Resource], total: &[v1::Resource], name: &str) -> String {
    let (used, total) = (scalar(used, name), scalar(total, name));
    if name == "cpus" {
        format!("{} of {}", milli(used), milli(total))
    } else {
        format!("{} of {}", mib(used), mib(total))
    }
}

/// Returns the group of a task.
pub(crate) fn group_of(task: &v1::Task) -> Option<&v1::TaskGroup> {
    task.spec.as_ref()?.group.as_ref()
}

/// Returns the command of a task as one line.
fn command_line(spec: &v1::TaskSpec) -> String {
    if spec.shell.is_empty() {
        spec.argv.join(" ")
    } else {
        spec.shell.clone()
    }
}

impl Row for v1::Task {
    const HEADINGS: &'static [&'static str] = &[
        "TASK",
        "STATE",
        "AGENT",
        "FRAMEWORK",
        "GROUP",
        "CPUS",
        "MEM",
        "CHANGED",
    ];
    const NAMED: Option<&'static str> = Some("label");
    const WIDE: &'static [&'static str] =
        &["ROLE", "EXECUTOR", "END", "REASON", "MESSAGE", "COMMAND"];

    fn cells(&self) -> Vec<String> {
        let wanted = self
            .spec
            .as_ref()
            .map(|spec| spec.resources.as_slice())
            .unwrap_or_default();
        vec![
            self.task_id.clone(),
            task_state(self.state(), self.latest.as_ref()),
            self.agent_id.clone(),
            self.framework_id.clone(),
            group_of(self).map_or_else(String::new, |group| group.group_id.clone()),
            cpus(wanted),
            mib(scalar(wanted, "mem")),
            self.latest
                .as_ref()
                .map(|latest| ago(latest.wall_ms))
                .unwrap_or_default(),
        ]
    }

    fn named_cell(&self, name: &str) -> String {
        let spec = self.spec.as_ref();
        spec.and_then(|spec| spec.labels.get(name).cloned())
            .unwrap_or_default()
    }

    fn amount(&self, heading: &str) -> Option<i64> {
        let wanted = self.spec.as_ref().map(|spec| spec.resources.as_slice());
        match heading {
            "CPUS" => Some(scalar(wanted.unwrap_or_default(), "cpus")),
            "MEM" => Some(scalar(wanted.unwrap_or_default(), "mem")),
            // The shortest time comes first.
            "CHANGED" => {
                let latest = self.latest.as_ref();
                latest.map(|latest| latest.wall_ms.saturating_neg())
            }
            _ => None,
        }
    }

    fn wide_cells(&self) -> Vec<String> {
        let latest = self.latest.clone().unwrap_or_default();
        vec![
            self.role.clone(),
            executor_of(self).unwrap_or_default().to_owned(),
            exit_word(latest.exit.as_ref()),
            reason_word(latest.reason),
            latest.message,
            self.spec.as_ref().map(command_line).unwrap_or_default(),
        ]
    }

    fn name(&self) -> String {
        format!("{}/{}", self.framework_id, self.task_id)
    }
}

impl Row for v1::Framework {
    const HEADINGS: &'static [&'static str] = &[
        "FRAMEWORK",
        "NAME",
        "STATE",
        "ROLES",
        "TASKS",
        "CPUS",
        "MEM",
    ];
    const WIDE: &'static [&'static str] = &["USER", "PRINCIPAL", "REMOVED IN", "SUPPRESSED"];

    fn cells(&self) -> Vec<String> {
        let info = self.info.clone().unwrap_or_default();
        vec![
            self.framework_id.clone(),
            info.name,
            framework_state(self).to_owned(),
            info.roles.join(","),
            self.live_tasks.to_string(),
            cpus(&self.used),
            mib(scalar(&self.used, "mem")),
        ]
    }

    fn amount(&self, heading: &str) -> Option<i64> {
        match heading {
            "TASKS" => Some(self.live_tasks.into()),
            "CPUS" => Some(scalar(&self.used, "cpus")),
            "MEM" => Some(scalar(&self.used, "mem")),
            "REMOVED IN" => self.expires_in_ms.and_then(|ms| i64::try_from(ms).ok()),
            _ => None,
        }
    }

    fn wide_cells(&self) -> Vec<String> {
        let info = self.info.clone().unwrap_or_default();
        vec![
            info.user,
            info.principal,
            self.expires_in_ms.map(span_ms).unwrap_or_default(),
            self.suppressed_roles.join(","),
        ]
    }

    fn name(&self) -> String {
        self.framework_id.clone()
    }
}

/// Returns `connected`, `disconnected`, `detached` or `removed`.
pub(crate) fn framework_state(framework: &v1::Framework) -> &'static str {
    let detached = framework.info.as_ref().is_some_and(|info| info.detached);
    match (framework.removed, framework.connected) {
        (true, _) => "removed",
        (false, true) => "connected",
        (false, false) if detached => "detached",
        (false, false) => "disconnected",
    }
}

impl Row for v1::Agent {
    const HEADINGS: &'static [&'static str] = &["AGENT", "HOST", "STATE", "TASKS", "CPUS", "MEM"];
    const WIDE: &'static [&'static str] = &[
        "DISK",
        "ADDRESS",
        "VERSION",
        "ISOLATION",
        "NOT ENFORCED",
        "ATTRIBUTES",
    ];
    const NAMED: Option<&'static str> = Some("attribute");

    fn cells(&self) -> Vec<String> {
        let info = self.info.clone().unwrap_or_default();
        vec![
            self.agent_id.clone(),
            info.host_name,
            mode_word(self.mode),
            self.live_tasks.to_string(),
            used_of(&self.used, &info.resources, "cpus"),
            used_of(&self.used, &info.resources, "mem"),
        ]
    }

    fn named_cell(&self, name: &str) -> String {
        let info = self.info.as_ref();
        info.and_then(|info| info.attributes.get(name).cloned())
            .unwrap_or_default()
    }

    fn amount(&self, heading: &str) -> Option<i64> {
        match heading {
            "TASKS" => Some(self.live_tasks.into()),
            "CPUS" => Some(scalar(&self.used, "cpus")),
            "MEM" => Some(scalar(&self.used, "mem")),
            "DISK" => Some(scalar(&self.used, "disk")),
            _ => None,
        }
    }

    fn wide_cells(&self) -> Vec<String> {
        let info = self.info.clone().unwrap_or_default();
        let mut attributes: Vec<_> = info
            .attributes
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        attributes.sort();
        vec![
            used_of(&self.used, &info.resources, "disk"),
            info.address,
            info.version,
            info.isolation,
            info.missing_controllers.join(","),
            attributes.join(","),
        ]
    }

    fn name(&self) -> String {
        self.agent_id.clone()
    }
}

impl Row for v1::Offer {
    const HEADINGS: &'static [&'static str] =
        &["OFFER", "AGENT", "HOST", "FRAMEWORK", "ROLE", "RESOURCES"];
    const WIDE: &'static [&'static str] = &["ADDRESS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.offer_id.clone(),
            self.agent_id.clone(),
            self.host_name.clone(),
            self.framework_id.clone(),
            self.role.clone(),
            resources(&self.resources),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![self.agent_address.clone()]
    }

    fn name(&self) -> String {
        self.offer_id.clone()
    }
}

impl Row for v1::Master {
    const HEADINGS: &'static [&'static str] = &[
        "MASTER", "STATE", "API", "RAFT", "VOTER", "BEHIND", "HEARD", "LEVELS",
    ];
    const WIDE: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let leads = self.role == "leader";
        let heard = self
            .last_contact_ms
            .map(|ms| format!("{} ago", span_ms(ms)))
            .unwrap_or_default();
        vec![
            self.node_id.clone(),
            self.role.clone(),
            self.api_address.clone(),
            self.raft_address.clone(),
            if self.voter { "yes" } else { "no" }.to_owned(),
            self.lag
                .filter(|_| !leads)
                .map(|lag| lag.to_string())
                .unwrap_or_default(),
            if leads { String::new() } else { heard },
            match (self.oldest_level, self.newest_level) {
                (Some(oldest), Some(newest)) => format!("{oldest}-{newest}"),
                (Some(_) | None, _) => String::new(),
            },
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }

    fn amount(&self, heading: &str) -> Option<i64> {
        match heading {
            "BEHIND" => self.lag.and_then(|lag| i64::try_from(lag).ok()),
            "HEARD" => self.last_contact_ms.and_then(|ms| i64::try_from(ms).ok()),
            _ => None,
        }
    }

    fn name(&self) -> String {
        self.node_id.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_shown_as_words() {
        assert_eq!(
            state_word(v1::TaskState::GoneByOperator as i32),
            "gone-by-operator"
        );
        assert_eq!(state_word(99), "unspecified");
        assert_eq!(mode_word(v1::AgentMode::Registered as i32), "registered");
        assert_eq!(reason_word(0), "");
        let exit = v1::Exit {
            how: Some(v1::exit::How::Code(7)),
        };
        assert_eq!(exit_word(Some(&exit)), "exit 7");
    }

    fn state_of(task: &v1::Task) -> String {
        task_state(task.state(), task.latest.as_ref())
    }

    #[test]
    fn a_running_task_shows_its_check_results() {
        let of = |state: v1::TaskState, healthy, ready| {
            state_of(&v1::Task {
                state: state.into(),
                latest: Some(v1::TaskStatus {
                    healthy,
                    ready,
                    ..v1::TaskStatus::default()
                }),
                ..v1::Task::default()
            })
        };
        use v1::TaskState::{Failed, Killing, Running};
        assert_eq!(of(Running, None, None), "running");
        assert_eq!(of(Running, Some(true), None), "running (healthy)");
        let both = of(Running, Some(true), Some(false));
        assert_eq!(both, "running (healthy, not ready)");
        assert_eq!(of(Killing, Some(false), None), "killing (unhealthy)");
        assert_eq!(of(Failed, Some(false), Some(true)), "failed");
    }

    #[test]
    fn a_task_is_sorted_by_any_time_that_an_agent_reports() {
        let amount = |wall_ms| {
            let latest = v1::TaskStatus {
                wall_ms,
                ..v1::TaskStatus::default()
            };
            let task = v1::Task {
                latest: Some(latest),
                ..v1::Task::default()
            };
            task.amount("CHANGED")
        };
        assert!(amount(2_000) < amount(1_000));
        assert!(amount(1_000) < amount(i64::MIN));
    }

    #[test]
    fn a_task_that_stopped_itself_is_shown_as_replaceable() {
        let of = |stopped| {
            state_of(&v1::Task {
                state: v1::TaskState::Unreachable.into(),
                latest: Some(v1::TaskStatus {
                    stopped,
                    ..v1::TaskStatus::default()
                }),
                ..v1::Task::default()
            })
        };
        assert_eq!(of(false), "unreachable");
        assert_eq!(of(true), "unreachable (stopped)");
    }
}
