//! Tests of the service discovery for Prometheus, by the real routes.

use argosy_state::command::{
    Accept, Call, CallAction, OfferOperation, OfferTerms, Subscribe, UpdateTasks,
};
use argosy_state::ids::{OfferId, OrderIndex};
use argosy_state::registry::Registry;
use argosy_state::task::{
    ContainerNetwork, Discovery, DiscoveryPort, PublishedPort, TaskSpec, TaskState,
};
use argosy_state::testing::{framework_info, registration, spec, update};
use axum::body::Body;
use axum::extract::Request;
use serde_json::{Value, json};
use tonic::codegen::Service as _;

use super::routes::routes;
use super::*;

/// The number of the only session.
const SESSION: u64 = 7;

/// Returns a task that serves metrics.
fn measured() -> TaskSpec {
    let mut task = spec("web-1", "cpus:1;ports:[31000-31000]");
    task.container.network = ContainerNetwork::Bridge(vec![PublishedPort {
        host: 31_000,
        container: 80,
        udp: false,
    }]);
    let port = DiscoveryPort {
        name: DiscoveryPort::METRICS.to_owned(),
        number: 80,
        udp: false,
        labels: [("path".to_owned(), "/stats".to_owned())].into(),
    };
    task.discovery = Some(Box::new(Discovery {
        ports: vec![port],
        ..Discovery::default()
    }));
    task
}

fn accept(registry: &Registry, task: TaskSpec) -> Command {
    let (agent, framework) = (AgentId(1), FrameworkId(1));
    let offer = OfferTerms {
        id: OfferId {
            epoch: registry.epoch(),
            serial: 1 << 40,
        },
        framework,
        session: SESSION,
        agent,
        role: Role::default(),
        resources: task.resources.clone(),
        offer_revision: registry.agent(agent).unwrap().offer_revision,
        expires: registry.time().plus_ms(1_000_000),
    };
    Command::Call(Call {
        framework,
        session: SESSION,
        number: 1,
        lowest_unanswered: 1,
        hash: 1,
        action: CallAction::Accept(Accept {
            offers: vec![offer],
            operations: vec![OfferOperation::Launch(vec![task])],
            all_or_nothing: false,
            wall_ms: 0,
        }),
    })
}

fn running(key: &TaskKey) -> Command {
    let update = update(key.clone(), OrderIndex(1), 1, TaskState::Running);
    Command::UpdateTasks(UpdateTasks {
        agent: AgentId(1),
        updates: vec![update],
    })
}

/// Waits until a fact is applied, and returns what the registry has then.
async fn applied<T>(alone: &SingleMaster, what: &str, fact: impl Fn(&Registry) -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        let index = *alone.handle.applied.borrow();
        let view = alone.handle.view(index).await.unwrap();
        if let Some(found) = fact(&view.registry) {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn get(alone: &SingleMaster, query: &str) -> (u16, Value) {
    let request = Request::get(format!("/v1/sd/prometheus{query}")).body(Body::empty());
    let answer = routes(&alone.handle, None).call(request.unwrap()).await;
    let answer = answer.unwrap();
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await;
    (status, serde_json::from_slice(&body.unwrap()).unwrap())
}

/// Returns the kinds of the listed targets.
async fn kinds(alone: &SingleMaster, query: &str) -> Vec<String> {
    let (status, groups) = get(alone, query).await;
    assert_eq!(status, 200, "{groups}");
    let kind = |group: &Value| group["labels"]["__meta_argosy_kind"].clone();
    let kinds = groups.as_array().unwrap().iter().map(kind);
    kinds
        .map(|kind| kind.as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_declares_a_port_is_listed_while_it_runs() {
    let alone = SingleMaster::start().await;
    let epoch = Epoch(alone.active_leader().await.epoch);
    let register = registration(5_051, "cpus:4;ports:[31000-31000]");
    let subscribe = Subscribe {
        framework: None,
        session: SESSION,
        info: framework_info("shop"),
    };
    let commands = [
        Command::RegisterAgent(register),
        Command::Subscribe(subscribe),
    ];
    alone.propose_all(epoch, commands.into_iter()).await;
    let launch = applied(&alone, "agent and framework are known", |registry| {
        let known = registry.agent(AgentId(1)).is_some();
        let known = known && registry.framework(FrameworkId(1)).is_some();
        known.then(|| accept(registry, measured()))
    });
    let launch = launch.await;
    alone.propose_all(epoch, [launch].into_iter()).await;
    let key = TaskKey {
        framework: FrameworkId(1),
        task: TaskId::new("web-1").unwrap(),
    };
    applied(&alone, "the task is launched", |registry| {
        registry.task(&key).map(drop)
    })
    .await;
    assert_eq!(kinds(&alone, "").await, ["master", "agent"]);
    alone.propose_all(epoch, [running(&key)].into_iter()).await;
    applied(&alone, "the task runs", |registry| {
        let task = registry.task(&key)?;
        (task.state == TaskState::Running).then_some(())
    })
    .await;
    assert_eq!(kinds(&alone, "").await, ["master", "agent", "task"]);
    let nodes = kinds(&alone, "?kinds=master,agent").await;
    assert_eq!(nodes, ["master", "agent"]);
    let (status, groups) = get(&alone, "?kinds=task&other=ignored").await;
    let expected = json!([{
        "targets": ["127.0.0.1:31000"],
        "labels": {
            "__meta_argosy_kind": "task",
            "__meta_argosy_node": "agent-1",
            "__meta_argosy_task": "web-1",
            "__meta_argosy_framework": "framework-1",
            "__meta_argosy_framework_name": "shop",
            "__meta_argosy_role": "*",
            "__meta_argosy_metrics_path": "/stats",
        },
    }]);
    assert_eq!((status, groups), (200, expected));
    let (status, error) = get(&alone, "?kinds=tasks").await;
    assert_eq!((status, &error["code"]), (400, &json!("InvalidArgument")));
    alone.end().await;
}
