//! Tests over HTTP, on real directories: served files, and refused requests.

mod audit;
mod unread_answers;

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use argosy_isolation::output::{FileId, OutputSpan, StreamName, encode_times};
use argosy_proto::exec::SILENCE_LIMIT;
use argosy_proto::server::audit::{Audit, AuditSettings, AuditWriter};
use argosy_proto::server::callers::ApiAccess;
use argosy_proto::server::hosts::AllowedHosts;
use argosy_proto::transport::Listener;
use argosy_state::ids::TaskKey;
use axum::extract::{Query, State};
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use nix::fcntl::OFlag;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{FilesState, browse, download, read};
use crate::api::ApiState;
use crate::core::TaskView;
use crate::error::RunError;
use crate::exec::{ExecLimits, ExecState};
use crate::inbox::{AgentQuery, Event, QueryHandle};
use crate::paths::Paths;
use crate::runner::{ContainerControls, Preparations};

struct FilesServer {
    directory: tempfile::TempDir,
    base: String,
    files: FilesState,
    audit: Option<AuditWriter>,
    _serving: JoinSet<Result<(), RunError>>,
}

impl FilesServer {
    /// Returns a server whose loop has no task, and answers that each has ended.
    async fn start() -> Self {
        Self::start_with(true).await
    }

    /// Does the same; `ended` is the loop's answer for each task.
    async fn start_with(ended: bool) -> Self {
        Self::start_answering(usize::MAX, ended).await
    }

    /// Does the same; the loop leaves further queries unanswered.
    async fn start_answering(queries: usize, ended: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (inbox, mut events) = mpsc::channel(16);
        tokio::spawn(async move {
            let (mut answered, mut unanswered) = (0, Vec::new());
            while let Some(event) = events.recv().await {
                if let Event::Query(AgentQuery::Task(key, answer)) = event {
                    if answered == queries {
                        unanswered.push(answer);
                        continue;
                    }
                    answered += 1;
                    let view = TaskView {
                        sandbox_key: key,
                        container: None,
                        ended,
                        phase: None,
                    };
                    let _ = answer.send(view);
                }
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let queries = QueryHandle::new(inbox);
        let files = FilesState::new(Paths::new(directory.path()), queries.clone());
        let shared = ApiState {
            files: files.clone(),
            exec: ExecState {
                queries: queries.clone(),
                controls: ContainerControls::default(),
                limits: ExecLimits::new(SILENCE_LIMIT),
            },
            queries,
            preparations: Preparations::default(),
            statistics: crate::statistics::Statistics::simulated(),
            access: ApiAccess::default(),
            clock: argosy_proto::clock::WallClock::system(),
            metrics: None,
        };
        let settings = AuditSettings::below(directory.path(), 1);
        let (audit, writer) = Audit::open(settings.as_ref()).unwrap();
        let hosts = AllowedHosts::new(["Agent-1.example:5051"]);
        let serving = crate::environment::serve((Listener::tcp(listener), audit), hosts, shared);
        Self {
            directory,
            base,
            files,
            audit: writer,
            _serving: serving,
        }
    }

    fn sandbox(&self, container: &str) -> std::path::PathBuf {
        let path = Paths::new(self.directory.path())
            .task(&key())
            .join(container);
        fs::create_dir_all(&path).unwrap();
        path
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        reqwest::get(format!("{}{path}", self.base)).await.unwrap()
    }

    /// Returns a handler's answer, of which nothing is read.
    async fn unread(&self, path: &str) -> Response {
        let uri: Uri = path.parse().unwrap();
        let (state, query) = (State(self.files.clone()), Query::try_from_uri(&uri));
        let answer = match uri.path() {
            "/v1/files/browse" => browse(state, query).await,
            "/v1/files/read" => read(state, query).await,
            "/v1/files/download" => download(state, query).await,
            other => panic!("no handler of {other}"),
        };
        answer.into_response()
    }

    async fn text(&self, path: &str) -> (u16, String) {
        let answer = self.get(path).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

fn key() -> TaskKey {
    crate::core::task_key("framework-1", "web").unwrap()
}

#[tokio::test]
async fn the_newest_instance_is_read_in_parts_and_as_a_whole() {
    let server = FilesServer::start().await;
    fs::write(server.sandbox("1-9-1").join("stdout"), "old").unwrap();
    fs::write(server.sandbox("1-10-1").join("stdout"), "0123456789").unwrap();
    let read = "/v1/files/read?path=tasks/framework-1/web/stdout";
    let answer = server.get(read).await;
    assert_eq!(answer.headers()["x-argosy-offset"], "0");
    assert_eq!(answer.headers()["x-argosy-size"], "10");
    assert_eq!(answer.headers()["x-argosy-ended"], "true");
    assert_eq!(answer.headers()["content-type"], "application/octet-stream");
    assert_eq!(answer.text().await.unwrap(), "0123456789");
    assert_eq!(
        server.text(&format!("{read}&offset=3&length=4")).await,
        (200, "3456".into())
    );
    assert_eq!(
        server.text(&format!("{read}&offset=10")).await,
        (200, String::new())
    );
    assert_eq!(
        server.text(&format!("{read}&offset=99")).await,
        (200, String::new())
    );
    assert_eq!(
        server.text(&format!("{read}&offset=8&follow=true")).await,
        (200, "89".into())
    );
    let whole = server
        .get("/v1/files/download?path=tasks/framework-1/web/stdout")
        .await;
    assert_eq!(
        whole.headers()["content-disposition"],
        "attachment; filename=\"stdout\""
    );
    assert_eq!(whole.headers()["content-length"], "10");
    assert_eq!(whole.text().await.unwrap(), "0123456789");
}

#[tokio::test]
async fn rotated_output_is_served_by_the_offsets_of_its_stream() {
    let server = FilesServer::start().await;
    let sandbox = server.sandbox("1-1-1");
    let mut parts = Vec::new();
    for (name, text, begin) in [
        ("stdout.3", "foreign", None),
        ("stdout.2", "twenty....", Some(20)),
        ("stdout.1", "thirty....", Some(30)),
        ("stdout", "forty", Some(40)),
    ] {
        fs::write(sandbox.join(name), text).unwrap();
        let id = FileId::of(&fs::metadata(sandbox.join(name)).unwrap());
        parts.extend(begin.map(|begin| serde_json::json!({ "file": id, "begin": begin })));
    }
    let record = serde_json::json!({
        "version": 1, "stdout": { "parts": parts, "end": 45 }, "stderr": { "parts": [], "end": 0 }
    });
    let task = Paths::new(server.directory.path()).task(&key());
    fs::write(task.join("1-1-1.output"), record.to_string()).unwrap();
    let read = "/v1/files/read?path=tasks/framework-1/web/stdout";
    for (query, offset, text) in [
        ("", "20", "twenty....thirty....forty"),
        ("&offset=7", "20", "twenty....thirty....forty"),
        ("&offset=38&length=4", "38", "..fo"),
        ("&offset=10&length=4", "20", ""),
        ("&offset=45", "45", ""),
        ("&offset=28&follow=true", "28", "..thirty....forty"),
    ] {
        let answer = server.get(&format!("{read}{query}")).await;
        assert_eq!(answer.headers()["x-argosy-offset"], offset, "{query}");
        assert_eq!(answer.headers()["x-argosy-size"], "45", "{query}");
        assert_eq!(answer.text().await.unwrap(), text, "{query}");
    }
    let download = "/v1/files/download?path=tasks/framework-1/web";
    let whole = server.get(&format!("{download}/stdout")).await;
    assert_eq!(whole.headers()["x-argosy-offset"], "20");
    assert_eq!(whole.headers()["content-length"], "25");
    assert_eq!(whole.text().await.unwrap(), "twenty....thirty....forty");
    // A rotated file can be read by its own name, like other files.
    let (_, old) = server.text(&format!("{download}/stdout.1")).await;
    assert_eq!(old, "thirty....");
    // A part that the task has removed is skipped, and the answer reports the gap.
    fs::remove_file(sandbox.join("stdout.1")).unwrap();
    let cut = server.get(&format!("{read}&offset=20")).await;
    assert_eq!(cut.text().await.unwrap(), "twenty....");
    let cut = server.get(&format!("{read}&offset=30")).await;
    assert_eq!(cut.headers()["x-argosy-offset"], "40");
    let whole = server.get(&format!("{download}/stdout")).await;
    assert_eq!(whole.headers()["x-argosy-offset"], "40");
    assert_eq!(whole.text().await.unwrap(), "forty");
    fs::remove_file(sandbox.join("stdout")).unwrap();
    let none = server.get(&format!("{read}&offset=40")).await;
    assert_eq!(none.headers()["x-argosy-offset"], "45", "it has ended");
}

/// Returns a frame of an answer with times.
fn frame(ms: i64, text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [
        &ms.to_be_bytes()[..],
        &length.to_be_bytes(),
        text.as_bytes(),
    ]
    .concat()
}

#[tokio::test]
async fn output_is_read_with_its_times_and_from_a_time_on() {
    let server = FilesServer::start().await;
    let sandbox = server.sandbox("1-1-1");
    fs::write(sandbox.join("stdout"), "one\ntwo\nthree\n").unwrap();
    fs::write(sandbox.join("stderr"), "").unwrap();
    let spans = [(0, 1_000), (4, 2_000), (8, 9_000)];
    let spans = spans.map(|(offset, ms)| (StreamName::Stdout, OutputSpan::at(offset, ms)));
    let record = Paths::new(server.directory.path()).task(&key());
    fs::write(record.join("1-1-1.times"), encode_times(&spans)).unwrap();
    let read = "/v1/files/read?path=tasks/framework-1/web/stdout";
    for (query, begin, since, text) in [
        ("&since_ms=0", "0", "0", "one\ntwo\nthree\n"),
        ("&since_ms=1500", "4", "4", "two\nthree\n"),
        ("&since_ms=1500&offset=8", "8", "4", "three\n"),
        ("&since_ms=1500&offset=2", "4", "4", "two\nthree\n"),
        ("&since_ms=5000&follow=true", "8", "8", "three\n"),
        ("&since_ms=99999", "14", "14", ""),
        ("&since_ms=1500&length=0", "4", "4", ""),
    ] {
        let answer = server.get(&format!("{read}{query}")).await;
        assert_eq!(answer.status(), 200, "{query}");
        assert_eq!(answer.headers()["x-argosy-offset"], begin, "{query}");
        assert_eq!(answer.headers()["x-argosy-since-offset"], since, "{query}");
        assert!(!answer.headers().contains_key("x-argosy-times"));
        assert_eq!(answer.text().await.unwrap(), text, "{query}");
    }
    let all = [
        frame(1_000, "one\n"),
        frame(2_000, "two\n"),
        frame(9_000, "three\n"),
    ];
    for (query, expected) in [
        ("&times=true", all.concat()),
        ("&times=true&follow=true", all.concat()),
        ("&times=true&since_ms=1500", all[1..].concat()),
        ("&times=true&offset=1&length=2", frame(1_000, "ne")),
    ] {
        let answer = server.get(&format!("{read}{query}")).await;
        assert_eq!(answer.headers()["x-argosy-times"], "true", "{query}");
        assert_eq!(answer.headers()["x-argosy-size"], "14", "{query}");
        assert_eq!(answer.bytes().await.unwrap(), expected, "{query}");
    }
    // Nothing was written to it, so it has no times yet.
    let empty = "/v1/files/read?path=tasks/framework-1/web/stderr&times=true&since_ms=5";
    assert_eq!(server.text(empty).await, (200, String::new()));
    fs::remove_file(record.join("1-1-1.times")).unwrap();
    for query in ["&times=true", "&since_ms=0"] {
        let (status, text) = server.text(&format!("{read}{query}")).await;
        assert_eq!(status, 409);
        assert!(
            text.contains("FailedPrecondition") && text.contains("earlier release"),
            "{text}"
        );
    }
    let (_, text) = server.text(read).await;
    assert_eq!(
        text, "one\ntwo\nthree\n",
        "the output does not depend on it"
    );
}

#[tokio::test]
async fn offsets_that_no_file_has_are_rejected() {
    let server = FilesServer::start().await;
    let sandbox = server.sandbox("1-1-1");
    fs::write(sandbox.join("stdout"), "text").unwrap();
    let most = 1_u64 << 62;
    for call in ["read", "download"] {
        let call = format!("/v1/files/{call}?path=tasks/framework-1/web/stdout");
        for offset in [most + 1, 1 << 63, u64::MAX] {
            let (status, text) = server.text(&format!("{call}&offset={offset}")).await;
            assert_eq!(status, 400, "{call} {offset}: {text}");
            let expected = format!("use at most {most}");
            assert!(text.contains(&expected), "{text}");
        }
        let (status, text) = server.text(&format!("{call}&offset={most}")).await;
        assert_eq!((status, text.as_str()), (200, ""), "{call}");
    }
    // A task of the agent's own user has forged its record of times.
    let forged = [(1 << 61, 1_000), (5 << 60, 2_000), (1 << 63, 9_000)];
    let forged = forged.map(|(offset, ms)| (StreamName::Stdout, OutputSpan::at(offset, ms)));
    let task = Paths::new(server.directory.path()).task(&key());
    fs::write(task.join("1-1-1.times"), encode_times(&forged)).unwrap();
    let read = "/v1/files/read?path=tasks/framework-1/web/stdout&since_ms=5000";
    assert_eq!(server.text(read).await.0, 409);
}

#[tokio::test]
async fn times_are_refused_where_there_are_none() {
    let server = FilesServer::start().await;
    let sandbox = server.sandbox("1-1-1");
    fs::create_dir(sandbox.join("in")).unwrap();
    for name in ["stdout", "stdout.1", "file", "in/stdout"] {
        fs::write(sandbox.join(name), "x").unwrap();
    }
    let path = |name: &str| format!("path=tasks/framework-1/web/{name}");
    for (call, name, query) in [
        ("read", "stdout.1", "times=true"),
        ("read", "file", "since_ms=1"),
        ("read", "in/stdout", "times=true"),
        ("read", "stdout", "since_ms=yesterday"),
        ("read", "stdout", "times=1"),
        ("download", "stdout", "times=true"),
        ("download", "stdout", "since_ms=1"),
        ("browse", "", "times=true"),
    ] {
        let request = format!("/v1/files/{call}?{}&{query}", path(name));
        let (status, text) = server.text(&request).await;
        assert_eq!(status, 400, "{request}: {text}");
        assert!(text.contains("InvalidArgument"), "{request}: {text}");
    }
}

#[tokio::test]
async fn large_files_are_served_completely() {
    let server = FilesServer::start().await;
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(server.sandbox("1-1-1").join("big"), &bytes).unwrap();
    let answer = server
        .get("/v1/files/download?path=tasks/framework-1/web/big")
        .await;
    assert_eq!(answer.bytes().await.unwrap(), bytes);
}

#[tokio::test]
async fn directories_are_listed_with_kinds_and_paths() {
    let server = FilesServer::start().await;
    let sandbox = server.sandbox("1-1-1");
    fs::create_dir(sandbox.join("inner")).unwrap();
    fs::write(sandbox.join("inner/file"), "x").unwrap();
    std::os::unix::fs::symlink("/etc", sandbox.join("link")).unwrap();
    let list = |text: String| -> Vec<(String, String)> {
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let entries = value["entries"].as_array().unwrap().iter();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        entries
            .map(|entry| (text(&entry["path"]), text(&entry["kind"])))
            .collect()
    };
    let pair = |path: &str, kind: &str| (path.to_owned(), kind.to_owned());
    let (_, text) = server
        .text("/v1/files/browse?path=tasks/framework-1/web")
        .await;
    let base = "tasks/framework-1/web";
    assert_eq!(
        list(text),
        [
            pair(&format!("{base}/inner"), "directory"),
            pair(&format!("{base}/link"), "link")
        ]
    );
    let (_, text) = server
        .text("/v1/files/browse?path=tasks/framework-1/web/inner/")
        .await;
    assert_eq!(list(text), [pair(&format!("{base}/inner/file"), "file")]);
    let (_, text) = server.text("/v1/files/browse").await;
    assert_eq!(list(text), [pair("tasks/framework-1", "directory")]);
}

#[tokio::test]
async fn no_file_outside_a_sandbox_is_served_under_any_name() {
    let server = FilesServer::start().await;
    let sandbox = server.sandbox("1-1-1");
    fs::write(server.directory.path().join("secret"), "secret").unwrap();
    fs::write(sandbox.join("file"), "x").unwrap();
    std::os::unix::fs::symlink(server.directory.path().join("secret"), sandbox.join("link"))
        .unwrap();
    std::os::unix::fs::symlink(server.directory.path(), sandbox.join("up")).unwrap();
    nix::unistd::mkfifo(&sandbox.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let base = "tasks/framework-1/web";
    for (path, status) in [
        ("/etc/passwd", 400),
        ("../secret", 400),
        ("tasks/../secret", 400),
        (&format!("{base}/../../../../secret"), 400),
        (&format!("{base}/..%2f..%2fsecret"), 400),
        (&format!("{base}/file%00"), 400),
        ("tasks/..%2f/x/y", 400),
        ("tasks/framework-1/a%20b/x", 400),
        ("secret", 400),
        (&format!("{base}/link"), 400),
        (&format!("{base}/up/secret"), 404),
        (&format!("{base}/fifo"), 400),
        (&format!("{base}/missing"), 404),
        (&format!("{base}/file/inner"), 404),
        (base, 400),
        ("tasks/framework-1/other/stdout", 404),
        (&format!("{base}/{}", "x".repeat(300)), 404),
        (&format!("{base}/{}", "x/".repeat(2_048)), 400),
    ] {
        for call in ["read", "download"] {
            let (found, text) = server.text(&format!("/v1/files/{call}?path={path}")).await;
            assert_eq!(found, status, "{call} {path}: {text}");
            let error: serde_json::Value = serde_json::from_str(&text).unwrap();
            let message = error["message"].as_str().unwrap();
            let code = ["InvalidArgument", "NotFound"][usize::from(status == 404)];
            assert_eq!(error["code"], code, "{path}: {text}");
            assert!(
                message.len() > 10 && !text.contains("\"secret\"}"),
                "{path}: {text}"
            );
        }
    }
    let (status, text) = server.text("/v1/files/read?path=tasks&offset=-1").await;
    assert_eq!(status, 400, "{text}");
    assert_eq!(server.text("/v1/files/browse?path=tasks/..").await.0, 400);
    for call in ["browse", "read", "download"] {
        let path = format!("/v1/files/{call}?path=tasks/framework-1/web/stdout&lenght=1");
        let (status, text) = server.text(&path).await;
        assert_eq!(status, 400, "{call}: {text}");
        assert!(text.contains("`lenght`"), "{call}: {text}");
    }
    let (status, text) = server.text("/nothing").await;
    assert!(
        status == 404 && text.contains("\"code\":\"NotFound\""),
        "{text}"
    );
    assert!(Path::new(&sandbox).exists());
}

#[tokio::test]
async fn a_special_file_is_rejected_without_being_opened() {
    let server = FilesServer::start().await;
    let fifo = server.sandbox("1-1-1").join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let opens = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&opens, &fifo, WatchFlags::OPEN).unwrap();
    for call in ["read", "download", "browse"] {
        let path = format!("/v1/files/{call}?path=tasks/framework-1/web/fifo");
        let (status, text) = server.text(&path).await;
        assert_eq!(status, 400, "{text}");
        assert!(text.contains("is a special file"), "{text}");
    }
    let mut event = [0; 1_024];
    let observed = rustix::io::read(&opens, &mut event);
    assert_eq!(observed, Err(rustix::io::Errno::AGAIN));
    let nonblock = OFlag::O_NONBLOCK.bits();
    let mut options = fs::File::options();
    options
        .read(true)
        .custom_flags(nonblock)
        .open(fifo)
        .unwrap();
    assert!(
        rustix::io::read(&opens, &mut event).is_ok(),
        "it is watched"
    );
}

#[tokio::test]
async fn large_directories_are_listed_up_to_the_limit() {
    let server = FilesServer::start().await;
    let sandbox = server.sandbox("1-10-1");
    for number in 0..10_003 {
        fs::write(sandbox.join(format!("{number:05}")), "").unwrap();
    }
    let (status, text) = server
        .text("/v1/files/browse?path=tasks/framework-1/web")
        .await;
    assert_eq!(status, 200);
    let listing: serde_json::Value = serde_json::from_str(&text).unwrap();
    let entries = listing["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 10_000);
    assert_eq!(
        (&entries[0]["name"], &entries[9_999]["name"]),
        (&"00000".into(), &"09999".into())
    );
    assert_eq!(listing["left_out"], 3);
}

#[tokio::test]
async fn listings_beyond_the_limit_are_rejected_with_a_message() {
    let server = FilesServer::start().await;
    server.sandbox("1-10-1");
    let path = "/v1/files/browse?path=tasks/framework-1/web";
    let listings = &server.files.listings;
    let places = u32::try_from(listings.available_permits()).unwrap();
    let taken = listings.try_acquire_many(places).unwrap();
    let (status, text) = server.text(path).await;
    assert_eq!(status, 429);
    assert!(
        text.contains("ResourceExhausted") && text.contains("retry later"),
        "{text}"
    );
    drop(taken);
    assert_eq!(server.text(path).await.0, 200);
    // It gives its place back, if only after the client has read all of it.
    drop(listings.acquire_many(places).await.unwrap());
    let unread = server.unread(path).await;
    assert_eq!(unread.status(), 200);
    assert_eq!(listings.available_permits() + 1, places as usize);
    drop(unread);
    assert_eq!(listings.available_permits(), places as usize);
}

#[tokio::test]
async fn wrong_methods_and_shutdown_are_answered_in_json() {
    // Its loop does not answer queries about the agent as a whole, as when it stops.
    let server = FilesServer::start().await;
    let client = reqwest::Client::new();
    for (method, path, status, code, expected) in [
        ("POST", "/v1/files/read", 405, "Unimplemented", "use GET"),
        ("DELETE", "/v1/exec", 405, "Unimplemented", "use GET"),
        ("POST", "/v1/containers", 405, "Unimplemented", "use GET"),
        ("PUT", "/metrics", 405, "Unimplemented", "use GET"),
        ("GET", "/healthz", 503, "Unavailable", "stopping"),
        ("GET", "/v1/agent", 503, "Unavailable", "stopping"),
    ] {
        let asked = client.request(method.parse().unwrap(), format!("{}{path}", server.base));
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
        let text = answer.text().await.unwrap();
        let error: serde_json::Value = serde_json::from_str(&text).expect(path);
        assert_eq!(error["code"], code, "{method} {path}");
        assert!(
            error["message"].as_str().unwrap().contains(expected),
            "{text}"
        );
    }
}

#[tokio::test]
async fn requests_with_a_foreign_host_header_are_rejected() {
    let server = FilesServer::start().await;
    fs::write(server.sandbox("1-1-1").join("stdout"), "secret").unwrap();
    let client = reqwest::Client::new();
    let read = "/v1/files/read?path=tasks/framework-1/web/stdout";
    for path in [
        read,
        "/v1/exec",
        "/v1/containers",
        "/metrics",
        "/healthz",
        "/none",
    ] {
        let asked = client.get(format!("{}{path}", server.base));
        let answer = asked.header("host", "rebound.example:5051").send();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 421, "{path}");
        let text = answer.text().await.unwrap();
        assert!(text.contains("--allow-host rebound.example"), "{text}");
    }
    for host in ["localhost:5051", "AGENT-1.example", "10.0.0.7:5051"] {
        let asked = client.get(format!("{}{read}", server.base));
        let answer = asked.header("host", host).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "secret", "{host}");
    }
}

#[tokio::test]
async fn excess_followers_of_a_task_are_rejected_until_one_ends() {
    let server = FilesServer::start_with(false).await;
    fs::write(server.sandbox("1-1-1").join("stdout"), "text").unwrap();
    let read = "/v1/files/read?path=tasks/framework-1/web/stdout";
    let follow = format!("{read}&follow=true");
    let mut following = Vec::new();
    for _ in 0..64 {
        let answer = server.get(&follow).await;
        assert_eq!(answer.status(), 200);
        following.push(answer);
    }
    assert_eq!(server.get(&follow).await.headers()["retry-after"], "1");
    let (status, text) = server.text(&follow).await;
    assert_eq!(status, 429);
    assert!(
        text.contains("ResourceExhausted") && text.contains("end one first"),
        "{text}"
    );
    assert_eq!(
        server.text(read).await,
        (200, "text".into()),
        "it is no follower"
    );
    following.pop();
    let freed = async {
        while server.get(&follow).await.status() == 429 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let freed = tokio::time::timeout(Duration::from_secs(60), freed).await;
    freed.expect("the place of a follower that went is free");
}

#[tokio::test]
async fn a_follow_queries_the_loop_only_at_the_end_of_the_file() {
    // One query finds the sandbox; none is answered while the file is sent.
    let server = FilesServer::start_answering(1, false).await;
    let file = vec![b'x'; 2_000_000];
    fs::write(server.sandbox("1-1-1").join("stdout"), &file).unwrap();
    let follow = "/v1/files/read?path=tasks/framework-1/web/stdout&follow=true";
    let mut answer = server.get(follow).await;
    let mut length = 0;
    while length < file.len() {
        let next = tokio::time::timeout(Duration::from_secs(60), answer.chunk()).await;
        let next = next.expect("the follow waits for the loop").unwrap();
        length += next.expect("it continues").len();
    }
    assert_eq!(length, file.len());
}

#[tokio::test]
async fn excess_reads_and_downloads_of_a_task_are_rejected_until_one_ends() {
    let server = FilesServer::start().await;
    fs::write(server.sandbox("1-1-1").join("stdout"), "text").unwrap();
    let query = "path=tasks/framework-1/web/stdout";
    let calls = ["read", "download"].map(|call| format!("/v1/files/{call}?{query}"));
    let mut open = Vec::new();
    for call in calls.iter().cycle().take(64) {
        let answer = server.unread(call).await;
        assert_eq!(answer.status(), 200);
        open.push(answer);
    }
    for call in &calls {
        assert_eq!(server.get(call).await.headers()["retry-after"], "1");
        let (status, text) = server.text(call).await;
        assert_eq!(status, 429);
        let expected = "64 requests read files of framework-1/web already";
        assert!(
            text.contains("ResourceExhausted") && text.contains(expected),
            "{text}"
        );
    }
    let follow = format!("{}&follow=true", calls[0]);
    assert_eq!(
        server.text(&follow).await,
        (200, "text".into()),
        "it is bounded separately"
    );
    open.pop();
    assert_eq!(server.text(&calls[0]).await, (200, "text".into()));
}
