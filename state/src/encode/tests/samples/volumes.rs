//! Samples of a task with volumes, and of the end of a task that exceeded its disk limit.

use super::{agent_update, tasks::spec};
use crate::command::{Accept, Call, CallAction, Command, OfferOperation, UpdateTasks};
use crate::ids::{AgentId, FrameworkId};
use crate::task::{CommandSpec, Reason, TaskSpec, TaskVolume, VolumeSource};

pub(super) fn commands() -> Vec<(&'static str, Command)> {
    let mut update = agent_update();
    update.reason = Reason::LimitDisk;
    let update = UpdateTasks {
        agent: AgentId(3),
        updates: vec![update],
    };
    let accept = Call {
        framework: FrameworkId(4),
        session: 77,
        number: 12,
        lowest_unanswered: 10,
        hash: 0xfeed,
        action: CallAction::Accept(Accept {
            offers: Vec::new(),
            operations: vec![OfferOperation::Launch(vec![task()])],
            all_or_nothing: false,
            wall_ms: 69,
        }),
    };
    vec![
        ("call-accept-volumes", Command::Call(accept)),
        ("update-tasks-disk", Command::UpdateTasks(update)),
    ]
}

/// Returns a task with each kind of volume.
fn task() -> TaskSpec {
    let sources = [
        ("/data", VolumeSource::Sandbox("data".to_owned())),
        ("/scratch", VolumeSource::Tmpfs { bytes: 65_536 }),
        ("/run/secrets/db", VolumeSource::Secret("db".to_owned())),
    ];
    let volumes = sources.map(|(path, source)| TaskVolume {
        container_path: path.to_owned(),
        read_only: path == "/data",
        source,
    });
    TaskSpec {
        volumes: volumes.into(),
        ..spec("web-8", CommandSpec::Shell("serve".to_owned()))
    }
}
