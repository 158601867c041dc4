//! Tests of keys, sealing and opening.

use super::*;

const CLUSTER: ClusterId = ClusterId(7);

fn line(id: &str, digit: char) -> String {
    format!("{id}:{}\n", digit.to_string().repeat(64))
}

fn keys(lines: &[(&str, char)]) -> SecretKeys {
    let text: String = lines.iter().map(|(id, digit)| line(id, *digit)).collect();
    SecretKeys::parse(&text).unwrap()
}

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

fn value(text: &str) -> SecretValue {
    SecretValue::new(text.as_bytes().to_vec())
}

fn seal(keys: &SecretKeys, at: &SecretName, version: u64, text: &str) -> SealedSecret {
    let place = SecretPlace {
        cluster: CLUSTER,
        name: at,
        version,
    };
    keys.seal(place, &value(text), [5; NONCE_BYTES], 12)
}

#[test]
fn a_sealed_value_is_opened_under_its_name_and_version() {
    let keys = keys(&[("k1", 'a')]);
    let at = name("web/db");
    for text in ["", "hunter2", &"x".repeat(limits::SECRET_VALUE_BYTES)] {
        let sealed = seal(&keys, &at, 3, text);
        assert_eq!((sealed.version, sealed.key_id.as_str()), (3, "k1"));
        assert_eq!(sealed.value_bytes(), text.len());
        let found = sealed
            .ciphertext
            .0
            .windows(7)
            .any(|part| part == b"hunter2");
        assert!(!found, "the ciphertext is not the value");
        assert_eq!(keys.open(CLUSTER, &at, &sealed), Ok(value(text)));
    }
}

#[test]
fn a_value_that_was_moved_or_changed_is_not_opened() {
    let keys = keys(&[("k1", 'a')]);
    let at = name("web/db");
    let sealed = seal(&keys, &at, 3, "hunter2");
    let forged = Err(OpenError::Forged("k1".to_owned()));
    // Under another name, in another cluster, as another version.
    assert_eq!(keys.open(CLUSTER, &name("web/db2"), &sealed), forged);
    assert_eq!(keys.open(CLUSTER, &name("ops/db"), &sealed), forged);
    assert_eq!(keys.open(ClusterId(8), &at, &sealed), forged);
    let earlier = SealedSecret {
        version: 2,
        ..sealed.clone()
    };
    assert_eq!(keys.open(CLUSTER, &at, &earlier), forged);
    let moved = SealedSecret {
        nonce: [6; NONCE_BYTES],
        ..sealed.clone()
    };
    assert_eq!(keys.open(CLUSTER, &at, &moved), forged);
    for place in 0..sealed.ciphertext.0.len() {
        let mut bytes = sealed.ciphertext.0.to_vec();
        bytes[place] ^= 1;
        let changed = SealedSecret {
            ciphertext: Ciphertext(bytes.into()),
            ..sealed.clone()
        };
        assert_eq!(keys.open(CLUSTER, &at, &changed), forged, "{place}");
    }
    let short = SealedSecret {
        ciphertext: Ciphertext(sealed.ciphertext.0[..10].into()),
        ..sealed
    };
    assert_eq!(keys.open(CLUSTER, &at, &short), forged);
}

#[test]
fn the_first_key_seals_and_every_key_opens() {
    let at = name("web/db");
    let old = keys(&[("k1", 'a')]);
    let sealed = seal(&old, &at, 1, "hunter2");
    // Every master can open both before any of them seals with the new key.
    let first = keys(&[("k1", 'a'), ("k2", 'b')]);
    assert_eq!(seal(&first, &at, 1, "x").key_id, "k1");
    let second = keys(&[("k2", 'b'), ("k1", 'a')]);
    let opened = second.open(CLUSTER, &at, &sealed).unwrap();
    assert_eq!(opened, value("hunter2"));
    let again = seal(&second, &at, 1, "hunter2");
    assert_eq!(again.key_id, "k2");
    assert_eq!(first.open(CLUSTER, &at, &again), Ok(value("hunter2")));
    let third = keys(&[("k2", 'b')]);
    assert_eq!(third.open(CLUSTER, &at, &again), Ok(value("hunter2")));
    let unknown = Err(OpenError::UnknownKey("k1".to_owned()));
    assert_eq!(third.open(CLUSTER, &at, &sealed), unknown);
    // Another key with the same id.
    let other = keys(&[("k1", 'c')]);
    let forged = Err(OpenError::Forged("k1".to_owned()));
    assert_eq!(other.open(CLUSTER, &at, &sealed), forged);
}

#[test]
fn invalid_files_of_keys_are_refused_without_showing_them() {
    let good = format!("# keys\n\n  {}  ", line("k1", 'A').trim());
    assert_eq!(keys(&[("k1", 'a')]).ids().collect::<Vec<_>>(), ["k1"]);
    assert!(SecretKeys::parse(&good).is_ok());
    let secret = "5ec2e7";
    let many: String = (0..=KEYS).map(|at| line(&format!("k{at}"), 'a')).collect();
    for (text, wanted) in [
        (String::new(), InvalidSecretKeys::Empty),
        ("# none\n".to_owned(), InvalidSecretKeys::Empty),
        (secret.repeat(11), InvalidSecretKeys::Line(1)),
        (format!("k1:{secret}"), InvalidSecretKeys::Line(1)),
        (
            format!("\nk 1:{}", "a".repeat(64)),
            InvalidSecretKeys::Line(2),
        ),
        (format!("k1:{}", "ä".repeat(32)), InvalidSecretKeys::Line(1)),
        (format!(":{}", "a".repeat(64)), InvalidSecretKeys::Line(1)),
        (
            line("k1", 'a') + &line("k1", 'b'),
            InvalidSecretKeys::Repeated(2),
        ),
        (many, InvalidSecretKeys::TooMany),
    ] {
        let error = SecretKeys::parse(&text).unwrap_err();
        assert_eq!(error, wanted, "{text}");
        assert!(!error.to_string().contains(secret), "{error}");
    }
    let shown = format!("{:?}", keys(&[("k1", 'a'), ("k2", 'b')]));
    assert_eq!(shown, r#"["k1", "k2"]"#);
}

#[test]
fn a_repeated_request_is_recognized_by_its_value() {
    let one = keys(&[("k1", 'a')]);
    let (db, key) = (name("web/db"), name("web/key"));
    let of = |keys: &SecretKeys, text: &str| keys.fingerprint(9, &[(&db, &value(text))]);
    assert_eq!(of(&one, "hunter2"), of(&one, "hunter2"));
    assert_ne!(of(&one, "hunter2"), of(&one, "hunter3"));
    assert_ne!(of(&one, "hunter2"), of(&keys(&[("k1", 'b')]), "hunter2"));
    assert_ne!(
        of(&one, "hunter2"),
        one.fingerprint(9, &[(&key, &value("hunter2"))])
    );
    assert_ne!(one.fingerprint(9, &[]), one.fingerprint(8, &[]));
}

#[test]
fn nonces_differ() {
    assert_ne!(random_nonce().unwrap(), random_nonce().unwrap());
}

#[test]
fn a_restored_cluster_opens_what_its_ancestors_have_sealed() {
    let keys = keys(&[("k1", 'a')]);
    let at = name("web/db");
    let sealed = seal(&keys, &at, 1, "hunter2");
    let restored = [ClusterId(90), ClusterId(91), CLUSTER];
    let opened = keys.open_of_any(&restored, &at, &sealed);
    assert_eq!(opened, Ok(value("hunter2")));
    let forged = Err(OpenError::Forged("k1".to_owned()));
    assert_eq!(keys.open_of_any(&restored[..2], &at, &sealed), forged);
}
