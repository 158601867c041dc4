//! Bad input, each case a row: what is sent, and the sentence that must come back. Nothing may be
//! lost by it: after each table the cluster still runs a task.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use argosy_proto::v1;
use argosy_proto::v1::scheduler_client::SchedulerClient;
use tonic::transport::{Channel, Endpoint};

use crate::cluster::Cluster;
use crate::work::{Framework, task};

const LONG: Duration = Duration::from_secs(60);

type Tasks = fn() -> Vec<v1::TaskSpec>;

/// A call that must be refused with a sentence holding `says`.
struct Sent {
    name: &'static str,
    offers: fn(&Stock) -> Vec<v1::Offer>,
    tasks: Tasks,
    says: &'static str,
}

/// Offers to make bad calls of.
struct Stock {
    own: v1::Offer,
    other_agent: v1::Offer,
    foreign: v1::Offer,
}

fn changed(change: impl FnOnce(&mut v1::TaskSpec)) -> Vec<v1::TaskSpec> {
    let mut spec = task("bad", "true");
    change(&mut spec);
    vec![spec]
}

fn cpus(milli: i64) -> Vec<v1::Resource> {
    vec![v1::Resource {
        name: "cpus".into(),
        value: Some(v1::resource::Value::ScalarMilli(milli)),
        ..Default::default()
    }]
}

const SENT: &[Sent] = &[
    Sent {
        name: "no offers",
        offers: |_| vec![],
        tasks: || vec![task("bad", "true")],
        says: "no offer was given",
    },
    Sent {
        name: "the same offer twice",
        offers: |s| vec![s.own.clone(), s.own.clone()],
        tasks: || vec![task("bad", "true")],
        says: "is given twice",
    },
    Sent {
        name: "offers of two agents",
        offers: |s| vec![s.own.clone(), s.other_agent.clone()],
        tasks: || vec![task("bad", "true")],
        says: "of another agent or role",
    },
    Sent {
        name: "somebody else's offer",
        offers: |s| vec![s.foreign.clone()],
        tasks: || vec![task("bad", "true")],
        says: "another framework or session",
    },
    Sent {
        name: "an offer of no known shape",
        offers: |s| {
            vec![v1::Offer {
                offer_id: "x".into(),
                ..s.own.clone()
            }]
        },
        tasks: || vec![task("bad", "true")],
        says: "write it as EPOCH.SERIAL",
    },
    Sent {
        name: "an offer with more in it",
        offers: |s| {
            vec![v1::Offer {
                resources: cpus(900_000),
                ..s.own.clone()
            }]
        },
        tasks: || vec![task("bad", "true")],
        says: "no valid token",
    },
    Sent {
        name: "an offer that lives longer",
        offers: |s| {
            vec![v1::Offer {
                expires_ms: u64::MAX,
                ..s.own.clone()
            }]
        },
        tasks: || vec![task("bad", "true")],
        says: "no valid token",
    },
    Sent {
        name: "a cut token",
        offers: |s| {
            vec![v1::Offer {
                token: vec![1, 2, 3].into(),
                ..s.own.clone()
            }]
        },
        tasks: || vec![task("bad", "true")],
        says: "cut short",
    },
    Sent {
        name: "negative resources",
        offers: |s| vec![s.own.clone()],
        tasks: || changed(|t| t.resources = cpus(-1)),
        says: "lies between 0",
    },
    Sent {
        name: "absurd resources",
        offers: |s| vec![s.own.clone()],
        tasks: || changed(|t| t.resources = cpus(i64::MAX)),
        says: "lies between 0",
    },
    Sent {
        name: "an id that leaves its folder",
        offers: |s| vec![s.own.clone()],
        tasks: || changed(|t| t.task_id = "../x".into()),
        says: "letters, digits",
    },
    Sent {
        name: "an empty id",
        offers: |s| vec![s.own.clone()],
        tasks: || changed(|t| t.task_id = String::new()),
        says: "letters, digits",
    },
    Sent {
        name: "an empty command",
        offers: |s| vec![s.own.clone()],
        tasks: || changed(|t| t.shell = String::new()),
        says: "give shell a line",
    },
    Sent {
        name: "two commands",
        offers: |s| vec![s.own.clone()],
        tasks: || changed(|t| t.argv = vec!["true".into()]),
        says: "not both",
    },
    Sent {
        name: "a NUL byte",
        offers: |s| vec![s.own.clone()],
        tasks: || changed(|t| t.shell = "a\0b".into()),
        says: "NUL",
    },
    Sent {
        name: "an unknown scheme",
        offers: |s| vec![s.own.clone()],
        tasks: || {
            changed(|t| {
                t.uris = vec![v1::Uri {
                    value: "ftp://x/y".into(),
                    ..Default::default()
                }]
            })
        },
        says: "not an absolute path",
    },
    Sent {
        name: "a call above 1 MiB",
        offers: |s| vec![s.own.clone()],
        tasks: || changed(|t| drop(t.environment.insert("X".into(), "y".repeat(2 << 20)))),
        says: "at most 1048576",
    },
];

/// A task that is refused by position while the call stands.
const REFUSED: &[(&str, Tasks, &str)] = &[
    (
        "more than the offer",
        || changed(|t| t.resources = cpus(900_000)),
        "what is left",
    ),
    (
        "no resources",
        || changed(|t| t.resources.clear()),
        "ask for something",
    ),
    (
        "a big environment",
        || changed(|t| drop(t.environment.insert("X".into(), "y".repeat(600_000)))),
        "use uris for data",
    ),
    (
        "an id twice",
        || vec![task("twin", "true"), task("twin", "true")],
        "is in use or was used",
    ),
];

async fn channel(cluster: &Cluster) -> Channel {
    let leader = cluster.leader().await;
    Endpoint::from_shared(format!("http://{}", cluster.masters[leader].api()))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

fn request(
    framework: &Framework,
    number: u64,
    offers: Vec<v1::Offer>,
    tasks: Vec<v1::TaskSpec>,
) -> v1::AcceptRequest {
    v1::AcceptRequest {
        call: Some(v1::CallId {
            framework_id: framework.id(),
            session: framework.config.session,
            number,
            lowest_unanswered: 0,
        }),
        offers: offers
            .into_iter()
            .map(|offer| v1::HeldOffer { offer: Some(offer) })
            .collect(),
        operations: vec![v1::Operation {
            operation: Some(v1::operation::Operation::Launch(v1::Launch { tasks })),
        }],
        filter_ms: Some(0),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_calls_are_refused_with_a_sentence_and_lose_nothing() {
    let cluster = Cluster::start(3).await;
    let framework = Framework::start(cluster.masters_list(), "sender").await;
    let thief = Framework::start(cluster.masters_list(), "other").await;
    let stock = stock(&framework, &thief).await;
    let mut client = SchedulerClient::new(channel(&cluster).await);
    for (number, case) in (1_000..).zip(SENT) {
        let sent = client
            .accept(request(
                &framework,
                number,
                (case.offers)(&stock),
                (case.tasks)(),
            ))
            .await;
        let status = sent.expect_err(case.name);
        assert!(
            status.message().contains(case.says),
            "{}: {status}",
            case.name
        );
    }
    // An acceptance uses up its offers, refused or not: what follows takes fresh ones. The other framework
    // holds whatever it is offered, so it goes, or it may be offered all of them.
    framework.heard.lock().unwrap().offers.clear();
    drop(thief.driver.teardown());
    let huge = changed(|t| drop(t.environment.insert("X".into(), "y".repeat(10 << 20))));
    let sent = client
        .accept(request(&framework, 2_000, vec![stock.own.clone()], huge))
        .await;
    assert!(sent.is_err(), "a message of 10 MiB was taken");

    refused_by_position(&cluster, &framework).await;
    still_serves(&framework).await;
}

/// Two offers of the framework, and one of somebody else.
async fn stock(framework: &Framework, thief: &Framework) -> Stock {
    framework.hold_offers(true);
    framework
        .hear("offers of all agents", LONG, |heard| {
            (heard.offers.len() == 3).then_some(())
        })
        .await;
    let offers: Vec<v1::Offer> = framework
        .heard
        .lock()
        .unwrap()
        .offers
        .values()
        .cloned()
        .collect();
    framework.driver.decline(&offers[2], Some(60_000));
    thief.hold_offers(true);
    let foreign = thief
        .hear("an offer of its own", LONG, |heard| {
            heard.offers.values().next().cloned()
        })
        .await;
    Stock {
        own: offers[0].clone(),
        other_agent: offers[1].clone(),
        foreign,
    }
}

async fn refused_by_position(cluster: &Cluster, framework: &Framework) {
    for (number, (name, tasks, says)) in (3_000..).zip(REFUSED) {
        let offer = framework
            .hear("an open offer", LONG, |heard| {
                heard.offers.values().next().cloned()
            })
            .await;
        let mut client = SchedulerClient::new(channel(cluster).await);
        let reply = client
            .accept(request(framework, number, vec![offer.clone()], tasks()))
            .await
            .unwrap()
            .into_inner();
        let told = reply
            .refused
            .last()
            .map(|refused| refused.message.clone())
            .unwrap_or_default();
        assert!(told.contains(says), "{name}: {told:?}");
        framework
            .heard
            .lock()
            .unwrap()
            .offers
            .remove(&offer.offer_id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_any_port_ends_nobody() {
    let cluster = Cluster::start(1).await;
    let framework = Framework::start(cluster.masters_list(), "witness").await;
    let mut ports = Vec::new();
    for master in &cluster.masters {
        ports.extend([
            format!("{}:5050", master.address),
            format!("{}:5052", master.address),
        ]);
    }
    ports.push(format!("{}:5051", cluster.agents[0].address));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let garbage: [Vec<u8>; 5] = [
        vec![0xff; 4_096],
        vec![0; 64],
        b"GET /v1/tasks?page_size=x HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        [preface.clone(), vec![0x7f; 4_096]].concat(),
        [
            preface,
            b"\x00\x00\x05\x00\x01\x00\x00\x00\x01\x00\xff\xff\xff\xff".to_vec(),
        ]
        .concat(),
    ];
    for port in &ports {
        for bytes in &garbage {
            let mut stream = TcpStream::connect(port).expect("the port is open");
            // The peer may close at any moment.
            let _ = stream.write_all(bytes);
        }
    }
    still_serves(&framework).await;
    for member in cluster.masters.iter().chain(&cluster.agents) {
        let log = member.log();
        assert!(!log.contains("panicked"), "{}: {log}", member.name);
        nix::sys::signal::kill(member.pid(), None).expect("the process is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_does_not_exist_fails_and_says_so() {
    let cluster = Cluster::start(1).await;
    let framework = Framework::start(cluster.masters_list(), "typo").await;
    let mut spec = task("typo", "");
    spec.argv = vec!["/no/such/program".to_owned()];
    framework.launch([spec]);
    let end = framework
        .hear("it failed", LONG, |heard| {
            heard
                .updates
                .iter()
                .find(|update| update.state() == v1::TaskState::Failed)
                .cloned()
        })
        .await;
    assert!(
        end.message.contains("/no/such/program") && end.message.contains("No such file"),
        "{}",
        end.message
    );
}

async fn still_serves(framework: &Framework) {
    framework.hold_offers(false);
    framework.launch([task("proof", "true")]);
    framework
        .hear("a task still runs", LONG, |heard| {
            heard
                .states("proof")
                .contains(&v1::TaskState::Finished)
                .then_some(())
        })
        .await;
}
