//! A task with limits and opt-outs, and what an agent allows.

use super::tasks::spec;
use crate::agent::AgentInfo;
use crate::command::{Accept, Call, CallAction, Command, RegisterAgent};
use crate::ids::FrameworkId;
use crate::task::{Capability, Container, DiskLimit, Limits, OptOuts, Run, TaskSpec};

/// Every opt-out there is.
fn opt_outs() -> OptOuts {
    OptOuts {
        capabilities: Capability::ALL.into(),
        unconfined_seccomp: true,
        new_privileges: true,
        nested_user_namespaces: true,
    }
}

/// One command with each.
pub(super) fn commands(info: AgentInfo) -> Vec<(&'static str, Command)> {
    let accept = Accept {
        offers: Vec::new(),
        launches: vec![limited()],
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
    let registration = registration(info);
    vec![
        ("call-accept-limits", Command::Call(call)),
        (
            "register-agent-opt-outs",
            Command::RegisterAgent(registration),
        ),
    ]
}

/// An agent that allows them all.
fn registration(info: AgentInfo) -> RegisterAgent {
    RegisterAgent {
        agent: None,
        nonce: 0x12,
        confirmed: 0,
        tried: vec![0x24],
        boot_id: "boot".to_owned(),
        info: AgentInfo {
            allowed_opt_outs: opt_outs(),
            ..info
        },
    }
}

fn limits() -> Limits {
    Limits {
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

/// A task with all of it.
fn limited() -> TaskSpec {
    TaskSpec {
        limits: Some(Box::new(limits())),
        container: Container {
            opt_outs: opt_outs(),
            ..Container::default()
        },
        ..spec("web-8", Run::Shell("serve".to_owned()))
    }
}
