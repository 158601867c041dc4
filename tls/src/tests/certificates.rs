//! Which certificates are accepted, and which error a rejected peer gets.

use std::time::SystemTime;

use argosy_proto::server::callers::AllowedCallers;
use argosy_state::actor::{PrincipalKind, PrincipalName};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls::version::TLS12;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;

use super::*;
use crate::credentials::{CredentialError, Credentials};

const UNTRUSTED: &str = "it does not trust the CA of this process's certificate";
const REJECTED: &str = "it has rejected the certificate of this process";
const EXPIRED: &str = "the certificate of this process has expired, or is not valid yet";

/// Signs a certificate with names and usages that the CA of this crate does not issue.
fn forged(ca: &TestCa, names: &[&str], usages: &[ExtendedKeyUsagePurpose]) -> Issued {
    let issuer_key = KeyPair::from_pem(&ca.new.key).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&ca.new.certificate, issuer_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let uris = names
        .iter()
        .map(|name| SanType::URI((*name).try_into().unwrap()));
    params.subject_alt_names = uris.collect();
    params.extended_key_usages = usages.to_vec();
    Issued {
        certificate: params.signed_by(&key, &issuer).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

fn self_signed(identity: &str) -> Issued {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
    Issued {
        certificate: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

#[tokio::test]
async fn a_port_knows_its_peers_by_their_certificates() {
    let ca = TestCa::new();
    let master = ca.member("argosy://prod/master/m1");
    let api = Echo::start(master.clone(), PortKind::Api, PlaintextPolicy::Rejected).await;
    for (identity, principal) in [
        ("argosy://prod/master/m2", "master/m2"),
        ("argosy://prod/agent/a1", "agent/a1"),
        ("argosy://prod/framework/web", "framework/web"),
        (
            "argosy://prod/operator/alice@example",
            "operator/alice@example",
        ),
    ] {
        call(&client(&ca.member(identity)), &api.address)
            .await
            .unwrap();
        assert_eq!(api.take_peers(), [principal]);
    }
    let browser = client_of(&ca.anonymous(), Application::Http1);
    call(&browser, &api.address).await.unwrap();
    assert_eq!(api.take_peers(), ["unauthenticated"]);

    let raft = Echo::start(master, PortKind::Raft, PlaintextPolicy::Rejected).await;
    let other = client_of(&ca.member("argosy://prod/master/m2"), Application::Raft);
    call(&other, &raft.address).await.unwrap();
    assert_eq!(raft.take_peers(), ["master/m2"]);
}

#[tokio::test]
async fn a_client_without_files_accepts_members_of_its_cluster_only() {
    let ca = TestCa::new();
    let agent = ca.member("argosy://prod/agent/a1");
    // Of another cluster with the same CA.
    let usages = [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let foreign = forged(&ca, &["argosy://stage/agent/a1"], &usages);
    let foreign = load(ca.files(Some(&foreign), &ca.new.certificate));
    let master = ca.member("argosy://prod/master/m1");
    let authorities = agent.current().authorities().to_vec();
    let authorities: Vec<_> = authorities.iter().map(|der| der.to_vec()).collect();
    let expected = ExpectedPeer::any(PrincipalKind::Agent);
    for (server, authorities, is_accepted) in [
        (&agent, authorities.clone(), true),
        (&foreign, authorities.clone(), false),
        (&master, authorities, false),
        (&agent, Vec::new(), false),
    ] {
        let echo = Echo::start(server.clone(), PortKind::Api, PlaintextPolicy::Rejected).await;
        let cluster = ClusterName::new("prod").unwrap();
        let client = Credentials::of_cluster(&authorities, cluster).unwrap();
        let client = dialer::dial_with(Dialer::tcp(), Arc::new(client), Application::Http1);
        let dialed = client.dial(&echo.address, &expected).await;
        assert_eq!(dialed.is_ok(), is_accepted, "{:?}", dialed.err());
    }
    let cluster = ClusterName::new("prod").unwrap();
    Credentials::of_cluster(&[vec![1, 2]], cluster).unwrap_err();
}

#[tokio::test]
async fn a_port_may_require_a_certificate_of_clients_that_are_not_local_users() {
    let ca = TestCa::new();
    let master = ca.member("argosy://prod/master/m1");
    let nobody = AllowedCallers::Users(Arc::new([65_534].into()));
    for (anonymous, plaintext, is_accepted) in [
        (AnonymousClients::All, PlaintextPolicy::Rejected, true),
        (
            AnonymousClients::Local(AllowedCallers::users([])),
            PlaintextPolicy::Rejected,
            true,
        ),
        (
            AnonymousClients::Local(nobody.clone()),
            PlaintextPolicy::Rejected,
            false,
        ),
        (
            AnonymousClients::Local(nobody),
            PlaintextPolicy::Accepted,
            false,
        ),
        (AnonymousClients::None, PlaintextPolicy::Accepted, false),
    ] {
        let port = TlsPort {
            name: "test",
            kind: PortKind::Api,
            plaintext,
            anonymous,
            handshakes: 64,
        };
        let shown = format!("{port:?}");
        let api = Echo::with(master.clone(), port).await;
        let browser = client_of(&ca.anonymous(), Application::Http1);
        let called = call(&browser, &api.address).await;
        assert_eq!(called.is_ok(), is_accepted, "{shown}: {:?}", called.err());
        let mut plain = TcpStream::connect(&api.address).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        plain.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("this port needs TLS"), "{shown}: {answer}");
        let peers = api.take_peers();
        assert_eq!(peers.len(), usize::from(is_accepted), "{shown}: {peers:?}");
        // A certificate is accepted in all modes.
        let operator = client(&ca.member("argosy://prod/operator/alice"));
        call(&operator, &api.address).await.unwrap();
        assert_eq!(api.take_peers(), ["operator/alice"]);
    }
}

#[tokio::test]
async fn clients_with_wrong_certificates_reach_no_port() {
    let ca = TestCa::new();
    let other_ca = TestCa::new();
    let foreign = TestCa::of("test");
    let both = |other: &str| format!("{}{other}", ca.new.certificate);
    let trusting = |own: &Issued, trusted: &str| load(ca.files(Some(own), trusted));
    let past = SystemTime::now() - DAY * 100;
    let future = SystemTime::now() + DAY * 100;
    let at = |begin| {
        let issued = ca.issue_at("argosy://prod/master/m2", begin);
        load_at(ca.files(Some(&issued), &ca.new.certificate), begin + DAY)
    };
    let wrong_ca = other_ca.issue("argosy://prod/master/m2");
    let wrong_cluster = foreign.issue("argosy://test/master/m2");
    let own_ca = self_signed("argosy://prod/master/m2");
    let rows = [
        (
            "wrong CA",
            trusting(&wrong_ca, &both(&other_ca.new.certificate)),
            UNTRUSTED,
        ),
        (
            "self-signed",
            trusting(&own_ca, &both(&own_ca.certificate)),
            UNTRUSTED,
        ),
        ("expired", at(past), EXPIRED),
        ("not valid yet", at(future), EXPIRED),
    ];
    let server = trusting(
        &ca.issue("argosy://prod/master/m1"),
        &both(&foreign.new.certificate),
    );
    for kind in [PortKind::Api, PortKind::Raft] {
        let port = Echo::start(
            ca.member("argosy://prod/master/m1"),
            kind,
            PlaintextPolicy::Rejected,
        )
        .await;
        let application = kind.applications()[0];
        for (row, credentials, expected) in &rows {
            let refused = call(&client_of(credentials, application), &port.address).await;
            let refused = refused.err().unwrap_or_else(|| panic!("{row} is accepted"));
            assert!(refused.contains(expected), "{row}: {refused}");
        }
        assert_eq!(port.take_peers(), Vec::<String>::new());

        // Two clusters that trust one CA reject the members of each other.
        let port = Echo::start(server.clone(), kind, PlaintextPolicy::Rejected).await;
        let credentials =
            load(foreign.files(Some(&wrong_cluster), &both(&foreign.new.certificate)));
        let refused = call(&client_of(&credentials, application), &port.address).await;
        let refused = refused.err().unwrap();
        assert!(
            refused.contains("argosy://prod/master/m1 is not a member of the cluster test"),
            "{refused}"
        );
        assert_eq!(port.take_peers(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_certificate_of_a_server_is_none_of_a_client() {
    let ca = TestCa::new();
    let server = ca.member("argosy://prod/master/m1");
    let port = Echo::start(server, PortKind::Api, PlaintextPolicy::Rejected).await;
    let names = &["argosy://prod/master/m2"];
    let issued = forged(&ca, names, &[ExtendedKeyUsagePurpose::ServerAuth]);
    let config = raw_client(&ca.new.certificate, Some(&issued), Application::Http2);
    let refused = raw_call(config, &port.address).await.unwrap_err();
    assert!(refused.contains("UnsupportedCertificate"), "{refused}");
    assert_eq!(port.take_peers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_server_rejects_members_of_another_cluster_by_itself() {
    let (ca, foreign) = (TestCa::new(), TestCa::of("test"));
    let both = format!("{}{}", ca.new.certificate, foreign.new.certificate);
    let server = load(ca.files(Some(&ca.issue("argosy://prod/master/m1")), &both));
    for kind in [PortKind::Api, PortKind::Raft] {
        let port = Echo::start(server.clone(), kind, PlaintextPolicy::Rejected).await;
        let issued = foreign.issue("argosy://test/master/m1");
        let config = raw_client(&both, Some(&issued), kind.applications()[0]);
        let refused = raw_call(config, &port.address).await.unwrap_err();
        assert!(refused.contains("CertificateUnknown"), "{refused}");
        assert_eq!(port.take_peers(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn only_masters_use_the_raft_port() {
    let ca = TestCa::new();
    let master = ca.member("argosy://prod/master/m1");
    let raft = Echo::start(master, PortKind::Raft, PlaintextPolicy::Rejected).await;
    for kind in ["agent", "framework", "operator"] {
        let member = ca.member(&format!("argosy://prod/{kind}/m2"));
        let refused = call(&client_of(&member, Application::Raft), &raft.address).await;
        let refused = refused.err().unwrap();
        assert!(refused.contains(REJECTED), "{kind}: {refused}");
    }
    let nameless = client_of(&ca.anonymous(), Application::Raft);
    let refused = call(&nameless, &raft.address).await.err().unwrap();
    assert!(refused.contains("it requires a certificate"), "{refused}");
    // A client that was redirected to a port of another protocol is rejected.
    let master = ca.member("argosy://prod/master/m2");
    let refused = call(&client(&master), &raft.address).await.err().unwrap();
    assert!(
        refused.contains("it is a port of another protocol"),
        "{refused}"
    );
    assert_eq!(raft.take_peers(), Vec::<String>::new());
}

#[tokio::test]
async fn masters_compare_the_hosts_of_masters() {
    let ca = TestCa::new();
    let usages = [
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let hostless = forged(&ca, &["argosy://prod/master/m2"], &usages);
    let hostless = load(ca.files(Some(&hostless), &ca.new.certificate));
    let master = ca.member("argosy://prod/master/m1");
    let raft = Echo::start(hostless.clone(), PortKind::Raft, PlaintextPolicy::Rejected).await;
    let refused = call(&client_of(&master, Application::Raft), &raft.address).await;
    let refused = refused.err().unwrap();
    assert!(
        refused.contains("the certificate of master/m2 is not for this host"),
        "{refused}"
    );
    // The server learns the hosts, and compares them with the address of each sender.
    let raft = Echo::start(master, PortKind::Raft, PlaintextPolicy::Rejected).await;
    for (credentials, is_there) in [
        (hostless, false),
        (ca.member("argosy://prod/master/m3"), true),
    ] {
        call(&client_of(&credentials, Application::Raft), &raft.address)
            .await
            .unwrap();
        let peer = raft.last_peer();
        assert_eq!(peer.may_be_at("127.0.0.1:5052"), is_there);
        assert!(!peer.may_be_at("127.0.0.2:5052"));
    }
}

#[tokio::test]
async fn a_client_accepts_only_the_expected_server() {
    let ca = TestCa::new();
    let operator = client(&ca.member("argosy://prod/operator/alice"));
    let expecting = |kind, name: Option<&str>| ExpectedPeer {
        kind,
        name: name.map(|name| PrincipalName::new(name).unwrap()),
    };
    let (agent, master) = (PrincipalKind::Agent, PrincipalKind::Master);
    let server = ca.member("argosy://prod/agent/a1");
    let port = Echo::start(server, PortKind::Api, PlaintextPolicy::Rejected).await;
    for (expected, refusal) in [
        (expecting(agent, None), None),
        (expecting(agent, Some("a1")), None),
        (expecting(agent, Some("a2")), Some("agent/a2")),
        (expecting(master, None), Some("any master")),
        (expecting(master, Some("a1")), Some("master/a1")),
    ] {
        let called = call_expecting(&operator, &port.address, &expected).await;
        let refusal = refusal.map(|expected| {
            format!(
                "no TLS with {}: its certificate is rejected: argosy://prod/agent/a1 is there, and not {expected}",
                port.address
            )
        });
        assert_eq!(called.err(), refusal);
    }
    // The certificate of a client is not valid for a server.
    let server = ca.member("argosy://prod/operator/bob");
    let port = Echo::start(server, PortKind::Api, PlaintextPolicy::Rejected).await;
    let expected = ExpectedPeer::any(PrincipalKind::Operator);
    let refused = call_expecting(&operator, &port.address, &expected).await;
    let refused = refused.err().unwrap();
    assert!(refused.contains("its certificate is rejected"), "{refused}");
}

#[tokio::test]
async fn a_certificate_needs_one_identity() {
    let ca = TestCa::new();
    let server = ca.member("argosy://prod/master/m1");
    let port = Echo::start(server, PortKind::Api, PlaintextPolicy::Rejected).await;
    let usages = [ExtendedKeyUsagePurpose::ClientAuth];
    for names in [
        &[][..],
        &["spiffe://prod/master/m2"],
        &["argosy://prod/master/m2", "argosy://prod/operator/root"],
        &["argosy://prod/root/m2"],
        &["ARGOSY://prod/master/m2"],
    ] {
        let issued = forged(&ca, names, &usages);
        let config = raw_client(&ca.new.certificate, Some(&issued), Application::Http2);
        let refused = raw_call(config, &port.address).await.unwrap_err();
        assert!(
            refused.contains("CertificateUnknown"),
            "{names:?}: {refused}"
        );
        let own = CredentialStore::load(
            ca.files(Some(&issued), &ca.new.certificate),
            UnixTime::now(),
        );
        assert!(matches!(own, Err(CredentialError::Unusable { .. })));
    }
    assert_eq!(port.take_peers(), Vec::<String>::new());
}

#[tokio::test]
async fn tls_1_2_is_refused_in_both_directions() {
    let ca = TestCa::new();
    let server = ca.member("argosy://prod/master/m1");
    let port = Echo::start(server, PortKind::Api, PlaintextPolicy::Rejected).await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for one in pem_certificates(&ca.new.certificate) {
        roots.add(one).unwrap();
    }
    let old = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let refused = raw_call(old, &port.address).await.unwrap_err();
    assert!(refused.contains("ProtocolVersion"), "{refused}");
    assert_eq!(port.take_peers(), Vec::<String>::new());

    let issued = ca.issue("argosy://prod/master/m1");
    let old = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(pem_certificates(&issued.certificate), pem_key(&issued.key))
        .unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let (stream, _) = socket.accept().await.unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(old));
        assert!(acceptor.accept(stream).await.is_err());
    });
    let operator = client(&ca.member("argosy://prod/operator/alice"));
    let refused = call(&operator, &address).await.err().unwrap();
    assert!(refused.contains("it does not accept TLS 1.3"), "{refused}");
    server.join_next().await.unwrap().unwrap();
}

/// Returns a client that verifies no server, so that only the server decides.
fn raw_client(trusted: &str, own: Option<&Issued>, application: Application) -> ClientConfig {
    use crate::peers::ServerVerifier;

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for one in pem_certificates(trusted) {
        roots.add(one).unwrap();
    }
    let verifier = ServerVerifier {
        roots: Arc::new(roots),
        provider: provider.clone(),
        cluster: None,
        expected: ExpectedPeer::MASTER,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => builder
            .with_client_auth_cert(pem_certificates(&own.certificate), pem_key(&own.key))
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![application.name().to_vec()];
    config
}

async fn raw_call(config: ClientConfig, address: &str) -> Result<(), String> {
    let calling = async {
        let stream = tokio::net::TcpStream::connect(address).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "localhost".try_into().unwrap();
        let stream = connector.connect(name, stream).await?;
        exchange(&mut Connection::new(stream)).await
    };
    let called: std::io::Result<()> = tokio::time::timeout(TIMEOUT, calling).await.unwrap();
    called.map_err(|error| error.to_string())
}

fn pem_certificates(text: &str) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject as _;
    let found = rustls::pki_types::CertificateDer::pem_slice_iter(text.as_bytes());
    found.collect::<Result<_, _>>().unwrap()
}

fn pem_key(text: &str) -> rustls::pki_types::PrivateKeyDer<'static> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap()
}
