//! Tests of the flags, and of connections over real sockets.

mod revocation;

use std::path::Path;

use argosy_client::Masters;
use argosy_proto::server::PortLimits;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ca::tests::Place;
use crate::operator::ClusterClient;

/// Returns the flags that name these files.
fn flags(directory: &Path, name: &str) -> ServiceTls {
    ServiceTls {
        tls_cert: Some(directory.join(format!("{name}.crt"))),
        tls_key: Some(directory.join(format!("{name}.key"))),
        tls_ca: Some(directory.join("ca/ca.crt")),
        ..ServiceTls::default()
    }
}

fn client_flags(directory: &Path, name: Option<&str>) -> ClientTls {
    let own = |end: &str| name.map(|name| directory.join(format!("{name}.{end}")));
    ClientTls {
        tls_ca: Some(directory.join("ca/ca.crt")),
        tls_cert: own("crt"),
        tls_key: own("key"),
    }
}

fn refused(flags: &ServiceTls, kind: PrincipalKind) -> String {
    ServiceTransport::new(flags, kind, &[])
        .unwrap_err()
        .to_string()
}

/// Returns a directory with a CA, a master at 127.0.0.1, an agent and a person.
fn place() -> Place {
    let place = Place::with_ca();
    for words in [
        "issue master/m1 --host 127.0.0.1 --ca @/ca --dir @",
        "issue agent/a1 --ca @/ca --dir @",
        "issue operator/alice --ca @/ca --dir @",
    ] {
        place.run(words).unwrap();
    }
    place
}

#[test]
fn a_service_needs_certificates_or_an_explicit_opt_out() {
    let none = ServiceTls::default();
    let text = refused(&none, PrincipalKind::Master);
    for part in [
        "no certificate",
        "argosy ca issue master/NAME",
        "--insecure-plaintext",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let plain = ServiceTls {
        insecure_plaintext: true,
        ..none.clone()
    };
    let chosen = ServiceTransport::new(&plain, PrincipalKind::Agent, &[]).unwrap();
    assert!(matches!(chosen, ServiceTransport::Plaintext));
    let both = ServiceTls {
        tls: TlsMode::Optional,
        ..plain
    };
    assert!(refused(&both, PrincipalKind::Agent).contains("--insecure-plaintext excludes"));
    let incomplete = ServiceTls {
        tls_key: Some("key".into()),
        ..none
    };
    let text = refused(&incomplete, PrincipalKind::Agent);
    let expected = "TLS also needs --tls-cert and --tls-ca";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_certificate_is_for_the_kind_and_the_host_of_its_process() {
    let place = place();
    let directory = place.path("");
    let text = refused(&flags(&directory, "agent-a1"), PrincipalKind::Master);
    assert!(text.contains("argosy://prod/agent/a1"), "{text}");
    assert!(text.contains("argosy ca issue master/NAME"), "{text}");
    let with_plaintext = ServiceTls {
        insecure_plaintext: true,
        ..flags(&directory, "agent-a1")
    };
    let text = refused(&with_plaintext, PrincipalKind::Agent);
    assert!(text.contains("--insecure-plaintext excludes"), "{text}");

    let master = ServiceTransport::new(&flags(&directory, "master-m1"), PrincipalKind::Master, &[]);
    let master = master.unwrap();
    master.check_raft_address("127.0.0.1:5052").unwrap();
    let failure = master.check_raft_address("10.0.0.1:5052").unwrap_err();
    assert!(failure.to_string().contains("--host 10.0.0.1"), "{failure}");
    let plain = ServiceTransport::Plaintext;
    plain.check_raft_address("10.0.0.1:5052").unwrap();
}

#[test]
fn a_client_names_all_files_or_none() {
    let refused = |flags: &ClientTls| ClientTransport::new(flags).unwrap_err().to_string();
    ClientTransport::new(&ClientTls::default()).unwrap();
    let own = ClientTls {
        tls_cert: Some("a.crt".into()),
        ..ClientTls::default()
    };
    assert!(refused(&own).contains("TLS also needs --tls-key"));
    let own = ClientTls {
        tls_key: Some("a.key".into()),
        ..own
    };
    assert!(refused(&own).contains("TLS also needs --tls-ca"));
    let absent = ClientTls {
        tls_ca: Some("/nonexistent/ca.crt".into()),
        ..ClientTls::default()
    };
    assert!(refused(&absent).contains("cannot read /nonexistent/ca.crt"));
}

/// Serves `/healthz` with this transport, and returns the address.
async fn served(transport: &ServiceTransport, stop: &CancellationToken) -> String {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let port = ("api", PortKind::Api);
    let listener = transport.listener(Listener::tcp(socket), port, Handle::current());
    let router = Router::new().route("/healthz", get(async || "ok"));
    let limits = PortLimits::of_descriptors("test", 4_096);
    let serving = argosy_proto::server::serve(listener, router, limits, stop.clone());
    tokio::spawn(serving);
    address
}

async fn ask(client: &ClientTransport, address: &str) -> Result<u16, String> {
    let asked = Request::get("/healthz").body(Body::empty()).unwrap();
    let http = client.http(Duration::from_secs(60));
    let answer = http.send(address, MASTER, asked).await;
    answer
        .map(|answer| answer.status().as_u16())
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn clients_with_and_without_an_identity_reach_a_master_over_tls() {
    let place = place();
    let directory = place.path("");
    let stop = CancellationToken::new();
    let own = flags(&directory, "master-m1");
    let master = ServiceTransport::new(&own, PrincipalKind::Master, &[]).unwrap();
    let address = served(&master, &stop).await;
    for name in [None, Some("operator-alice")] {
        let client = ClientTransport::new(&client_flags(&directory, name)).unwrap();
        assert_eq!(ask(&client, &address).await, Ok(200), "{name:?}");
    }
    // Plaintext gets an answer that names the remedy, in its own protocol.
    let plain = ClientTransport::plaintext();
    assert_eq!(ask(&plain, &address).await, Ok(400));
    // The reverse.
    let plain = served(&ServiceTransport::Plaintext, &stop).await;
    let client = ClientTransport::new(&client_flags(&directory, None)).unwrap();
    let refused = ask(&client, &plain).await.unwrap_err();
    assert!(refused.contains("speaks plaintext"), "{refused}");
    // An agent is no master.
    let agent = ServiceTransport::new(&flags(&directory, "agent-a1"), PrincipalKind::Agent, &[]);
    let address = served(&agent.unwrap(), &stop).await;
    let refused = ask(&client, &address).await.unwrap_err();
    assert!(refused.contains("argosy://prod/agent/a1"), "{refused}");
    stop.cancel();
}

#[tokio::test]
async fn in_the_optional_mode_both_ends_may_have_no_tls() {
    let place = place();
    let directory = place.path("");
    let stop = CancellationToken::new();
    let optional = ServiceTls {
        tls: TlsMode::Optional,
        ..flags(&directory, "master-m1")
    };
    let moving = ServiceTransport::new(&optional, PrincipalKind::Master, &[]).unwrap();
    let address = served(&moving, &stop).await;
    let trusting = ClientTransport::new(&client_flags(&directory, None)).unwrap();
    assert_eq!(ask(&trusting, &address).await, Ok(200));
    let plaintext = ClientTransport::plaintext();
    assert_eq!(ask(&plaintext, &address).await, Ok(200));
    let plain = served(&ServiceTransport::Plaintext, &stop).await;
    assert_eq!(ask(&moving.client(), &plain).await, Ok(200));
    stop.cancel();
}

#[tokio::test]
async fn a_master_that_does_not_listen_is_known_at_once_over_tls() {
    let place = place();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap().to_string();
    drop(gone);
    let masters = Masters::new([&address]).unwrap();
    let transport = ClientTransport::new(&client_flags(&place.path(""), None)).unwrap();
    // A retry until this timeout would not end.
    let timeout = Duration::from_secs(86_400);
    let operator = ClusterClient::of_running(masters, timeout, transport);
    let failure = operator.none_listens().await.unwrap();
    let expected = format!("no master answers: {address} refused");
    assert_eq!(failure.message, expected);
}
