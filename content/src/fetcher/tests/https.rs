//! Tests with HTTPS servers, and the certificate authorities that an agent is started with.
//!
//! An agent's authorities come from its environment, so each test runs in a separate process.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{fetch, fetcher, fs, uri};

/// The variable from which the agent's library reads its authorities.
const AUTHORITIES: &str = "SSL_CERT_FILE";

/// Returns a certificate for tests, valid until 2125 unless its name states otherwise; all share
/// one key, which is used nowhere else.
fn pem(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fetcher/tests/tls");
    directory.join(name).with_extension("pem")
}

/// Whether this process has these authorities; if not, the test is run again in a process that has
/// them.
fn has_authorities(name: &str, test: &str) -> bool {
    let wanted = pem(name);
    if std::env::var_os(AUTHORITIES).is_some_and(|given| given == wanted) {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&format!("fetcher::tests::https::{test}"), "--exact"])
        .env(AUTHORITIES, wanted)
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    let reported = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{reported}");
    assert!(
        reported.contains("1 passed"),
        "no test is called {test}: {reported}"
    );
    false
}

/// Starts a server with this certificate; returns it with its number of connections.
fn serve(certificate: &str) -> (String, Arc<AtomicU32>) {
    let certificate = CertificateDer::from_pem_file(pem(certificate)).unwrap();
    let key = PrivateKeyDer::from_pem_file(pem("key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("https://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            // A client that does not trust it sends nothing more.
            if stream.read(&mut [0; 4096]).is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
                let _ = stream.write_all(answer);
            }
        }
    });
    (base, asked)
}

/// Returns the error for a file of this server: immediate, and one message with URI and remedy.
async fn refusal(certificate: &str) -> String {
    let (base, asked) = serve(certificate);
    let (sandbox, result) = fetch(&fetcher(), uri(format!("{base}/page"))).await;
    let why = result.unwrap_err();
    assert!(why.contains(&format!("{base}/page")), "{why}");
    assert!(why.contains(AUTHORITIES), "{why}");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it is not tried again");
    assert_eq!(fs::read_dir(sandbox.path()).unwrap().count(), 0);
    why
}

#[tokio::test]
async fn certificates_are_verified_by_authority_name_and_validity() {
    let test = "certificates_are_verified_by_authority_name_and_validity";
    if !has_authorities("authority", test) {
        return;
    }
    let (base, _) = serve("trusted");
    let (sandbox, result) = fetch(&fetcher(), uri(format!("{base}/page"))).await;
    result.unwrap();
    let page = fs::read_to_string(sandbox.path().join("page")).unwrap();
    assert_eq!(page, "hello");
    let why = refusal("elsewhere").await;
    assert!(why.contains("not valid for name"), "{why}");
    let why = refusal("expired").await;
    assert!(why.contains("expired"), "{why}");
}

#[tokio::test]
async fn a_server_with_an_unknown_certificate_authority_is_rejected() {
    let test = "a_server_with_an_unknown_certificate_authority_is_rejected";
    if has_authorities("elsewhere", test) {
        let why = refusal("trusted").await;
        assert!(why.contains("UnknownIssuer"), "{why}");
    }
}
