//! Bad input: one table of cases, and one test that runs it.
//!
//! Each row has the action of a user or a peer, the required result, the required message, and what
//! must be unchanged afterwards. Reading order: `row`, `table`, `site`, then the actions.

mod calls;
mod commands;
mod disks;
mod row;
mod site;
mod starts;
mod table;

use std::panic::AssertUnwindSafe;

use futures::stream::{self, StreamExt};
use futures::{FutureExt, TryFutureExt};

use row::{Does, Outcome, Row};
use site::Site;

/// Number of rows that run concurrently. Each waits more than it works.
const BESIDE: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_answered_with_field_value_and_remedy_and_nothing_is_lost() {
    let mut site = Site::start().await;
    let mut wrong = beside_each_other(&site).await;
    wrong.extend(site.harm().await);
    let alone = table::ROWS.iter().filter_map(|row| match row.does {
        Does::Alone(story) => Some((row, story)),
        _ => None,
    });
    for (row, story) in alone {
        let done = AssertUnwindSafe(story(&mut site)).catch_unwind().await;
        wrong.extend(judged(&site, row, done.map_err(|_| panicked())).await.err());
    }
    wrong.extend(site.harm().await);
    assert!(
        wrong.is_empty(),
        "{} of {} rows:\n{}",
        wrong.len(),
        table::ROWS.len(),
        wrong.join("\n")
    );
}

/// Runs all rows that harm no process of a correct cluster. Calls run in their order, because they
/// share offers.
async fn beside_each_other(site: &Site) -> Vec<String> {
    let calls = async {
        let done = AssertUnwindSafe(calls::all(site)).catch_unwind().await;
        let mut wrong = Vec::new();
        match done {
            Ok(outcomes) => {
                for (row, outcome) in outcomes {
                    wrong.extend(judged(site, row, Ok(outcome)).await.err());
                }
            }
            Err(_) => wrong.push(format!("calls: {}", panicked())),
        }
        wrong
    };
    let others = stream::iter(table::ROWS)
        .map(|row| one(site, row))
        .buffer_unordered(BESIDE)
        .collect::<Vec<_>>();
    let (mut wrong, others) = tokio::join!(calls, others);
    wrong.extend(others.into_iter().flatten());
    wrong
}

/// Runs one independent row, and returns what is wrong with it.
async fn one(site: &Site, row: &Row) -> Option<String> {
    let doing = match row.does {
        Does::Command(line) => commands::run(site, line).boxed_local(),
        Does::Get(path) => commands::get(site, path).boxed_local(),
        Does::Bytes(bytes) => commands::send(site, bytes()).boxed_local(),
        Does::Story(story) => story(site),
        // These run in their order, or after all others.
        Does::Accept(..) | Does::Launch(_) | Does::Task(_) | Does::Alone(_) => return None,
    };
    let done = AssertUnwindSafe(doing).catch_unwind();
    judged(site, row, done.map_err(|_| panicked()).await)
        .await
        .err()
}

fn panicked() -> String {
    "it panicked, as said above".to_owned()
}

/// Checks the result of a row, its message, and what must be unchanged.
async fn judged(site: &Site, row: &Row, done: Result<Outcome, String>) -> Result<(), String> {
    let name = row.name;
    let Outcome { ended, said, place } = done.map_err(|why| format!("{name}: {why}"))?;
    if ended != row.ends {
        return Err(format!(
            "{name}: it ended as {ended:?}, not {:?}: {said}",
            row.ends
        ));
    }
    for (what, part) in ["field", "value", "remedy"].into_iter().zip(row.says) {
        let part = place.meant(site, part);
        if !said.contains(&part) {
            return Err(format!("{name}: the {what} {part:?} is not in {said:?}"));
        }
    }
    let kept = site.keeps(row.keeps, &place).await;
    kept.map_err(|why| format!("{name}: {why}"))
}
