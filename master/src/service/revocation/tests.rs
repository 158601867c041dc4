//! Tests of answers whose caller's credential ends.

use argosy_state::access::{KeyHash, RevokedKey};
use argosy_state::actor::Actor;
use futures::{FutureExt as _, StreamExt as _};
use tonic::Code;

use super::super::forwarded_caller::is_forwarding_key_refused;
use super::*;

const KEY: KeyHash = KeyHash([7; 32]);

/// A body of a known size that has sent a part of it.
struct Download {
    sent: bool,
}

impl HttpBody for Download {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match std::mem::replace(&mut self.sent, true) {
            false => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"part"))))),
            true => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(1_000)
    }
}

/// Returns the next frame of a body.
async fn next(body: &mut Body) -> Option<Result<Frame<Bytes>, axum::Error>> {
    std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
}

impl WatchedCredential {
    /// Returns the credential of a key, and how it is revoked.
    pub(crate) fn of_key_for_tests() -> (impl Fn(), Self) {
        let (facts, credential) = watched();
        (move || revoke(&facts), credential)
    }
}

fn watched() -> (watch::Sender<AccessFacts>, WatchedCredential) {
    let (facts, access) = watch::channel(AccessFacts::default());
    let credential = WatchedCredential {
        access,
        principal: Some("operator/olga".parse().unwrap()),
        credential: Credential::Key(KEY),
        clock: WallClock::system(),
        forwards: false,
    };
    (facts, credential)
}

fn revoke(facts: &watch::Sender<AccessFacts>) {
    let revoked = RevokedKey {
        revoked_wall_ms: 0,
        revoked_by: Actor::default(),
    };
    facts.send_modify(|facts| drop(facts.revoked.insert(KEY, revoked)));
}

#[tokio::test]
async fn a_download_of_a_known_size_ends_when_its_caller_is_revoked() {
    let (facts, credential) = watched();
    let download = Response::new(Body::new(Download { sent: false }));
    let mut body = until_revoked(download, Some(credential)).into_body();
    assert_eq!(body.size_hint().exact(), Some(1_000));
    let first = next(&mut body).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "part");
    assert!(next(&mut body).now_or_never().is_none());
    revoke(&facts);
    let end = next(&mut body).now_or_never().expect("it ends at once");
    end.unwrap().unwrap_err();
    assert!(next(&mut body).await.is_none());
}

#[tokio::test]
async fn a_call_ends_as_unavailable_only_if_its_forwarding_master_is_revoked() {
    for (peer, is_forwarded, code) in [
        ("master/m1", true, Code::Unavailable),
        ("master/m1", false, Code::Unauthenticated),
        ("operator/olga", true, Code::Unauthenticated),
    ] {
        let (facts, _) = watched();
        let peer = PeerIdentity::authenticated(peer.parse().unwrap(), None)
            .with_credential(Credential::Key(KEY));
        let watch = || {
            let (access, clock) = (facts.subscribe(), WallClock::system());
            WatchedCredential::of_peer(access, clock, &peer, is_forwarded)
        };
        let credential = watch().unwrap();
        let answer = Response::builder().header("content-type", "application/grpc");
        let answer = answer.body(Body::new(Download { sent: false })).unwrap();
        let mut body = until_revoked(answer, credential).into_body();
        revoke(&facts);
        let end = next(&mut body).await.unwrap().unwrap();
        let ended = Status::from_header_map(end.trailers_ref().unwrap()).unwrap();
        // The next call is refused when it begins.
        for status in [ended, watch().err().unwrap()] {
            assert_eq!(status.code(), code, "{status}");
            let is_marked = is_forwarding_key_refused(&status);
            assert_eq!(is_marked, code == Code::Unavailable, "{status}");
        }
    }
}

#[tokio::test]
async fn a_caller_whose_credential_is_refused_gets_the_reason() {
    let (facts, credential) = watched();
    revoke(&facts);
    for (code, is_whole) in [(StatusCode::UNAUTHORIZED, true), (StatusCode::OK, false)] {
        let answer = Response::builder().status(code).body(Body::from("reason"));
        let answer = until_revoked(answer.unwrap(), Some(credential.clone()));
        let whole = axum::body::to_bytes(answer.into_body(), 1 << 10).await;
        assert_eq!(whole.is_ok(), is_whole, "{code}");
    }
}

/// Time within which an answer must end after its caller is revoked.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn output_that_is_followed_ends_within_a_second_when_its_caller_is_revoked() {
    let (facts, credential) = watched();
    let parts = futures::stream::iter(["line"]).map(Ok::<_, std::io::Error>);
    let output = Body::from_stream(parts.chain(futures::stream::pending()));
    let output = until_revoked(Response::new(output), Some(credential));
    let mut body = output.into_body();
    let first = next(&mut body).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "line");
    // It waits for more output when the key is revoked.
    let reader = tokio::spawn(async move { next(&mut body).await });
    tokio::task::yield_now().await;
    revoke(&facts);
    let end = tokio::time::timeout(REVOKED_WITHIN, reader).await;
    end.expect("it ends in time").unwrap().unwrap().unwrap_err();
}

#[tokio::test]
async fn an_answer_in_memory_is_the_same_with_a_credential() {
    let (_facts, credential) = watched();
    let answer = Response::new(Body::from("whole"));
    let answer = until_revoked(answer, Some(credential)).into_body();
    assert_eq!(answer.size_hint().exact(), Some(5));
    let frames = answer.into_data_stream().collect::<Vec<_>>().await;
    assert_eq!(frames.len(), 1);
    let (_facts, credential) = watched();
    let empty = until_revoked(Response::new(Body::empty()), Some(credential));
    assert!(empty.body().is_end_stream());
}
