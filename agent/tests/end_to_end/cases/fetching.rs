//! A fetch that takes its time, as its task's status tells of it.

use std::sync::Arc;

use argosy_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::{code, state};
use crate::host::Host;
use crate::master::{Master, shell};

const HALF: usize = 1 << 20;

/// Serves one file of 2 MiB: half of it at once, and the rest when it is let.
async fn serve(rest: Arc<Notify>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 2 * HALF);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; HALF]).await.unwrap();
        rest.notified().await;
        stream.write_all(&vec![b'x'; HALF]).await.unwrap();
    });
    format!("http://{address}/large")
}

pub(super) async fn a_fetch_that_takes_long_says_in_its_tasks_status_how_far_it_is() {
    let (host, mut master) = (Host::new(), Master::start().await);
    let agent = host.agent(master.address).await;
    let (mut link, _) = master.registered(true).await;
    let rest = Arc::new(Notify::new());
    let value = serve(Arc::clone(&rest)).await;
    let spec = v1::TaskSpec {
        uris: vec![v1::Uri {
            value: value.clone(),
            ..v1::Uri::default()
        }],
        ..shell("t", "wc -c < large; exit 4")
    };
    link.launch(1, spec).await;
    let expected = format!("fetching {value}: 1.0 MiB of 2.0 MiB");
    let updates = link.until("t", |update| update.text == expected).await;
    assert_eq!(state(updates.last().unwrap()), v1::TaskState::Starting);
    rest.notify_one();
    let updates = link.end_of("t").await;
    assert_eq!(code(updates.last().unwrap()), Some(v1::exit::How::Code(4)));
    agent.is_clear().await;
    agent.stop().await;
}
