//! Tests of explanations in updates: codes and arguments from the origin of an error to the update
//! that reports it.

use argosy_proto::convert::explanation_from;
use argosy_state::task::{Code, Explanation};

use super::tasks::last_update;
use super::world::{CoreFixture, file, instance, spec};
use crate::core::Input;

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
        result: Err(why.clone()),
    });
    world.report();
    let update = last_update(&world, 1);
    let told = update.clone();
    let told = explanation_from(told.causes, told.text, told.detail_bytes);
    assert_eq!(told, why);
    assert_eq!(update.detail_bytes, 0, "no sentence is stored");
    assert_eq!(
        update.text,
        "cannot fetch \"http://x/file\": the server answered 404"
    );
}
