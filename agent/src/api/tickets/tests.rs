//! Tests of the whole API: what each ticket opens, and what it does not.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use argosy_proto::exec::SILENCE_LIMIT;
use argosy_proto::server::callers::{AllowedCallers, ApiAccess};
use argosy_proto::ticket::{SandboxPath, TicketKey};
use argosy_state::ids::{AgentId, ClusterId, TaskKey};
use axum::Router;
use axum::body::Body;
use tokio::sync::mpsc;
use tonic::codegen::Service as _;

use super::*;
use crate::api::{ApiState, router};
use crate::core::TaskView;
use crate::exec::{ExecLimits, ExecState};
use crate::files::FilesState;
use crate::inbox::{AgentQuery, Event, TicketAuthority};
use crate::paths::Paths;
use crate::runner::{ContainerControls, Preparations};
use crate::statistics::Statistics;

const NOW_MS: u64 = 1_700_000_000_000;
const OWN: AgentId = AgentId(7);
const READ: &str = "/v1/files/read?path=tasks/framework-1/web";

fn key() -> TicketKey {
    TicketKey::derive(1, &[7; 32], ClusterId(5), OWN)
}

fn task(name: &str) -> TaskKey {
    crate::core::task_key("framework-1", name).unwrap()
}

fn path(of: &str) -> TicketScope {
    TicketScope::Path(task("web"), SandboxPath::new(of).unwrap())
}

fn ticket(verb: TicketVerb, scope: TicketScope) -> String {
    let ticket = Ticket {
        agent: OWN,
        verb,
        scope,
        holder: "framework/wordcount".parse().unwrap(),
        expires_ms: NOW_MS + 60_000,
        request: 1,
    };
    ticket.sign(&key())
}

/// The API of an agent that admits its callers only with a ticket.
struct Api {
    directory: tempfile::TempDir,
    router: Router,
}

impl Api {
    /// Returns the API of an agent whose loop has these keys. Its clock shows [`NOW_MS`].
    fn new(keys: Vec<TicketKey>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (inbox, mut events) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                match event {
                    Event::Query(AgentQuery::Task(key, answer)) => drop(answer.send(TaskView {
                        sandbox_key: key,
                        container: None,
                        ended: true,
                        phase: None,
                    })),
                    Event::Query(AgentQuery::Containers(answer)) => drop(answer.send(Vec::new())),
                    Event::Query(AgentQuery::Tickets(answer)) => {
                        let keys = keys.clone();
                        let agent = Some(OWN);
                        drop(answer.send(TicketAuthority { agent, keys }));
                    }
                    other => drop(other),
                }
            }
        });
        let queries = QueryHandle::new(inbox);
        let files = FilesState::new(Paths::new(directory.path()), queries.clone());
        let exec = ExecState {
            queries: queries.clone(),
            controls: ContainerControls::default(),
            limits: ExecLimits::new(SILENCE_LIMIT),
        };
        let router = router(ApiState {
            files,
            exec,
            queries,
            preparations: Preparations::default(),
            statistics: Statistics::simulated(),
            access: ApiAccess {
                status: AllowedCallers::users([]),
                ..ApiAccess::default()
            },
            clock: WallClock::new(|| UNIX_EPOCH + Duration::from_millis(NOW_MS)),
            metrics: None,
        });
        let api = Self { directory, router };
        for name in ["web", "db"] {
            let sandbox = Paths::new(api.directory.path())
                .task(&task(name))
                .join("1-1-1");
            fs::create_dir_all(sandbox.join("out")).unwrap();
            fs::write(sandbox.join("stdout"), format!("stdout of {name}")).unwrap();
            fs::write(sandbox.join("out/part"), format!("part of {name}")).unwrap();
        }
        api
    }

    async fn send(&self, request: axum::http::request::Builder) -> (u16, String) {
        let request = request.body(Body::empty()).unwrap();
        let answer = self.router.clone().call(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 100_000).await;
        (status, String::from_utf8_lossy(&body.unwrap()).into_owned())
    }

    /// Requests `path` with a ticket as the header, then as a parameter; both have one outcome.
    async fn get(&self, path: &str, ticket: &str) -> (u16, String) {
        let named = self.send(Request::get(path).header(HEADER, ticket)).await;
        let mark = if path.contains('?') { '&' } else { '?' };
        let in_uri = self
            .send(Request::get(format!("{path}{mark}ticket={ticket}")))
            .await;
        assert_eq!(named, in_uri, "{path}");
        named
    }
}

/// The ticket, the request, and a part of its answer; `None` if it is rejected.
#[rustfmt::skip]
const REQUESTS: &[(&str, &str, Option<&str>)] = &[
    ("whole", "/v1/files/read?path=tasks/framework-1/web/stdout", Some("stdout of web")),
    ("whole", "/v1/files/read?path=tasks/framework-1/web/out/part", Some("part of web")),
    ("whole", "/v1/files/browse?path=tasks/framework-1/web", Some("stdout")),
    ("whole", "/v1/files/browse?path=tasks/framework-1/web/out", Some("part")),
    ("whole", "/v1/files/download?path=tasks/framework-1/web/stdout", Some("stdout of web")),
    ("whole", "/v1/files/read?path=tasks/framework-1/db/stdout", None),
    ("whole", "/v1/files/read?path=tasks/framework-2/web/stdout", None),
    ("whole", "/v1/files/browse?path=tasks/framework-1", None),
    ("whole", "/v1/files/browse", None),
    ("whole", "/v1/files/read?path=tasks/framework-1/web/../db/stdout", None),
    ("whole", "/v1/files/read?path=tasks/framework-1/web%2F..%2Fdb%2Fstdout", None),
    ("whole", "/v1/files/read?path=tasks/framework-1/web/stdout&path=tasks/framework-1/db/stdout", None),
    ("whole", "/v1/files/read?path=tasks/framework-1/web/stdout&p%61th=tasks/framework-1/db/stdout", None),
    ("whole", "/v1/containers", None),
    ("whole", "/metrics", None),
    ("whole", "/v1/agent", None),
    ("whole", "/v1/exec?task=framework-1/web&argument=true", None),
    ("file", "/v1/files/read?path=tasks/framework-1/web/out/part", Some("part of web")),
    ("file", "/v1/files/read?path=tasks/framework-1/web//out/./part", Some("part of web")),
    ("file", "/v1/files/read?path=tasks/framework-1/web%2Fout%2Fpart", Some("part of web")),
    ("file", "/v1/files/read?path=tasks/framework-1/web/stdout", None),
    ("file", "/v1/files/read?path=tasks/framework-1/web/out%252Fpart", None),
    ("file", "/v1/files/read?path=tasks/framework-1/web/out/part/../../stdout", None),
    ("file", "/v1/files/browse?path=tasks/framework-1/web/out", None),
    ("file", "/v1/files/browse?path=tasks/framework-1/web", None),
    ("directory", "/v1/files/browse?path=tasks/framework-1/web/out/", Some("part")),
    ("directory", "/v1/files/read?path=tasks/framework-1/web/out/part", None),
    ("metrics", "/metrics", Some("")),
    ("metrics", "/v1/files/read?path=tasks/framework-1/web/stdout", None),
    ("metrics", "/v1/agent", None),
    ("exec", "/v1/files/read?path=tasks/framework-1/web/stdout", None),
    ("exec", "/v1/exec?task=framework-1/db&argument=true", None),
    ("exec", "/v1/attach?task=framework-1/web", None),
];

#[tokio::test]
async fn a_ticket_opens_its_task_or_its_path_and_nothing_else() {
    let api = Api::new(vec![key()]);
    let whole = ticket(TicketVerb::ReadFiles, TicketScope::Task(task("web")));
    let file = ticket(TicketVerb::ReadFiles, path("out/part"));
    let directory = ticket(TicketVerb::ReadFiles, path("out"));
    let metrics = ticket(TicketVerb::Metrics, TicketScope::Agent);
    let exec = ticket(TicketVerb::Exec, TicketScope::Task(task("web")));
    let tickets = [
        ("whole", &whole),
        ("file", &file),
        ("directory", &directory),
        ("metrics", &metrics),
        ("exec", &exec),
    ];
    for (name, path, expected) in REQUESTS {
        let (_, ticket) = tickets.iter().find(|(known, _)| known == name).unwrap();
        let (status, text) = api.get(path, ticket).await;
        match expected {
            Some(expected) => {
                assert_eq!(status, 200, "{path}: {text}");
                assert!(text.contains(*expected), "{path}: {text}");
            }
            None => {
                assert_eq!(status, 403, "{path}: {text}");
                assert!(text.contains("PermissionDenied"), "{path}: {text}");
                assert!(text.contains("ticket"), "{path}: {text}");
            }
        }
    }
    // It reaches the handlers, which need a WebSocket.
    let attach = ticket(TicketVerb::Attach, TicketScope::Task(task("web")));
    for (path, ticket) in [
        ("/v1/exec?task=framework-1/web&argument=true", &exec),
        ("/v1/attach?task=framework-1/web", &attach),
    ] {
        let (status, text) = api.get(path, ticket).await;
        assert_eq!(status, 400, "{text}");
        assert!(text.contains("WebSocket"), "{text}");
    }
}

#[tokio::test]
async fn without_a_valid_ticket_nothing_is_served() {
    let api = Api::new(vec![key()]);
    let stdout = format!("{READ}/stdout");
    let (status, text) = api.send(Request::get(&stdout)).await;
    assert_eq!(status, 403, "{text}");
    let valid = Ticket {
        agent: OWN,
        verb: TicketVerb::ReadFiles,
        scope: path("stdout"),
        holder: Default::default(),
        expires_ms: NOW_MS + 1,
        request: 1,
    };
    assert_eq!(api.get(&stdout, &valid.sign(&key())).await.0, 200);
    let expired = Ticket {
        expires_ms: NOW_MS,
        ..valid.clone()
    };
    let foreign = Ticket {
        agent: AgentId(8),
        ..valid.clone()
    };
    let other = TicketKey::derive(1, &[7; 32], ClusterId(5), AgentId(8));
    let mut changed = valid.sign(&key());
    changed.replace_range(0..1, "B");
    for (ticket, expected) in [
        (expired.sign(&key()), "expired"),
        (foreign.sign(&other), "is for agent-8, and this is agent-7"),
        (valid.sign(&other), "no master of this cluster has issued"),
        (changed, "malformed"),
        (String::new(), "malformed"),
        ("x".repeat(10_000), "malformed"),
    ] {
        let (status, text) = api.get(&stdout, &ticket).await;
        assert_eq!(status, 403, "{text}");
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let text = valid.sign(&key());
    let twice = Request::get(format!("{stdout}&ticket={text}")).header(HEADER, &text);
    let (status, refused) = api.send(twice).await;
    assert_eq!(status, 403);
    assert!(refused.contains("several tickets"), "{refused}");
    // A parameter whose name is spelled otherwise is not a ticket, and the handler rejects it.
    let (status, _) = api
        .send(Request::get(format!("{stdout}&tick%65t={text}")))
        .await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn an_agent_that_has_no_key_says_when_it_has_one() {
    let api = Api::new(Vec::new());
    let ticket = ticket(TicketVerb::ReadFiles, path("stdout"));
    let (status, text) = api.get(&format!("{READ}/stdout"), &ticket).await;
    assert_eq!(status, 503, "{text}");
    assert!(
        text.contains("not registered with a master over TLS"),
        "{text}"
    );
}

#[tokio::test]
async fn prometheus_presents_a_ticket_as_a_bearer_token() {
    let api = Api::new(vec![key()]);
    let bearer = format!("Bearer {}", ticket(TicketVerb::Metrics, TicketScope::Agent));
    let scrape = Request::get("/metrics").header(AUTHORIZATION, &bearer);
    assert_eq!(api.send(scrape).await.0, 200);
    assert_eq!(api.send(Request::get("/metrics")).await.0, 403);
    let wrong = Request::get("/metrics").header(AUTHORIZATION, "Bearer x");
    assert_eq!(api.send(wrong).await.0, 403);
    let other = Request::get("/v1/agent").header(AUTHORIZATION, &bearer);
    assert_eq!(api.send(other).await.0, 403);
    assert_eq!(api.send(Request::get("/healthz")).await.0, 503);
}

#[test]
fn a_ticket_is_removed_from_the_request() {
    let request = Request::get("/v1/files/read?a=1&ticket=x&b=%2f")
        .header(AUTHORIZATION, "Bearer y")
        .body(Body::empty());
    let mut request = request.unwrap();
    assert_eq!(take(&mut request).unwrap().as_deref(), Some("x"));
    assert_eq!(request.uri(), "/v1/files/read?a=1&b=%2f");
    // It is a ticket at the path of metrics only.
    assert!(request.headers().contains_key(AUTHORIZATION));
    let request = Request::get("http://agent:5051/metrics?ticket=z").header(HEADER, "x");
    let mut request = request.body(Body::empty()).unwrap();
    take(&mut request).unwrap_err();
    assert_eq!(request.uri(), "http://agent:5051/metrics?");
    assert!(request.headers().is_empty());
}
