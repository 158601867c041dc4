//! Tests over HTTP: refused requests and their messages. Sessions with real containers are tested
//! in `tests/end_to_end`.

use std::path::Path;

use argosy_proto::exec::SILENCE_LIMIT;
use argosy_proto::server::callers::{AllowedCallers, ApiAccess};
use argosy_state::ids::{AgentId, OrderIndex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::api::{ApiState, router};
use crate::core::{ContainerName, Instance, TaskView};
use crate::files::FilesState;
use crate::inbox::{AgentQuery, Event, QueryHandle};
use crate::paths::Paths;
use crate::runner::{ContainerControls, Preparations};

const QUERY: &str = "task=framework-1/web&argument=true";

/// Returns the address of an agent that knows the location of each task, and refuses every session.
async fn agent(access: ApiAccess, container: Option<ContainerName>) -> String {
    let (inbox, mut events) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let Event::Query(AgentQuery::Task(home, answer)) = event {
                let ended = false;
                let _ = answer.send(TaskView {
                    sandbox_key: home,
                    container,
                    ended,
                    phase: Some("running"),
                });
            }
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let queries = QueryHandle::new(inbox);
    let shared = ApiState {
        files: FilesState::new(Paths::new(Path::new("/nonexistent")), queries.clone()),
        exec: ExecState {
            queries: queries.clone(),
            controls: ContainerControls::default(),
            limits: ExecLimits::new(SILENCE_LIMIT),
        },
        queries,
        preparations: Preparations::default(),
        statistics: crate::statistics::Statistics::simulated(),
        access,
        clock: argosy_proto::clock::WallClock::system(),
        metrics: None,
    };
    tokio::spawn(async move { axum::serve(listener, router(shared)).await });
    address.to_string()
}

/// Returns a valid request.
fn request(agent: &str, query: &str) -> reqwest::RequestBuilder {
    asking(agent, query, PROTOCOL)
}

fn asking(agent: &str, query: &str, protocol: &str) -> reqwest::RequestBuilder {
    let request = reqwest::Client::new().get(format!("http://{agent}/v1/exec?{query}"));
    let headers = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ("sec-websocket-protocol", protocol),
    ];
    headers.into_iter().fold(request, |request, (name, value)| {
        request.header(name, value)
    })
}

fn everybody() -> ApiAccess {
    ApiAccess {
        exec: AllowedCallers::All,
        files: AllowedCallers::All,
        status: AllowedCallers::All,
    }
}

async fn refused(request: reqwest::RequestBuilder) -> (u16, String, String) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let error: serde_json::Value = serde_json::from_str(&text).unwrap();
    let part = |name: &str| error[name].as_str().unwrap().to_owned();
    (status, part("code"), part("message"))
}

#[tokio::test]
async fn exec_is_rejected_unless_the_operator_allows_it() {
    // These connections have no address.
    let agent = agent(ApiAccess::default(), None).await;
    let (status, code, message) = refused(request(&agent, QUERY)).await;
    assert_eq!((status, code.as_str()), (403, "PermissionDenied"));
    assert!(message.contains("start it with --allow-exec"), "{message}");
}

#[tokio::test]
async fn requests_of_web_pages_are_rejected() {
    let agent = agent(everybody(), None).await;
    let request = request(&agent, QUERY).header("origin", "http://127.0.0.1:5050");
    let (status, code, message) = refused(request).await;
    assert_eq!((status, code.as_str()), (403, "PermissionDenied"));
    assert!(message.contains("\"http://127.0.0.1:5050\""), "{message}");
}

#[tokio::test]
async fn requests_without_the_exec_protocol_are_rejected_with_its_name() {
    let agent = agent(everybody(), None).await;
    let plain = reqwest::Client::new().get(format!("http://{agent}/v1/exec?{QUERY}"));
    let other = asking(&agent, QUERY, "chat");
    for request in [plain, other] {
        let (status, code, message) = refused(request).await;
        assert_eq!((status, code.as_str()), (400, "InvalidArgument"));
        assert!(message.contains("argosy.v1.exec"), "{message}");
    }
    let (status, code, message) = refused(request(&agent, "argument=true")).await;
    assert_eq!((status, code.as_str()), (400, "InvalidArgument"));
    assert!(message.contains("FRAMEWORK/TASK"), "{message}");
}

#[tokio::test]
async fn missing_and_stopped_tasks_are_reported_by_name() {
    let absent = agent(everybody(), None).await;
    let (status, code, message) = refused(request(&absent, QUERY)).await;
    assert_eq!((status, code.as_str()), (404, "NotFound"));
    assert_eq!(message, "there is no task framework-1/web on this agent");
    let instance = Instance {
        agent: AgentId(1),
        order: OrderIndex(1),
    };
    let still = agent(everybody(), Some(ContainerName { instance, run: 1 })).await;
    let (status, code, message) = refused(request(&still, QUERY)).await;
    assert_eq!((status, code.as_str()), (409, "FailedPrecondition"));
    assert_eq!(message, "framework-1/web does not run on this agent now");
}
