//! Tests of sealing the values of a batch.

use super::*;

const CLUSTER: ClusterId = ClusterId(7);

fn keys(id: &str) -> SecretKeys {
    SecretKeys::parse(&format!("{id}:{}", "ab".repeat(32))).unwrap()
}

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

fn value(text: &str) -> SecretValue {
    SecretValue::new(text.as_bytes().to_vec())
}

fn operate(operations: Vec<OperatorOperation>) -> Operate {
    Operate {
        request: Some(("alice".to_owned(), "r-1".to_owned())),
        hash: 5,
        operations,
        wall_ms: 12,
    }
}

fn present(secrets: &[(&str, SealedSecret)]) -> PresentSecrets {
    let secrets = secrets.iter();
    PresentSecrets {
        clusters: vec![CLUSTER],
        secrets: secrets
            .map(|(text, secret)| (name(text), secret.clone()))
            .collect(),
    }
}

/// Returns the sealed values of a batch.
fn seals(operate: &mut Operate) -> Vec<SealedSecret> {
    let operations = operate.operations.iter_mut();
    let sealed = operations.filter_map(|operation| Some(sealed(operation)?.2.clone()));
    sealed.collect()
}

#[test]
fn values_are_sealed_with_the_versions_that_follow() {
    let keys = keys("k1");
    let mut first = operate(vec![set(name("web/db")), set(name("web/key"))]);
    let values = [value("one"), value("two")].into();
    seal_all(&keys, &present(&[]), &mut first, values).unwrap();
    let sealed = seals(&mut first);
    assert_eq!(
        sealed.iter().map(|one| one.version).collect::<Vec<_>>(),
        [1, 1]
    );
    assert_eq!(sealed[0].wall_ms, 12);
    let opened = keys.open(CLUSTER, &name("web/key"), &sealed[1]);
    assert_eq!(opened, Ok(value("two")));
    // Two values of one secret in one batch, after the present one; and one after its removal.
    let mut next = operate(vec![
        OperatorOperation::RemoveSecret(name("web/key")),
        set(name("web/db")),
        set(name("web/db")),
        OperatorOperation::RemoveSecret(name("web/db")),
        set(name("web/db")),
    ]);
    let known = present(&[("web/db", sealed[0].clone())]);
    let values = [value("three"), value("four"), value("five")].into();
    seal_all(&keys, &known, &mut next, values).unwrap();
    let sealed = seals(&mut next);
    assert_eq!(
        sealed.iter().map(|one| one.version).collect::<Vec<_>>(),
        [2, 3, 1]
    );
    let opened = keys.open(CLUSTER, &name("web/db"), &sealed[2]);
    assert_eq!(opened, Ok(value("five")));
}

#[test]
fn a_repeated_batch_has_the_same_hash_and_one_with_another_value_has_not() {
    let keys = keys("k1");
    let hash = |text: &str| {
        let mut batch = operate(vec![set(name("web/db"))]);
        seal_all(&keys, &present(&[]), &mut batch, [value(text)].into()).unwrap();
        batch.hash
    };
    assert_eq!(hash("one"), hash("one"));
    assert_ne!(hash("one"), hash("two"));
}

#[test]
fn a_secret_is_sealed_again_with_the_first_key() {
    let old = keys("k1");
    let mut batch = operate(vec![set(name("web/db"))]);
    seal_all(&old, &present(&[]), &mut batch, [value("one")].into()).unwrap();
    let known = present(&[("web/db", seals(&mut batch)[0].clone())]);
    let digits = ["cd".repeat(32), "ab".repeat(32)];
    let text = format!("k2:{}\nk1:{}", digits[0], digits[1]);
    let both = SecretKeys::parse(&text).unwrap();
    let mut again = operate(vec![reseal(name("web/db")), reseal(name("web/none"))]);
    seal_all(&both, &known, &mut again, VecDeque::new()).unwrap();
    let sealed = seals(&mut again);
    assert_eq!((sealed[0].version, sealed[0].key_id.as_str()), (1, "k2"));
    let opened = both.open(CLUSTER, &name("web/db"), &sealed[0]);
    assert_eq!(opened, Ok(value("one")));
    let OperatorOperation::ResealSecret { replaces, .. } = &again.operations[0] else {
        unreachable!("it seals again");
    };
    assert_eq!(*replaces, known.secrets[&name("web/db")].nonce);
    // The registry refuses the one that it does not have.
    assert_eq!(sealed[1], SealedSecret::default());
    let other = keys("k3");
    let failed = seal_all(&other, &known, &mut again, VecDeque::new()).unwrap_err();
    assert!(
        failed.message().contains("does not have the key \"k1\""),
        "{failed}"
    );
}

#[test]
fn a_value_above_its_bound_is_malformed() {
    let mut batch = operate(vec![set(name("web/db"))]);
    let long = SecretValue::new(vec![1; limits::SECRET_VALUE_BYTES + 1]);
    let failed = seal_all(&keys("k1"), &present(&[]), &mut batch, [long].into()).unwrap_err();
    assert_eq!(failed.code(), tonic::Code::InvalidArgument);
}

#[test]
fn values_are_taken_out_of_a_batch() {
    let set = |text: &str| v1::WriteOperation {
        operation: Some(Operation::SetSecret(v1::SetSecret {
            name: "web/db".to_owned(),
            value: text.as_bytes().to_vec(),
        })),
    };
    let removed = v1::RemoveSecret {
        name: "web/db".to_owned(),
    };
    let mut batch = v1::WriteBatch {
        operations: vec![
            set("one"),
            v1::WriteOperation {
                operation: Some(Operation::RemoveSecret(removed)),
            },
            set("two"),
        ],
        ..v1::WriteBatch::default()
    };
    let taken = take_values(&mut batch);
    assert_eq!(Vec::from(taken), [value("one"), value("two")]);
    assert!(
        take_values(&mut batch)
            .iter()
            .all(|value| value.expose().is_empty())
    );
}
