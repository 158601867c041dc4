//! An HTTPS server whose certificate is for another host and not signed by a trusted authority.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

/// Created for tests, for `elsewhere.invalid`, valid until 2126; the key is used nowhere else.
const CERTIFICATE: &[u8] = include_bytes!("certificate.pem");
const KEY: &[u8] = include_bytes!("key.pem");

/// Answers one connection with one version of TLS. Returns the request, after the client has sent
/// `close_notify`.
pub(crate) fn answer(
    stream: TcpStream,
    version: &'static SupportedProtocolVersion,
    answer: &str,
) -> io::Result<String> {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let connection = ServerConnection::new(Arc::new(config)).unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let mut part = [0; 1024];
        match stream.read(&mut part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => asked.extend_from_slice(&part[..count]),
        }
    }
    stream.write_all(answer.as_bytes())?;
    stream.flush()?;
    // A close without `close_notify` is an error.
    stream.read_to_end(&mut Vec::new())?;
    Ok(String::from_utf8(asked).unwrap())
}
