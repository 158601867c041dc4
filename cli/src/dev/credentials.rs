//! The certificate authority of a dev cluster, and the certificates of its members and its user.
//!
//! All of them are in the directory of the cluster. The CA of a persistent cluster stays; each
//! start replaces the other keys.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use argosy_host::atomic_file::{self, Durability, WriteOptions};
use argosy_isolation::division::HostUser;
use argosy_proto::transport::certificate_identity::{CertificateIdentity, ClusterName};
use argosy_state::actor::{Principal, PrincipalKind};
use argosy_tls::authority::{self, Authority, Validity};
use argosy_tls::request::{self, CertificateNames, CertificateRequest, Host};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::plan::{DevMember, DevPlan, MemberKind};
use crate::args::ClientTls;
use crate::random;

/// The name of every dev cluster in its certificates, and of its user.
const NAME: &str = "dev";
/// The certificate of the CA, for everyone.
const CA: &str = "ca.crt";
/// The directory with the keys of the CA and of the user, for the user alone.
const KEYS: &str = "tls";
const CA_KEY: &str = "ca.key";
/// The key that seals secrets in the registry.
const SECRETS_KEY: &str = "secrets.key";
/// The days for which the CA and the certificates are valid.
const CA_DAYS: u16 = 3_650;
const DAYS: u16 = 365;

/// The paths of a certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Pair {
    fn of(directory: &Path, name: &str) -> Self {
        let path = |suffix: &str| directory.join(format!("{name}.{suffix}"));
        Self {
            certificate: path("crt"),
            key: path("key"),
        }
    }

    /// Returns the files of a member, next to its data.
    pub(super) fn of_member(home: &Path, name: &str) -> Self {
        Self::of(&home.join(name).join(KEYS), name)
    }
}

/// Returns the path of the CA's certificate.
pub(super) fn ca(home: &Path) -> PathBuf {
    home.join(CA)
}

/// Returns the path of the key that seals secrets.
pub(super) fn secrets_key(home: &Path) -> PathBuf {
    home.join(KEYS).join(SECRETS_KEY)
}

/// Returns the files of TLS of the user's commands.
pub(super) fn of_user(home: &Path) -> ClientTls {
    let own = Pair::of(&home.join(KEYS), "operator");
    ClientTls {
        tls_ca: Some(ca(home)),
        tls_cert: Some(own.certificate),
        tls_key: Some(own.key),
    }
}

/// Creates all keys and certificates of a cluster, and its CA unless there is one.
pub(super) fn create(home: &Path, plan: &DevPlan) -> anyhow::Result<()> {
    let keys = home.join(KEYS);
    create_directory(&keys, 0o700)?;
    let authority = open_or_create(home, &keys)?;
    create_secrets_key(home)?;
    let user = Pair::of(&keys, "operator");
    issue(&authority, PrincipalKind::Operator, NAME, None, &user)?;
    for member in &plan.members {
        let pair = Pair::of_member(home, &member.name);
        let directory = atomic_file::directory_of(&pair.key);
        let (kind, mode) = match member.kind {
            MemberKind::Master => (PrincipalKind::Master, 0o700),
            // An agent without root privileges traverses it.
            MemberKind::Agent => (PrincipalKind::Agent, 0o711),
        };
        create_directory(atomic_file::directory_of(directory), mode)?;
        create_directory(directory, 0o700)?;
        let host = Host::Address(member.address.into());
        issue(&authority, kind, &member.name, Some(host), &pair)?;
        give_to_agent(home, member, &[directory, &pair.certificate, &pair.key])?;
    }
    Ok(())
}

/// Removes all keys: nothing may use them after the end of a temporary cluster.
pub(super) fn remove(home: &Path, plan: &DevPlan) -> anyhow::Result<()> {
    let members = plan.members.iter();
    let members = members.map(|member| home.join(&member.name).join(KEYS));
    for directory in members.chain([home.join(KEYS)]) {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed
                .with_context(|| format!("cannot remove the keys in {}", directory.display()))?,
        }
    }
    Ok(())
}

fn create_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    let created = DirBuilder::new().recursive(true).mode(mode).create(path);
    created.with_context(|| format!("cannot create {}", path.display()))
}

/// Lets an agent that drops root read its files again when it does so.
fn give_to_agent(home: &Path, member: &DevMember, paths: &[&Path]) -> anyhow::Result<()> {
    if member.kind != MemberKind::Agent || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let HostUser { uid, gid } = HostUser::agent();
    for path in paths {
        give(home, path, (uid, gid))
            .with_context(|| format!("cannot change the owner of {}", path.display()))?;
    }
    Ok(())
}

/// Changes the owner of a file or directory below `home` that belongs to this user, or to the new
/// owner already. Links below `home` are not followed: `home` may belong to another user.
fn give(home: &Path, path: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    let inside = path.strip_prefix(home).map_err(io::Error::other)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let home = File::open(home)?;
    let file: File = openat2(home, inside, flags, Mode::empty(), within)?.into();
    let found = file.metadata()?;
    let is_shared = found.is_file() && found.nlink() != 1;
    let owners = [nix::unistd::geteuid().as_raw(), uid];
    if is_shared || !owners.contains(&found.uid()) {
        let text = "another user has replaced it: start the cluster in a directory of this user";
        return Err(io::Error::other(text));
    }
    fchown(&file, Some(uid), Some(gid))
}

/// Creates the key of secrets. That of a persistent cluster stays, as its registry does.
fn create_secrets_key(home: &Path) -> anyhow::Result<()> {
    let path = secrets_key(home);
    if path.exists() {
        return Ok(());
    }
    let key: [u8; 32] = random::bytes()?;
    let digits: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    write(&path, &format!("{NAME}:{digits}\n"), 0o600)
}

fn open_or_create(home: &Path, keys: &Path) -> anyhow::Result<Authority> {
    let (certificate, key) = (ca(home), keys.join(CA_KEY));
    let read = |path: &Path| match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if let (Some(certificate), Some(key)) = (read(&certificate)?, read(&key)?) {
        return Authority::from_pem(&certificate, &key)
            .with_context(|| format!("cannot use the CA of {}", home.display()));
    }
    let cluster = ClusterName::new(NAME).context("a constant is a valid name")?;
    let validity = Validity::of_days(SystemTime::now(), CA_DAYS);
    let made = authority::new_authority(&cluster, validity, random::bytes()?)
        .context("cannot create a CA")?;
    write(&key, &made.key, 0o600)?;
    write(&certificate, &made.certificate, 0o644)?;
    let opened = Authority::from_pem(made.certificate.as_bytes(), made.key.as_bytes());
    opened.context("cannot use a new CA")
}

fn issue(
    authority: &Authority,
    kind: PrincipalKind,
    name: &str,
    host: Option<Host>,
    pair: &Pair,
) -> anyhow::Result<()> {
    let principal: Principal = format!("{kind}/{name}")
        .parse()
        .context("a name of a member is valid")?;
    let names = CertificateNames {
        identity: CertificateIdentity {
            cluster: ClusterName::new(NAME).context("a constant is a valid name")?,
            principal,
        },
        hosts: host.into_iter().collect(),
    };
    let made = request::new_request(&names).context("cannot create a key")?;
    let request = CertificateRequest::from_pem(made.request.as_bytes())
        .context("cannot request a certificate")?;
    let validity = Validity::of_days(SystemTime::now(), DAYS);
    let signed = authority.sign(&request, validity, random::bytes()?);
    let signed = signed.context("cannot create a certificate")?;
    write(&pair.key, &made.key, 0o600)?;
    write(&pair.certificate, &signed, 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let options = WriteOptions {
        mode,
        durability: Durability::Cached,
    };
    let draft = path.with_extension("new");
    atomic_file::replace(path, &draft, text.as_bytes(), options)
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::plan::tests::plan_in;
    use super::*;
    use crate::args::ServiceTls;
    use crate::transport::{ClientTransport, ServiceTransport};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn flags(home: &Path, name: &str) -> ServiceTls {
        let pair = Pair::of_member(home, name);
        ServiceTls {
            tls_cert: Some(pair.certificate),
            tls_key: Some(pair.key),
            tls_ca: Some(ca(home)),
            ..ServiceTls::default()
        }
    }

    #[test]
    fn each_member_and_the_user_have_a_certificate_and_only_they_read_their_keys() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        let plan = plan_in(home, &["--size", "1x1"]);
        create(home, &plan).unwrap();
        let master = ServiceTransport::new(&flags(home, "master-1"), PrincipalKind::Master, &[]);
        master
            .unwrap()
            .check_raft_address("127.77.0.1:5052")
            .unwrap();
        ServiceTransport::new(&flags(home, "agent-1"), PrincipalKind::Agent, &[]).unwrap();
        ClientTransport::new(&of_user(home)).unwrap();
        for directory in ["tls", "master-1/tls", "agent-1/tls"] {
            assert_eq!(mode(&home.join(directory)), 0o700, "{directory}");
            for entry in fs::read_dir(home.join(directory)).unwrap() {
                let path = entry.unwrap().path();
                let is_key = path.extension().is_some_and(|end| end == "key");
                assert!(!is_key || mode(&path) == 0o600, "{}", path.display());
            }
        }
        remove(home, &plan).unwrap();
        assert!(!home.join("tls").exists() && !home.join("agent-1/tls").exists());
        remove(home, &plan).unwrap();
    }

    #[test]
    fn the_next_start_keeps_the_ca_and_replaces_the_other_keys() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        let plan = plan_in(home, &["--size", "1x1"]);
        create(home, &plan).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let key = Pair::of_member(home, "master-1").key;
        let former = (read(&ca(home)), read(&key));
        create(home, &plan).unwrap();
        assert_eq!(read(&ca(home)), former.0);
        assert_ne!(read(&key), former.1);
    }

    #[test]
    fn the_owner_of_a_link_or_of_a_file_with_two_names_is_not_changed() {
        let home = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let target = other.path().join("shadow");
        fs::write(&target, "").unwrap();
        let own = fs::metadata(&target).unwrap();
        let owner = (own.uid(), own.gid());
        let path = |name: &str| home.path().join(name);
        symlink(&target, path("link")).unwrap();
        symlink(other.path(), path("directory")).unwrap();
        fs::hard_link(&target, path("second")).unwrap();
        fs::write(path("plain"), "").unwrap();
        for refused in ["link", "directory/shadow", "directory", "second"] {
            assert!(
                give(home.path(), &path(refused), owner).is_err(),
                "{refused}"
            );
        }
        give(home.path(), &path("plain"), owner).unwrap();
    }
}
