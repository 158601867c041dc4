//! Tests with servers that stall, and servers that are slow.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::{DownloadClient, Fetcher, fetch, fs, settings, uri, with, without_tls};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n";

/// Starts a server that reads each request and then runs `answer` on the connection.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    answer: impl Fn(TcpStream) -> F + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            answer(stream).await;
        }
    });
    format!("http://{address}/file")
}

/// Returns a fetcher with this timeout for a silent server, and without retries.
fn patient_for(stall_limit: Duration) -> Fetcher {
    let mut downloads = DownloadClient::new(&settings(1_000), without_tls).unwrap();
    (downloads.stall_limit, downloads.retry_for) = (stall_limit, Duration::ZERO);
    with(downloads, 1_000, None)
}

#[tokio::test]
async fn a_stalled_server_times_out_before_and_within_a_file() {
    for sent in [
        &b""[..],
        HEAD,
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
    ] {
        let value = serve(move |mut stream| async move {
            stream.write_all(sent).await.unwrap();
            // Until the client closes the connection.
            let _ = stream.read(&mut [0; 1]).await;
        })
        .await;
        let limit = Duration::from_millis(300);
        let fetching = fetch(&patient_for(limit), uri(value.clone())).await;
        let (sandbox, result) = fetching;
        let why = result.unwrap_err();
        let expected = format!("cannot fetch {value:?}: nothing came for 300ms");
        assert_eq!(why, expected);
        assert_eq!(fs::read_dir(sandbox.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn a_slow_steady_server_does_not_time_out() {
    let value = serve(|mut stream| async move {
        stream.write_all(HEAD).await.unwrap();
        for byte in b"0123456789" {
            tokio::time::sleep(Duration::from_millis(400)).await;
            stream.write_all(&[*byte]).await.unwrap();
        }
    })
    .await;
    let limit = Duration::from_secs(3);
    let begun = Instant::now();
    let (sandbox, result) = fetch(&patient_for(limit), uri(value)).await;
    result.unwrap();
    assert!(
        begun.elapsed() > limit,
        "all of it takes longer than the limit"
    );
    let file = fs::read_to_string(sandbox.path().join("file")).unwrap();
    assert_eq!(file, "0123456789");
}
