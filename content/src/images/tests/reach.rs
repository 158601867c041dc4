//! Tests of permitted registries and redirects: real servers on loopback, some of which the
//! operator lists.

use std::net::TcpListener;

use super::registry::{AccessRule, InjectedFault};
use super::*;

/// A server that counts connections, and never answers.
struct CountingServer {
    port: u16,
    connections: Arc<AtomicU32>,
}

impl CountingServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&connections);
        std::thread::spawn(move || {
            while listener.accept().is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, connections }
    }

    fn connections(&self) -> u32 {
        self.connections.load(Ordering::SeqCst)
    }
}

const IMPATIENT: RetryTimeouts = RetryTimeouts {
    stall: Duration::from_secs(5),
    document: DEADLINE,
    retry_for: Duration::ZERO,
};

/// Returns a fixture whose operator allows fetches from these servers.
async fn opening(allow: &[&str]) -> ImagesFixture {
    let mut world = ImagesFixture::new().await;
    let settings = listing(ImageSettings::default(), world.registry.address());
    let insecure = settings.insecure_registries.clone();
    let registries = Registries::new(&fetch_settings(allow), &insecure, IMPATIENT).unwrap();
    let by = (
        Arc::clone(&world.unpacker) as _,
        Arc::new(LocalLayerDirs) as _,
        FairSlots::new(4),
    );
    world.images = ImageManager::with(
        world.directory.path(),
        settings,
        by,
        RegistryRoute::Local(registries),
    )
    .unwrap();
    world
}

async fn refusal(world: &ImagesFixture, image: &str) -> String {
    world.obtain(&image.parse().unwrap(), 1).await.unwrap_err()
}

#[tokio::test]
async fn an_internal_registry_is_contacted_only_if_listed() {
    let server = CountingServer::start();
    let world = opening(&[]).await;
    for (host, what) in [
        ("127.0.0.1", "loopback"),
        ("localhost", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("169.254.169.254", "link-local"),
        ("168.63.129.16", "metadata"),
        ("100.100.100.200", "metadata"),
        ("224.0.0.1", "multicast"),
    ] {
        let why = refusal(&world, &format!("{host}:{}/web:1", server.port)).await;
        assert!(why.contains(what), "{host}: {why}");
        assert!(why.contains("--insecure-registry "), "{host}: {why}");
    }
    for (host, what) in [
        ("192.0.2.7:5050", "a master"),
        ("192.0.2.7:6000", "a master"),
        ("192.0.2.8:5051", "the API of this agent"),
    ] {
        let why = refusal(&world, &format!("{host}/web:1")).await;
        assert!(why.contains(what), "{host}: {why}");
    }
    assert_eq!(server.connections(), 0);
    let why = refusal(&world, "localhost:1/web:1").await;
    let expected = "cannot bring the image localhost:1/web:1: cannot get https://localhost:1/v2/web/manifests/1: \
                    localhost is 127.0.0.1, a loopback address of the agent's host, from which no images are pulled; to \
                    allow it, start the agent with --insecure-registry localhost:1 if it has no TLS, else with \
                    --fetch-allow 127.0.0.1:1";
    assert_eq!(
        why.replace("[::1]", "127.0.0.1")
            .replace("::1,", "127.0.0.1,"),
        expected
    );

    // The controls: a listed registry is pulled from, and one that is allowed for fetches is
    // connected to.
    world
        .registry
        .offer("web:1", &TestImage::new(&[("page", "a")]));
    world.obtain(&world.name("web:1"), 1).await.unwrap();
    let address = format!("127.0.0.1:{}", server.port);
    let world = opening(&[&address]).await;
    let why = refusal(&world, &format!("{address}/web:1")).await;
    assert!(!why.contains("loopback"), "{why}");
    assert!(server.connections() > 0);
}

#[tokio::test]
async fn redirects_to_denied_addresses_are_not_followed() {
    let server = CountingServer::start();
    let world = opening(&[]).await;
    for (place, why) in [
        (format!("http://127.0.0.1:{}/x", server.port), "loopback"),
        (format!("https://127.0.0.1:{}/x", server.port), "loopback"),
        (format!("https://localhost:{}/x", server.port), "loopback"),
        (format!("http://localhost:{}/x", server.port), "has no TLS"),
        ("http://169.254.169.254/latest".to_owned(), "link-local"),
        ("https://100.100.100.200/latest".to_owned(), "metadata"),
        ("https://192.0.2.7:5050/".to_owned(), "a master"),
    ] {
        let redirect = InjectedFault::Status(307, "location", place.clone());
        world.registry.plan("/manifests/1", [redirect]);
        let output = world.obtain(&world.name("web:1"), 1).await.unwrap_err();
        assert!(output.contains(why), "{place}: {output}");
        assert!(output.contains("--insecure-registry "), "{place}: {output}");
        // It gets no credentials either.
        world.registry.set_access(AccessRule::Closed {
            wanted: "x".to_owned(),
            challenge: format!("Bearer realm=\"{place}\""),
        });
        let output = world.obtain(&world.name("web:1"), 1).await.unwrap_err();
        assert!(output.contains("token server"), "{place}: {output}");
        assert!(output.contains(why), "{place}: {output}");
        world.registry.set_access(AccessRule::Open);
    }
    assert_eq!(server.connections(), 0);

    // The control: the same redirect and realm to a listed registry.
    let elsewhere = TestRegistry::start().await;
    let world = ImagesFixture::listing(&[elsewhere.address()]).await;
    let made = TestImage::new(&[("page", "a")]);
    world.registry.offer("web:1", &made);
    elsewhere.offer("web:1", &made);
    let there = format!("http://{}/v2/web/manifests/1", elsewhere.address());
    world.registry.plan(
        "/manifests/1",
        [InjectedFault::Status(307, "location", there)],
    );
    world.obtain(&world.name("web:1"), 1).await.unwrap();
    assert_eq!(elsewhere.requests("/manifests/1").len(), 1);
    elsewhere.set_token(None, "abc");
    world.registry.set_access(AccessRule::Closed {
        wanted: "Bearer abc".to_owned(),
        challenge: format!("Bearer realm=\"http://{}/token\"", elsewhere.address()),
    });
    let name = world.name("web:1");
    world.obtain_by(&name, PullPolicy::Always, 2).await.unwrap();
    assert_eq!(elsewhere.requests("/token").len(), 1);
}
