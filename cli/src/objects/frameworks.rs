//! `framework list|show|teardown`.

use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;

use crate::args::{FrameworkList, FrameworkTeardown, ShowArguments};
use crate::commands::confirm;
use crate::exit::{DONE, Failure, VerbResult as Exit};
use crate::operator::{ClusterClient, EndedObjects};
use crate::output::{self, note, resources, span_ms};

/// Interval at which the end of a framework's tasks is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) async fn list(arguments: &FrameworkList) -> Exit {
    let operator = ClusterClient::open(&arguments.reach);
    let page = operator
        .frameworks(EndedObjects::from_flag(arguments.all))
        .await?;
    if page.frameworks.is_empty() && !arguments.show.output.is_json() {
        note(if arguments.all {
            "no frameworks"
        } else {
            "no frameworks; removed ones: --all"
        });
    }
    output::list(arguments.show.output, &page, &page.frameworks)
}

pub(crate) async fn show(arguments: &ShowArguments) -> Exit {
    let framework = ClusterClient::open(&arguments.reach)
        .find_framework(&arguments.id)
        .await?;
    let info = framework.info.clone().unwrap_or_default();
    let details = [
        ("framework", framework.framework_id.clone()),
        ("name", info.name),
        ("user", info.user),
        ("principal", info.principal),
        ("roles", info.roles.join(", ")),
        ("suppressed", framework.suppressed_roles.join(", ")),
        ("state", output::framework_state(&framework).to_owned()),
        (
            "removed in",
            framework.expires_in_ms.map(span_ms).unwrap_or_default(),
        ),
        ("live tasks", framework.live_tasks.to_string()),
        ("uses", resources(&framework.used)),
        ("capabilities", info.capabilities.join(", ")),
        ("more at", info.web_url),
    ];
    output::one(arguments.show.output, &framework, &details)
}

pub(crate) async fn teardown(arguments: &FrameworkTeardown) -> Exit {
    let operator = ClusterClient::open(&arguments.reach);
    let framework = operator.find_framework(&arguments.framework).await?;
    let name = framework
        .info
        .as_ref()
        .map(|info| info.name.as_str())
        .unwrap_or_default();
    let shown = format!("{} ({name})", framework.framework_id);
    if framework.removed {
        note(&format!("{shown} was removed before"));
        return Ok(DONE);
    }
    let tasks = match framework.live_tasks {
        1 => "1 task".to_owned(),
        count => format!("{count} tasks"),
    };
    if arguments.write.dry_run {
        note(&format!(
            "would remove {shown} permanently and kill {tasks}"
        ));
        return Ok(DONE);
    }
    confirm(
        &format!("this removes {shown} permanently and kills {tasks}"),
        arguments.yes,
    )?;
    let order = v1::TeardownFramework {
        framework_id: framework.framework_id.clone(),
    };
    operator
        .write(
            arguments.write.request_id.as_ref(),
            Operation::TeardownFramework(order),
        )
        .await?;
    if arguments.detach {
        note(&format!("{shown} is being removed"));
        return Ok(DONE);
    }
    let deadline = Instant::now() + operator.timeout();
    while Instant::now() < deadline {
        let now = operator.framework(&framework.framework_id).await?;
        if now.is_none_or(|now| now.removed && now.live_tasks == 0) {
            note(&format!("{shown} is removed"));
            return Ok(DONE);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Err(Failure::failed(format!(
        "{shown} is removed permanently, but some of its tasks have not ended yet"
    ))
    .advise(
        "tasks on unreachable agents are killed when those return; argosy task list shows them",
    ))
}
