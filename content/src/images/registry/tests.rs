//! Tests of the schemes and hosts by which registries are contacted.

use super::*;
use crate::images::reference::ImageReference;

fn registries(insecure: &[&str]) -> Registries {
    let fetch = FetchSettings {
        limit_bytes: 1,
        directories: Vec::new(),
        allow: Vec::new(),
        masters: Vec::new(),
        api: String::new(),
        api_port: None,
        task_subnets: None,
    };
    let insecure: Vec<_> = insecure.iter().map(|text| text.parse().unwrap()).collect();
    Registries::new(&fetch, &insecure, RetryTimeouts::default()).unwrap()
}

#[test]
fn only_listed_registries_are_used_without_tls() {
    let registries = registries(&["old.lan:5000", "10.0.0.1", "127.0.0.1:7", "[::1]:5000"]);
    let goes = |url: &str| registries.allows_scheme(&Url::parse(url).unwrap());
    for url in [
        "https://a/",
        "https://127.0.0.1:5051/",
        "http://old.lan:5000/",
        "http://OLD.lan.:5000/",
        "http://10.0.0.1/",
        "http://127.1:7/",
        "http://[::1]:5000/",
    ] {
        assert!(goes(url), "{url}");
    }
    for url in [
        "http://old.lan/",
        "http://old.lan:443/",
        "http://10.0.0.1:5000/",
        "http://127.0.0.1:5051/",
        "http://localhost/",
        "http://localhost:7/",
        "http://169.254.169.254/",
        "ftp://127.0.0.1:7/",
        "file:///etc/passwd",
    ] {
        assert!(!goes(url), "{url}");
    }
}

#[test]
fn request_urls_use_the_registrys_api_host() {
    let registries = registries(&["localhost:5000"]);
    for (name, base) in [
        ("nginx", "https://index.docker.io/v2/library/nginx"),
        ("localhost:5000/a/b", "http://localhost:5000/v2/a/b"),
        ("localhost:5001/a/b", "https://localhost:5001/v2/a/b"),
        ("127.0.0.1:5000/a/b", "https://127.0.0.1:5000/v2/a/b"),
        ("quay.io/a/b:t", "https://quay.io/v2/a/b"),
    ] {
        let ImageReference::Registry(reference) = name.parse().unwrap() else {
            panic!("{name} is in a registry");
        };
        assert_eq!(
            registries.session(&reference, None, FrameworkId(1)).base,
            base
        );
    }
}

#[test]
fn a_registry_without_tls_is_listed_by_host_and_port() {
    for text in [
        "registry.example",
        "Registry.example:5000",
        "10.0.0.1",
        "[fd00::7]",
        "[fd00::7]:5000",
    ] {
        text.parse::<InsecureRegistry>().expect(text);
    }
    for text in [
        "",
        "http://registry.example",
        "registry.example/team",
        "registry.example:0",
        "registry.example:70000",
        "10.0.0.0/8",
        "fd00::7",
        "::1",
        ":5000",
    ] {
        let error = text.parse::<InsecureRegistry>().expect_err(text);
        assert!(
            error.to_string().contains("registry.example:5000"),
            "{error}"
        );
    }
}
