//! Tests of the work alone: offers and updates as input, tasks as output.

use argosy_client::resources::resources;
use argosy_proto::uri::RedactedUri;

use super::*;

fn job(maps: usize, reduces: usize) -> Job {
    let settings = TaskSettings {
        mapper: "/bin/wordmap".into(),
        witness: Some("/witness".into()),
        resources: "cpus:0.1;mem:32".parse().unwrap(),
        max_failures: 3,
        ..Default::default()
    };
    let mut job = Job::new(settings, vec![Vec::new(); maps], reduces);
    job.registered("framework-1");
    job
}

fn offer(cpus: &str) -> v1::Offer {
    v1::Offer {
        agent_address: "10.0.0.9:5051".into(),
        resources: resources(&format!("cpus:{cpus};mem:4096")).unwrap(),
        ..Default::default()
    }
}

fn status(task: &str, state: v1::TaskState) -> v1::TaskStatus {
    v1::TaskStatus {
        task_id: task.into(),
        state: state.into(),
        ..Default::default()
    }
}

fn ids(tasks: &[v1::TaskSpec]) -> Vec<&str> {
    tasks.iter().map(|task| task.task_id.as_str()).collect()
}

#[test]
fn offers_are_filled_and_reduces_wait_for_all_maps() {
    let mut job = job(3, 2);
    let first = job.fill(&offer("0.2"), 9);
    assert_eq!(ids(&first), ["map-000-1", "map-001-1"]);
    assert_eq!(job.fill(&offer("4"), 9).len(), 1);
    for map in 0..3 {
        assert_eq!(job.waiting(), 0);
        job.update(&status(&format!("map-00{map}-1"), v1::TaskState::Finished));
    }
    let reduces = job.fill(&offer("4"), 1);
    assert_eq!(ids(&reduces), ["reduce-00-1"]);
    assert_eq!(reduces[0].uris.len(), 4);
    assert_eq!(
        reduces[0].uris[2].value,
        "http://10.0.0.9:5051/v1/files/download?path=tasks/framework-1/map-001-1/part-0.tsv"
    );
    job.fill(&offer("4"), 9);
    job.update(&status("reduce-00-1", v1::TaskState::Finished));
    assert_eq!(job.outputs(), None);
    job.update(&status("reduce-01-1", v1::TaskState::Finished));
    assert!(job.outputs().unwrap()[1].ends_with("framework-1/reduce-01-1/counts.tsv"));
}

#[test]
fn a_failed_task_is_retried_under_new_ids_up_to_a_limit() {
    let mut job = job(1, 1);
    for attempt in 1..=3 {
        let id = format!("map-000-{attempt}");
        assert_eq!(ids(&job.fill(&offer("4"), 9)), [id.as_str()]);
        assert!(job.update(&status(&id, v1::TaskState::Failed)).is_some());
        assert_eq!(
            job.update(&status(&id, v1::TaskState::Failed)),
            None,
            "a repeat changes nothing"
        );
    }
    assert!(
        job.failure()
            .unwrap()
            .starts_with("failed after 3 failures")
    );
    assert_eq!((job.waiting(), job.running()), (0, 0));
}

#[test]
fn a_task_on_an_unreachable_agent_is_not_repeated() {
    let mut job = job(1, 1);
    job.fill(&offer("4"), 9);
    job.update(&status("map-000-1", v1::TaskState::Unreachable));
    assert_eq!((job.waiting(), job.running()), (0, 1));
    job.update(&status("map-000-1", v1::TaskState::Finished));
    assert_eq!(job.progress().maps_done, 1);
}

/// Returns the message of an agent whose fetch of a file failed, as agents write it.
fn fetch_failure(task: &str, url: &str, status_code: u16) -> v1::TaskStatus {
    let uri = RedactedUri::of(url);
    v1::TaskStatus {
        reason: v1::Reason::FetchFailed.into(),
        message: format!("cannot fetch \"{uri}\": the server answered {status_code}"),
        ..status(task, v1::TaskState::Failed)
    }
}

#[test]
fn maps_of_an_agent_with_lost_output_are_repeated_before_the_reduce() {
    let mut job = job(3, 1);
    job.fill(&offer("0.2"), 9);
    let other = v1::Offer {
        agent_address: "10.0.0.90:5051".into(),
        ..offer("4")
    };
    job.fill(&other, 9);
    for map in 0..3 {
        job.update(&status(&format!("map-00{map}-1"), v1::TaskState::Finished));
    }
    let reduce = job.fill(&offer("4"), 9);
    // The agent has refused the ticket, or is busy: nothing is lost.
    let url = &reduce[0].uris[1].value;
    job.update(&fetch_failure("reduce-00-1", url, 403));
    let again = job.fill(&offer("4"), 9);
    assert_eq!(ids(&again), ["reduce-00-2"]);
    job.update(&fetch_failure("reduce-00-2", url, 404));
    let maps = job.fill(&offer("4"), 9);
    assert_eq!(ids(&maps), ["map-000-2", "map-001-2"]);
    job.update(&status("map-000-2", v1::TaskState::Finished));
    job.update(&status("map-001-2", v1::TaskState::Finished));
    let again = job.fill(&offer("4"), 9);
    assert_eq!(ids(&again), ["reduce-00-3"]);
    assert!(again[0].uris[2].value.contains("map-001-2"));
    assert!(again[0].uris[3].value.contains("map-002-1"));
}

#[test]
fn finished_work_of_a_lost_agent_is_repeated_while_its_outputs_are_needed() {
    let on = |agent: &str, cpus: &str| v1::Offer {
        agent_id: agent.into(),
        ..offer(cpus)
    };
    let finished = |task: &str| status(task, v1::TaskState::Finished);
    let mut job = job(2, 2);
    job.fill(&on("agent-1", "0.1"), 9);
    job.fill(&on("agent-2", "4"), 9);
    job.update(&finished("map-000-1"));
    job.update(&finished("map-001-1"));
    assert_eq!(job.fill(&on("agent-2", "4"), 9).len(), 2);
    job.update(&finished("reduce-00-1"));
    job.agent_lost("agent-3");
    assert_eq!(job.waiting(), 0);
    job.agent_lost("agent-1");
    let maps = job.fill(&on("agent-3", "4"), 9);
    assert_eq!(ids(&maps), ["map-000-2"]);
    job.update(&finished("map-000-2"));
    // A map and a reduce have finished there, and a reduce runs.
    job.agent_lost("agent-2");
    let maps = job.fill(&on("agent-3", "4"), 9);
    assert_eq!(ids(&maps), ["map-001-2"]);
    job.update(&finished("map-001-2"));
    let reduces = job.fill(&on("agent-4", "4"), 9);
    assert_eq!(ids(&reduces), ["reduce-00-2"]);
    job.update(&finished("reduce-00-2"));
    job.update(&finished("reduce-01-1"));
    // The outputs of maps are no longer needed.
    job.agent_lost("agent-3");
    assert_eq!(
        (job.waiting(), job.outputs().map(|all| all.len())),
        (0, Some(2))
    );
}

#[test]
fn a_mapper_that_is_not_found_repeats_no_map() {
    let mut job = job(1, 1);
    job.fill(&offer("4"), 9);
    job.update(&status("map-000-1", v1::TaskState::Finished));
    job.fill(&offer("4"), 9);
    job.update(&fetch_failure(
        "reduce-00-1",
        "http://web.example/wordmap",
        404,
    ));
    assert_eq!(ids(&job.fill(&offer("4"), 9)), ["reduce-00-2"]);
}

#[test]
fn an_accept_stays_within_the_limits_of_masters() {
    let mut job = job(2_000, 100);
    while !job.fill(&offer("200"), 999).is_empty() {}
    for map in 0..2_000 {
        job.update(&status(&format!("map-{map:03}-1"), v1::TaskState::Finished));
    }
    let tasks = job.fill(&offer("200"), 999);
    let bytes: usize = tasks.iter().map(text_bytes).sum();
    assert!(
        !tasks.is_empty() && tasks.len() < 100 && bytes < 1_000_000,
        "{bytes}"
    );
}

#[test]
fn tasks_that_were_not_launched_are_queued_again() {
    let mut job = job(2, 1);
    job.fill(&offer("4"), 9);
    job.not_launched("map-001-1", "the offer was used");
    job.not_launched("map-001-1", "reported twice");
    job.update(&status("map-000-1", v1::TaskState::Unknown));
    assert_eq!((job.waiting(), job.running()), (2, 0));
    let again = job.fill(&offer("4"), 9);
    assert_eq!(
        ids(&again),
        ["map-000-2", "map-001-1"],
        "a refused id is free, an ended one is not"
    );
    job.not_launched("map-001-1", "the id is in use");
    assert_eq!(ids(&job.fill(&offer("4"), 9)), ["map-001-2"]);
}

#[test]
fn with_tls_reduces_and_the_result_wait_for_tickets_and_name_them() {
    let settings = TaskSettings {
        resources: "cpus:0.1;mem:32".parse().unwrap(),
        max_failures: 3,
        with_tickets: true,
        ..Default::default()
    };
    let mut job = Job::new(settings, vec![Vec::new(); 2], 1);
    job.registered("framework-1");
    let offer = v1::Offer {
        agent_id: "agent-4".into(),
        ..offer("4")
    };
    assert_eq!(job.missing_tickets(0), []);
    assert_eq!(job.fill(&offer, 9).len(), 2, "maps need no tickets");
    for map in ["map-000-1", "map-001-1"] {
        job.update(&status(map, v1::TaskState::Finished));
    }
    let output = |task: &str| TaskOutput {
        agent_id: "agent-4".into(),
        task_id: task.into(),
    };
    let missing = job.missing_tickets(1_000);
    assert_eq!(missing, [output("map-000-1"), output("map-001-1")]);
    assert_eq!((job.waiting(), job.fill(&offer, 9).len()), (0, 0));
    for (map, text) in [("map-000-1", "AA"), ("map-001-1", "BB")] {
        let book = job.tickets().unwrap();
        book.insert(map.into(), text.into(), 1_000);
    }
    assert_eq!(job.missing_tickets(2_000), []);
    let reduces = job.fill(&offer, 9);
    assert_eq!(
        reduces[0].uris[2].value,
        "https://10.0.0.9:5051/v1/files/download?path=tasks/framework-1/map-001-1/part-0.tsv&ticket=BB"
    );
    // A later attempt gets new tickets.
    job.missing_tickets(2_000);
    job.update(&status("reduce-00-1", v1::TaskState::Failed));
    assert_eq!(job.missing_tickets(1_000_000).len(), 2);
    assert_eq!(job.waiting(), 0);
    for map in ["map-000-1", "map-001-1"] {
        let book = job.tickets().unwrap();
        book.insert(map.into(), "CC".into(), 1_000_000);
    }
    job.missing_tickets(1_000_000);
    assert_eq!(ids(&job.fill(&offer, 9)), ["reduce-00-2"]);
    job.update(&status("reduce-00-2", v1::TaskState::Finished));
    let missing = job.missing_tickets(1_000_000);
    assert_eq!(missing, [output("reduce-00-2")]);
    assert_eq!(job.outputs(), None);
    let book = job.tickets().unwrap();
    book.insert("reduce-00-2".into(), "DD".into(), 1_000_000);
    job.missing_tickets(1_000_000);
    let outputs = job.outputs().unwrap();
    assert!(
        outputs[0].ends_with("/reduce-00-2/counts.tsv&ticket=DD"),
        "{outputs:?}"
    );
}
