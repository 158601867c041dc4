//! Tests with masters that do not answer, send garbage or do not exist, and with connections that
//! fail silently.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use argosy_proto::v1;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::config::CONNECT_TIMEOUT;
use super::*;
use crate::OperatorClient;
use crate::leader::NoMaster;

fn masters(cluster: &argosy_fakes::FakeCluster) -> Masters {
    Masters::new(cluster.addresses()).unwrap()
}

fn client(masters: &str, dialer: Dialer) -> OperatorClient {
    let config = ConnectorConfig { dialer, seed: 3 };
    OperatorClient::new(Connector::new(masters.parse().unwrap(), config))
}

#[tokio::test]
async fn unresponsive_masters_are_named_with_the_waiting_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let client = client(&address.to_string(), Dialer::tcp());
    let short = client.with_deadline(Duration::from_millis(200));
    let error = short
        .get_cluster(v1::GetClusterRequest::default())
        .await
        .unwrap_err();
    let CallError::Unanswered { after_ms, causes } = &error else {
        panic!("not unanswered: {error:?}");
    };
    assert_eq!(*after_ms, 200);
    assert!(
        matches!(causes.causes[..], [(_, MasterFailure::TimedOut(_))]),
        "{causes}"
    );
}

/// Returns a dialer for TCP that simulates a firewall which drops its connections: once `is_dead`
/// is sent, no data passes on those that are open, and none of them ends.
fn mortal_dialer(is_dead: &Arc<watch::Sender<bool>>) -> Dialer {
    let dead = is_dead.clone();
    Dialer::new(move |address, _| {
        let mut dies = dead.subscribe();
        async move {
            let (near, mut far) = tokio::io::duplex(1 << 16);
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            tokio::spawn(async move {
                let mut dead = std::pin::pin!(dies.changed());
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut far, &mut stream) => {}
                    _ = &mut dead => std::future::pending().await,
                }
            });
            let peer = PeerIdentity::unauthenticated(None);
            Ok((Connection::new(near), peer))
        }
    })
}

/// Returns whether a call gets a response before its deadline. The fake master rejects the call as
/// unsupported.
async fn is_answered(connector: &Connector, deadline: Duration) -> bool {
    let client = OperatorClient::new(connector.clone()).with_deadline(deadline);
    let answer = client.get_cluster(v1::GetClusterRequest::default()).await;
    matches!(answer, Err(CallError::Refused(_)))
}

#[tokio::test]
async fn a_connection_that_fell_silent_makes_all_others_suspect() {
    let cluster = argosy_fakes::FakeCluster::start(2).await;
    let is_dead = Arc::new(watch::Sender::new(false));
    let dialer = mortal_dialer(&is_dead);
    let config = ConnectorConfig { dialer, seed: 3 };
    let connector = Connector::new(masters(&cluster), config);
    let ask = async |deadline| is_answered(&connector, deadline).await;
    for address in cluster.addresses() {
        connector.known(|known| known.likely_leader = Some(address.clone()));
        assert!(ask(DEFAULT_DEADLINE).await);
    }
    is_dead.send_replace(true);
    assert!(!ask(QUIET_TIME).await);
    // The other master is called, and not over the connection that was open before: that would take
    // all the remaining time.
    connector.known(|known| known.likely_leader = Some(cluster.addresses()[0].clone()));
    assert!(ask(ATTEMPT_TIMEOUT).await);
}

/// As after a cut of the network at the first call to a master.
#[tokio::test]
async fn a_dead_connection_to_a_master_that_has_not_answered_is_replaced() {
    let cluster = argosy_fakes::FakeCluster::start(1).await;
    let is_dead = Arc::new(watch::Sender::new(false));
    let dialer = mortal_dialer(&is_dead);
    let connector = Connector::new(masters(&cluster), ConnectorConfig { dialer, seed: 3 });
    assert!(is_answered(&connector, DEFAULT_DEADLINE).await);
    connector.known(|known| known.responsive.clear());
    is_dead.send_replace(true);
    assert!(is_answered(&connector, DEFAULT_DEADLINE).await);
}

/// Simulates a network that fails, and works again before the next call.
#[tokio::test]
async fn a_call_does_not_fail_because_an_earlier_one_could_not_connect() {
    let cluster = argosy_fakes::FakeCluster::start(1).await;
    let address = cluster.addresses()[0].clone();
    let attempts = AtomicUsize::new(0);
    let dialer = Dialer::new(move |address, _| {
        let is_lost = attempts.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if is_lost {
                std::future::pending::<()>().await;
            }
            let stream = tokio::net::TcpStream::connect(address).await?;
            let peer = PeerIdentity::unauthenticated(None);
            Ok((Connection::new(stream), peer))
        }
    });
    let config = ConnectorConfig { dialer, seed: 3 };
    let connector = Connector::new(masters(&cluster), config);
    let client = OperatorClient::new(connector.clone());
    let hasty = client.clone().with_deadline(QUIET_TIME);
    let answer = hasty.get_cluster(v1::GetClusterRequest::default()).await;
    assert!(!matches!(answer, Err(CallError::Refused(_))), "{answer:?}");
    tokio::time::sleep(CONNECT_TIMEOUT).await;
    connector.known(|known| known.avoided.clear());
    let answer = client.get_cluster(v1::GetClusterRequest::default()).await;
    assert!(matches!(answer, Err(CallError::Refused(_))), "{answer:?}");
    assert!(!connector.is_avoided(&address), "its first answer counts");
}

#[tokio::test]
async fn an_unknown_master_gets_less_time_than_a_responsive_one() {
    let cluster = argosy_fakes::FakeCluster::start(1).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    let masters = format!("{silent},{}", cluster.addresses()[0]);
    let config = ConnectorConfig {
        dialer: Dialer::new(|address, _| async move {
            let stream = tokio::net::TcpStream::connect(address).await;
            // Simulates a host that does not exist.
            let Ok(stream) = stream else {
                return std::future::pending().await;
            };
            let peer = PeerIdentity::unauthenticated(None);
            Ok((Connection::new(stream), peer))
        }),
        seed: 3,
    };
    let connector = Connector::new(masters.parse().unwrap(), config);
    let client = OperatorClient::new(connector.clone()).with_deadline(ATTEMPT_TIMEOUT);
    let ask = async || client.get_cluster(v1::GetClusterRequest::default()).await;
    connector.known(|known| known.likely_leader = Some(silent.clone()));
    assert!(matches!(ask().await, Err(CallError::Refused(_))));
    connector.known(|known| {
        known.avoided.clear();
        known.likely_leader = Some(silent.clone());
        known.responsive.insert(silent.clone());
    });
    let unanswered = ask().await;
    assert!(
        !matches!(unanswered, Err(CallError::Refused(_))),
        "one that was heard before gets {ATTEMPT_TIMEOUT:?}: {unanswered:?}"
    );
}

/// A master that is busy with the handshakes of many clients must not get more of them.
#[tokio::test]
async fn the_connection_to_a_master_that_has_not_answered_yet_is_kept() {
    let busy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&busy.local_addr().unwrap().to_string(), Dialer::tcp());
    let several_attempts = FIRST_ATTEMPT * 3;
    let client = client.with_deadline(several_attempts);
    let answer = client.get_cluster(v1::GetClusterRequest::default()).await;
    assert!(matches!(answer, Err(CallError::Unanswered { .. })));
    assert!(busy.accept().await.is_ok());
    let second = tokio::time::timeout(QUIET_TIME, busy.accept()).await;
    assert!(second.is_err(), "there is one connection");
}

#[tokio::test]
async fn a_malformed_answer_is_an_error_and_not_a_panic() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let garbage = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 no\r\n\r\n").await;
        }
    });
    let client = client(&address.to_string(), Dialer::tcp());
    let short = client.with_deadline(Duration::from_millis(200));
    let error = short
        .get_cluster(v1::GetClusterRequest::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    garbage.abort();
}

#[tokio::test]
async fn a_custom_dialer_opens_all_streams_and_unsent_calls_are_retryable() {
    let dialed = std::sync::Arc::new(AtomicUsize::new(0));
    let count = dialed.clone();
    let dialer = Dialer::new(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Err(io::Error::from(io::ErrorKind::ConnectionRefused)) }
    });
    let client = client("m1:1,m2:1", dialer).with_deadline(Duration::from_secs(2));
    let error = client
        .transfer_leader(v1::TransferLeaderRequest::default())
        .await
        .unwrap_err();
    let refused = |address: &str| (address.to_owned(), MasterFailure::Refused);
    let causes = vec![refused("m1:1"), refused("m2:1")];
    assert_eq!(error, CallError::NoMaster(NoMaster { causes }));
    assert!(
        dialed.load(Ordering::Relaxed) > 2,
        "more than one round was tried"
    );
}

#[tokio::test]
async fn a_call_fails_after_one_round_if_no_master_listens() {
    // Accepts connections, and closes them: it may be a master that is starting.
    let starting = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let starting_at = starting.local_addr().unwrap().to_string();
    let closing = tokio::spawn(async move { while starting.accept().await.is_ok() {} });
    let dialed = Arc::new(AtomicUsize::new(0));
    let count = dialed.clone();
    let dialer = Dialer::new(move |address, _| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            if address.starts_with('m') {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            if address.starts_with('u') {
                let error = "no trusted CA has signed its certificate";
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, error));
            }
            let stream = tokio::net::TcpStream::connect(address).await?;
            let peer = PeerIdentity::unauthenticated(None);
            Ok((Connection::new(stream), peer))
        }
    });
    let connector = |masters: &str| {
        let dialer = dialer.clone();
        let config = ConnectorConfig { dialer, seed: 3 };
        Connector::new(masters.parse().unwrap(), config).failing_if_none_listens()
    };
    // Returns the number of connections until the call fails.
    let call = async |connector: &Connector, deadline| {
        dialed.store(0, Ordering::Relaxed);
        let client = OperatorClient::new(connector.clone()).with_deadline(deadline);
        let answer = client.get_cluster(v1::GetClusterRequest::default()).await;
        let error = answer.unwrap_err();
        (dialed.load(Ordering::Relaxed), error)
    };
    let short = Duration::from_secs(2);
    let none = connector("m1:1,m2:1");
    let (connections, error) = call(&none, DEFAULT_DEADLINE).await;
    assert_eq!(connections, 2, "{error:?}");
    assert!(matches!(error, CallError::NoMaster(_)), "{error:?}");
    let (connections, error) = call(&connector("m1:1,u1:1"), DEFAULT_DEADLINE).await;
    assert_eq!(connections, 2, "{error:?}");
    assert!(
        error
            .to_string()
            .contains("u1:1 is not trusted (no trusted CA"),
        "{error}"
    );
    let (connections, error) = call(&connector(&format!("m1:1,{starting_at}")), short).await;
    assert!(connections > 2, "one does not refuse: {error:?}");
    closing.abort();
    // Once a master has answered, it may be restarting.
    let cluster = argosy_fakes::FakeCluster::start(1).await;
    let running = connector(&cluster.addresses()[0]);
    let (_, error) = call(&running, DEFAULT_DEADLINE).await;
    assert!(matches!(error, CallError::Refused(_)), "{error:?}");
    assert!(running.known(|known| known.has_answer));
    none.note_response("m1:1");
    let (connections, error) = call(&none, short).await;
    assert!(connections > 2, "{error:?}");
}

#[test]
fn a_reply_without_a_common_version_is_rejected_except_from_release_0_1_0() {
    let named = |range: Option<VersionRange>| {
        let mut metadata = MetadataMap::new();
        if let Some(range) = range {
            let value = range.header().try_into().unwrap();
            metadata.insert(versions::HEADER, value);
        }
        common_version(&metadata)
    };
    let newest = VersionRange::OWN.newest;
    let range = |oldest| VersionRange {
        oldest,
        newest: newest + 2,
    };
    assert_eq!(named(None), Ok(()));
    assert_eq!(named(Some(range(newest))), Ok(()));
    let refused = named(Some(range(newest + 1))).unwrap_err();
    assert_eq!(refused.reason, "protocol-version");
    assert!(refused.message.contains("the master speaks"), "{refused}");
}
