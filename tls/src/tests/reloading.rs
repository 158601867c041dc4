//! Certificates that change while a process runs.

use super::*;
use crate::credentials::CredentialError;
use crate::store::Reload;

fn now() -> UnixTime {
    UnixTime::now()
}

#[tokio::test]
async fn new_connections_use_changed_files_and_open_ones_continue() {
    let (ca, next) = (TestCa::new(), TestCa::new());
    let files = ca.files(
        Some(&ca.issue("argosy://prod/master/m1")),
        &ca.new.certificate,
    );
    let server = load(files.clone());
    let port = Echo::start(server.clone(), PortKind::Api, PlaintextPolicy::Rejected).await;
    let former = client(&ca.member("argosy://prod/operator/alice"));
    let mut open = call(&former, &port.address).await.unwrap();
    let newer = client(&next.member("argosy://prod/operator/alice"));
    assert!(call(&newer, &port.address).await.is_err());
    assert_eq!(server.reload(now()).unwrap(), Reload::Unchanged);

    // The new CA, and a certificate that it has signed.
    let issued = next.issue("argosy://prod/master/m1");
    let own = files.own.clone().unwrap();
    fs::write(&files.ca, &next.new.certificate).unwrap();
    fs::write(&own.certificate, &issued.certificate).unwrap();
    // Between the two files, the former credentials stay.
    let half = server.reload(now()).unwrap_err();
    assert!(
        half.to_string()
            .contains("it is not the key of the certificate"),
        "{half}"
    );
    call(&former, &port.address).await.unwrap();
    write_key(&own.key, &issued.key);
    assert_eq!(server.reload(now()).unwrap(), Reload::Changed);
    assert_eq!(server.reload(now()).unwrap(), Reload::Unchanged);

    call(&newer, &port.address).await.unwrap();
    assert!(call(&former, &port.address).await.is_err());
    exchange(&mut open).await.unwrap();
}

#[tokio::test]
async fn a_client_presents_its_newest_certificate() {
    let (ca, next) = (TestCa::new(), TestCa::new());
    let both = format!("{}{}", ca.new.certificate, next.new.certificate);
    let files = ca.files(Some(&ca.issue("argosy://prod/agent/a1")), &both);
    let agent = load(files.clone());
    let server = load(next.files(
        Some(&next.issue("argosy://prod/master/m1")),
        &next.new.certificate,
    ));
    let port = Echo::start(server, PortKind::Api, PlaintextPolicy::Rejected).await;
    let dialer = client(&agent);
    assert!(call(&dialer, &port.address).await.is_err());
    let issued = next.issue("argosy://prod/agent/a1");
    let own = files.own.unwrap();
    fs::write(&own.certificate, &issued.certificate).unwrap();
    write_key(&own.key, &issued.key);
    assert_eq!(agent.reload(now()).unwrap(), Reload::Changed);
    call(&dialer, &port.address).await.unwrap();
    assert_eq!(port.take_peers(), ["agent/a1"]);
}

#[test]
fn a_process_keeps_its_identity() {
    let ca = TestCa::new();
    let files = ca.files(
        Some(&ca.issue("argosy://prod/agent/a1")),
        &ca.new.certificate,
    );
    let store = load(files.clone());
    let own = files.own.unwrap();
    for identity in ["argosy://prod/agent/a2", "argosy://prod/master/a1"] {
        let issued = ca.issue(identity);
        fs::write(&own.certificate, &issued.certificate).unwrap();
        write_key(&own.key, &issued.key);
        let refused = store.reload(now()).unwrap_err();
        assert!(
            matches!(refused, CredentialError::Identity { .. }),
            "{refused}"
        );
        let current = store.current();
        let identity = current.identity().unwrap().to_string();
        assert_eq!(identity, "argosy://prod/agent/a1");
    }
}

#[test]
fn unusable_files_are_errors_that_name_them() {
    let ca = TestCa::new();
    let issued = ca.issue("argosy://prod/master/m1");
    let expect = |change: &dyn Fn(&CredentialFiles), expected: &str| {
        let files = ca.files(Some(&issued), &ca.new.certificate);
        change(&files);
        let error = CredentialStore::load(files.clone(), now()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    let own = |files: &CredentialFiles| files.own.clone().unwrap();
    expect(&|files| fs::remove_file(&files.ca).unwrap(), "cannot read");
    expect(
        &|files| fs::write(&files.ca, "").unwrap(),
        "contains no certificate",
    );
    expect(
        &|files| fs::write(&files.ca, "-----BEGIN CERTIFICATE-----\n!\n").unwrap(),
        "contains no certificate in PEM",
    );
    expect(
        &|files| fs::write(&files.ca, vec![b'\n'; (1 << 20) + 1]).unwrap(),
        "is larger than 1 MiB",
    );
    expect(
        &|files| fs::write(own(files).certificate, &issued.key).unwrap(),
        "contains no certificate",
    );
    expect(
        &|files| fs::write(own(files).key, &issued.certificate).unwrap(),
        "contains no private key in PEM",
    );
    // Others can read the key, write to it as its group, or write to it.
    for mode in [0o644, 0o660, 0o602] {
        expect(
            &|files| {
                let mode = fs::Permissions::from_mode(mode);
                fs::set_permissions(own(files).key, mode).unwrap();
            },
            "other users of this host can read",
        );
    }
    expect(
        &|files| {
            let other = ca.issue("argosy://prod/master/m1");
            write_key(&own(files).key, &other.key);
        },
        "it is not the key of the certificate",
    );
    let other = TestCa::new();
    expect(
        &|files| fs::write(&files.ca, &other.new.certificate).unwrap(),
        "no trusted CA has signed it",
    );
    let past = ca.issue_at("argosy://prod/master/m1", SystemTime::now() - DAY * 100);
    expect(
        &|files| {
            fs::write(own(files).certificate, &past.certificate).unwrap();
            write_key(&own(files).key, &past.key);
        },
        "renew it with argosy ca renew",
    );
}
