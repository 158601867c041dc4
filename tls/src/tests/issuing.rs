//! Certificates that the CA issues.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::authority::AuthorityError;
use crate::description::{self, CertificateDescription};
use crate::request::{Host, RequestError};

fn first(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn described(pem: &str) -> Vec<CertificateDescription> {
    description::describe(pem.as_bytes()).unwrap()
}

fn request(params: &CertificateParams) -> Result<CertificateRequest, RequestError> {
    let key = KeyPair::generate().unwrap();
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    CertificateRequest::from_pem(request.as_bytes())
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[test]
fn a_certificate_has_the_names_of_its_request() {
    let ca = TestCa::new();
    let hosts = ["m1.example", "10.0.0.1", "2001:db8::1", "localhost"];
    let names = CertificateNames {
        identity: "argosy://prod/master/m1".parse().unwrap(),
        hosts: hosts.map(|host| host.parse().unwrap()).to_vec(),
    };
    let made = request::new_request(&names).unwrap();
    assert!(made.key.contains("PRIVATE KEY") && !made.request.contains("PRIVATE KEY"));
    let request = CertificateRequest::from_pem(made.request.as_bytes()).unwrap();
    assert_eq!(request.names, names);
    let validity = Validity::of_days(SystemTime::now(), DAYS);
    let signed = ca.authority.sign(&request, validity, serial()).unwrap();
    let [one] = &described(&signed)[..] else {
        panic!("a root CA is not part of the chain")
    };
    assert_eq!(one.identity, "argosy://prod/master/m1");
    assert_eq!(one.hosts, hosts);
    let issuer = &one.issuer;
    assert!(
        issuer.starts_with("CN=Argosy CA ") && issuer.ends_with(" of prod"),
        "{issuer}"
    );
    assert!(!one.is_ca);
    assert_eq!(one.fingerprint.len(), 64);
    let [ca] = &described(&ca.new.certificate)[..] else {
        panic!("one certificate")
    };
    assert!(ca.is_ca && ca.identity.is_empty());
}

#[test]
fn a_renewed_certificate_has_the_same_key_and_another_serial_number() {
    let ca = TestCa::new();
    let before = SystemTime::now() - DAY * 100;
    let issued = ca.issue_at("argosy://prod/agent/a1", before);
    let former = first(&issued.certificate);
    ca.authority.check_own(&former).unwrap();
    let request = CertificateRequest::of_certificate(&former).unwrap();
    let validity = Validity::of_days(SystemTime::now(), DAYS);
    let renewed = Issued {
        certificate: ca.authority.sign(&request, validity, serial()).unwrap(),
        key: issued.key,
    };
    // The former key, and a valid time: else it could not be loaded.
    let store = load(ca.files(Some(&renewed), &ca.new.certificate));
    let current = store.current();
    assert_eq!(
        current.identity().unwrap().to_string(),
        "argosy://prod/agent/a1"
    );
    let (old, new) = (
        described(&issued.certificate),
        described(&renewed.certificate),
    );
    assert_ne!(old[0].serial, new[0].serial);
    assert!(old[0].not_after < new[0].not_after);

    let other = TestCa::new().issue("argosy://prod/agent/a1");
    let foreign = ca.authority.check_own(&first(&other.certificate));
    assert!(matches!(foreign, Err(AuthorityError::Foreign)));
}

#[test]
fn a_request_gives_nothing_but_names_and_a_key() {
    let ca = TestCa::new();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("argosy://prod/framework/web")];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let request = request(&params).unwrap();
    let validity = Validity::of_days(SystemTime::now(), DAYS);
    let signed = ca.authority.sign(&request, validity, serial()).unwrap();
    assert!(!described(&signed)[0].is_ca);
    let key = KeyPair::generate().unwrap().serialize_pem();
    let refused = Authority::from_pem(signed.as_bytes(), key.as_bytes())
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("it may not sign others"),
        "{refused}"
    );
}

#[test]
fn requests_with_other_names_are_rejected() {
    let of = |names: Vec<SanType>| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        request(&params)
            .map(|request| request.names)
            .map_err(|error| error.to_string())
    };
    let own = || uri("argosy://prod/master/m1");
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    assert!(of(vec![own(), dns("m1.example")]).is_ok());
    for (names, expected) in [
        (vec![], "states no identity"),
        (vec![dns("m1.example")], "states no identity"),
        (vec![own(), own()], "several identities"),
        (
            vec![own(), uri("https://example/")],
            "neither a host nor an identity",
        ),
        (
            vec![own(), SanType::Rfc822Name("a@b".try_into().unwrap())],
            "neither a host nor an identity",
        ),
        (vec![own(), dns("*.example")], "is not a host"),
        (vec![own(), dns("a b")], "is not a host"),
        (vec![uri("argosy://prod/root/m1")], "is not an identity"),
    ] {
        let refused = of(names).unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    }
    let many = (0..65).map(|number| dns(&format!("h{number}.example")));
    let refused = of(std::iter::once(own()).chain(many).collect()).unwrap_err();
    assert!(refused.contains("65 hosts are too many"), "{refused}");
}

#[test]
fn a_changed_request_is_rejected() {
    let names = CertificateNames {
        identity: "argosy://prod/master/m1".parse().unwrap(),
        hosts: Vec::new(),
    };
    let made = request::new_request(&names).unwrap();
    let parsed = ::pem::parse(&made.request).unwrap();
    // What the key has signed. Bytes around it may have several forms.
    let (_, request) = X509CertificationRequest::from_der(parsed.contents()).unwrap();
    let signed = request.certification_request_info.raw;
    let mut places = parsed.contents().windows(signed.len());
    let begin = places.position(|place| place == signed).unwrap();
    let mut outcomes = std::collections::BTreeSet::new();
    for at in begin..begin + signed.len() {
        let mut bytes = parsed.contents().to_vec();
        bytes[at] ^= 1;
        let changed = ::pem::encode(&::pem::Pem::new(parsed.tag(), bytes));
        let refused = CertificateRequest::from_pem(changed.as_bytes());
        outcomes.insert(match refused {
            Err(RequestError::Signature) => "signature",
            Err(_) => "form",
            Ok(_) => panic!("byte {at} may change"),
        });
    }
    assert_eq!(outcomes.len(), 2);
    for text in ["", "-----BEGIN CERTIFICATE REQUEST-----\n!\n", &made.key] {
        let refused = CertificateRequest::from_pem(text.as_bytes());
        assert!(matches!(refused, Err(RequestError::Pem { .. })));
    }
}

#[test]
fn a_ca_signs_for_its_cluster_and_within_its_time() {
    let ca = TestCa::new();
    let names = |identity: &str| CertificateNames {
        identity: identity.parse().unwrap(),
        hosts: Vec::new(),
    };
    let sign = |identity: &str, days| {
        let made = request::new_request(&names(identity)).unwrap();
        let request = CertificateRequest::from_pem(made.request.as_bytes()).unwrap();
        let validity = Validity::of_days(SystemTime::now(), days);
        ca.authority.sign(&request, validity, serial())
    };
    assert!(sign("argosy://prod/master/m1", DAYS).is_ok());
    let refused = sign("argosy://test/master/m1", DAYS).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "this CA is for the cluster prod, and signs nothing for test"
    );
    assert!(matches!(
        sign("argosy://prod/master/m1", 5_000),
        Err(AuthorityError::Expires(_))
    ));
    let other = TestCa::new();
    let mixed = Authority::from_pem(ca.new.certificate.as_bytes(), other.new.key.as_bytes());
    assert!(matches!(mixed, Err(AuthorityError::Mismatch)));
}

#[tokio::test]
async fn certificates_of_an_intermediate_ca_are_accepted() {
    let root = TestCa::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_key = KeyPair::generate().unwrap();
    let mut root_params = CertificateParams::default();
    root_params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "Example");
    root_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root_params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_certificate = root_params.self_signed(&root_key).unwrap().pem();
    let issuer = Issuer::new(root_params, root_key);
    let intermediate = params.signed_by(&key, &issuer).unwrap().pem();
    let chain = format!("{intermediate}{root_certificate}");
    let authority = Authority::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    assert_eq!(authority.cluster(), None);
    let issue = |identity: &str| {
        let names = CertificateNames {
            identity: identity.parse().unwrap(),
            hosts: Vec::new(),
        };
        let made = request::new_request(&names).unwrap();
        let request = CertificateRequest::from_pem(made.request.as_bytes()).unwrap();
        let validity = Validity::of_days(SystemTime::now(), DAYS);
        Issued {
            certificate: authority.sign(&request, validity, serial()).unwrap(),
            key: made.key,
        }
    };
    let server = issue("argosy://prod/master/m1");
    let [own, above] = &described(&server.certificate)[..] else {
        panic!("the chain is without the root")
    };
    assert!(!own.is_ca && above.is_ca);
    // Each side trusts only the root.
    let server = load(root.files(Some(&server), &root_certificate));
    let operator = issue("argosy://prod/operator/alice");
    let operator = load(root.files(Some(&operator), &root_certificate));
    let port = Echo::start(server, PortKind::Api, PlaintextPolicy::Rejected).await;
    call(&client(&operator), &port.address).await.unwrap();
    assert_eq!(port.take_peers(), ["operator/alice"]);
}

#[test]
fn hosts_are_names_or_addresses() {
    for text in ["m1", "m1.example", "10.0.0.1", "::1", "a_b.example"] {
        let host: Host = text.parse().unwrap();
        assert_eq!(host.to_string(), text);
    }
    for text in [
        "",
        "m1:5050",
        "*.example",
        "a b",
        "[::1]",
        "10.0.0.1:5050",
        "10.0.0.300",
        "a/b",
        "ä",
    ] {
        assert!(text.parse::<Host>().is_err(), "{text}");
    }
}
