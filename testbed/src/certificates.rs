//! The certificates of a cluster under test: its CA, and what that has issued for members and
//! clients.
//!
//! All files are in one directory. A process reads those that its flags name; tests replace them
//! while it runs.

use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use argosy_client::connector::random_seed;
use argosy_host::atomic_file::{self, Durability, WriteOptions};
use argosy_isolation::division::HostUser;
use argosy_proto::transport::certificate_identity::{CertificateIdentity, ClusterName};
use argosy_state::actor::{Principal, PrincipalKind};
use argosy_tls::Time;
use argosy_tls::authority::{Authority, NewAuthority, Serial, Validity, new_authority};
use argosy_tls::credentials::{CredentialFiles, OwnFiles};
use argosy_tls::request::{self, CertificateNames, CertificateRequest, Host};
use argosy_tls::store::CredentialStore;

/// The name of every cluster under test.
const CLUSTER: &str = "testbed";
/// Certificates are valid that long before they are issued: a fault may set a clock back.
const MARGIN: Duration = Duration::from_secs(2 * 86_400);
/// The days from that time on for which certificates and CA are valid.
const CERTIFICATE_DAYS: u16 = 30;
const AUTHORITY_DAYS: u16 = 60;
/// The permissions of keys, and of certificates: agents that drop root read both as another user.
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;

/// The files of one identity, in PEM. As optional flags: all three, or none.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct IdentityFiles {
    /// Certificate of this process, in PEM
    #[arg(long = "tls-cert", value_name = "FILE", required = false, requires_all = ["key", "ca"])]
    pub certificate: PathBuf,
    /// Private key of that certificate, in PEM
    #[arg(long = "tls-key", value_name = "FILE", required = false, requires_all = ["certificate", "ca"])]
    pub key: PathBuf,
    /// Trusted CA certificates, in PEM
    #[arg(long = "tls-ca", value_name = "FILE", required = false, requires_all = ["certificate", "key"])]
    pub ca: PathBuf,
}

impl IdentityFiles {
    /// Returns the flags of `argosy` and of the harness that name them.
    pub fn flags(&self) -> Vec<String> {
        let flags = [
            ("--tls-cert", &self.certificate),
            ("--tls-key", &self.key),
            ("--tls-ca", &self.ca),
        ];
        let words = flags.into_iter();
        words
            .flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()])
            .collect()
    }

    /// Reads the files.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn load(&self) -> Result<Arc<CredentialStore>> {
        let files = CredentialFiles {
            own: Some(OwnFiles {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
            }),
            ca: self.ca.clone(),
        };
        Ok(Arc::new(CredentialStore::load(files, Time::now())?))
    }
}

/// The CA of a cluster, with the directory of all its certificates.
pub struct ClusterCertificates {
    directory: PathBuf,
    authority: Authority,
    /// The key of the CA, in PEM.
    key: String,
}

impl ClusterCertificates {
    /// Creates the directory and a CA in it.
    ///
    /// # Errors
    /// If it exists or cannot be written.
    pub fn create(directory: &Path) -> Result<Self> {
        std::fs::create_dir(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let cluster = ClusterName::new(CLUSTER).expect("the name is valid");
        let NewAuthority { certificate, key } =
            new_authority(&cluster, validity(AUTHORITY_DAYS), serial())?;
        let authority = Authority::from_pem(certificate.as_bytes(), key.as_bytes())?;
        let own = Self {
            directory: directory.to_owned(),
            authority,
            key,
        };
        write(&own.ca(), certificate.as_bytes(), CERTIFICATE_MODE)?;
        Ok(own)
    }

    /// Writes the key of the CA, for masters that issue certificates. Returns its file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_key(&self) -> Result<PathBuf> {
        let path = self.directory.join("ca.key");
        write(&path, self.key.as_bytes(), KEY_MODE)?;
        Ok(path)
    }

    fn ca(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// Returns the files of the identity with this name.
    pub fn files(&self, name: &str) -> IdentityFiles {
        IdentityFiles {
            certificate: self.directory.join(format!("{name}.crt")),
            key: self.directory.join(format!("{name}.key")),
            ca: self.ca(),
        }
    }

    /// Creates a key and its certificate for an identity. Replaces those that it has.
    ///
    /// # Errors
    /// If the name is invalid, or a file cannot be written.
    pub fn issue(
        &self,
        kind: PrincipalKind,
        name: &str,
        host: Option<IpAddr>,
    ) -> Result<IdentityFiles> {
        let principal: Principal = format!("{kind}/{name}").parse()?;
        let cluster = ClusterName::new(CLUSTER).expect("the name is valid");
        let names = CertificateNames {
            identity: CertificateIdentity { cluster, principal },
            hosts: host.map(Host::Address).into_iter().collect(),
        };
        let made = request::new_request(&names)?;
        let request = CertificateRequest::from_pem(made.request.as_bytes())?;
        let signed = self.sign(&request)?;
        let files = self.files(name);
        // A process that reads between the two keeps its former credentials.
        write(&files.key, made.key.as_bytes(), KEY_MODE)?;
        if kind == PrincipalKind::Agent && nix::unistd::geteuid().is_root() {
            let HostUser { uid, gid } = HostUser::agent();
            chown(&files.key, Some(uid), Some(gid))?;
        }
        write(&files.certificate, signed.as_bytes(), CERTIFICATE_MODE)?;
        Ok(files)
    }

    /// Replaces the certificate of an identity by a new one for the same key and names.
    ///
    /// # Errors
    /// If there is none, or the file cannot be written.
    pub fn renew(&self, name: &str) -> Result<()> {
        let path = self.files(name).certificate;
        let text =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let former = request::first_certificate(&text)?;
        let signed = self.sign(&CertificateRequest::of_certificate(&former)?)?;
        write(&path, signed.as_bytes(), CERTIFICATE_MODE)
    }

    /// Replaces the certificate of an identity by a text that is none. A process that runs keeps
    /// the former one, and none starts, until [`Self::issue`].
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn damage(&self, name: &str) -> Result<()> {
        let path = self.files(name).certificate;
        write(&path, b"no certificate\n", CERTIFICATE_MODE)
    }

    fn sign(&self, request: &CertificateRequest) -> Result<String> {
        let signed = self
            .authority
            .sign(request, validity(CERTIFICATE_DAYS), serial());
        Ok(signed?)
    }
}

/// Writes no key.
impl fmt::Debug for ClusterCertificates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ClusterCertificates")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let draft = path.with_extension("new");
    let durability = Durability::Cached;
    atomic_file::replace(path, &draft, bytes, WriteOptions { mode, durability })
        .with_context(|| format!("cannot write {}", path.display()))
}

fn validity(days: u16) -> Validity {
    Validity::of_days(SystemTime::now() - MARGIN, days)
}

fn serial() -> Serial {
    ((u128::from(random_seed()) << 64) | u128::from(random_seed())).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_keeps_its_certificate_until_there_is_a_good_one() {
        let base = tempfile::tempdir().unwrap();
        let certificates = ClusterCertificates::create(&base.path().join("tls")).unwrap();
        let host = Some(IpAddr::from([10, 99, 0, 1]));
        let files = certificates.issue(PrincipalKind::Master, "master-1", host);
        let store = files.unwrap().load().unwrap();
        assert!(store.current().is_for("10.99.0.1:5052"));
        let reload = || store.reload(Time::now());
        certificates.damage("master-1").unwrap();
        assert!(reload().is_err());
        for renew in [true, false] {
            let before = store.current();
            if renew {
                certificates
                    .issue(PrincipalKind::Master, "master-1", host)
                    .unwrap();
            }
            certificates.renew("master-1").unwrap();
            assert!(reload().is_ok());
            assert!(!Arc::ptr_eq(&before, &store.current()));
            assert!(store.current().is_for("10.99.0.1:5052"));
        }
    }

    #[test]
    fn certificates_stay_valid_when_a_clock_is_set_by_a_day() {
        let base = tempfile::tempdir().unwrap();
        let certificates = ClusterCertificates::create(&base.path().join("tls")).unwrap();
        let files = certificates.issue(PrincipalKind::Operator, "harness", None);
        let files = files.unwrap();
        let store = files.load().unwrap();
        let now = Time::now().as_secs();
        for time in [now - 86_400, now + 86_400] {
            let time = Time::since_unix_epoch(Duration::from_secs(time));
            store.reload(time).unwrap();
        }
    }
}
