//! Whom registries are spoken to how, and where they may send us.

use super::*;
use crate::images::reference::ImageReference;

#[test]
fn only_listed_registries_and_loopback_go_without_tls() {
    let plain = Plain(Arc::new(vec![
        "old.lan:5000".to_owned(),
        "10.0.0.1".to_owned(),
    ]));
    for authority in [
        "localhost",
        "localhost:5000",
        "127.0.0.1:1",
        "127.9.9.9",
        "[::1]:5000",
        "old.lan:5000",
        "10.0.0.1",
    ] {
        assert!(plain.allows(authority), "{authority}");
    }
    for authority in [
        "old.lan",
        "old.lan:443",
        "10.0.0.1:80",
        "localhost.evil.com",
        "127.0.0.1.evil.com",
        "docker.io",
        "128.0.0.1",
    ] {
        assert!(!plain.allows(authority), "{authority}");
    }
    let follows =
        |from: &str, to: &str| plain.follows(&Url::parse(from).unwrap(), &Url::parse(to).unwrap());
    assert!(follows("https://a/", "https://b/"));
    assert!(follows("https://a/", "http://old.lan:5000/"));
    assert!(follows("http://127.0.0.1:7/", "http://localhost:8/"));
    assert!(!follows("https://a/", "http://b/"));
    assert!(!follows("https://a/", "http://127.0.0.1:5051/"));
    assert!(!follows("https://a/", "https://localhost/"));
    assert!(!follows("http://10.0.0.1/", "http://169.254.169.254/"));
    assert!(!follows("http://127.0.0.1/", "ftp://127.0.0.1/"));
}

#[test]
fn a_repository_is_asked_for_where_its_registry_answers() {
    let registries = Registries::new(&[], Patience::default());
    for (name, base) in [
        ("nginx", "https://index.docker.io/v2/library/nginx"),
        ("localhost:5000/a/b", "http://localhost:5000/v2/a/b"),
        ("quay.io/a/b:t", "https://quay.io/v2/a/b"),
    ] {
        let ImageReference::Registry(reference) = name.parse().unwrap() else {
            panic!("{name} is in a registry");
        };
        assert_eq!(registries.session(&reference, None).base, base);
    }
}
