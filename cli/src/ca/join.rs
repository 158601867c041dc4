//! `ca join`: a certificate from the masters, by a token.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argosy_client::{CertificatesClient, Connector, ConnectorConfig, Masters};
use argosy_proto::transport::Dialer;
use argosy_proto::transport::certificate_identity::{CertificateIdentity, ClusterName};
use argosy_proto::v1;
use argosy_state::actor::{Principal, PrincipalKind};
use argosy_tls::Time;
use argosy_tls::application::Application;
use argosy_tls::credentials::{Credentials, read_certificates, read_key};
use argosy_tls::dialer::dial_with;
use argosy_tls::joining::{self, Fingerprint, check_issued, dial_unverified};
use argosy_tls::request::{self, CertificateNames, Host};
use clap::Args;

use super::files::{self, Access, NewFile};
use super::{CERTIFICATE, failed, report_certificate};
use crate::args::CalledMasters;
use crate::contexts::Token;
use crate::exit::{DONE, Failure, VerbResult};
use crate::objects::calls;
use crate::operator::read_failure;
use crate::output::note;

/// The default time for each call.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct CaJoin {
    /// Identity, as agent/a7 or master/m4
    #[arg(value_name = "KIND/NAME", value_parser = principal)]
    principal: Principal,
    /// File with the join token, which argosy token create --for prints
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// SHA-256 of the CA certificate, as argosy ca show prints it for ca.crt
    #[arg(long, env = "ARGOSY_CA_FINGERPRINT", value_name = "sha256:HEX")]
    ca_fingerprint: Fingerprint,
    /// Name of the cluster, if the CA signs for others too [default: that of the masters]
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Name or address of the host, for clients that verify it; an agent may name the address from
    /// which it calls the masters; a master needs that of its Raft address; may be repeated
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<Host>,
    /// Directory for the key, the certificate and ca.crt
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    #[command(flatten)]
    reach: CalledMasters,
}

fn principal(text: &str) -> Result<Principal, String> {
    let found = super::principal(text)?;
    match found.kind {
        PrincipalKind::Agent | PrincipalKind::Master => Ok(found),
        PrincipalKind::Framework | PrincipalKind::Operator => {
            Err("only agents and masters join by a token".to_owned())
        }
    }
}

/// The files of a host that joins.
struct HostFiles {
    key: PathBuf,
    certificate: PathBuf,
    ca: PathBuf,
}

impl HostFiles {
    fn new(directory: &Path, Principal { kind, name }: &Principal) -> Self {
        let path = |suffix: &str| directory.join(format!("{kind}-{name}.{suffix}"));
        Self {
            key: path("key"),
            certificate: path("crt"),
            ca: directory.join(CERTIFICATE),
        }
    }
}

/// The CA certificate with the given fingerprint, in DER, and the name of the masters' cluster.
struct PinnedAuthority {
    certificate: Vec<u8>,
    cluster: ClusterName,
}

pub(super) fn join(arguments: &CaJoin) -> VerbResult {
    let files = HostFiles::new(&arguments.dir, &arguments.principal);
    let shown = files.certificate.display();
    if fs::symlink_metadata(&files.certificate).is_ok() {
        note(&format!("{shown} exists: this host has joined"));
        return Ok(DONE);
    }
    if arguments.principal.kind == PrincipalKind::Master && arguments.hosts.is_empty() {
        return Err(super::without_host());
    }
    let masters = arguments.reach.masters.clone();
    let masters = masters.ok_or_else(|| {
        Failure::usage("the masters are unknown").advise("name them with --masters")
    })?;
    let token = Token::read(&arguments.token_file)?.secret()?.to_string();
    calls(async {
        let timeout = arguments.reach.timeout.unwrap_or(TIMEOUT);
        let reach = Reach { masters, timeout };
        let pinned = reach.authority(arguments.ca_fingerprint).await?;
        check_cluster(arguments.cluster.as_ref(), &pinned)?;
        check_ca_file(&files.ca, &pinned)?;
        let names = CertificateNames {
            identity: CertificateIdentity {
                cluster: pinned.cluster.clone(),
                principal: arguments.principal.clone(),
            },
            hosts: arguments.hosts.clone(),
        };
        files::create_directory(&arguments.dir)?;
        let (key, request) = key_and_request(&files.key, &names)?;
        let wanted = v1::IssueCertificateRequest {
            token,
            request,
            ..Default::default()
        };
        let issued = reach.certificate(&pinned, wanted).await?;
        let pair = (issued.as_str(), key.as_str());
        let ca = &pinned.certificate;
        check_issued(pair, ca, &names.identity, Time::now()).map_err(failed)?;
        write(&files, &pinned, &issued)?;
        report_certificate(&files.certificate, &issued);
        Ok(DONE)
    })
}

/// The masters, and the time for each call.
struct Reach {
    masters: Masters,
    timeout: Duration,
}

impl Reach {
    fn client(&self, dialer: Dialer) -> CertificatesClient {
        let config = ConnectorConfig {
            dialer,
            ..ConnectorConfig::default()
        };
        let connector = Connector::new(self.masters.clone(), config);
        CertificatesClient::new(connector.failing_if_none_listens(), self.timeout)
    }

    /// Returns the CA certificate with this fingerprint. No other part of the answer is trusted.
    async fn authority(&self, fingerprint: Fingerprint) -> Result<PinnedAuthority, Failure> {
        let client = self.client(dial_unverified(Dialer::tcp()));
        let found = client.list_authorities().await.map_err(read_failure)?;
        let mut certificates = found.certificates.into_iter();
        let pinned = certificates.find(|one| Fingerprint::of(one) == fingerprint);
        let certificate = pinned.ok_or_else(|| {
            Failure::failed(format!(
                "no CA certificate of the masters has the fingerprint {fingerprint}; the token was not sent"
            ))
            .advise("compare it with argosy ca show ca.crt on the host of the CA")
            .advise("if it is right, another server answers in place of the masters")
        })?;
        let cluster = ClusterName::new(&found.cluster).map_err(failed)?;
        Ok(PinnedAuthority {
            certificate,
            cluster,
        })
    }

    /// Returns the certificate for a request, from masters of the cluster that the pinned CA has
    /// signed.
    async fn certificate(
        &self,
        pinned: &PinnedAuthority,
        wanted: v1::IssueCertificateRequest,
    ) -> Result<String, Failure> {
        let authorities = [pinned.certificate.clone()];
        let credentials = Credentials::of_cluster(&authorities, pinned.cluster.clone());
        let credentials = credentials.map_err(Failure::failed)?;
        let dialer = dial_with(Dialer::tcp(), credentials.into(), Application::Http2);
        let issued = self.client(dialer).issue(wanted).await;
        Ok(issued.map_err(read_failure)?.certificate)
    }
}

/// Refuses the masters of another cluster of the same CA.
fn check_cluster(wanted: Option<&ClusterName>, pinned: &PinnedAuthority) -> Result<(), Failure> {
    let found = &pinned.cluster;
    match wanted {
        Some(wanted) if wanted != found => Err(Failure::failed(format!(
            "the masters are of the cluster {found}, and not of {wanted}; the token was not sent"
        ))
        .advise("correct --masters or --cluster")),
        Some(_) | None => Ok(()),
    }
}

/// Refuses a file of CA certificates that this host trusts already, without the pinned one.
fn check_ca_file(path: &Path, pinned: &PinnedAuthority) -> Result<(), Failure> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let text = read_certificates(path).map_err(failed)?;
    if joining::contains(&text, &pinned.certificate) {
        return Ok(());
    }
    let path = path.display();
    Err(Failure::failed(format!(
        "{path} exists, and does not contain the CA certificate with this fingerprint"
    ))
    .advise("choose another --dir, or move the file"))
}

/// Returns the key in the file, or a new one that is written there, and a request for it. A host
/// that has lost the answer repeats its request with the same key.
fn key_and_request(path: &Path, names: &CertificateNames) -> Result<(String, String), Failure> {
    if fs::symlink_metadata(path).is_err() {
        let made = request::new_request(names).map_err(failed)?;
        files::create(&[NewFile::new(
            path.to_owned(),
            made.key.clone(),
            Access::Owner,
        )])?;
        note(&format!("wrote {}: it stays on this host", path.display()));
        return Ok((made.key, made.request));
    }
    let key = read_key(path).map_err(failed)?;
    let request = request::request_of_key(names, &key);
    let request = request.map_err(|error| super::of_file(path, error))?;
    let key = String::from_utf8(key);
    let key = key.map_err(|_| Failure::failed(format!("{}: it is not text", path.display())))?;
    Ok((key, request))
}

/// Writes the CA certificate, and last the certificate, whose file means that the host has joined.
fn write(files: &HostFiles, pinned: &PinnedAuthority, issued: &str) -> Result<(), Failure> {
    if fs::symlink_metadata(&files.ca).is_err() {
        let ca = joining::certificate_text(&pinned.certificate);
        files::create(&[NewFile::new(files.ca.clone(), ca, Access::All)])?;
        note(&format!("wrote {}", files.ca.display()));
    }
    let certificate = NewFile::new(files.certificate.clone(), issued.to_owned(), Access::All);
    files::create(&[certificate])
}
