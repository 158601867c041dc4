//! Tests of an agent's handle on its service, with a fake service. `tests/service` tests the real
//! process.

use super::message::RegistryLogin;
use crate::images::{AuthHeader, ImageReference};

#[test]
fn credentials_are_passed_unchanged_and_not_printed() {
    let name = "registry.example/site:1".parse().unwrap();
    let ImageReference::Registry(reference) = name else {
        panic!("it names a registry");
    };
    let secret = AuthHeader::bearer("hunter2").unwrap();
    let login = RegistryLogin::of(&reference, Some(&secret));
    let sent = serde_json::to_string(&login).unwrap();
    let received: RegistryLogin = serde_json::from_str(&sent).unwrap();
    assert!(received == login);
    let secret = AuthHeader::new(&received.secret.unwrap()).unwrap();
    assert_eq!(secret.text(), "Bearer hunter2");
    assert_eq!(format!("{secret:?}"), "Secret");
}
