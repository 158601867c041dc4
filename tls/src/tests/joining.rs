//! A host that has only the fingerprint of a CA.

use argosy_proto::transport::certificate_identity::CertificateIdentity;

use super::*;
use crate::credentials::Credentials;
use crate::joining::{
    Fingerprint, IssuedError, certificate_text, check_issued, contains, dial_unverified,
};
use crate::request::{first_certificate, key_hash, request_of_key};

#[test]
fn a_fingerprint_is_read_as_it_is_printed() {
    let fingerprint = Fingerprint::of(b"a certificate");
    let text = fingerprint.to_string();
    assert!(text.starts_with("sha256:") && text.len() == 71, "{text}");
    let digits = &text["sha256:".len()..];
    let pairs: Vec<_> = (0..32)
        .map(|at| digits[2 * at..2 * at + 2].to_uppercase())
        .collect();
    for form in [&text, digits, &pairs.join(":")] {
        assert_eq!(form.parse(), Ok(fingerprint), "{form}");
    }
    for wrong in [
        "",
        "sha256:",
        &text[..70],
        &format!("{text}0"),
        &text.replace("sha256", "sha1"),
        &digits.replace(|digit: char| digit.is_ascii_digit(), "g"),
        &"ä".repeat(32),
    ] {
        assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn only_a_verified_connection_proves_a_master_of_the_pinned_ca() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let master = ca.member("argosy://prod/master/m1");
    let api = Echo::start(master, PortKind::Api, PlaintextPolicy::Rejected).await;
    // Without a CA: any server.
    let any = dial_unverified(Dialer::tcp());
    let dialed = any.dial(&api.address, &ExpectedPeer::MASTER).await;
    dialed.unwrap();
    let verified = |ca: &TestCa, cluster: &str| {
        let pinned = first_certificate(ca.new.certificate.as_bytes()).unwrap();
        let cluster = ClusterName::new(cluster).unwrap();
        let credentials = Credentials::of_cluster(&[pinned.to_vec()], cluster).unwrap();
        dialer::dial_with(Dialer::tcp(), Arc::new(credentials), Application::Http2)
    };
    call(&verified(&ca, "prod"), &api.address).await.unwrap();
    for wrong in [verified(&other, "prod"), verified(&ca, "test")] {
        call(&wrong, &api.address).await.err().unwrap();
    }
    // An agent of the cluster is no master.
    let agent = ca.member("argosy://prod/agent/a1");
    let api = Echo::start(agent, PortKind::Api, PlaintextPolicy::Rejected).await;
    let refused = call(&verified(&ca, "prod"), &api.address).await;
    refused.err().unwrap();
}

#[test]
fn an_issued_certificate_is_compared_with_the_request() {
    let ca = TestCa::new();
    let identity: CertificateIdentity = "argosy://prod/agent/a7".parse().unwrap();
    let names = CertificateNames {
        identity: identity.clone(),
        hosts: Vec::new(),
    };
    let made = request::new_request(&names).unwrap();
    // A repeated request has the same key.
    let again = request_of_key(&names, made.key.as_bytes()).unwrap();
    let [first, again] =
        [&made.request, &again].map(|text| CertificateRequest::from_pem(text.as_bytes()).unwrap());
    assert_eq!(first.key_hash(), again.key_hash());
    assert!(request_of_key(&names, b"no key").is_err());
    // No certificate outlives its CA.
    let validity = ca.authority.validity(SystemTime::now(), 36_500);
    let issued = ca.authority.sign(&again, validity, serial()).unwrap();
    let certificate = first_certificate(issued.as_bytes()).unwrap();
    assert_eq!(key_hash(&certificate).unwrap(), first.key_hash());
    let pinned = first_certificate(ca.new.certificate.as_bytes()).unwrap();
    let now = UnixTime::now();
    let check = |key: &str, identity: &CertificateIdentity| {
        check_issued((&issued, key), &pinned, identity, now)
    };
    check(&made.key, &identity).unwrap();
    let other = "argosy://prod/agent/a8".parse().unwrap();
    let refused = check(&made.key, &other);
    assert!(
        matches!(refused, Err(IssuedError::Identity { .. })),
        "{refused:?}"
    );
    let refused = check(&request::new_request(&names).unwrap().key, &identity);
    assert!(
        matches!(refused, Err(IssuedError::Unusable(_))),
        "{refused:?}"
    );
    let foreign = TestCa::new();
    let foreign = first_certificate(foreign.new.certificate.as_bytes()).unwrap();
    let refused = check_issued((&issued, &made.key), &foreign, &identity, now);
    assert!(
        matches!(refused, Err(IssuedError::Unusable(_))),
        "{refused:?}"
    );
    let refused = check_issued(("none", &made.key), &pinned, &identity, now);
    assert!(matches!(refused, Err(IssuedError::Pem)), "{refused:?}");
    let text = certificate_text(&pinned);
    assert!(contains(text.as_bytes(), &pinned) && !contains(text.as_bytes(), &foreign));
}
