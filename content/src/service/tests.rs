//! Tests of an agent's handle on its service, with a fake service. `tests/service` tests the real
//! process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use argosy_isolation::service::{Packet, PacketSocket};
use argosy_state::ids::FrameworkId;
use tokio::sync::Notify;

use super::client::{
    ClusterAuthoritySource, ContentService, ServiceSettings, ServiceStarter, StartedService,
};
use super::message::{RegistryLogin, ServiceReply, ServiceRequest};
use crate::fetcher::FetchSettings;
use crate::images::{AuthHeader, ImageReference, RegistryReference};

const FRAMEWORK: FrameworkId = FrameworkId(7);
/// The timeout for events that must happen.
const DEADLINE: Duration = Duration::from_secs(60);
/// The time in which a start that waits for nothing happens.
const PAUSE: Duration = Duration::from_millis(200);

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
    let login = RegistryLogin::of(&reference, Some(&secret), FRAMEWORK);
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
    let image = RegistryLogin::of(&registry_reference(), None, FRAMEWORK);
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

/// Otherwise both could write to the file of one request: its digest would be that of what the next
/// one has written, and not of the file.
#[tokio::test]
async fn a_lost_service_has_ended_when_the_next_one_starts() {
    let (first, lost) = PacketSocket::pair().unwrap();
    let (second, served) = PacketSocket::pair().unwrap();
    let sockets = Mutex::new(vec![second, first]);
    let (begins, next_start) = mpsc::channel();
    let next_start = Mutex::new(Some(next_start));
    let has_ended = Arc::new(AtomicBool::new(false));
    let start: ServiceStarter = Arc::new(move || {
        let next_start = next_start.lock().unwrap().take();
        if next_start.is_none() {
            // Without a receiver, the lost one has ended.
            let _ = begins.send(());
            if !has_ended.load(Ordering::SeqCst) {
                return Err("the lost service has not ended".to_owned());
            }
        }
        let ended = Arc::clone(&has_ended);
        Ok(StartedService {
            packets: sockets.lock().unwrap().pop().expect("it starts twice"),
            pid: 0,
            stop: Box::new(move || {
                // A start that does not wait for this end comes first.
                let _ = next_start.map(|start| start.recv_timeout(PAUSE));
                ended.store(true, Ordering::SeqCst);
            }),
        })
    });
    let service = ContentService::new(start, settings());
    drop(lost);
    let serving = std::thread::spawn(move || {
        let begin = next_message(&served);
        assert!(matches!(begin, ServiceRequest::Begin(_)));
        let ServiceRequest::Plan { id, .. } = next_message(&served) else {
            panic!("the request is repeated");
        };
        served.send(&ServiceReply::Done { id }, &[]).unwrap();
        served
    });
    let image = RegistryLogin::of(&registry_reference(), None, FRAMEWORK);
    let build = |id| {
        let image = image.clone();
        ServiceRequest::Plan { id, image }
    };
    let answer = tokio::time::timeout(DEADLINE, service.request(build, None, |_, _| {}));
    let answer = answer.await.expect("it is answered");
    let answer = answer.map_err(|error| error.explanation().to_string());
    assert!(answer.is_ok(), "{answer:?}");
    serving.join().unwrap();
}
