//! Tests over real connections: which callers are accepted, and the messages to the others.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::server::{self, PortLimits};
use crate::transport::Listener;

/// Starts a server of one guarded route and an open one, at a new port of this address.
async fn serve(callers: AllowedCallers, address: &str) -> SocketAddr {
    serve_as(callers, address, None).await
}

/// The same, with each peer proven to be this one.
async fn serve_as(callers: AllowedCallers, address: &str, peer: Option<&str>) -> SocketAddr {
    let guarded = Router::new().route("/guarded", get(|| async { "in\n" }));
    let router = callers
        .guard_master(ApiPart::Files, guarded)
        .route("/open", get(|| async { "open\n" }));
    serve_router(router, address, peer).await
}

async fn serve_router(router: Router, address: &str, peer: Option<&str>) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let at = listener.local_addr().unwrap();
    let peer = peer.map(|peer| PeerIdentity::authenticated(peer.parse().unwrap(), None));
    let connections = futures::stream::unfold(Listener::tcp(listener), move |mut listener| {
        let peer = peer.clone();
        async move {
            let (connection, found) = listener.accept().await;
            Some((Ok((connection, peer.unwrap_or(found))), listener))
        }
    });
    let served = server::serve(
        Listener::new(connections),
        router,
        PortLimits::of_this_process("callers"),
        CancellationToken::new(),
    );
    tokio::spawn(served);
    at
}

/// Returns the answer to one request, status line included.
async fn ask(stream: &mut TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn fetch(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).await.unwrap();
    ask(&mut stream, path).await
}

/// Returns users that do not include the one of this process.
fn others() -> AllowedCallers {
    let own = nix::unistd::geteuid().as_raw();
    AllowedCallers::Users(Arc::new([own + 1].into()))
}

#[tokio::test]
async fn the_user_of_the_server_is_allowed_at_every_address_of_the_host() {
    for address in ["127.0.0.1:0", "[::1]:0", "127.77.3.2:0"] {
        let at = serve(AllowedCallers::users([]), address).await;
        let answer = fetch(at, "/guarded").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{address}: {answer}");
    }
    // All addresses of both families, reached over IPv4.
    let at = serve(AllowedCallers::users([]), "[::]:0").await;
    let older = SocketAddr::from(([127, 0, 0, 1], at.port()));
    assert!(fetch(older, "/guarded").await.starts_with("HTTP/1.1 200"));
}

/// As gRPC and Java open it: for both versions of IP, with mapped addresses.
#[tokio::test]
async fn the_user_of_the_server_is_allowed_by_a_socket_of_both_versions_of_ip() {
    let at = serve(AllowedCallers::users([]), "127.0.0.1:0").await;
    let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), at.port()));
    assert!(fetch(mapped, "/guarded").await.ends_with("in\n"));
    let nobody = serve(others(), "127.0.0.1:0").await;
    let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), nobody.port()));
    assert!(fetch(mapped, "/guarded").await.starts_with("HTTP/1.1 403 "));
}

#[tokio::test]
async fn another_user_is_rejected_with_a_message_but_may_use_other_paths() {
    let at = serve(others(), "127.0.0.1:0").await;
    let answer = fetch(at, "/guarded").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let own = nix::unistd::geteuid();
    for part in [
        "\"code\":\"PermissionDenied\"".to_owned(),
        format!("to user {own} of this host"),
        format!("--api-user {own}"),
        "--allow-files".to_owned(),
    ] {
        assert!(answer.contains(&part), "{part}: {answer}");
    }
    assert!(fetch(at, "/open").await.starts_with("HTTP/1.1 200"));
    let named = AllowedCallers::users([nix::unistd::geteuid().as_raw() + 1]);
    assert!(named.check(None).is_err());
}

#[tokio::test]
async fn masters_and_operators_with_a_proven_identity_are_allowed_from_everywhere() {
    for (peer, status) in [
        ("master/m1", "200"),
        ("operator/alice", "200"),
        ("agent/a1", "403"),
        ("framework/web", "403"),
    ] {
        let at = serve_as(others(), "127.0.0.1:0", Some(peer)).await;
        let answer = fetch(at, "/guarded").await;
        let expected = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&expected), "{peer}: {answer}");
    }
}

/// Adds what a ticket proves to requests that name one.
async fn with_ticket(mut request: Request, next: Next) -> Response {
    if request.uri().query() == Some("ticket") {
        let holder = TicketHolder(Actor::Unauthenticated);
        request.extensions_mut().insert(holder);
    }
    next.run(request).await
}

#[tokio::test]
async fn an_agent_accepts_masters_and_holders_of_tickets_and_shows_its_state_to_members() {
    for (peer, tasks, state) in [
        (Some("master/m1"), "200", "200"),
        (Some("operator/alice"), "403", "200"),
        (Some("agent/a1"), "403", "200"),
        (Some("framework/web"), "403", "200"),
        (None, "403", "403"),
    ] {
        let parts = [
            ("/exec", ApiPart::Exec, tasks),
            ("/files", ApiPart::Files, tasks),
            ("/log", ApiPart::LogLevel, tasks),
            ("/containers", ApiPart::Containers, tasks),
            ("/state", ApiPart::Status, state),
        ];
        let router = parts.iter().fold(Router::new(), |router, (path, part, _)| {
            let guarded = Router::new().route(path, get(|| async { "in\n" }));
            router.merge(others().guard_agent(*part, guarded))
        });
        let router = router.layer(middleware::from_fn(with_ticket));
        let at = serve_router(router, "127.0.0.1:0", peer).await;
        for (path, _, status) in parts {
            let answer = fetch(at, path).await;
            let expected = format!("HTTP/1.1 {status}");
            assert!(answer.starts_with(&expected), "{peer:?} {path}: {answer}");
            let answer = fetch(at, &format!("{path}?ticket")).await;
            assert!(
                answer.starts_with("HTTP/1.1 200"),
                "{peer:?} {path}: {answer}"
            );
        }
    }
}

#[test]
fn a_ticket_is_issued_to_the_callers_that_the_master_would_serve() {
    let access = ApiAccess {
        exec: others(),
        files: AllowedCallers::All,
        status: others(),
    };
    let peer = |name: &str| PeerIdentity::authenticated(name.parse().unwrap(), None);
    let check = |part, peer: Option<&PeerIdentity>| access.check(part, peer, None);
    assert_eq!(check(ApiPart::Exec, Some(&peer("operator/a"))), Ok(()));
    assert_eq!(check(ApiPart::Files, None), Ok(()));
    for caller in [None, Some(&peer("framework/a")), Some(&peer("agent/a"))] {
        let refused = check(ApiPart::Exec, caller).unwrap_err();
        assert!(refused.starts_with("exec and attach are closed on this master"));
        assert_eq!(check(ApiPart::Status, caller).is_ok(), caller.is_some());
    }
}

#[tokio::test]
async fn a_closed_connection_has_no_owner_and_is_not_root() {
    // Only root is accepted, and the kernel reports root for connections that processes have
    // closed.
    let root = AllowedCallers::Users(Arc::new([0].into()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let check = async |close: fn(TcpStream) -> Option<TcpStream>| {
        let client = TcpStream::connect(at).await.unwrap();
        let (accepted, peer) = listener.accept().await.unwrap();
        let kept = close(client);
        // The end of the stream arrives.
        let mut end = accepted;
        assert_eq!(end.read(&mut [0; 1]).await.unwrap(), 0);
        let ends = Some(ConnectionAddresses { peer, own: at });
        let first = root.check(ends);
        // Both have closed: the kernel holds the rest.
        drop(end);
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(kept);
        [first, root.check(ends)]
    };
    let closed = check(|client| {
        drop(client);
        None
    });
    let closed = closed.await;
    let half = check(|client| {
        let client = client.into_std().unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        Some(TcpStream::from_std(client).unwrap())
    });
    for result in closed.into_iter().chain(half.await) {
        assert!(
            matches!(result, Err(CallerRejection::Unknown(_))),
            "{result:?}"
        );
    }
}

#[test]
fn remote_callers_are_rejected_unless_all_are_allowed() {
    // From RFC 5737 and RFC 3849: addresses for documentation.
    let six = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
    let elsewhere = [
        ([198, 51, 100, 1].into(), [198, 51, 100, 2].into()),
        ([198, 51, 100, 1].into(), [128, 0, 0, 1].into()),
        (six(1).into(), six(2).into()),
        (
            Ipv4Addr::new(198, 51, 100, 1).to_ipv6_mapped().into(),
            [198, 51, 100, 2].into(),
        ),
    ];
    for (own, peer) in elsewhere {
        let peer = SocketAddr::new(peer, 40_000);
        let own = SocketAddr::new(own, 5_051);
        let ends = Some(ConnectionAddresses { peer, own });
        let result = AllowedCallers::users([]).check(ends);
        assert!(matches!(result, Err(CallerRejection::Remote)), "{result:?}");
        AllowedCallers::All.check(ends).unwrap();
    }
    assert!(matches!(
        AllowedCallers::users([]).check(None),
        Err(CallerRejection::Remote)
    ));
    // No process has connected from there.
    let gone = Some(ConnectionAddresses {
        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        own: SocketAddr::from(([127, 0, 0, 1], 2)),
    });
    let result = AllowedCallers::users([]).check(gone);
    assert!(
        matches!(result, Err(CallerRejection::Unknown(_))),
        "{result:?}"
    );
}
