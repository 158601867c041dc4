//! A framework that launches groups of tasks, on the public SDK.

use std::collections::BTreeMap;

use argosy_client::Masters;
use argosy_client::resources::resources;
use argosy_client::scheduler::{Answer, Driver, Outcome, Scheduler, SchedulerConfig, run};
use argosy_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, PATIENCE};

/// First a group that is too large for the agent, then one that fits, of which one task is killed.
#[derive(Default)]
struct Pod {
    is_refused: bool,
    refused: Vec<v1::Refused>,
    states: BTreeMap<String, v1::TaskStatus>,
    is_killed: bool,
}

fn task(id: &str, line: &str, amounts: &str) -> v1::TaskSpec {
    v1::TaskSpec {
        task_id: id.to_owned(),
        shell: line.to_owned(),
        resources: resources(amounts).unwrap(),
        ..v1::TaskSpec::default()
    }
}

impl Pod {
    fn are_all(&self, state: v1::TaskState) -> bool {
        let alike = self.states.values().filter(|told| told.state() == state);
        alike.count() == 2
    }
}

impl Scheduler for Pod {
    fn offers(&mut self, driver: &Driver, offers: Vec<v1::Offer>) {
        for offer in offers {
            let waits = "exec sleep 600";
            if !self.is_refused {
                self.is_refused = true;
                let tasks = vec![
                    task("small", waits, "cpus:0.1"),
                    task("large", waits, "cpus:99"),
                ];
                driver.launch_group(&offer, "pod", tasks);
            } else if self.states.is_empty() {
                let writes = "echo hello > $ARGOSY_GROUP_FOLDER/word; exec sleep 600";
                let reads =
                    "until [ -s $ARGOSY_GROUP_FOLDER/word ]; do sleep 0.05; done; exec sleep 600";
                let tasks = vec![
                    task("a", writes, "cpus:0.1;mem:32"),
                    task("b", reads, "cpus:0.1;mem:32"),
                ];
                driver.launch_group(&offer, "pod", tasks);
                self.states
                    .insert("a".to_owned(), v1::TaskStatus::default());
            } else {
                driver.decline(&offer, None);
            }
        }
    }

    fn answered(&mut self, _: &Driver, answer: &Answer) {
        if let Outcome::Done { refused, .. } = &answer.outcome {
            self.refused.extend(refused.clone());
        }
    }

    fn update(&mut self, driver: &Driver, status: &v1::TaskStatus) {
        self.states.insert(status.task_id.clone(), status.clone());
        if self.are_all(v1::TaskState::Running) && !self.is_killed {
            self.is_killed = true;
            driver.kill("a", None);
        }
        if self.are_all(v1::TaskState::Killed) {
            driver.teardown();
        }
    }
}

#[test]
fn a_framework_launches_a_group_as_a_whole_and_kills_it_by_one_task() {
    let mut cluster = Cluster::start(24, "1x1", &[]);
    let masters = cluster.record["masters"].as_str().unwrap().split(',');
    let masters: Vec<_> = masters.map(str::to_owned).collect();
    let config = SchedulerConfig::new(Masters::new(&masters).unwrap(), "pod");
    let mut pod = Pod::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = runtime.block_on(async {
        tokio::time::timeout(PATIENCE, run(&mut pod, config, CancellationToken::new())).await
    });
    ended
        .unwrap_or_else(|_| panic!("it went no further than {:?}", pod.states))
        .unwrap();
    let told: Vec<_> = pod
        .refused
        .iter()
        .map(|refused| (refused.position, &*refused.code))
        .collect();
    assert_eq!(told, [(0, "task-group-invalid"), (1, "task-group-invalid")]);
    assert!(pod.refused[0].message.contains("task large"), "{told:?}");
    let along = &pod.states["b"];
    let why = "its group ended because task a";
    assert!(along.message.starts_with(why), "{}", along.message);
    let (code, text) = cluster.stop();
    assert_eq!(code, 0, "{text}");
}
