//! Tests of following a file over real sockets: connections that break off, a task that ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Starts a master that answers each request with the next of these answers, then closes the
/// connection.
async fn master(answers: Vec<String>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    master_of_bytes(answers.into_iter().map(String::into_bytes).collect()).await
}

async fn master_of_bytes(answers: Vec<Vec<u8>>) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4_096];
            let length = stream.read(&mut request).await.unwrap();
            let line = String::from_utf8_lossy(&request[..length])
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            seen.lock().unwrap().push(line);
            stream.write_all(&answer).await.unwrap();
        }
    });
    (address, requests)
}

fn answer(body: &str, declared: usize, ended: bool, size: usize) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {declared}\r\nx-argosy-size: {size}\r\nx-argosy-ended: {ended}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn bytes_of(piece: FileChunk<'_>) -> &[u8] {
    match piece {
        FileChunk::Bytes(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

/// Returns a refusal with these headers.
fn refusal(status: &str, headers: &str, message: &str) -> String {
    let body = serde_json::json!({ "message": message }).to_string();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Returns such an answer whose bytes begin at this offset.
fn answer_from(begin: usize, body: &str, ended: bool, size: usize) -> String {
    let answer = answer(body, body.len(), ended, size);
    let header = format!("\r\nx-argosy-offset: {begin}\r\nconnection");
    answer.replacen("\r\nconnection", &header, 1)
}

/// Collects what a reader receives, as text.
fn collect(all: &mut Vec<String>) -> impl FnMut(FileChunk<'_>) -> io::Result<()> {
    |piece| {
        all.push(match piece {
            FileChunk::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            FileChunk::Missing(count) => format!("-{count}"),
            FileChunk::Time(time) => format!("{time:?}"),
        });
        Ok(())
    }
}

fn location() -> FileLocation {
    FileLocation::of_task("agent-1", "framework-1", "web", "stdout")
}

#[tokio::test]
async fn a_follow_resumes_at_its_offset_after_a_broken_connection() {
    // Declares ten bytes, sends four, and closes, as a killed master does.
    let (first, _) = master(vec![answer("tick", 10, false, 4)]).await;
    let (second, requests) = master(vec![answer("\ntock\n", 6, true, 10)]).await;
    let mut files = FileReader::plaintext(vec![first.to_string(), second.to_string()]);
    let mut text = Vec::new();
    let mut sink = |piece: FileChunk<'_>| {
        text.extend_from_slice(bytes_of(piece));
        Ok(())
    };
    files
        .follow(&location(), 0, &CancellationToken::new(), &mut sink)
        .await
        .unwrap();
    assert_eq!(text, b"tick\ntock\n");
    let requests = requests.lock().unwrap().clone();
    assert!(
        requests[0].starts_with("GET /v1/agents/agent-1/files/read?path=tasks/framework-1/web/stdout&offset=4&follow=true"),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_part_is_read_on_through_the_next_master() {
    let (first, _) = master(vec![answer("tick", 10, false, 12)]).await;
    let (second, _) = master(vec![answer("\ntock\nto", 8, false, 12)]).await;
    let mut files = FileReader::plaintext(vec![first.to_string(), second.to_string()]);
    let mut text = Vec::new();
    let mut sink = |piece: FileChunk<'_>| {
        text.extend_from_slice(bytes_of(piece));
        Ok(())
    };
    files
        .read_part(&location(), 0, 10, &mut sink)
        .await
        .unwrap();
    assert_eq!(text, b"tick\ntock\n");
}

#[tokio::test]
async fn a_follow_reports_rotated_bytes_and_continues() {
    let (address, requests) = master(vec![
        answer_from(4, "four", false, 8),
        answer_from(8, "eight", false, 13),
        // Slow: a file was removed in the meantime.
        answer_from(20, "twenty", true, 26),
    ])
    .await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    let mut all = Vec::new();
    files
        .follow(
            &location(),
            0,
            &CancellationToken::new(),
            &mut collect(&mut all),
        )
        .await
        .unwrap();
    assert_eq!(all, ["-4", "four", "eight", "-7", "twenty"]);
    let requests = requests.lock().unwrap().clone();
    assert!(
        requests[2].contains("&offset=13&follow=true"),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_read_ends_at_the_initial_end_of_the_file() {
    let (address, _) = master(vec![
        answer_from(4, "four", false, 13),
        answer_from(8, "eight", false, 99),
    ])
    .await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    let mut all = Vec::new();
    files
        .read(&location(), 0, &mut collect(&mut all))
        .await
        .unwrap();
    assert_eq!(
        all,
        ["-4", "four", "eight"],
        "what came since is not asked for"
    );
}

#[tokio::test]
async fn a_missing_file_is_reported_with_the_masters_message() {
    let body = "{\"code\":\"NotFound\",\"message\":\"no task \\\"web\\\"\"}";
    let absent = format!(
        "HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let (address, _) = master(vec![absent]).await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    let error = files
        .read(&location(), 0, &mut |_| Ok(()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ReadError::NotFound(text) if text == "no task \"web\""),
        "{error:?}"
    );
}

fn absent() -> String {
    let body = "{\"message\":\"no such file\"}";
    format!(
        "HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_follow_from_an_offset_requests_nothing_before_it() {
    let (address, requests) = master(vec![answer_from(100, "tick", true, 104)]).await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    let mut all = Vec::new();
    let over = CancellationToken::new();
    files
        .follow(&location(), 100, &over, &mut collect(&mut all))
        .await
        .unwrap();
    assert_eq!(all, ["tick"]);
    let requests = requests.lock().unwrap().clone();
    assert!(
        requests[0].contains("&offset=100&follow=true"),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_file_that_vanishes_ends_the_follow_after_a_while() {
    let answers = std::iter::once(answer_from(0, "tick", false, 4));
    let answers = answers.chain(std::iter::repeat_with(absent).take(100));
    let (address, _) = master(answers.collect()).await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    let began = Instant::now();
    let over = CancellationToken::new();
    let error = files
        .follow(&location(), 0, &over, &mut |_| Ok(()))
        .await
        .unwrap_err();
    assert!(began.elapsed() >= AFTER_END, "{:?}", began.elapsed());
    let expected = "it vanished while it was followed: no such file";
    assert!(
        matches!(&error, ReadError::NotFound(text) if text == expected),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_file_of_an_ended_task_that_was_removed_is_reported() {
    let (address, _) = master(std::iter::repeat_with(absent).take(100).collect()).await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    let over = CancellationToken::new();
    over.cancel();
    let error = files
        .follow(&location(), 0, &over, &mut |_| Ok(()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ReadError::NotFound(text) if text == "no such file"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_closed_output_ends_the_follow() {
    let (address, _) = master(vec![answer("tick", 4, true, 4)]).await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    let mut sink = |_: FileChunk<'_>| Err(io::Error::from(io::ErrorKind::BrokenPipe));
    let error = files
        .follow(&location(), 0, &CancellationToken::new(), &mut sink)
        .await
        .unwrap_err();
    assert!(matches!(error, ReadError::Sink(_)));
}

#[test]
fn the_message_of_an_error_is_extracted() {
    assert_eq!(
        response_message("{\"code\":\"NotFound\",\"message\":\"x\"}"),
        "x"
    );
    assert_eq!(response_message("plain\u{7} text"), "plain text");
    assert_eq!(response_message(""), "no reason was given");
}

#[tokio::test]
async fn a_follow_of_a_shared_file_ends_with_the_task() {
    let (address, requests) = master(vec![
        answer_from(4, "four", false, 8),
        // No more bytes are available, and other tasks may write without end.
        answer_from(8, "", false, 8),
    ])
    .await;
    let over = CancellationToken::new();
    over.cancel();
    let location = FileLocation {
        shared: true,
        ..location()
    };
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    let mut all = Vec::new();
    files
        .follow(&location, 0, &over, &mut collect(&mut all))
        .await
        .unwrap();
    assert_eq!(all, ["-4", "four"]);
    assert_eq!(requests.lock().unwrap().len(), 1);
}

#[test]
fn output_of_an_executors_task_is_in_the_executors_files() {
    let mut task = v1::Task {
        framework_id: "framework-1".to_owned(),
        task_id: "web".to_owned(),
        agent_id: "agent-1".to_owned(),
        spec: Some(v1::TaskSpec::default()),
        ..v1::Task::default()
    };
    assert_eq!(FileLocation::of(&task, "stdout"), location());
    let spec = task.spec.as_mut().unwrap();
    spec.executor = Some(v1::ExecutorSpec {
        executor_id: "shell".to_owned(),
        ..v1::ExecutorSpec::default()
    });
    let shared = FileLocation::of(&task, "stdout");
    assert_eq!(shared.path, "tasks/framework-1/shell/stdout");
    assert!(shared.shared);
}

#[tokio::test]
async fn requests_under_any_host_name_are_not_mistaken_for_web_pages() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requests = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = answer("", 0, true, 0);
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(head).unwrap().to_lowercase()
    });
    let mut files = FileReader::plaintext(vec![address]);
    files.read(&location(), 0, &mut |_| Ok(())).await.unwrap();
    let head = requests.await.unwrap();
    assert!(head.contains("\r\nsec-argosy-client: argosy\r\n"), "{head}");
}

#[tokio::test]
async fn a_follow_continues_after_the_pause_that_a_busy_agent_asks_for() {
    let busy = || {
        refusal(
            "429 Too Many Requests",
            "retry-after: 0\r\n",
            "64 requests follow",
        )
    };
    let (address, requests) = master(vec![
        busy(),
        answer_from(0, "tick", false, 4),
        busy(),
        busy(),
        answer_from(4, "tock", true, 8),
    ])
    .await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    let mut all = Vec::new();
    let over = CancellationToken::new();
    files
        .follow(&location(), 0, &over, &mut collect(&mut all))
        .await
        .unwrap();
    assert_eq!(all, ["tick", "tock"]);
    assert_eq!(requests.lock().unwrap().len(), 5);
    // So do calls that do not follow.
    let (address, _) = master(vec![
        busy(),
        answer_from(0, "", true, 8),
        busy(),
        answer_from(0, "tick", true, 4),
    ])
    .await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    assert_eq!(files.tail_offset(&location(), 0).await.unwrap(), 8);
    files.read(&location(), 0, &mut |_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn parts_downloads_and_lists_wait_for_a_busy_agent() {
    let busy = || refusal("429 Too Many Requests", "retry-after: 0\r\n", "64 requests");
    let list = r#"{"entries": [{"name": "a", "kind": "file"}]}"#;
    let (address, requests) = master(vec![
        busy(),
        answer_from(0, "tick", false, 8),
        busy(),
        answer_from(4, "tock", true, 8),
        busy(),
        busy(),
        answer_from(0, "tick", true, 4),
        busy(),
        answer(list, list.len(), true, 0),
    ])
    .await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    let mut all = Vec::new();
    let mut sink = collect(&mut all);
    files.read_part(&location(), 0, 8, &mut sink).await.unwrap();
    files.download_once(&location(), &mut sink).await.unwrap();
    let listing = files.browse(&location()).await.unwrap();
    assert_eq!(listing.entries[0].name, "a");
    drop(sink);
    assert_eq!(all, ["tick", "tock", "tick"]);
    assert_eq!(requests.lock().unwrap().len(), 9);
}

#[tokio::test]
async fn a_follow_does_not_wait_for_hours() {
    let long = refusal("429 Too Many Requests", "retry-after: 3600\r\n", "full");
    let (address, _) = master(vec![long]).await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    let error = files
        .follow(&location(), 0, &CancellationToken::new(), &mut |_| Ok(()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ReadError::Refused(text) if text.starts_with("full; ")),
        "{error:?}"
    );
}

/// Returns an answer with times: frames whose bytes begin at this offset.
fn timed(begin: usize, frames: &[(i64, &str)], cut: usize, ended: bool, size: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for (time, text) in frames {
        body.extend(time.to_be_bytes());
        body.extend((text.len() as u32).to_be_bytes());
        body.extend(text.as_bytes());
    }
    let head = answer_from(begin, "", ended, size).replacen(
        "content-length: 0",
        &format!("x-argosy-times: true\r\ncontent-length: {}", body.len()),
        1,
    );
    body.truncate(body.len() - cut);
    [head.as_bytes(), &body].concat()
}

#[tokio::test]
async fn a_follow_with_times_resumes_at_its_offset() {
    let (address, requests) = master_of_bytes(vec![
        // The connection breaks off within the second frame.
        timed(4, &[(1_000, "one\n"), (2_000, "two\n")], 2, false, 12),
        timed(10, &[(2_000, "o\n"), (i64::MIN, "\u{0}")], 0, true, 13),
    ])
    .await;
    let mut files = FileReader::plaintext(vec![address.to_string()]).with_times();
    let mut all = Vec::new();
    let over = CancellationToken::new();
    files
        .follow(&location(), 0, &over, &mut collect(&mut all))
        .await
        .unwrap();
    let expected = "-4 Some(1000) one\n Some(2000) tw Some(2000) o\n None \0";
    assert_eq!(all.join(" "), expected);
    let requests = requests.lock().unwrap().clone();
    assert!(
        requests[1].contains("&offset=10&follow=true&times=true "),
        "{requests:?}"
    );
}

#[tokio::test]
async fn an_agent_of_an_earlier_release_reports_no_times() {
    let unknown = "query \"unknown field `times`\" is not valid: use path=";
    let answers = [
        refusal("400 Bad Request", "", unknown),
        refusal("400 Bad Request", "", &unknown.replace("times", "since_ms")),
        // It ignores the parameter.
        answer_from(0, "tick", true, 4),
        answer_from(0, "", true, 4),
    ];
    let (address, _) = master(answers.into()).await;
    let mut files = FileReader::plaintext(vec![address.to_string()]).with_times();
    for _ in 0..2 {
        let read = files.read(&location(), 0, &mut |_| Ok(())).await;
        let since = files.since_offset(&location(), 5).await;
        for error in [read.unwrap_err(), since.unwrap_err()] {
            let text = "agent-1 has an earlier release, which reports no times";
            assert!(
                matches!(&error, ReadError::Refused(found) if found.starts_with(text)),
                "{error:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_time_is_mapped_to_an_offset() {
    let head = "\r\nx-argosy-since-offset: 1000\r\nconnection";
    let found = answer_from(4_096, "", false, 9_000).replacen("\r\nconnection", head, 1);
    let busy = refusal("429 Too Many Requests", "retry-after: 0\r\n", "full");
    let (address, requests) = master(vec![busy, found]).await;
    let mut files = FileReader::plaintext(vec![address.to_string()]);
    // Its bytes are removed: reading reports how many are missing.
    assert_eq!(files.since_offset(&location(), -7).await.unwrap(), 1_000);
    let requests = requests.lock().unwrap().clone();
    assert!(
        requests[1].contains("&offset=0&length=0&since_ms=-7 "),
        "{requests:?}"
    );
}
