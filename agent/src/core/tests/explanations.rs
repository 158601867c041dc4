//! Tests of explanations in updates: codes and arguments from the origin of an error to the update
//! that reports it.

use argosy_proto::convert::explanation_from;
use argosy_proto::v1;
use argosy_state::task::{Code, Explanation, Reason};

use super::tasks::last_update;
use super::world::{CoreFixture, file, instance, spec};
use crate::core::{CreateError, Input};

#[test]
fn fetch_failures_are_reported_as_code_and_arguments() {
    let mut world = CoreFixture::registered();
    let mut wanted = spec("web");
    wanted.uris.push(file());
    world.launch_spec(1, wanted);
    world.sync();
    let why = Explanation::of(Code::FetchStatus, &[&"http://x/file", &404]);
    world.feed(Input::Fetched {
        instance: instance(1),
        result: Err(CreateError::fetch(why.clone())),
    });
    world.report();
    let update = last_update(&world, 1);
    let sent = update.clone();
    let sent = explanation_from(sent.causes, sent.text, sent.detail_bytes);
    assert_eq!(sent, why);
    assert_eq!(update.detail_bytes, 0, "no sentence is stored");
    assert_eq!(
        update.text,
        "cannot fetch \"http://x/file\": the server answered 404"
    );
}

#[test]
fn a_task_that_is_invalid_for_its_fetch_is_an_error() {
    let mut world = CoreFixture::registered();
    let mut wanted = spec("web");
    wanted.uris.push(file());
    world.launch_spec(1, wanted);
    world.sync();
    let refusal = CreateError {
        reason: Reason::TaskInvalid,
        why: "user \"x\" is not valid: name a user that exists on this host".into(),
    };
    world.feed(Input::Fetched {
        instance: instance(1),
        result: Err(refusal.clone()),
    });
    world.report();
    let update = last_update(&world, 1);
    assert_eq!(update.state(), v1::TaskState::Error);
    assert_eq!(update.reason(), v1::Reason::TaskInvalid);
    assert_eq!(update.text, refusal.why.to_string());
}
