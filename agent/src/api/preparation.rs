//! The preparation of a task: what its agent fetches before it starts the task.

use argosy_content::fetcher::FetchProgress;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::ApiState;
use crate::core;
use crate::files::{self, FilesError};

/// Maximum length of a value in an error message, in characters.
const SHOWN_CHARS: usize = 200;

/// The query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PreparationQuery {
    task: String,
}

/// The answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct PreparationView {
    /// As in `/v1/containers`.
    state: &'static str,
    /// The current step; `None` if nothing is being fetched.
    step: Option<&'static str>,
    /// The URI without secrets, or the name of the image.
    item: Option<String>,
    received_bytes: u64,
    /// `None` if unknown.
    total_bytes: Option<u64>,
}

impl PreparationView {
    fn of(state: &'static str, progress: Option<FetchProgress>) -> Self {
        let step = progress.as_ref().map(FetchProgress::step);
        let progress = progress.unwrap_or_default();
        Self {
            state,
            step,
            item: progress.name().map(str::to_owned),
            received_bytes: progress.done_bytes,
            total_bytes: (progress.total_bytes > 0).then_some(progress.total_bytes),
        }
    }
}

/// Handles `GET /v1/preparation?task=FRAMEWORK/TASK`
pub(super) async fn preparation(
    State(shared): State<ApiState>,
    query: Result<Query<PreparationQuery>, QueryRejection>,
) -> Response {
    let invalid = |field, value: &str| {
        let refusal = FilesError::Invalid {
            field,
            value: value.chars().take(SHOWN_CHARS).collect(),
            remedy: "write task=FRAMEWORK/TASK, as task=framework-1/web",
        };
        refusal.into_response()
    };
    let task = match query {
        Ok(Query(query)) => query.task,
        Err(rejection) => return invalid("query", &rejection.body_text()),
    };
    let key = task.split_once('/');
    let key = key.and_then(|(framework, task)| core::task_key(framework, task));
    let Some(key) = key else {
        return invalid("task", &task);
    };
    let Some(view) = shared.queries.task(key.clone()).await else {
        return FilesError::Stopping.into_response();
    };
    let Some(state) = view.phase else {
        let message = format!("there is no task {key} on this agent");
        return files::problem(StatusCode::NOT_FOUND, &message);
    };
    // Of an executor's task, the container is that of the executor.
    let name = view.container;
    let progress = name.and_then(|name| shared.preparations.of(name.instance));
    Json(PreparationView::of(state, progress)).into_response()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use argosy_content::fetcher::ItemKind;
    use argosy_proto::exec::SILENCE_LIMIT;
    use argosy_proto::server::callers::ApiAccess;
    use axum::body::Body;
    use axum::extract::Request;
    use serde_json::{Value, json};
    use tokio::sync::{mpsc, watch};
    use tonic::codegen::Service as _;

    use super::super::router;
    use super::*;
    use crate::core::{ContainerName, TaskView};
    use crate::exec::{ExecLimits, ExecState};
    use crate::files::FilesState;
    use crate::inbox::{AgentQuery, Event, QueryHandle};
    use crate::paths::Paths;
    use crate::runner::{ContainerControls, Preparations};
    use crate::statistics::Statistics;

    const NAME: &str = "1-5-0";

    /// Returns the answer of an agent whose only task is `framework-1/web`, in this phase.
    async fn answer(phase: &'static str, preparations: &Preparations, query: &str) -> (u16, Value) {
        let (inbox, mut events) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let Event::Query(AgentQuery::Task(key, answer)) = event {
                    let is_held = key.to_string() == "framework-1/web";
                    let name: ContainerName = NAME.parse().unwrap();
                    let _ = answer.send(TaskView {
                        sandbox_key: key,
                        container: is_held.then_some(name),
                        ended: false,
                        phase: is_held.then_some(phase),
                    });
                }
            }
        });
        let queries = QueryHandle::new(inbox);
        let shared = ApiState {
            files: FilesState::new(Paths::new(Path::new("/nonexistent")), queries.clone()),
            exec: ExecState {
                queries: queries.clone(),
                controls: ContainerControls::default(),
                limits: ExecLimits::new(SILENCE_LIMIT),
            },
            queries,
            preparations: preparations.clone(),
            statistics: Statistics::simulated(),
            // It is open to callers that may neither read files nor run commands.
            access: ApiAccess::default(),
            clock: argosy_proto::clock::WallClock::system(),
            metrics: None,
        };
        let request = Request::get(format!("/v1/preparation{query}")).body(Body::empty());
        let answer = router(shared).call(request.unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 10_000).await;
        (status, serde_json::from_slice(&body.unwrap()).unwrap())
    }

    #[tokio::test]
    async fn the_present_fetch_of_a_task_is_shown_with_its_bytes() {
        let name: ContainerName = NAME.parse().unwrap();
        let all = Preparations::default();
        let (meter, seen) = watch::channel(FetchProgress::default());
        let listed = all.add(name.instance, seen);
        let task = "?task=framework-1/web";
        let waiting = json!({
            "state": "fetching", "step": "waiting", "item": null,
            "received_bytes": 0, "total_bytes": null,
        });
        assert_eq!(answer("fetching", &all, task).await, (200, waiting));
        let mut image = FetchProgress::of(ItemKind::Image("nginx:1\u{1b}[2J".to_owned()));
        (image.done_bytes, image.total_bytes) = (7, 9);
        meter.send_replace(image);
        let pulling = json!({
            "state": "fetching", "step": "pulling-image", "item": "nginx:1\u{1b}[2J",
            "received_bytes": 7, "total_bytes": 9,
        });
        assert_eq!(answer("fetching", &all, task).await, (200, pulling));
        drop(listed);
        let running = json!({
            "state": "running", "step": null, "item": null,
            "received_bytes": 0, "total_bytes": null,
        });
        assert_eq!(answer("running", &all, task).await, (200, running));
    }

    #[tokio::test]
    async fn unknown_tasks_and_invalid_queries_are_refused() {
        let all = Preparations::default();
        for (query, status, text) in [
            ("?task=framework-1/db", 404, "no task framework-1/db"),
            ("?task=framework-2/web", 404, "no task framework-2/web"),
            ("?task=web", 400, "framework-1/web"),
            ("?task=web/web", 400, "\"web/web\""),
            ("", 400, "task=FRAMEWORK/TASK"),
            ("?task=framework-1/web&all=true", 400, "all"),
        ] {
            let (found, body) = answer("fetching", &all, query).await;
            let message = body["message"].as_str().unwrap();
            assert_eq!(found, status, "{query}: {message}");
            assert!(message.contains(text), "{query}: {message}");
        }
    }
}
