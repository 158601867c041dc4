//! Interactive commands in tasks: `GET /v1/exec` starts another command in a container, and
//! forwards its streams; `GET /v1/attach` forwards those of the container's own command.
//!
//! Every possible refusal is an HTTP response before the connection becomes a WebSocket. This
//! module makes no decision for the agent's loop, and never blocks it: it sends one query for the
//! location of the task. Reading order: `request`, `stream`, `input`, `session`; `attached`.

mod attached;
mod input;
mod request;
mod session;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use argosy_isolation::{ExecNotice, ExecRequest, ExecSessionError};
use argosy_proto::exec::{FRAME_LIMIT_BYTES, PROTOCOL};
use argosy_state::ids::TaskKey;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{HeaderMap, ORIGIN};
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::core::ContainerName;
use crate::files;
use crate::inbox::QueryHandle;
use crate::runner::{ContainerControls, ExecStartError, SlotError};
pub(crate) use attached::attach;
use request::ExecOptions;
#[cfg(feature = "fuzzing")]
pub(crate) use request::requested_task;
pub(crate) use request::task_named;
use session::{ExecCommand, SessionEnd, attend};
use stream::SessionNotices;

/// Maximum number of sessions of one agent; a further one is refused. Each may hold some 0.5 MiB
/// while its peers are slow, and five descriptors.
const SESSIONS: usize = 512;
/// Timeout of the start of a command in a container, until it is executed.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Buffer size of a WebSocket, in bytes.
const BUFFER_BYTES: usize = 16 * 1024;
/// Maximum number of bytes that wait for a client: a frame, and answers to its pings. Only the last
/// ping is answered then.
const MAX_UNSENT_BYTES: usize = 4 * FRAME_LIMIT_BYTES;

/// The state of the calls.
#[derive(Clone)]
pub(crate) struct ExecState {
    pub(crate) queries: QueryHandle,
    /// Contains no container on a simulated host.
    pub(crate) controls: ContainerControls,
    pub(crate) limits: ExecLimits,
}

/// The limits of interactive sessions.
#[derive(Clone)]
pub(crate) struct ExecLimits {
    /// The timeout after which a silent client is considered gone.
    idle_timeout: Duration,
    slots: Arc<Semaphore>,
}

impl ExecLimits {
    pub(crate) fn new(idle_timeout: Duration) -> Self {
        let slots = Arc::new(Semaphore::new(SESSIONS));
        Self {
            idle_timeout,
            slots,
        }
    }

    fn admit(&self) -> Result<OwnedSemaphorePermit, ExecError> {
        let permit = Arc::clone(&self.slots).try_acquire_owned();
        permit.map_err(|_| ExecError::Full)
    }
}

/// The reason why a session was refused. Every one is a complete message for the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    #[error(
        "exec is not allowed from web pages: this request has the origin {origin:?}, and any page that a user of \
         this network opens could send it"
    )]
    CrossOrigin { origin: String },
    #[error("{field} {value:?} is not valid: {remedy}")]
    Invalid {
        field: String,
        value: String,
        remedy: &'static str,
    },
    #[error("this needs a WebSocket with the protocol {protocol}: {why}")]
    Protocol { protocol: &'static str, why: String },
    #[error("there is no task {0} on this agent")]
    Unknown(TaskKey),
    #[error("{0} does not run on this agent now")]
    NotRunning(TaskKey),
    /// The container refused it.
    #[error("{reason}")]
    Refused { reason: String },
    #[error("{SESSIONS} sessions are open on this agent: end one first")]
    Full,
    #[error("{reason}")]
    TaskFull { reason: String },
    #[error("{task} has not started the command within {} s", START_TIMEOUT.as_secs())]
    Timeout { task: TaskKey },
    #[error("cannot exec in {task}: {why}")]
    Failed { task: TaskKey, why: String },
    #[error("the agent is stopping")]
    Stopping,
}

impl IntoResponse for ExecError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::CrossOrigin { .. } => StatusCode::FORBIDDEN,
            Self::Invalid { .. } | Self::Protocol { .. } => StatusCode::BAD_REQUEST,
            Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::NotRunning(_) => StatusCode::CONFLICT,
            Self::Refused { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Full | Self::TaskFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Timeout { .. } | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        files::problem(status, &self.to_string())
    }
}

/// Refuses requests of web pages. A browser sends an origin with every WebSocket that a page opens,
/// without asking the user.
fn reject_web_pages(headers: &HeaderMap) -> Result<(), ExecError> {
    match headers.get(ORIGIN) {
        Some(origin) => Err(ExecError::CrossOrigin {
            origin: String::from_utf8_lossy(origin.as_bytes()).into_owned(),
        }),
        None => Ok(()),
    }
}

/// Handles `GET /v1/exec?task=FRAMEWORK/TASK&argument=…`
pub(crate) async fn exec(
    State(shared): State<ExecState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ExecError> {
    reject_web_pages(&headers)?;
    let options = ExecOptions::parse(&query.unwrap_or_default())?;
    let upgrade = negotiate(upgrade, PROTOCOL)?;
    let permit = shared.limits.admit()?;
    let entering = enter(&shared, &options.task, options.request);
    let entered = timeout(START_TIMEOUT, entering).await;
    let late = |_| ExecError::Timeout {
        task: options.task.clone(),
    };
    let (entered, place) = entered.map_err(late)??;
    tracing::info!(task = %options.task, program = options.program, "exec session started");
    let silence = shared.limits.idle_timeout;
    Ok(upgrade.on_upgrade(move |socket| {
        let attended = attend(entered, socket, silence);
        run(attended, options.task, [permit, place])
    }))
}

/// Runs a session. A client that disconnects before the WebSocket is open drops the session, which
/// ends the command.
async fn run(
    attended: impl Future<Output = SessionEnd>,
    task: TaskKey,
    _places: [OwnedSemaphorePermit; 2],
) {
    let sessions = metrics::gauge!("argosy_agent_exec_sessions");
    sessions.increment(1.0);
    let ending = attended.await;
    sessions.decrement(1.0);
    tracing::info!(task = %task, %ending, "exec session ended");
}

fn negotiate(
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    protocol: &'static str,
) -> Result<WebSocketUpgrade, ExecError> {
    let upgrade = upgrade.map_err(|rejection| ExecError::Protocol {
        protocol,
        why: rejection.body_text(),
    })?;
    let upgrade = upgrade
        .protocols([protocol])
        .max_frame_size(FRAME_LIMIT_BYTES)
        .max_message_size(FRAME_LIMIT_BYTES)
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(MAX_UNSENT_BYTES);
    if upgrade.selected_protocol().is_none() {
        let why = "Sec-WebSocket-Protocol does not name it".to_owned();
        return Err(ExecError::Protocol { protocol, why });
    }
    Ok(upgrade)
}

/// Returns the container of a task that this agent holds.
async fn container_of(shared: &ExecState, task: &TaskKey) -> Result<ContainerName, ExecError> {
    let view = shared.queries.task(task.clone()).await;
    let container = view.ok_or(ExecError::Stopping)?.container;
    container.ok_or_else(|| ExecError::Unknown(task.clone()))
}

/// Starts the command, and waits until it is executed.
async fn enter(
    shared: &ExecState,
    task: &TaskKey,
    request: ExecRequest,
) -> Result<(ExecCommand, OwnedSemaphorePermit), ExecError> {
    let name = container_of(shared, task).await?;
    let failed = |error: &dyn std::error::Error| ExecError::Failed {
        task: task.clone(),
        why: crate::error::error_chain(error),
    };
    let slot = shared.controls.exec_slot(name.instance);
    let slot = slot.map_err(|error| match error {
        SlotError::NotRunning => ExecError::NotRunning(task.clone()),
        SlotError::Full => ExecError::TaskFull {
            reason: error.to_string(),
        },
    })?;
    let session = shared.controls.exec(name.instance, request).await;
    let session = session.map_err(|error| match error {
        ExecStartError::NotRunning | ExecStartError::Entry(ExecSessionError::Socket { .. }) => {
            ExecError::NotRunning(task.clone())
        }
        ExecStartError::Entry(ExecSessionError::Spec(error)) => ExecError::Refused {
            reason: error.to_string(),
        },
        ExecStartError::Entry(error) => failed(&error),
    })?;
    let mut notices = SessionNotices::new(session).map_err(|error| failed(&error))?;
    match notices.next().await {
        Ok(ExecNotice::Started(streams)) => {
            let entered = ExecCommand::new(notices, streams).map_err(|error| failed(&error))?;
            Ok((entered, slot))
        }
        Ok(ExecNotice::Refused { reason }) => Err(ExecError::Refused { reason }),
        Ok(ExecNotice::Ended(_) | ExecNotice::Probed(_)) => Err(ExecError::Failed {
            task: task.clone(),
            why: "it ended before it had begun".to_owned(),
        }),
        // The container ended during the request, or a process of the same user killed the exec
        // monitor.
        Err(ExecSessionError::Lost) => Err(ExecError::NotRunning(task.clone())),
        Err(error) => Err(failed(&error)),
    }
}
