//! `ca init|issue|sign|join|renew|revoke|show`: a certificate authority in a directory, for
//! clusters without another one.
//!
//! A private key is created where it is used and never leaves that host. Only `join` and `revoke`
//! call a cluster. The crate `argosy_tls` decides what is in a certificate.

mod files;
mod join;
mod renew;
mod revoke;
mod show;
#[cfg(test)]
pub(crate) mod tests;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use argosy_proto::transport::certificate_identity::{CertificateIdentity, ClusterName};
use argosy_state::actor::{Principal, PrincipalKind};
use argosy_tls::authority::{self, Authority, NewAuthority, Serial, Validity};
use argosy_tls::credentials::{read_certificates, read_key};
use argosy_tls::description::{self, time_text};
use argosy_tls::request::{self, CertificateNames, CertificateRequest, Host};
use clap::{Args, Subcommand};

use crate::args::OutputArguments;
use crate::exit::{DONE, Failure, VerbResult};
use crate::objects::ObjectCommand;
use crate::output::note;
use crate::random;
use files::{Access, NewFile};
use join::CaJoin;
use renew::CaRenew;
use revoke::CaRevoke;
use show::CaShow;

/// The names of the files of a CA in its directory.
const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Create a certificate authority for a cluster
    #[command(after_help = "Examples:
  argosy ca init --cluster prod --ca /etc/argosy/ca
  argosy ca init --cluster test --days 365

A process that has the key of the CA can act as every member of the cluster: keep the directory on a
host that runs no tasks, and back it up.")]
    Init(CaInit),
    /// Create a key, and its certificate or a request for one
    #[command(after_help = "Examples:
  argosy ca issue master/m1 --cluster prod --host m1.example --host 10.0.0.1
  argosy ca issue operator/alice --ca /etc/argosy/ca

Without --ca, it writes the key and a request, which `argosy ca sign` signs on the host of the CA.
The key stays on this host.")]
    Issue(CaIssue),
    /// Sign a request for a certificate
    #[command(after_help = "Examples:
  argosy ca sign master/m1 master-m1.csr --ca /etc/argosy/ca
  argosy ca sign agent/a7 agent-a7.csr --days 90

The identity is named again because the request may come from another host: a request for another
identity is refused.")]
    Sign(CaSign),
    /// Create a key, and get its certificate from the masters by a join token
    #[command(after_help = "Examples:
  argosy ca join agent/a7 --token-file join.token --ca-fingerprint sha256:HEX --masters 10.0.0.1
  argosy ca join master/m4 --host 10.0.0.4 --token-file join.token --ca-fingerprint sha256:HEX

It does nothing if the certificate exists, so it may run before each start of an agent. The masters
need --ca-key.")]
    Join(Box<CaJoin>),
    /// Replace a certificate with one for the same key and names that is valid for longer
    #[command(after_help = "Examples:
  argosy ca renew master-m1.crt --ca /etc/argosy/ca
  argosy ca renew operator-alice.crt --days 30 --due

Processes use the new certificate for new connections within 10 seconds after it has replaced the
former.")]
    Renew(CaRenew),
    /// Revoke the key of a certificate in a cluster
    #[command(after_help = "Examples:
  argosy ca revoke operator-bob.crt
  argosy ca revoke agent-a7.crt --dry-run")]
    Revoke(Box<CaRevoke>),
    /// Show what is in a file of certificates, or in a request
    #[command(after_help = "Examples:
  argosy ca show master-m1.crt
  argosy ca show ca.crt -o json")]
    Show(CaShow),
}

#[derive(Debug, Args)]
pub(crate) struct CaInit {
    /// Name of the cluster: lower-case letters, digits, - and .
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,
    /// Directory of the CA, which is created
    #[arg(
        long,
        env = "ARGOSY_CA",
        value_name = "DIR",
        default_value = "argosy-ca"
    )]
    ca: PathBuf,
    /// Days for which the CA is valid
    #[arg(long, value_name = "DAYS", default_value = "3650", value_parser = days())]
    days: u16,
}

#[derive(Debug, Args)]
pub(crate) struct CaIssue {
    /// Identity, as master/m1, agent/a7, framework/web or operator/alice
    #[arg(value_name = "KIND/NAME", value_parser = principal)]
    principal: Principal,
    /// Name or address of the host, for clients that verify it; a master needs that of its Raft
    /// address; may be repeated
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<Host>,
    /// Directory of the CA, if it is on this host
    #[arg(long, env = "ARGOSY_CA", value_name = "DIR")]
    ca: Option<PathBuf>,
    /// Name of the cluster [default: that of the CA]
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Directory for the key, and for the certificate or request
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Days for which the certificate is valid
    #[arg(long, value_name = "DAYS", default_value = "365", value_parser = days())]
    days: u16,
}

#[derive(Debug, Args)]
pub(crate) struct CaSign {
    /// Identity that the request must have, as master/m1
    #[arg(value_name = "KIND/NAME", value_parser = principal)]
    principal: Principal,
    /// The request; the certificate is written next to it
    request: PathBuf,
    /// Directory of the CA
    #[arg(
        long,
        env = "ARGOSY_CA",
        value_name = "DIR",
        default_value = "argosy-ca"
    )]
    ca: PathBuf,
    /// Name of the cluster that the request must have [default: that of the CA]
    #[arg(long, value_name = "NAME")]
    cluster: Option<ClusterName>,
    /// Name or address that the request may have; may be repeated [default: any]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<Host>,
    /// Days for which the certificate is valid
    #[arg(long, value_name = "DAYS", default_value = "365", value_parser = days())]
    days: u16,
}

fn days() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=36_500)
}

fn principal(text: &str) -> Result<Principal, String> {
    text.parse()
        .map_err(|error: argosy_state::ids::InvalidId| error.to_string())
}

impl ObjectCommand for CaCommand {
    const ABOUT: &str = "Certificate authority: init, issue, sign, join, renew, revoke, show";
    const EXAMPLES: &str = "Examples:
  argosy ca init --cluster prod --ca /etc/argosy/ca
  argosy ca issue master/m1 --cluster prod --host m1.example";

    fn run(&self) -> VerbResult {
        match self {
            Self::Init(arguments) => init(arguments),
            Self::Issue(arguments) => issue(arguments),
            Self::Sign(arguments) => sign(arguments),
            Self::Join(arguments) => join::join(arguments),
            Self::Renew(arguments) => renew::renew(arguments),
            Self::Revoke(arguments) => revoke::revoke(arguments),
            Self::Show(arguments) => show::show(arguments),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::Show(arguments) => Some(arguments.show),
            Self::Init(_)
            | Self::Issue(_)
            | Self::Sign(_)
            | Self::Join(_)
            | Self::Renew(_)
            | Self::Revoke(_) => None,
        }
    }
}

/// Returns random bytes for a serial number, and the validity from now.
fn fresh(days: u16) -> Result<(Validity, Serial), Failure> {
    Ok((Validity::of_days(SystemTime::now(), days), random::bytes()?))
}

fn failed(error: impl std::error::Error) -> Failure {
    Failure::of(&error)
}

/// Reads the CA in a directory.
fn open(directory: &Path) -> Result<Authority, Failure> {
    let advise = |failure: Failure| {
        failure.advise("name the directory of the CA with --ca; argosy ca init creates one")
    };
    let certificates = read_certificates(&directory.join(CERTIFICATE));
    let certificates = certificates.map_err(|error| advise(failed(error)))?;
    let key = read_key(&directory.join(KEY)).map_err(|error| advise(failed(error)))?;
    Authority::from_pem(&certificates, &key).map_err(failed)
}

fn init(arguments: &CaInit) -> VerbResult {
    let (validity, serial) = fresh(arguments.days)?;
    let made = authority::new_authority(&arguments.cluster, validity, serial).map_err(failed)?;
    let NewAuthority { certificate, key } = made;
    let path = |name| arguments.ca.join(name);
    files::create_directory(&arguments.ca)?;
    files::create(&[
        NewFile::new(path(KEY), key, Access::Owner),
        NewFile::new(path(CERTIFICATE), certificate, Access::All),
    ])?;
    let (key, certificate) = (path(KEY), path(CERTIFICATE));
    note(&format!(
        "wrote {}, the key of the CA: keep it here, and secret",
        key.display()
    ));
    note(&format!(
        "wrote {}, which every process of the cluster needs (--tls-ca)",
        certificate.display()
    ));
    Ok(DONE)
}

/// Returns the cluster: that of the CA, or the named one, which must be equal.
fn cluster_of(
    authority: Option<&Authority>,
    named: Option<&ClusterName>,
) -> Result<ClusterName, Failure> {
    let own = authority.and_then(Authority::cluster);
    match (own, named) {
        (Some(own), Some(named)) if own != named => Err(Failure::usage(format!(
            "--cluster {named}: this CA is for the cluster {own}"
        ))),
        (_, Some(cluster)) | (Some(cluster), None) => Ok(cluster.clone()),
        (None, None) => Err(Failure::usage("the name of the cluster is unknown")
            .advise("give it with --cluster NAME, or the directory of its CA with --ca DIR")),
    }
}

fn without_host() -> Failure {
    Failure::usage("other masters would not accept this certificate: it has no host")
        .advise("name the host of the master's --raft-advertise with --host")
}

fn issue(arguments: &CaIssue) -> VerbResult {
    let authority = arguments.ca.as_deref().map(open).transpose()?;
    let names = CertificateNames {
        identity: CertificateIdentity {
            cluster: cluster_of(authority.as_ref(), arguments.cluster.as_ref())?,
            principal: arguments.principal.clone(),
        },
        hosts: arguments.hosts.clone(),
    };
    if names.hosts.is_empty() && names.identity.principal.kind == PrincipalKind::Master {
        return Err(without_host());
    }
    let made = request::new_request(&names).map_err(failed)?;
    let Principal { kind, name } = &arguments.principal;
    let path = |suffix: &str| arguments.dir.join(format!("{kind}-{name}.{suffix}"));
    let key = NewFile::new(path("key"), made.key, Access::Owner);
    files::create_directory(&arguments.dir)?;
    let Some(authority) = authority else {
        let request = path("csr");
        files::create(&[
            key,
            NewFile::new(request.clone(), made.request, Access::All),
        ])?;
        note(&format!(
            "wrote {}: it stays on this host",
            path("key").display()
        ));
        note(&format!(
            "wrote {}, the request for {}",
            request.display(),
            names.identity
        ));
        note(&format!(
            "next, on the host of the CA: argosy ca sign {kind}/{name} {kind}-{name}.csr"
        ));
        return Ok(DONE);
    };
    let request = CertificateRequest::from_pem(made.request.as_bytes()).map_err(failed)?;
    let (validity, serial) = fresh(arguments.days)?;
    let signed = authority.sign(&request, validity, serial).map_err(failed)?;
    let certificate = path("crt");
    files::create(&[
        key,
        NewFile::new(certificate.clone(), signed.clone(), Access::All),
    ])?;
    note(&format!("wrote {}", path("key").display()));
    report_certificate(&certificate, &signed);
    Ok(DONE)
}

/// Reports a written certificate.
fn report_certificate(path: &Path, text: &str) {
    let path = path.display();
    // The text was made here, so it can be described.
    for one in description::describe(text.as_bytes())
        .iter()
        .flatten()
        .take(1)
    {
        let until = time_text(one.not_after);
        note(&format!(
            "wrote {path}: {}, valid until {until}",
            one.identity
        ));
    }
}

fn sign(arguments: &CaSign) -> VerbResult {
    let authority = open(&arguments.ca)?;
    let text = read_certificates(&arguments.request).map_err(failed)?;
    let request = CertificateRequest::from_pem(&text);
    let request = request.map_err(|error| of_file(&arguments.request, error))?;
    let expected = CertificateIdentity {
        cluster: cluster_of(Some(&authority), arguments.cluster.as_ref())?,
        principal: arguments.principal.clone(),
    };
    if request.names.identity != expected {
        let found = &request.names.identity;
        let path = arguments.request.display();
        return Err(Failure::failed(format!(
            "{path} asks for {found}, and not for {expected}; nothing is signed"
        ))
        .advise("if it comes from the right host, name the identity that it asks for"));
    }
    let mut hosts = request.names.hosts.iter();
    let foreign = hosts.find(|host| !arguments.hosts.contains(host));
    if let Some(host) = foreign.filter(|_| !arguments.hosts.is_empty()) {
        let path = arguments.request.display();
        return Err(Failure::failed(format!(
            "{path} asks for the host {host}, which no --host names; nothing is signed"
        ))
        .advise("with its certificate, the host could answer in place of another one"));
    }
    let (validity, serial) = fresh(arguments.days)?;
    let signed = authority.sign(&request, validity, serial).map_err(failed)?;
    let path = arguments.request.with_extension("crt");
    files::create(&[NewFile::new(path.clone(), signed.clone(), Access::All)])?;
    report_certificate(&path, &signed);
    let hosts = &request.names.hosts;
    if !hosts.is_empty() {
        let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
        note(&format!("its hosts, as requested: {}", hosts.join(", ")));
    }
    note("copy it to the host of its key");
    Ok(DONE)
}

/// Returns the failure for the content of a file.
fn of_file(path: &Path, error: impl std::error::Error) -> Failure {
    let failure = Failure::of(&error);
    Failure::failed(format!("{}: {}", path.display(), failure.message))
}
