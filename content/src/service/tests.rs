//! Tests of an agent's handle on its service, with a fake service. `tests/service` tests the real
//! process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use argosy_isolation::service::{Packet, PacketSocket};
use tokio::sync::Notify;

use super::client::{
    ClusterAuthoritySource, ContentService, ServiceSettings, ServiceStarter, StartedService,
};
use super::message::{RegistryLogin, ServiceRequest};
use crate::fetcher::FetchSettings;
use crate::images::{AuthHeader, ImageReference, RegistryReference};

/// The timeout for events that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

fn registry_reference() -> RegistryReference {
    let name = "registry.example/site:1".parse().unwrap();
    let ImageReference::Registry(reference) = name else {
        panic!("it names a registry");
    };
    reference
}

/// Returns a starter of one fake service, whose peer holds the other end of this socket.
fn starter_of(packets: PacketSocket) -> ServiceStarter {
    let packets = Mutex::new(Some(packets));
    Arc::new(move || {
        Ok(StartedService {
            packets: packets.lock().unwrap().take().expect("it starts once"),
            pid: 0,
            stop: Box::new(|| {}),
        })
    })
}

fn settings() -> ServiceSettings {
    ServiceSettings {
        fetch: FetchSettings {
            limit_bytes: 1,
            directories: Vec::new(),
            allow: Vec::new(),
            masters: Vec::new(),
            api: "192.0.2.8:5051".to_owned(),
            api_port: None,
            task_subnets: None,
        },
        insecure_registries: Vec::new(),
        image_limit_bytes: 1,
        cluster: ClusterAuthoritySource::none(),
    }
}

/// Returns the next message that the fake service receives.
fn next_message(service: &PacketSocket) -> ServiceRequest {
    assert!(service.is_readable(DEADLINE).unwrap(), "no message");
    match service.receive().unwrap() {
        Packet::Message(message, _) => message,
        Packet::Closed => panic!("the connection is closed"),
    }
}

#[test]
fn credentials_are_passed_unchanged_and_not_printed() {
    let reference = registry_reference();
    let secret = AuthHeader::bearer("hunter2").unwrap();
    let login = RegistryLogin::of(&reference, Some(&secret));
    let sent = serde_json::to_string(&login).unwrap();
    let received: RegistryLogin = serde_json::from_str(&sent).unwrap();
    assert!(received == login);
    let secret = AuthHeader::new(&received.secret.unwrap()).unwrap();
    assert_eq!(secret.text(), "Bearer hunter2");
    assert_eq!(format!("{secret:?}"), "Secret");
}

#[test]
fn a_request_that_is_dropped_before_it_is_sent_is_cancelled_after_it_is_sent() {
    let (ours, theirs) = PacketSocket::pair().unwrap();
    let service = ContentService::new(starter_of(ours), settings());
    // Its only thread for blocking work runs jobs in the order in which they are queued.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let gate = Arc::new(Mutex::new(()));
    let image = RegistryLogin::of(&registry_reference(), None);
    let built = Notify::new();
    // The client queues the send right after it builds the request, in the same poll.
    let build = |id| {
        let gate = Arc::clone(&gate);
        drop(tokio::task::spawn_blocking(move || drop(gate.lock())));
        built.notify_one();
        let image = image.clone();
        ServiceRequest::Plan { id, image }
    };
    let closed = gate.lock().unwrap();
    runtime.block_on(async {
        let request = tokio::time::timeout(DEADLINE, service.request(build, None, |_, _| {}));
        tokio::select! {
            biased;
            _ = request => panic!("the request waits for its send"),
            () = built.notified() => {}
        }
    });
    drop(closed);
    let first = next_message(&theirs);
    assert!(matches!(first, ServiceRequest::Begin(_)));
    let ServiceRequest::Plan { id: requested, .. } = next_message(&theirs) else {
        panic!("the request precedes its cancellation");
    };
    let ServiceRequest::Cancel { id: cancelled } = next_message(&theirs) else {
        panic!("the cancellation follows the request");
    };
    assert_eq!(cancelled, requested);
}
