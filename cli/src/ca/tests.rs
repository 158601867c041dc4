//! The commands on temporary directories.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use clap::Parser;
use tempfile::TempDir;

use super::show::{Shown, shown};
use super::*;

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(subcommand)]
    command: CaCommand,
}

/// A directory in which commands run; `@` in their words is its path.
pub(crate) struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Returns a place with a CA for the cluster `prod`.
    pub(crate) fn with_ca() -> Self {
        let place = Self::new();
        place.run("init --cluster prod --ca @/ca").unwrap();
        place
    }

    pub(crate) fn run(&self, words: &str) -> VerbResult {
        let path = self.0.path().to_str().unwrap();
        let words = words.split(' ').map(|word| word.replace('@', path));
        let words = std::iter::once("ca".to_owned()).chain(words);
        CommandLine::try_parse_from(words).unwrap().command.run()
    }

    fn refused(&self, words: &str) -> String {
        self.run(words).unwrap_err().to_string()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn shown(&self, name: &str) -> Vec<Shown> {
        shown(&self.path(name), self.read(name).as_bytes()).unwrap()
    }

    /// Returns the names in a directory, and the permissions of files.
    fn list(&self, name: &str) -> Vec<(String, u32)> {
        let entries = fs::read_dir(self.path(name)).unwrap();
        let mut found: Vec<_> = entries
            .map(|entry| {
                let entry = entry.unwrap();
                let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                (entry.file_name().into_string().unwrap(), mode)
            })
            .collect();
        found.sort();
        found
    }
}

fn named(list: &[(&str, u32)]) -> Vec<(String, u32)> {
    list.iter()
        .map(|(name, mode)| ((*name).to_owned(), *mode))
        .collect()
}

#[test]
fn keys_are_private_and_no_file_is_overwritten() {
    let place = Place::with_ca();
    assert_eq!(
        place.list("ca"),
        named(&[("ca.crt", 0o644), ("ca.key", 0o600)])
    );
    assert_eq!(
        fs::metadata(place.path("ca")).unwrap().mode() & 0o777,
        0o700
    );
    let key = place.read("ca/ca.key");
    let refused = place.refused("init --cluster prod --ca @/ca");
    assert!(refused.contains("ca.key exists"), "{refused}");
    place
        .run("issue master/m1 --host m1.example --ca @/ca --dir @/m1")
        .unwrap();
    let files = named(&[("master-m1.crt", 0o644), ("master-m1.key", 0o600)]);
    assert_eq!(place.list("m1"), files);
    // One of two files exists: the other is not written either.
    fs::remove_file(place.path("m1/master-m1.key")).unwrap();
    let refused = place.refused("issue master/m1 --host m1.example --ca @/ca --dir @/m1");
    assert!(refused.contains("master-m1.crt exists"), "{refused}");
    assert_eq!(place.list("m1"), files[..1]);
    assert_eq!(place.read("ca/ca.key"), key);
    // A link is not followed, and not replaced.
    std::os::unix::fs::symlink("/nonexistent", place.path("m1/master-m1.key")).unwrap();
    fs::remove_file(place.path("m1/master-m1.crt")).unwrap();
    let refused = place.refused("issue master/m1 --host m1.example --ca @/ca --dir @/m1");
    assert!(refused.contains("master-m1.key exists"), "{refused}");
}

#[test]
fn a_key_stays_on_its_host_and_its_request_is_signed_elsewhere() {
    let place = Place::with_ca();
    place
        .run("issue agent/a7 --cluster prod --host a7.example --host 10.0.0.7 --dir @/a7")
        .unwrap();
    let files = named(&[("agent-a7.csr", 0o644), ("agent-a7.key", 0o600)]);
    assert_eq!(place.list("a7"), files);
    let key = place.read("a7/agent-a7.key");
    assert!(!place.read("a7/agent-a7.csr").contains("PRIVATE KEY"));
    let [request] = &place.shown("a7/agent-a7.csr")[..] else {
        panic!("one request")
    };
    assert_eq!(
        (request.kind, &*request.identity),
        ("request", "argosy://prod/agent/a7")
    );

    // Only the request and the certificate are copied between the hosts.
    fs::create_dir(place.path("desk")).unwrap();
    fs::rename(place.path("a7/agent-a7.csr"), place.path("desk/x.csr")).unwrap();
    let refused = place.refused("sign operator/a7 @/desk/x.csr --ca @/ca");
    assert!(
        refused.contains("asks for argosy://prod/agent/a7, and not for argosy://prod/operator/a7; nothing is signed"),
        "{refused}"
    );
    let refused = place.refused("sign agent/a7 @/desk/x.csr --ca @/ca --host a7.example");
    assert!(refused.contains("asks for the host 10.0.0.7"), "{refused}");
    assert_eq!(place.list("desk").len(), 1);
    place
        .run("sign agent/a7 @/desk/x.csr --ca @/ca --days 90 --host 10.0.0.7 --host a7.example")
        .unwrap();
    let [certificate] = &place.shown("desk/x.crt")[..] else {
        panic!("one certificate")
    };
    assert_eq!(certificate.identity, "argosy://prod/agent/a7");
    assert_eq!(certificate.hosts, ["a7.example", "10.0.0.7"]);
    let refused = place.refused("sign agent/a7 @/desk/x.csr --ca @/ca");
    assert!(refused.contains("x.crt exists"), "{refused}");
    assert_eq!(place.read("a7/agent-a7.key"), key);
    assert_eq!(place.list("desk").len(), 2);
}

#[test]
fn the_files_are_those_that_a_process_reads() {
    use argosy_tls::credentials::{CredentialFiles, OwnFiles};
    use argosy_tls::store::{CredentialStore, Reload};

    let place = Place::with_ca();
    place
        .run("issue master/m1 --host m1.example --ca @/ca --dir @ --days 1")
        .unwrap();
    let files = CredentialFiles {
        own: Some(OwnFiles {
            certificate: place.path("master-m1.crt"),
            key: place.path("master-m1.key"),
        }),
        ca: place.path("ca/ca.crt"),
    };
    let now = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        argosy_tls::Time::since_unix_epoch(now.unwrap())
    };
    let store = CredentialStore::load(files, now()).unwrap();
    let before = place.shown("master-m1.crt");
    place.run("renew @/master-m1.crt --ca @/ca").unwrap();
    assert_eq!(store.reload(now()).unwrap(), Reload::Changed);
    let after = place.shown("master-m1.crt");
    assert_eq!(before[0].identity, after[0].identity);
    assert_ne!(before[0].not_after, after[0].not_after);
    let mode = fs::metadata(place.path("master-m1.crt")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn a_certificate_that_is_not_due_is_not_replaced() {
    let place = Place::with_ca();
    place
        .run("issue operator/bob --cluster prod --dir @")
        .unwrap();
    place
        .run("sign operator/bob @/operator-bob.csr --ca @/ca")
        .unwrap();
    let fresh = place.read("operator-bob.crt");
    place
        .run("renew @/operator-bob.crt --ca @/ca --due")
        .unwrap();
    assert_eq!(place.read("operator-bob.crt"), fresh);
    // 80 of its 100 days have passed.
    let authority = open(&place.path("ca")).unwrap();
    let request = CertificateRequest::from_pem(place.read("operator-bob.csr").as_bytes()).unwrap();
    let then = SystemTime::now() - std::time::Duration::from_secs(80 * 86_400);
    let old = authority.sign(
        &request,
        Validity::of_days(then, 100),
        random::bytes().unwrap(),
    );
    fs::write(place.path("operator-bob.crt"), old.unwrap()).unwrap();
    let before = place.shown("operator-bob.crt");
    place
        .run("renew @/operator-bob.crt --ca @/ca --due")
        .unwrap();
    let after = place.shown("operator-bob.crt");
    assert_eq!(before[0].identity, after[0].identity);
    assert_ne!(before[0].not_after, after[0].not_after);
    let refused = place.refused("renew @/operator-bob.csr --ca @/ca --due");
    assert!(refused.contains("operator-bob.csr"), "{refused}");
}

#[test]
fn a_ca_renews_only_its_own_certificates() {
    let (place, other) = (Place::with_ca(), Place::with_ca());
    other
        .run("issue master/m1 --host m1.example --ca @/ca --dir @")
        .unwrap();
    let foreign = place.path("foreign.crt");
    fs::copy(other.path("master-m1.crt"), &foreign).unwrap();
    let before = fs::read(&foreign).unwrap();
    let refused = place.refused("renew @/foreign.crt --ca @/ca");
    assert!(
        refused.contains("this CA has not signed the certificate"),
        "{refused}"
    );
    assert_eq!(fs::read(&foreign).unwrap(), before);
}

#[test]
fn a_ca_is_for_one_cluster() {
    let place = Place::with_ca();
    let refused =
        place.refused("issue master/m1 --host m1.example --cluster test --ca @/ca --dir @");
    assert!(
        refused.contains("this CA is for the cluster prod"),
        "{refused}"
    );
    let refused = place.refused("issue master/m1 --host m1.example --dir @");
    assert!(refused.contains("--cluster NAME"), "{refused}");
    place
        .run("issue master/m1 --host m1.example --cluster test --dir @")
        .unwrap();
    let refused = place.refused("sign master/m1 @/master-m1.csr --ca @/ca");
    assert!(
        refused.contains("asks for argosy://test/master/m1"),
        "{refused}"
    );
    let refused = place.refused("issue master/m2 --ca @/ca --dir @");
    assert!(refused.contains("--raft-advertise"), "{refused}");
    let refused = place.refused("sign master/m1 @/master-m1.csr --ca @/none");
    assert!(refused.contains("argosy ca init creates one"), "{refused}");
}

#[test]
fn a_certificate_does_not_outlive_its_ca() {
    let place = Place::new();
    place
        .run("init --cluster prod --ca @/ca --days 10")
        .unwrap();
    let refused = place.refused("issue operator/alice --ca @/ca --dir @/alice");
    assert!(
        refused.contains("the certificate of the CA expires on"),
        "{refused}"
    );
    assert_eq!(place.list("alice"), Vec::new());
    place
        .run("issue operator/alice --ca @/ca --dir @/alice --days 9")
        .unwrap();
}

#[test]
fn an_exposed_key_of_a_ca_is_not_used() {
    let place = Place::with_ca();
    let mode = fs::Permissions::from_mode(0o644);
    fs::set_permissions(place.path("ca/ca.key"), mode).unwrap();
    let refused = place.refused("issue master/m1 --host m1.example --ca @/ca --dir @");
    assert!(refused.contains("chmod g-w,o="), "{refused}");
}
