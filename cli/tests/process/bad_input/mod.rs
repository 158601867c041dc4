//! Bad input: one table of cases, and one test that runs it.
//!
//! Each row has the action of a user or a peer, the required result, the required message, and what
//! must be unchanged afterwards. Reading order: `row`, `table`, `site`, then the actions.

mod calls;
mod commands;
mod disks;
mod environment;
mod row;
mod starts;
mod table;

use std::panic::AssertUnwindSafe;

use futures::stream::{self, StreamExt};
use futures::{FutureExt, TryFutureExt};

use environment::BadInputCluster;
use row::{Row, RowAction, RowOutcome};

/// Number of rows that run concurrently. Each waits more than it works.
const CONCURRENT_ROWS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_rejected_with_field_value_and_remedy_without_data_loss() {
    let mut fixture = BadInputCluster::start().await;
    let mut wrong = run_concurrently(&fixture).await;
    wrong.extend(fixture.damage().await);
    let alone = table::ROWS.iter().filter_map(|row| match row.action {
        RowAction::ExclusiveSteps(story) => Some((row, story)),
        _ => None,
    });
    for (row, story) in alone {
        let done = AssertUnwindSafe(story(&mut fixture)).catch_unwind().await;
        wrong.extend(
            check_outcome(&fixture, row, done.map_err(|_| panicked()))
                .await
                .err(),
        );
    }
    wrong.extend(fixture.damage().await);
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
async fn run_concurrently(fixture: &BadInputCluster) -> Vec<String> {
    let calls = async {
        let done = AssertUnwindSafe(calls::all(fixture)).catch_unwind().await;
        let mut wrong = Vec::new();
        match done {
            Ok(outcomes) => {
                for (row, outcome) in outcomes {
                    wrong.extend(check_outcome(fixture, row, Ok(outcome)).await.err());
                }
            }
            Err(_) => wrong.push(format!("calls: {}", panicked())),
        }
        wrong
    };
    let others = stream::iter(table::ROWS)
        .map(|row| run_row(fixture, row))
        .buffer_unordered(CONCURRENT_ROWS)
        .collect::<Vec<_>>();
    let (mut wrong, others) = tokio::join!(calls, others);
    wrong.extend(others.into_iter().flatten());
    wrong
}

/// Runs one independent row, and returns what is wrong with it.
async fn run_row(fixture: &BadInputCluster, row: &Row) -> Option<String> {
    let doing = match row.action {
        RowAction::Command(line) => commands::run(fixture, line).boxed_local(),
        RowAction::Get(path) => commands::get(fixture, path).boxed_local(),
        RowAction::Bytes(bytes) => commands::send(fixture, bytes()).boxed_local(),
        RowAction::Steps(story) => story(fixture),
        // These run in their order, or after all others.
        RowAction::Accept(..)
        | RowAction::Launch(_)
        | RowAction::Task(_)
        | RowAction::ExclusiveSteps(_) => return None,
    };
    let done = AssertUnwindSafe(doing).catch_unwind();
    check_outcome(fixture, row, done.map_err(|_| panicked()).await)
        .await
        .err()
}

fn panicked() -> String {
    "it panicked, as reported above".to_owned()
}

/// Checks the result of a row, its message, and what must be unchanged.
async fn check_outcome(
    fixture: &BadInputCluster,
    row: &Row,
    done: Result<RowOutcome, String>,
) -> Result<(), String> {
    let name = row.name;
    let RowOutcome {
        end: ended,
        message: output,
        addresses: place,
    } = done.map_err(|why| format!("{name}: {why}"))?;
    if ended != row.end {
        return Err(format!(
            "{name}: it ended as {ended:?}, not {:?}: {output}",
            row.end
        ));
    }
    for (what, part) in ["field", "value", "remedy"].into_iter().zip(row.message) {
        let part = place.expand(fixture, part);
        if !output.contains(&part) {
            return Err(format!("{name}: the {what} {part:?} is not in {output:?}"));
        }
    }
    let kept = fixture.check_unchanged(row.unchanged, &place).await;
    kept.map_err(|why| format!("{name}: {why}"))
}
