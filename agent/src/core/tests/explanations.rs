//! Tests of explanations in updates: codes and arguments from the origin of an error to the update
//! that reports it.

use argosy_proto::v1;
use argosy_state::task::{Code, Explanation};

use super::tasks::last_update;
use super::world::{CoreFixture, instance, spec};
use crate::core::{Input, wire};

#[test]
fn fetch_failures_are_reported_as_code_and_arguments() {
    let mut world = CoreFixture::registered();
    let mut wanted = spec("web");
    wanted.uris.push(v1::Uri::default());
    world.launch_spec(1, wanted);
    world.sync();
    let why = Explanation::of(Code::FetchStatus, &[&"http://x/file", &404]);
    world.feed(Input::Fetched {
        instance: instance(1),
        result: Err(why.clone()),
    });
    world.report();
    let update = last_update(&world, 1);
    assert_eq!(wire::explanation(&update), why);
    assert_eq!(update.detail_bytes, 0, "no sentence is stored");
    assert_eq!(
        update.text,
        "cannot fetch \"http://x/file\": the server answered 404"
    );
}
