//! Tests that the published metrics are those of the registry.

use std::collections::BTreeMap;

use std::time::Duration;

use argosy_proto::metric_list;
use argosy_raft::{LogProgress, Member, RaftStatus, StoreUsage};
use argosy_state::Registry;
use argosy_state::actor::Actor;
use argosy_state::command::{Accept, Call, CallAction, OperatorOperation};
use argosy_state::event::Event;
use argosy_state::ids::{ClusterId, FrameworkId, Role, TaskId};
use argosy_state::limits;
use argosy_state::task::TaskState;
use argosy_state::testing::{World, framework_info};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::config::LeaderTimeouts;
use crate::leader::{Decline, Input, Leader, LeaderTime, SchedulerHello};
use crate::links::{LinkId, Outbox, RequestId};

const LIMITS: LeaderTimeouts = LeaderTimeouts {
    agent_timeout_ms: 15_000,
    framework_timeout_ms: 15_000,
    framework_grace_ms: 10_000,
    lost_agent_ms: 3_600_000,
    deposed_leader_ms: 400,
    resume_ms: 100,
};

fn leader(registry: &Registry) -> Leader {
    let now = LeaderTime {
        at: registry.time(),
        wall_ms: 0,
    };
    Leader::new(registry, now, LIMITS)
}

/// Returns what a master with this registry measures; only an active leader has `leader`.
fn measured(registry: &Registry, leader: Option<&Leader>) -> OwnerCounts {
    let contacts = [(2, Duration::from_millis(250))];
    measured_with(registry, leader, &contacts)
}

/// The same for a group of the masters 1, which measures, and 2 and 3. Master 4 has no vote.
fn measured_with(
    registry: &Registry,
    leader: Option<&Leader>,
    contacts: &[(u64, Duration)],
) -> OwnerCounts {
    let members = |ids: &[u64]| -> Vec<_> {
        let members = ids.iter().map(|id| (*id, Member::default()));
        members.collect()
    };
    OwnerCounts::of(&OwnerState {
        registry,
        leader,
        now: registry.time(),
        status: &RaftStatus {
            id: 1,
            is_leader: leader.is_some(),
            voters: members(&[1, 2, 3]).into(),
            learners: members(&[4]).into(),
            ..RaftStatus::default()
        },
        progress: &LogProgress::default(),
        contacts,
        store: &StoreUsage {
            family_bytes: vec![("log", 7)],
            stalled: Duration::from_millis(1_500),
            free_bytes: 3,
            total_bytes: 9,
        },
        links: &Outbox::default(),
    })
}

fn written(counts: &OwnerCounts) -> String {
    let mut text = String::new();
    counts.write(&mut text);
    text
}

/// Returns the registry's metrics in `/metrics`: by name without `argosy_registry_`, and by kind.
fn shown(registry: &Registry) -> BTreeMap<(String, String), u64> {
    let text = written(&measured(registry, None));
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("argosy_registry_")?.split_once('{')?;
        let (kind, value) = rest.strip_prefix("kind=\"")?.split_once("\"} ")?;
        let value: u64 = value.parse().unwrap();
        Some(((name.to_owned(), kind.to_owned()), value))
    });
    lines.collect()
}

fn of(all: &BTreeMap<(String, String), u64>, name: &str, kind: &str) -> Option<u64> {
    all.get(&(name.to_owned(), kind.to_owned())).copied()
}

#[test]
fn registry_metrics_match_the_contents_of_the_registry() {
    let mut world = World::new();
    let empty = shown(&world.registry);
    let agent = world.register("cpus:8");
    world.register("cpus:8");
    let framework = world.subscribe("one");
    let tasks = ["a", "b", "c"].map(|name| world.launch(framework, agent, name, "cpus:1"));
    let end = |world: &mut World, key| {
        world.update(key, TaskState::Finished);
        world.acknowledge(key);
    };
    end(&mut world, &tasks[0]);
    let role = Role::new("ops").unwrap();
    let weight_milli = 2_000;
    let set = OperatorOperation::SetWeight { role, weight_milli };
    world.operate(set).unwrap();
    let full = shown(&world.registry);
    for (kind, before, after) in [
        ("tasks", 0, 2),
        ("finished_tasks", 0, 1),
        ("frameworks", 0, 1),
        ("finished_frameworks", 0, 0),
        ("agents", 0, 2),
        ("weights", 0, 1),
    ] {
        assert_eq!(of(&empty, "records", kind), Some(before), "{kind}");
        assert_eq!(of(&full, "records", kind), Some(after), "{kind}");
    }
    let usage = world.registry.usage().into_iter();
    for answers in usage.filter(|usage| usage.kind.ends_with("answers")) {
        assert_eq!(of(&full, "records", answers.kind), Some(answers.records));
    }
    for kind in ["tasks", "finished_tasks", "frameworks", "agents"] {
        assert_eq!(of(&empty, "bytes", kind), Some(0), "{kind}");
        // Each takes a kilobyte at least.
        let records = of(&full, "records", kind).unwrap();
        assert!(of(&full, "bytes", kind) >= Some(1_024 * records), "{kind}");
    }
    for key in &tasks[1..] {
        end(&mut world, key);
    }
    let ended = shown(&world.registry);
    assert_eq!(of(&ended, "records", "tasks"), Some(0));
    assert_eq!(of(&ended, "bytes", "tasks"), Some(0));
    assert_eq!(of(&ended, "records", "finished_tasks"), Some(3));
}

#[test]
fn registry_metrics_include_every_bound() {
    let shown = shown(&World::new().registry);
    for (kind, records, bytes) in [
        ("tasks", None, Some(limits::TASK_BYTES)),
        (
            "finished_tasks",
            Some(limits::FINISHED_TASKS),
            Some(limits::FINISHED_TASK_BYTES),
        ),
        (
            "frameworks",
            Some(limits::FRAMEWORKS),
            Some(limits::FRAMEWORK_BYTES),
        ),
        (
            "finished_frameworks",
            Some(limits::FINISHED_FRAMEWORKS),
            None,
        ),
        ("agents", Some(limits::AGENTS), Some(limits::AGENT_BYTES)),
        ("weights", Some(limits::WEIGHTS), None),
        ("answers", Some(limits::ANSWERS), None),
        (
            "operator_answers",
            Some(limits::OPERATOR_ANSWERS),
            Some(limits::OPERATOR_ANSWER_BYTES),
        ),
        ("secrets", Some(limits::SECRETS), Some(limits::SECRET_BYTES)),
    ] {
        let records = records.map(|records| records as u64);
        assert_eq!(of(&shown, "records_limit", kind), records, "{kind}");
        assert_eq!(of(&shown, "bytes_limit", kind), bytes, "{kind}");
    }
}

/// Labels with a closed set of values are checked where they are made.
#[test]
fn measured_metrics_have_the_labels_of_the_list() {
    let mut world = World::new();
    let agent = world.register("cpus:8;mem:64");
    let framework = world.subscribe("one");
    world.launch(framework, agent, "a", "cpus:2");
    let leader = leader(&world.registry);
    for leader in [None, Some(&leader)] {
        let counts = measured(&world.registry, leader);
        let of_tick = counts.of_tick().iter().cloned();
        for (name, samples) in of_tick.chain(counts.of_roles()) {
            let listed = metric_list::find(name).unwrap_or_else(|| panic!("{name} is not listed"));
            assert_ne!(listed.kind, metric_list::MetricType::Histogram, "{name}");
            for (labels, _) in &samples {
                let labels: Vec<_> = labels.iter().map(|(label, _)| *label).collect();
                assert_eq!(labels, listed.labels, "{name}");
            }
            if name.starts_with("argosy_allocator_") && leader.is_some() {
                assert!(samples.is_empty(), "the allocator has not begun yet");
                continue;
            }
            let is_absent = samples.is_empty();
            let is_of_leader = listed.process == "leader";
            assert_eq!(is_absent, is_of_leader && leader.is_none(), "{name}");
        }
    }
}

#[test]
fn resources_and_states_are_those_of_the_registry() {
    let mut world = World::new();
    let agent = world.register("cpus:8;mem:64");
    let framework = world.subscribe("one");
    let keys = ["a", "b"].map(|name| world.launch(framework, agent, name, "cpus:2;mem:8"));
    world.update(&keys[0], TaskState::Running);
    let lines = |world: &World| {
        let text = written(&measured(&world.registry, Some(&leader(&world.registry))));
        move |line: &str| {
            assert!(
                text.lines().any(|one| one == line),
                "{line} is not in {text}"
            )
        }
    };
    let has = lines(&world);
    has("argosy_resources{resource=\"cpus\",use=\"total\"} 8");
    has("argosy_resources{resource=\"cpus\",use=\"used\"} 4");
    has("argosy_resources{resource=\"mem\",use=\"used\"} 16");
    has("argosy_tasks{state=\"running\"} 1");
    has("argosy_tasks{state=\"staging\"} 1");
    has("argosy_frameworks{state=\"disconnected\"} 1");
    has("argosy_store_bytes{family=\"log\"} 7");
    has("argosy_store_stall_seconds_total 1.5");
    has("# TYPE argosy_store_stall_seconds_total counter");
    has("argosy_raft_last_contact_seconds{node=\"master-2\"} 0.25");
    let before = world.registry.unacknowledged_updates();
    has(&format!("argosy_updates_unacknowledged {before}"));
    for key in &keys {
        world.update(key, TaskState::Finished);
    }
    world.acknowledge(&keys[1]);
    let has = lines(&world);
    has("argosy_tasks{state=\"finished\"} 1");
    has("argosy_tasks{state=\"running\"} 0");
    assert_eq!(world.registry.role_totals().to_string(), "");
    for kind in ["cpus", "mem"] {
        for usage in ["used", "offered"] {
            has(&format!(
                "argosy_resources{{resource=\"{kind}\",use=\"{usage}\"}} 0"
            ));
        }
    }
}

#[test]
fn a_leader_counts_itself_and_the_voters_that_answer_it() {
    let registry = World::new().registry;
    let leader = leader(&registry);
    let recently = Duration::from_millis(20);
    for (contacts, expected) in [
        (vec![], 1),
        (vec![(2, recently), (3, recently)], 3),
        (vec![(2, recently), (3, Duration::from_secs(10))], 2),
        // A member without a vote.
        (vec![(2, recently), (4, recently)], 2),
    ] {
        let text = written(&measured_with(&registry, Some(&leader), &contacts));
        let line = format!("argosy_raft_voters_in_contact {expected}\n");
        assert!(text.contains(&line), "{contacts:?}: {text}");
    }
    let text = written(&measured(&registry, None));
    assert!(!text.contains("argosy_raft_voters_in_contact"), "{text}");
}

#[test]
fn a_tick_measures_the_same_for_any_number_of_roles() {
    let [few, many] = [3, 300].map(|count| measured(&crowd(count).0.registry, None));
    let samples = |counts: &OwnerCounts| -> usize {
        let all = counts.of_tick().iter();
        all.map(|(_, samples)| samples.len()).sum()
    };
    assert_eq!(samples(&few), samples(&many));
    let of_roles = |counts: &OwnerCounts| -> Vec<usize> {
        counts
            .of_roles()
            .map(|(_, samples)| samples.len())
            .collect()
    };
    // Two kinds of resources, for 100 roles and all others; and the shares.
    assert_eq!(
        (of_roles(&few), of_roles(&many)),
        (vec![6, 3], vec![202, 100])
    );
}

/// Returns the registry with `count` frameworks with the longest names, each in its own role and
/// with a task.
fn crowd(count: usize) -> (World, Vec<FrameworkId>) {
    let mut world = World::new();
    let agent = world.register("cpus:1000;mem:100000");
    let frameworks = (0..count).map(|at| {
        let mut info = framework_info(&format!("{at:0>255}"));
        let role = Role::new(&format!("{at:0>128}")).unwrap();
        info.roles = [role.clone()].into();
        let framework = world.subscribe_as(info);
        let mut offer = world.offer(framework, agent, "cpus:1;mem:10");
        offer.role = role;
        let spec = argosy_state::testing::spec("a", "cpus:1;mem:10");
        world
            .accept(framework, vec![offer], vec![spec])
            .outcome
            .unwrap();
        framework
    });
    let frameworks = frameworks.collect();
    (world, frameworks)
}

/// One call of each kind.
fn calls(framework: FrameworkId) -> Vec<Input> {
    let task = TaskId::new("a").unwrap();
    let accept = Accept {
        offers: Vec::new(),
        operations: Vec::new(),
        all_or_nothing: false,
        wall_ms: 0,
    };
    let actions = [
        CallAction::Accept(accept),
        CallAction::Kill {
            task: task.clone(),
            grace_ms: None,
        },
        CallAction::UpdateLimits {
            task,
            limits: Default::default(),
        },
        CallAction::Suppress(Vec::new()),
        CallAction::Revive(Vec::new()),
        CallAction::Update(framework_info("one")),
        CallAction::Teardown,
    ];
    let call = |action| Input::Call {
        request: RequestId(1),
        actor: Actor::Cluster,
        call: Box::new(Call {
            framework,
            session: 1,
            number: 1,
            lowest_unanswered: 0,
            hash: 0,
            action,
        }),
        tokens: Vec::new(),
        filter_ms: 0,
    };
    let mut calls: Vec<_> = actions.into_iter().map(call).collect();
    let decline = Decline {
        framework,
        // That of `World::subscribe_as`.
        session: 99 + framework.0,
        offers: Vec::new(),
        filter_ms: 0,
        reason: (format!("{framework}{:0>255}", 0), String::new()),
    };
    calls.push(declined(2, decline));
    calls
}

fn declined(request: u64, decline: Decline) -> Input {
    Input::Decline {
        request: RequestId(request),
        actor: Actor::default(),
        decline,
    }
}

/// The maximum size of the exposition depends on the bounds of labels, never on the cluster.
#[test]
fn the_text_is_bounded_regardless_of_the_number_of_frameworks_and_roles() {
    let (world, frameworks) = crowd(300);
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let mut decisions = DecisionMetrics::new();
        for input in frameworks.into_iter().flat_map(calls) {
            decisions.input(&world.registry, &input);
        }
    });
    let text = recorder.handle().render() + &written(&measured(&world.registry, None));
    let series = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(series("argosy_framework_calls_total{"), 201 * 8);
    assert_eq!(series("argosy_declines_total{"), 51);
    assert_eq!(series("argosy_role_dominant_share_ratio{"), 100);
    assert_eq!(series("argosy_role_used{"), 202);
    assert!(text.contains("argosy_role_used{role=\"other\",resource=\"cpus\"} 200\n"));
    // Nine kinds of events take as much again as eight kinds of calls, and a little more.
    assert!(text.len() < 1 << 20, "{} bytes", text.len());
}

/// Passes the input to the leader, and records it with its effects.
fn recorded(decisions: &mut DecisionMetrics, leader: &mut Leader, world: &World, input: Input) {
    let registry = &world.registry;
    decisions.input(registry, &input);
    let now = LeaderTime {
        at: registry.time(),
        wall_ms: 0,
    };
    let effects = leader.step(registry, now, input);
    for effect in effects {
        decisions.effect(registry, Some(&*leader), &effect);
    }
}

/// Returns a subscription of a framework of this name; of a new one, to another cluster.
fn subscription(world: &World, link: u64, framework: Option<FrameworkId>, name: &str) -> Input {
    let known = framework.and_then(|id| world.registry.framework(id));
    let cluster = world.registry.cluster().facts.id;
    Input::Subscribe {
        link: LinkId(link),
        actor: Actor::default(),
        subscription: Box::new(SchedulerHello {
            cluster: Some(match known {
                Some(_) => cluster,
                None => ClusterId(cluster.0 + 1),
            }),
            framework,
            session: known.map_or(7, |known| known.session),
            replaces: None,
            info: known.map_or_else(|| framework_info(name), |known| (*known.info).clone()),
            held: Vec::new(),
            filters: Vec::new(),
            version: 1,
            sends_heartbeats: false,
        }),
    }
}

#[test]
fn rejected_subscriptions_and_declines_take_no_names() {
    let mut world = World::new();
    let id = world.subscribe("one");
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let mut decisions = DecisionMetrics::new();
        let mut leader = leader(&world.registry);
        for link in 0..300 {
            let rejected = subscription(&world, link, None, &format!("name-{link}"));
            recorded(&mut decisions, &mut leader, &world, rejected);
            let decline = Decline {
                framework: id,
                session: 1,
                offers: Vec::new(),
                filter_ms: 0,
                reason: (format!("code-{link}"), String::new()),
            };
            decisions.input(&world.registry, &declined(link, decline));
        }
        let accepted = subscription(&world, 300, Some(id), "one");
        recorded(&mut decisions, &mut leader, &world, accepted);
        // This one ends before it is answered.
        let left = subscription(&world, 301, None, "left");
        decisions.input(&world.registry, &left);
        let closed = Input::FrameworkClosed { link: LinkId(301) };
        decisions.input(&world.registry, &closed);
    });
    let text = recorder.handle().render();
    let lines = text.lines();
    let calls = lines.filter(|line| line.starts_with("argosy_framework_calls_total{"));
    let mut calls: Vec<_> = calls.filter(|line| line.contains("subscribe")).collect();
    calls.sort_unstable();
    let expected = [
        "argosy_framework_calls_total{framework=\"one\",call=\"subscribe\"} 1",
        "argosy_framework_calls_total{framework=\"other\",call=\"subscribe\"} 301",
    ];
    assert_eq!(calls, expected);
    assert!(!text.contains("name-") && !text.contains("code-"), "{text}");
}

#[test]
fn paths_that_callers_invent_have_one_series() {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let times = CallTimes::default();
        let took = Duration::from_millis(1);
        let record = |path: &str, status| times.record(path, status, &HeaderMap::new(), took);
        record("/argosy.v1.Operator/Write", StatusCode::OK);
        for number in 0..100 {
            let path = format!("{CALLS}Invented/{number}");
            record(&path, StatusCode::NOT_FOUND);
            record(&path, StatusCode::OK);
        }
        assert_eq!(times.done.read().unwrap().len(), 2);
    });
    let text = recorder.handle().render();
    let counts = text.lines().filter(|line| line.contains("_count{"));
    assert_eq!(counts.count(), 3, "{text}");
    assert!(
        text.contains("method=\"Write\"") && !text.contains("Invented"),
        "{text}"
    );
}

/// The recorded rule of errors names the codes of failures.
#[test]
fn a_referral_is_not_counted_as_a_failure() {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let path = "/argosy.v1.Agents/Connect";
        CallTimes::default().record_referral(path, Duration::from_millis(1));
    });
    let text = recorder.handle().render();
    let series = "argosy_rpc_duration_seconds_count{service=\"Agents\",method=\"Connect\",code=\"Referred\"} 1";
    assert!(text.contains(series), "{text}");
    let rules = include_str!("../../../deploy/prometheus/recording.rules.yml");
    assert!(!rules.contains("Referred"));
}

/// The recorded rule of failed starts sums these reasons. Its rate has no first increase without a
/// 0 before it.
#[test]
fn ends_for_which_the_cluster_is_responsible_are_counted_from_zero_on() {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || drop(DecisionMetrics::new()));
    let text = recorder.handle().render();
    let rules = include_str!("../../../deploy/prometheus/recording.rules.yml");
    let failures = rules
        .split("reason=~\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap();
    for reason in failures.split('|') {
        let line = |line: &str| {
            line.starts_with("argosy_task_terminal_total{")
                && line.ends_with(&format!(",reason=\"{reason}\"}} 0"))
        };
        assert!(text.lines().any(line), "{reason}: {text}");
    }
}

#[test]
fn ends_and_starts_of_tasks_are_counted_once() {
    let mut world = World::new();
    let agent = world.register("cpus:8");
    let framework = world.subscribe("one");
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let mut decisions = DecisionMetrics::new();
        let key = world.launch(framework, agent, "a", "cpus:1");
        let order = world.registry.task(&key).unwrap().order;
        let launched = Event::TaskLaunched {
            key: key.clone(),
            agent,
            order,
        };
        decisions.event(&world.registry, &launched);
        for state in [TaskState::Running, TaskState::Running, TaskState::Finished] {
            world.update(&key, state);
            let revision = world.registry.task(&key).unwrap().revision;
            let key = key.clone();
            decisions.event(
                &world.registry,
                &Event::TaskUpdated {
                    key,
                    agent,
                    revision,
                    state,
                },
            );
        }
    });
    let text = recorder.handle().render();
    assert!(
        text.contains("argosy_task_start_duration_seconds_count 1\n"),
        "{text}"
    );
    let ended = "argosy_task_terminal_total{state=\"finished\",reason=\"";
    let ends: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with(ended))
        .collect();
    assert!(ends.len() == 1 && ends[0].ends_with(" 1"), "{text}");
}
