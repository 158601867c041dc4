//! Tests of copies from a master that sends hostile lists and incomplete files.

use std::fs;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Starts a master that answers requests whose line contains the first text with the second one.
/// An answer that was used is not used again, unless it is the only one left for its text.
async fn master(answers: Vec<(&'static str, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answers = Mutex::new(answers);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 8_192];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let line = request.lines().next().unwrap_or_default().to_owned();
            let answer = {
                let mut answers = answers.lock().unwrap();
                let fits = |(text, _): &(&str, String)| line.contains(text);
                let at = answers.iter().position(fits);
                let at = at.unwrap_or_else(|| panic!("no answer for {line}"));
                match answers.iter().filter(|answer| fits(answer)).count() {
                    1 => answers[at].1.clone(),
                    _ => answers.remove(at).1,
                }
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

fn list(entries: &str) -> String {
    let body = format!("{{\"path\": \"\", \"entries\": [{entries}], \"left_out\": 0}}");
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn entry(name: &str, kind: &str) -> String {
    format!("{{\"name\": {name:?}, \"kind\": \"{kind}\", \"mode\": \"4755\"}}")
}

/// Returns a file of this size, of which these bytes are sent.
fn file(body: &str, size: usize) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nx-argosy-offset: 0\r\nx-argosy-size: {size}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn path(parts: &[&str]) -> SandboxPath {
    SandboxPath {
        parts: parts.iter().map(|part| (*part).to_owned()).collect(),
        is_content: parts.is_empty(),
        is_directory: parts.is_empty(),
    }
}

/// Copies from this master; returns the result and the number of entries that were left out.
async fn copy(master: String, path: &SandboxPath, to: &Path) -> (Result<(), CopyError>, u64) {
    let progress = Progress::new(true);
    let mut download = Download {
        files: FileReader::plaintext(vec![master]),
        task: v1::Task {
            framework_id: "framework-1".to_owned(),
            task_id: "web".to_owned(),
            agent_id: "agent-1".to_owned(),
            ..v1::Task::default()
        },
        progress: &progress,
    };
    let copied = match download.source(path).await {
        Ok(Source::File { mode }) => download.file_to(path, mode, to).await,
        Ok(Source::Directory { mode }) => download.directory_to(path, mode, to).await,
        Err(failure) => Err(failure.into()),
    };
    (copied, progress.left_out())
}

#[tokio::test]
async fn no_name_of_a_list_leads_out_of_the_destination() {
    let own = tempfile::tempdir().unwrap();
    let to = own.path().join("to");
    let names = ["../evil", "..", ".", "", "/etc/evil", "a/b"];
    let mut entries: Vec<_> = names.iter().map(|name| entry(name, "file")).collect();
    entries.extend([entry("..", "directory"), entry("good", "file")]);
    let answers = vec![
        ("/files/browse?", list(&entries.join(","))),
        ("/web/good ", file("good", 4)),
    ];
    let (copied, left_out) = copy(master(answers).await, &path(&[]), &to).await;
    copied.unwrap();
    assert_eq!(left_out, 7);
    assert_eq!(fs::read_dir(own.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    assert_eq!(fs::read(to.join("good")).unwrap(), b"good");
}

#[tokio::test]
async fn an_incomplete_file_is_copied_again_from_its_beginning() {
    let own = tempfile::tempdir().unwrap();
    let to = own.path().join("copy");
    let answers = vec![
        ("/files/browse?", list(&entry("a", "file"))),
        ("/files/download?", file("old ha", 12)),
        ("/files/download?", file("newer", 5)),
    ];
    let (copied, _) = copy(master(answers).await, &path(&["a"]), &to).await;
    copied.unwrap();
    assert_eq!(fs::read(&to).unwrap(), b"newer");
}

#[tokio::test]
async fn a_file_that_never_arrives_completely_is_not_created() {
    let own = tempfile::tempdir().unwrap();
    let to = own.path().join("copy");
    let answers = vec![
        ("/files/browse?", list(&entry("a", "file"))),
        ("/files/download?", file("half", 8)),
    ];
    let (copied, _) = copy(master(answers).await, &path(&["a"]), &to).await;
    let CopyError::Failed(failure) = copied.unwrap_err() else {
        panic!("it fails");
    };
    assert_eq!(failure.code, FailureCode::Unavailable);
    assert!(failure.message.contains("after 4 of 8 bytes"), "{failure}");
    assert_eq!(fs::read_dir(own.path()).unwrap().count(), 0);
}
