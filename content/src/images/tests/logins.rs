//! Tests of private registries: which servers get credentials, and which do not.

use super::registry::{AccessRule, InjectedFault};
use super::*;

const LOGIN: &str = "dXNlcjpodW50ZXIy";

/// Returns a fixture whose registry has an account for the operator, and the credentials file.
async fn private(
    challenge: impl Fn(&str) -> String,
    wanted: &str,
) -> (ImagesFixture, tempfile::NamedTempFile) {
    private_among(ImageSettings::default(), challenge, wanted).await
}

/// The same for an operator who lists other registries as well.
async fn private_among(
    trusting: ImageSettings,
    challenge: impl Fn(&str) -> String,
    wanted: &str,
) -> (ImagesFixture, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let settings = ImageSettings {
        credentials: Some(file.path().to_owned()),
        ..trusting
    };
    let world = ImagesFixture::with(settings).await;
    let address = world.registry.address();
    let text = format!("{{\"auths\": {{\"{address}\": {{\"auth\": \"{LOGIN}\"}}}}}}");
    fs::write(file.path(), text).unwrap();
    world.registry.set_access(AccessRule::Closed {
        wanted: wanted.to_owned(),
        challenge: challenge(address),
    });
    world.registry.offer(
        "team/web:1",
        &TestImage::new(&[("base", "a"), ("page", "b")]),
    );
    (world, file)
}

fn bearer(address: &str) -> String {
    format!("Bearer realm=\"http://{address}/token\",service=\"registry of tests\"")
}

fn basic(_: &str) -> String {
    "Basic realm=\"x\"".to_owned()
}

#[tokio::test]
async fn one_token_is_fetched_per_pull() {
    let (world, _file) = private(bearer, "Bearer abc.def").await;
    let basic = format!("Basic {LOGIN}");
    world.registry.set_token(Some(&basic), "abc.def");
    world.obtain(&world.name("team/web:1"), 1).await.unwrap();
    let tokens = world.registry.requests("/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].query,
        "service=registry+of+tests&scope=repository%3Ateam%2Fweb%3Apull"
    );
    for asked in world.registry.requests("/v2/") {
        assert_ne!(asked.authorization.as_ref(), Some(&basic), "{asked:?}");
    }
}

#[tokio::test]
async fn an_anonymous_token_suffices_for_public_images() {
    let (world, file) = private(bearer, "Bearer abc").await;
    fs::write(file.path(), "{}").unwrap();
    world.registry.set_token(None, "abc");
    world.obtain(&world.name("team/web:1"), 1).await.unwrap();
    assert_eq!(world.registry.requests("/token")[0].authorization, None);
}

#[tokio::test]
async fn a_password_is_sent_when_its_registry_requires_it() {
    let (world, file) = private(basic, &format!("Basic {LOGIN}")).await;
    world.obtain(&world.name("team/web:1"), 1).await.unwrap();
    assert_eq!(
        world.registry.requests("")[0].authorization,
        None,
        "not before it asks"
    );

    fs::write(file.path(), "{}").unwrap();
    let error = world
        .obtain_by(&world.name("team/web:1"), PullPolicy::Always, 1)
        .await
        .unwrap_err();
    assert!(error.contains("--image-credentials"), "{error}");
}

#[tokio::test]
async fn rejected_credentials_are_reported_but_never_shown() {
    let (world, file) = private(basic, "Basic b3RoZXI=").await;
    let name = world.name("team/web:1");
    let mut errors = vec![world.obtain(&name, 1).await.unwrap_err()];
    assert!(errors[0].contains("answered 401"), "{}", errors[0]);
    let challenge = bearer(world.registry.address());
    world.registry.set_access(AccessRule::Closed {
        wanted: "x".to_owned(),
        challenge,
    });
    errors.push(world.obtain(&name, 1).await.unwrap_err());
    world.registry.set_token(None, "bad token\\n");
    errors.push(world.obtain(&name, 1).await.unwrap_err());
    assert!(errors[2].contains("invalid token"), "{}", errors[2]);
    for challenge in [
        "Bearer realm=\"http://192.0.2.1/token\"",
        "Bearer realm=\"token\"",
        "Negotiate",
    ] {
        let challenge = challenge.to_owned();
        world.registry.set_access(AccessRule::Closed {
            wanted: "x".to_owned(),
            challenge,
        });
        let error = world.obtain(&name, 1).await.unwrap_err();
        assert!(error.contains("cannot be logged in to"), "{error}");
        errors.push(error);
    }
    fs::write(file.path(), format!("{{\"auths\": \"{LOGIN}\"}}")).unwrap();
    errors.push(world.obtain(&name, 1).await.unwrap_err());
    for error in errors {
        for secret in [LOGIN, "hunter2", "bad token"] {
            assert!(!error.contains(secret), "{error}");
        }
    }
}

#[tokio::test]
async fn redirect_targets_do_not_receive_credentials() {
    let elsewhere = TestRegistry::start().await;
    let trusting = listing(ImageSettings::default(), elsewhere.address());
    let (world, _file) = private_among(trusting, basic, &format!("Basic {LOGIN}")).await;
    let made = TestImage::new(&[("base", "a"), ("page", "b")]);
    elsewhere.offer("team/web:1", &made);
    let blob = format!("/blobs/{}", Digest::of(&made.layers[0]));
    let there = format!(
        "http://{}/v2/team/web{blob}?signature=secret",
        elsewhere.address()
    );
    let moved = InjectedFault::Status(307, "location", there.clone());
    world.registry.plan(blob.clone(), [moved.clone()]);
    world.obtain(&world.name("team/web:1"), 1).await.unwrap();
    let asked = elsewhere.requests("");
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].authorization, None);
    let with = world.registry.requests(&blob);
    assert!(
        with[0].authorization.is_some(),
        "the registry itself received it"
    );

    // Not even if it requests them.
    let other = TestImage::new(&[("base", "c")]);
    world.registry.offer("team/web:2", &other);
    elsewhere.offer("team/web:2", &other);
    elsewhere.set_access(AccessRule::Closed {
        wanted: "x".to_owned(),
        challenge: basic(""),
    });
    elsewhere.clear_requests();
    let blob = format!("/blobs/{}", Digest::of(&other.layers[0]));
    let there = format!(
        "http://{}/v2/team/web{blob}?signature=secret",
        elsewhere.address()
    );
    world
        .registry
        .plan(blob, [InjectedFault::Status(307, "location", there)]);
    let error = world
        .obtain(&world.name("team/web:2"), 2)
        .await
        .unwrap_err();
    assert!(
        error.contains("answered 401") && !error.contains("secret"),
        "{error}"
    );
    assert!(
        elsewhere
            .requests("")
            .iter()
            .all(|asked| asked.authorization.is_none())
    );
}

#[tokio::test]
async fn redirects_are_limited() {
    let world = ImagesFixture::new().await;
    let here = format!("http://{}/v2/web/manifests/1", world.registry.address());
    let around = InjectedFault::Status(302, "location", here);
    world.registry.plan("/manifests/1", vec![around; 50]);
    let error = world.obtain(&world.name("web:1"), 1).await.unwrap_err();
    assert!(error.contains("redirects too often"), "{error}");
    assert_eq!(world.registry.requests("/manifests/1").len(), 6);
    let away = InjectedFault::Status(302, "location", "http://192.0.2.1/x".to_owned());
    world.registry.plan("/manifests/2", [away]);
    let error = world.obtain(&world.name("web:2"), 1).await.unwrap_err();
    assert!(error.contains("--insecure-registry"), "{error}");
}
