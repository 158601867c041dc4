//! Samples of a task with limits and security options, and of an agent that allows them.

use std::sync::Arc;

use super::tasks::{spec, task};
use super::{agent_update, key, revision};
use crate::agent::AgentInfo;
use crate::command::{
    Accept, AgentUpdate, Call, CallAction, Command, OfferOperation, Operate, OperatorOperation,
    RegisterAgent, StoredRejection, UpdateTasks,
};
use crate::ids::{AgentId, FrameworkId, OrderIndex, TaskId};
use crate::task::{
    CommandSpec, Container, DiskLimit, ImagePull, LimitsChange, LimitsReport, LinuxCapability,
    Reason, SecurityOptions, Sizes, Task, TaskLimits, TaskSpec, TaskState,
};

/// Returns all security options.
fn security_options() -> SecurityOptions {
    SecurityOptions {
        capabilities: LinuxCapability::ALL.into(),
        unconfined_seccomp: true,
        new_privileges: true,
        nested_user_namespaces: true,
        host_network: false,
    }
}

/// Returns them together with one that agents before release 0.2 do not know.
fn with_host_network() -> SecurityOptions {
    SecurityOptions {
        host_network: true,
        ..security_options()
    }
}

/// Returns one command with each.
#[allow(clippy::too_many_lines, reason = "one sample after the other")]
pub(super) fn commands(info: AgentInfo) -> Vec<(&'static str, Command)> {
    let accept = Accept {
        offers: Vec::new(),
        operations: vec![OfferOperation::Launch(vec![limited()])],
        all_or_nothing: false,
        wall_ms: 70,
    };
    let call = Call {
        framework: FrameworkId(4),
        session: 77,
        number: 14,
        lowest_unanswered: 10,
        hash: 0xfeed,
        action: CallAction::Accept(accept),
    };
    let change = Call {
        number: 15,
        action: CallAction::UpdateLimits {
            task: TaskId::new("web-8").unwrap(),
            limits: limits(),
        },
        ..call.clone()
    };
    let operations = OperatorOperation::samples(AgentId(3), &key(4, "web-8"), &limits());
    let operations = operations.into_iter().map(|(name, operation)| {
        let operate = Operate {
            request: None,
            hash: 0,
            operations: vec![operation],
            wall_ms: 71,
        };
        (name, Command::Operate(operate))
    });
    let able = AgentInfo {
        changes_limits: true,
        ..info.clone()
    };
    let able = RegisterAgent {
        info: able,
        ..registration(info.clone())
    };
    let announcing = AgentInfo {
        capabilities: ["kill", "launch", "limits"].map(ToOwned::to_owned).into(),
        ..able.info.clone()
    };
    let announcing = RegisterAgent {
        info: announcing,
        ..able.clone()
    };
    let hosting = RegisterAgent {
        info: AgentInfo {
            allowed_security_options: with_host_network(),
            ..announcing.info.clone()
        },
        ..announcing.clone()
    };
    let mut in_hosts = call.clone();
    if let CallAction::Accept(accept) = &mut in_hosts.action {
        accept.operations[0].tasks_mut()[0]
            .container
            .security_options = with_host_network();
    }
    let newer = TaskSpec::samples(&limited())
        .into_iter()
        .map(|(name, spec)| {
            let mut call = call.clone();
            if let CallAction::Accept(accept) = &mut call.action {
                accept.operations = vec![OfferOperation::Launch(vec![spec])];
            }
            (name, Command::Call(call))
        });
    let newer: Vec<_> = newer.collect();
    let sizes = Sizes {
        open_files: Some(65_536),
        shm_bytes: Some(1 << 30),
        tmp_bytes: Some(1 << 20),
    };
    let sizing = RegisterAgent {
        info: AgentInfo {
            largest_sizes: sizes,
            ..hosting.info.clone()
        },
        ..hosting.clone()
    };
    let mut sized = call.clone();
    if let CallAction::Accept(accept) = &mut sized.action {
        accept.operations[0].tasks_mut()[0].container.sizes = sizes;
    }
    let pulled = [ImagePull::IfAbsent, ImagePull::Always].map(|pull| {
        let mut call = call.clone();
        if let CallAction::Accept(accept) = &mut call.action {
            let container = &mut accept.operations[0].tasks_mut()[0].container;
            container.image = "web:1".to_owned();
            container.pull = Some(pull);
        }
        call
    });
    let [pulled_once, pulled_always] = pulled;
    let registration = registration(info);
    let mut all = vec![
        ("call-accept-limits", Command::Call(call)),
        (
            "register-agent-opt-outs",
            Command::RegisterAgent(registration),
        ),
        ("call-update-limits", Command::Call(change)),
    ];
    all.extend(operations);
    all.extend([
        ("update-tasks-limits", report(Ok(()), None)),
        (
            "update-tasks-limits-refused",
            report(Err("too little".to_owned()), None),
        ),
        ("register-agent-limits", Command::RegisterAgent(able)),
        (
            "update-tasks-limits-held",
            report(Err("too little".to_owned()), Some(Box::new(limits()))),
        ),
        ("register-agent-orders", Command::RegisterAgent(announcing)),
        ("call-accept-host-network", Command::Call(in_hosts)),
        (
            "register-agent-host-network",
            Command::RegisterAgent(hosting),
        ),
    ]);
    all.extend(newer);
    all.extend([
        ("call-accept-sizes", Command::Call(sized)),
        ("register-agent-sizes", Command::RegisterAgent(sizing)),
        ("call-accept-pull-if-absent", Command::Call(pulled_once)),
        ("call-accept-pull-always", Command::Call(pulled_always)),
    ]);
    all
}

/// Returns a registration of an agent that allows all of them.
fn registration(info: AgentInfo) -> RegisterAgent {
    RegisterAgent {
        agent: None,
        nonce: 0x12,
        confirmed: 0,
        tried: vec![0x24],
        boot_id: "boot".to_owned(),
        info: AgentInfo {
            allowed_security_options: security_options(),
            ..info
        },
        follows: None,
    }
}

fn limits() -> TaskLimits {
    TaskLimits {
        cpu_millis: Some(2_500),
        memory_bytes: Some(1 << 30),
        pids: Some(100),
        io_weight: Some(200),
        io: vec![DiskLimit {
            disk: "/dev/sda".to_owned(),
            read_bytes: Some(1),
            write_bytes: Some(2),
            read_operations: Some(3),
            write_operations: Some(4),
        }],
        exclusive_cpus: true,
    }
}

/// Returns a task with all of them.
fn limited() -> TaskSpec {
    TaskSpec {
        limits: Some(Box::new(limits())),
        container: Container {
            security_options: security_options(),
            ..Container::default()
        },
        ..spec("web-8", CommandSpec::Shell("serve".to_owned()))
    }
}

/// Returns an agent's report about a change of limits.
fn report(outcome: Result<(), String>, held: Option<Box<TaskLimits>>) -> Command {
    let update = AgentUpdate {
        state: TaskState::Running,
        reason: Reason::LimitsUpdated,
        exit: None,
        limits: Some(LimitsReport {
            order: OrderIndex(14),
            outcome,
            held,
            causes: Vec::new(),
        }),
        ..agent_update()
    };
    Command::UpdateTasks(UpdateTasks {
        agent: AgentId(3),
        updates: vec![update],
    })
}

/// Returns tasks whose limits were changed. The first and the last change are unanswered, one is in
/// force, and one was refused.
pub(super) fn changed() -> Vec<Task> {
    let changes = [
        ("web-8", None, None),
        ("web-81", Some(Ok(())), None),
        ("web-82", Some(Err("too little".to_owned())), None),
        ("web-83", None, Some(Box::new(limits()))),
    ];
    let tasks = changes.into_iter().map(|(name, outcome, before)| Task {
        spec: Arc::new(TaskSpec {
            task: TaskId::new(name).unwrap(),
            ..limited()
        }),
        limits_change: Some(LimitsChange {
            order: OrderIndex(14),
            revision: revision(43, 2),
            outcome,
            before,
            is_second: false,
            causes: Vec::new(),
        }),
        ..task(name)
    });
    tasks.collect()
}

/// Returns a stored refusal.
pub(super) fn refusal(code: u8, message: &str, arguments: &[&str]) -> StoredRejection {
    StoredRejection {
        code,
        message: message.to_owned(),
        arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
    }
}
